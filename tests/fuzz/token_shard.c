/* A token shard from anywhere: refused, or all of its rows can be read. A second pass has the hashes
 * repaired, since otherwise no mutation gets past them. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "dataloader/shard_file.h"

static void read_shard(const void *bytes, size_t length)
{
    struct shard_view view;
    if (shard_view_bytes(&view, bytes, length, "fuzz") != LORAD_OK) return;
    if (shard_check_rows(&view, "fuzz") != LORAD_OK) return;
    if (shard_check_all(&view, "fuzz") != LORAD_OK) status_clear();
    uint64_t sum = 0, targets = 0, counted = 0;
    for (int64_t i = 0; i < view.n_rows; i++) {
        if (shard_row_check(&view, i, "fuzz") != LORAD_OK) continue;
        const struct shard_row *row = &view.rows[i];
        counted += (uint64_t)row->n_supervised;
        for (int32_t t = 0; t < row->n_tokens; t++) {
            uint32_t token = (uint32_t)view.tokens[row->first_token + (uint64_t)t];
            if (token >= view.header->vocab_size) abort();
            sum += token;
            uint8_t code = view.codes[row->first_token + (uint64_t)t];
            targets += t > 0 && code != 0;
            if (code != 0 && !(view.weight_of[code] > 0)) abort();
        }
    }
    if (targets != counted) abort();
    (void)sum;
}

static void repair(uint8_t *bytes, size_t length)
{
    struct shard_header *header = (void *)bytes;
    if (length < SHARD_HEADER_BYTES) return;
    for (int k = 0; k < SHARD_SECTIONS; k++) {
        struct shard_section_entry *section = &header->section[k];
        if (section->offset > length || section->bytes > length - section->offset) continue;
        struct hash128 hash = hash128(bytes + section->offset, section->bytes);
        section->hash_high = hash.high;
        section->hash_low = hash.low;
    }
    struct hash128 hash = hash128(bytes, SHARD_HEADER_BYTES - 16);
    header->hash_high = hash.high;
    header->hash_low = hash.low;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    uint8_t *copy = calloc(length ? length : 1, 1); /* aligned, as a mapping is */
    if (!copy) abort();
    if (length) memcpy(copy, bytes, length);
    read_shard(copy, length);
    repair(copy, length);
    read_shard(copy, length);
    free(copy);
    return 0;
}
