/* Any bytes as tokenizer.json: refused or opened; what opens encodes and decodes some text. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "base/memory.h"
#include "dataloader/tokenizer_parts.h"

static void use(const struct tokenizer *tokenizer)
{
    static const char text[] = "a  b<s>\n\u4f60\u597d, e\u0301 's 123 \u2581<0x0A> [INST] the the thethe";
    struct token_list list = {.want_spans = true};
    struct strbuf out = STRBUF_EMPTY;
    for (int special = 0; special < 2; special++) {
        struct encode_options options = {special, special};
        list.length = 0;
        if (tokenizer_encode(tokenizer, text, sizeof text - 1, options, &list) != LORAD_OK) continue;
        for (size_t i = 0; i < list.length; i++)
            if (list.ids[i] < 0 || list.ids[i] >= tokenizer_size(tokenizer) || list.start[i] > list.end[i] ||
                list.end[i] > sizeof text - 1)
                abort();
        if (tokenizer_decode(tokenizer, list.ids, list.length, special, &out) != LORAD_OK) strbuf_clear(&out);
    }
    token_list_free(&list);
    strbuf_free(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    struct tokenizer *tokenizer = memory_new(1, sizeof *tokenizer);
    if (!tokenizer) abort();
    if (tokenizer_read_json(tokenizer, (const char *)bytes, length, "fuzz") == LORAD_OK &&
        tokenizer_seal(tokenizer, "fuzz") == LORAD_OK)
        use(tokenizer);
    tokenizer_close(tokenizer);
    return 0;
}
