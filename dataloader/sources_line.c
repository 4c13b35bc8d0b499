/* sources_line.c: lines, blanks and file endings. */
#include <string.h>
#include <strings.h>

#include "base/utf8.h"
#include "dataloader/sources_impl.h"

bool source_line(struct source_cursor *cursor, const char **line, size_t *length)
{
    if (cursor->at == cursor->end) return false;
    const char *begin = cursor->at, *end = memchr(begin, '\n', (size_t)(cursor->end - begin));
    cursor->at = end ? end + 1 : cursor->end;
    cursor->line++;
    if (!end) end = cursor->end;
    if (end > begin && end[-1] == '\r') end--;
    *line = begin;
    *length = (size_t)(end - begin);
    return true;
}

/* White_Space of Unicode, and the invisible U+200B and U+FEFF. */
static bool is_space(uint32_t c)
{
    return c == ' ' || (c >= 9 && c <= 13) || c == 0x85 || c == 0xA0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200B) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
           c == 0x3000 || c == 0xFEFF;
}

bool source_is_blank(const char *text, size_t length)
{
    uint32_t code;
    for (size_t i = 0; i < length;) {
        size_t n = utf8_read(&code, text + i, length - i);
        if (n == 0 || !is_space(code)) return false;
        i += n;
    }
    return true;
}

int64_t source_count_lines(const char *from, const char *to)
{
    int64_t n = 0;
    while (from < to && (from = memchr(from, '\n', (size_t)(to - from)))) {
        n++;
        from++;
    }
    return n;
}

const char *source_snippet(char out[SNIPPET_BYTES], const char *text, size_t length)
{
    size_t n = 0, room = SNIPPET_BYTES - 4, i = 0;
    while (i < length && n + 4 < room) {
        uint32_t code;
        size_t bytes = utf8_read(&code, text + i, length - i);
        if (bytes == 0 || code < ' ' || code == 0x7F) {
            if (bytes == 0 || n == 0 || out[n - 1] != ' ') out[n++] = bytes == 0 ? '?' : ' ';
            i += bytes ? bytes : 1;
            continue;
        }
        memcpy(out + n, text + i, bytes);
        n += bytes;
        i += bytes;
    }
    memcpy(out + n, "...", 4);
    if (i == length) out[n] = '\0';
    return out;
}

size_t source_path_stem(const char *path)
{
    static const char *const packed[] = {".gz", ".zst", ".zstd"};
    size_t n = strlen(path);
    for (size_t i = 0; i < sizeof packed / sizeof *packed; i++) {
        size_t k = strlen(packed[i]);
        if (n > k && strcasecmp(path + n - k, packed[i]) == 0) return n - k;
    }
    return n;
}

bool source_path_ends(const char *path, const char *ending)
{
    size_t n = source_path_stem(path), k = strlen(ending);
    return n > k && strncasecmp(path + n - k, ending, k) == 0;
}
