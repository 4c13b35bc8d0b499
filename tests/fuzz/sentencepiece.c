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
#include "fuzz/use_tokenizer.h"

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
    if (sentencepiece_build(tokenizer, &model, &files, "fuzz") == LORAD_OK) use_tokenizer(tokenizer);
    tokenizer_close(tokenizer);
    js_destroy(config);
    sentencepiece_free(&model);
    return 0;
}
