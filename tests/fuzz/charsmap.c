/* A map and a text: two bytes for the length of the text, the text, the map. What is not refused normalises
 * the text, and the result is valid UTF-8 whose bytes come from inside the text. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "base/utf8.h"
#include "dataloader/charsmap.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    if (length < 2) return 0;
    size_t n = (size_t)bytes[0] | (size_t)bytes[1] << 8;
    const char *text = (const char *)bytes + 2;
    if (n > length - 2 || !utf8_valid(text, n, NULL)) return 0;
    struct charsmap *map;
    if (charsmap_create(&map, text + n, length - 2 - n, "fuzz") != LORAD_OK) return 0;
    struct textbuf in = {.want_map = true}, out = {.want_map = true};
    if (textbuf_add(&in, text, n, 0, 0, 1) != LORAD_OK || charsmap_run(map, &out, &in) != LORAD_OK) abort();
    if (!utf8_valid(out.data, out.length, NULL)) abort();
    for (size_t i = 0; i < out.length; i++)
        if (out.from[i] > out.to[i] || out.to[i] > n) abort();
    textbuf_free(&in);
    textbuf_free(&out);
    charsmap_destroy(map);
    return 0;
}
