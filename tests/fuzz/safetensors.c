/* The header of a safetensors file: anything is refused or describes its data exactly. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "checkpoint/safetensors_header.h"

static void check(const struct st_header *header)
{
    int64_t end = 0;
    for (size_t i = 0; i < header->n_tensors; i++) {
        const struct st_tensor *tensor = &header->tensors[i];
        __int128 bytes = (__int128)st_dtype_bytes(tensor->dtype);
        for (int d = 0; d < tensor->n_dims && bytes; d++) bytes *= tensor->shape[d];
        if (tensor->offset_bytes != end || bytes != tensor->size_bytes || !*st_dtype_name(tensor->dtype) ||
            strlen(tensor->name) > ST_MAX_HEADER_BYTES)
            abort();
        end += tensor->size_bytes;
    }
    if (end != header->data_bytes) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    char *text = malloc(length + 1);
    if (!text) return 0;
    if (length) memcpy(text, bytes, length);
    struct st_header header;
    if (st_header_parse(&header, text, length, "fuzz") == LORAD_OK) {
        check(&header);
        st_header_free(&header);
    }
    free(text);
    return 0;
}
