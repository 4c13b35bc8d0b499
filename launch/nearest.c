#include "launch/nearest.h"

#include <ctype.h>
#include <string.h>

enum { LONGEST = 64 };

static int folded(char c)
{
    return c == '-' ? '_' : tolower((unsigned char)c);
}

static int smallest(int a, int b, int c)
{
    int least = a < b ? a : b;
    return least < c ? least : c;
}

/* Optimal string alignment distance; words longer than LONGEST are never near anything. */
static int edit_distance(const char *a, size_t n, const char *b, size_t m)
{
    int row[3][LONGEST + 1];
    for (size_t j = 0; j <= m; j++) row[0][j] = (int)j;
    for (size_t i = 1; i <= n; i++) {
        int *now = row[i % 3], *last = row[(i + 2) % 3], *before = row[(i + 1) % 3];
        now[0] = (int)i;
        for (size_t j = 1; j <= m; j++) {
            int differs = folded(a[i - 1]) != folded(b[j - 1]);
            now[j] = smallest(last[j] + 1, now[j - 1] + 1, last[j - 1] + differs);
            if (i > 1 && j > 1 && folded(a[i - 1]) == folded(b[j - 2]) &&
                folded(a[i - 2]) == folded(b[j - 1]) && before[j - 2] + 1 < now[j])
                now[j] = before[j - 2] + 1;
        }
    }
    return row[n % 3][m];
}

void nearest_consider(struct nearest *nearest, const char *candidate, size_t length)
{
    size_t n = strlen(nearest->word);
    if (n == 0 || length == 0 || n > LONGEST || length > LONGEST) return;
    int distance = edit_distance(nearest->word, n, candidate, length);
    int limit = ((int)(n > length ? n : length) - 1) / 3;
    if (distance > limit || (nearest->best && distance >= nearest->distance)) return;
    nearest->best = candidate;
    nearest->distance = distance;
}
