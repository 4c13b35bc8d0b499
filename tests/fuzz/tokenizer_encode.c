/*
 * Any bytes as text to encode, and as numbers to decode. The first byte chooses the tokenizer. Invalid UTF-8
 * is refused; spans lie in the text; what a stream gives token by token is whole UTF-8 and in sum what
 * decoding at once gives.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "dataloader/tokenizer.h"

static const char *const models[] = {"models/fin-zh-tiny", "models/tinystories-656k", "tokenizer/qwen2",
                                     "tokenizer/llama3",   "tokenizer/mistral",       "tokenizer/metaspace",
                                     "tokenizer/digits",   "tokenizer/prefix",        "tokenizer/regexes",
                                     "tokenizer/o200k",    "tokenizer/normal",        "tokenizer/spaces"};
enum { N = sizeof models / sizeof models[0] };
static struct tokenizer *tokenizer[N];

static void open_all(void)
{
    for (int i = 0; i < N; i++) {
        char path[1024];
        snprintf(path, sizeof path, "%s/%s", LORAD_TEST_DATA, models[i]);
        if (!tokenizer[i] && tokenizer_open(&tokenizer[i], path) != LORAD_OK) abort();
    }
}

static void check_encode(const struct tokenizer *t, const char *text, size_t length)
{
    static struct token_list list = {.want_spans = true}, plain;
    size_t bad;
    for (int special = 0; special < 2; special++) {
        struct encode_options options = {special, special};
        list.length = plain.length = 0;
        enum status status = tokenizer_encode(t, text, length, options, &list);
        if (status != tokenizer_encode(t, text, length, options, &plain)) abort();
        if ((status == LORAD_OK) != utf8_valid(text, length, &bad)) abort();
        if (list.length != plain.length ||
            (list.length && memcmp(list.ids, plain.ids, list.length * sizeof *list.ids)))
            abort();
        for (size_t i = 0; i < list.length; i++)
            if (list.ids[i] < 0 || list.ids[i] >= tokenizer_size(t) || list.start[i] > list.end[i] ||
                list.end[i] > length)
                abort();
    }
}

static void check_decode(const struct tokenizer *t, const uint8_t *bytes, size_t length)
{
    struct strbuf whole = STRBUF_EMPTY, part = STRBUF_EMPTY;
    int32_t ids[64];
    size_t n = 0;
    for (; n < 64 && 2 * n + 1 < length; n++)
        ids[n] = (int32_t)((bytes[2 * n] << 8 | bytes[2 * n + 1]) % (tokenizer_size(t) + 1));
    struct token_stream *stream;
    if (tokenizer_decode(t, ids, n, length & 1, &whole) != LORAD_OK) abort();
    if (token_stream_create(&stream, t, length & 1) != LORAD_OK) abort();
    for (size_t i = 0; i < n; i++) {
        if (token_stream_add(stream, ids[i], &part) != LORAD_OK) abort();
        if (!utf8_valid(strbuf_text(&part), part.length, NULL)) abort();
    }
    if (token_stream_finish(stream, &part) != LORAD_OK) abort();
    if (part.length != whole.length || memcmp(strbuf_text(&part), strbuf_text(&whole), part.length) != 0)
        abort();
    token_stream_destroy(stream);
    strbuf_free(&whole);
    strbuf_free(&part);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    if (length == 0) return 0;
    open_all();
    const struct tokenizer *t = tokenizer[bytes[0] % N];
    check_encode(t, (const char *)bytes + 1, length - 1);
    check_decode(t, bytes + 1, length - 1);
    return 0;
}
