/* use_tokenizer.h: encodes and decodes some text with whatever opened; aborts on what no caller may ever see.
 */
#ifndef LORAD_TESTS_FUZZ_USE_TOKENIZER_H
#define LORAD_TESTS_FUZZ_USE_TOKENIZER_H

#include <stdlib.h>

#include "dataloader/tokenizer.h"

static void use_tokenizer(const struct tokenizer *tokenizer)
{
    static const char text[] =
        "a  b<s>\n\u4f60\u597d, e\u0301 's 123 \u2581<0x0A> [INST] the the thethe<unk>\U0001F600";
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

#endif
