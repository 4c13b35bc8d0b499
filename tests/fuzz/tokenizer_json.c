/* Any bytes as tokenizer.json: refused or opened; what opens encodes and decodes some text. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "base/memory.h"
#include "dataloader/tokenizer_parts.h"
#include "fuzz/use_tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    struct tokenizer *tokenizer = memory_new(1, sizeof *tokenizer);
    if (!tokenizer) abort();
    if (tokenizer_read_json(tokenizer, (const char *)bytes, length, "fuzz") == LORAD_OK &&
        tokenizer_seal(tokenizer, "fuzz") == LORAD_OK)
        use_tokenizer(tokenizer);
    tokenizer_close(tokenizer);
    return 0;
}
