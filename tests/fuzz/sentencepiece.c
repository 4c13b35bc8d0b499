/* Any bytes as tokenizer.model: refused or opened; what opens encodes and decodes some text. The first byte
 * chooses the configuration. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"
#include "dataloader/sentencepiece.h"
#include "dataloader/tokenizer_parts.h"

static void use(const struct tokenizer *tokenizer)
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

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    static const char *const configs[] = {
        "{}", "{\"legacy\":false,\"add_eos_token\":true}",
        "{\"added_tokens_decoder\":{\"1\":{\"content\":\"<s>\",\"lstrip\":true,\"normalized\":true}}}",
        "{\"add_prefix_space\":false,\"pad_token\":\"<pad>\",\"additional_special_tokens\":[\"[INST]\","
        "\"the\"]}"};
    struct sentencepiece model;
    if (length == 0 || sentencepiece_parse(&model, (const char *)bytes + 1, length - 1, "fuzz") != LORAD_OK)
        return 0;
    const char *text = configs[bytes[0] & 3];
    struct json *config;
    struct tokenizer *tokenizer = memory_new(1, sizeof *tokenizer);
    if (!tokenizer || js_parse(&config, text, strlen(text), "config") != LORAD_OK) abort();
    struct sentencepiece_config files = {config, NULL, NULL};
    if (sentencepiece_build(tokenizer, &model, &files, "fuzz") == LORAD_OK) use(tokenizer);
    tokenizer_close(tokenizer);
    js_destroy(config);
    sentencepiece_free(&model);
    return 0;
}
