/* A Redis URL: what is accepted makes sense, and nothing that is printed holds the password. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "comm/redis_url.h"

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
        if (strlen(a.password) > 8 && !strchr(a.place, '*')) {
            bool elsewhere =
                strstr(a.host, a.password) || strstr(a.path, a.password) || strstr(a.user, a.password);
            if (!elsewhere && (strstr(a.place, a.password) || strstr(masked, a.password))) abort();
        }
    }
    free(url);
    free(masked);
    return 0;
}
