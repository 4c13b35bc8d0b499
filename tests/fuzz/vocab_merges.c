/* Any bytes as vocab.json and merges.txt, parted by the first NUL: refused or opened; what opens encodes and
 * decodes. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/utf8.h"
#include "dataloader/flat_json.h"
#include "dataloader/tokenizer_parts.h"

static enum status read_both(struct tokenizer *out, const char *text, size_t length, bool gpt2)
{
    const char *merges = memchr(text, 0, length);
    size_t n = merges ? (size_t)(merges - text) : length;
    if (!utf8_valid(text, n, NULL)) return FAIL(LORAD_DATA, "invalid UTF-8");
    out->bpe.unk = -1;
    TRY(pretokenizer_add_byte_level(&out->pretokenizer, gpt2, gpt2, "fuzz"));
    TRY(decoder_add(&out->decoder, DECODE_BYTE_LEVEL, "", "", 0, 0));
    TRY(flat_json_vocab(&out->bpe.vocab, (struct json_span){text, text + n}, "fuzz"));
    if (merges) TRY(bpe_add_merge_lines(&out->bpe, merges + 1, length - n - 1, gpt2, "fuzz"));
    return tokenizer_seal(out, "fuzz");
}

static void use(const struct tokenizer *tokenizer)
{
    static const char text[] = "the the's a\u4f60\u597d 12 ab\n\n abc";
    struct token_list list = {.want_spans = true};
    struct strbuf out = STRBUF_EMPTY;
    if (tokenizer_encode(tokenizer, text, sizeof text - 1, (struct encode_options){true, true}, &list) !=
            LORAD_OK ||
        tokenizer_decode(tokenizer, list.ids, list.length, false, &out) != LORAD_OK)
        abort();
    for (size_t i = 0; i < list.length; i++)
        if (list.ids[i] < 0 || list.ids[i] >= tokenizer_size(tokenizer) || list.end[i] > sizeof text - 1)
            abort();
    token_list_free(&list);
    strbuf_free(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    for (int gpt2 = 0; gpt2 < 2; gpt2++) {
        struct tokenizer *tokenizer = memory_new(1, sizeof *tokenizer);
        if (!tokenizer) abort();
        if (read_both(tokenizer, (const char *)bytes, length, gpt2) == LORAD_OK) use(tokenizer);
        tokenizer_close(tokenizer);
    }
    return 0;
}
