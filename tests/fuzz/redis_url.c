/* A Redis URL: what is accepted makes sense, and nothing that is printed holds the password. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "comm/redis_url.h"

/* A password of letters that is not also part of what surrounds it. */
static bool is_telling(const char *password)
{
    return strlen(password) > 8 && strspn(password, "abcdefghijklmnopqrstuvwxyz") == strlen(password);
}

/* How often: what stands elsewhere in the URL, too, may be printed. */
static int appears(const char *text, const char *word)
{
    int n = 0;
    for (const char *at = text; (at = strstr(at, word)); at++) n++;
    return n;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    char *url = malloc(length + 1), *masked = malloc(length + 8);
    struct redis_address a;
    if (!url || !masked) abort();
    memcpy(url, bytes, length);
    url[length] = '\0';
    redis_url_mask(masked, length + 8, url);
    if (redis_url_parse(&a, url) == LORAD_OK) {
        if (a.database < 0 || !*a.host == !*a.path || (*a.host && (a.port < 1 || a.port > 65535))) abort();
        if (is_telling(a.password) && appears(url, a.password) <= 1 &&
            (strstr(a.place, a.password) || strstr(masked, a.password)))
            abort();
    }
    free(url);
    free(masked);
    return 0;
}
