/* MANIFEST.json: the input is the text before the hash, so that the fuzzer reaches the parser behind it. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "checkpoint/manifest.h"

static void parse(const char *text, size_t length)
{
    struct manifest manifest;
    if (manifest_parse(&manifest, text, length, "fuzz") != LORAD_OK) return;
    if (manifest.world < 1 || manifest.id.step < 0 || js_type(manifest.state) != JS_OBJECT) abort();
    for (int i = 0; i < manifest.world; i++)
        if (manifest.shards[i].rank != i || manifest.shards[i].file_bytes < 0) abort();
    for (size_t i = 0; i < manifest.n_files; i++)
        if (strchr(manifest.files[i].name, '/') || manifest.files[i].name[0] == '.') abort();
    manifest_free(&manifest);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    char hex[33];
    struct strbuf text = STRBUF_EMPTY;
    strbuf_add(&text, bytes, length);
    parse(strbuf_text(&text), text.length); /* as it is: nearly always a wrong hash */
    hash128_hex(hash128(strbuf_text(&text), text.length), hex);
    strbuf_printf(&text, "\"hash\":\"%s\"}\n", hex);
    if (strbuf_status(&text) == LORAD_OK) parse(text.data, text.length);
    strbuf_free(&text);
    return 0;
}
