/* safetensors_header.h: the JSON header of one safetensors file, parsed in place. Private to safetensors*.c
 * and tests. */
#ifndef LORAD_CHECKPOINT_SAFETENSORS_HEADER_H
#define LORAD_CHECKPOINT_SAFETENSORS_HEADER_H

#include "checkpoint/safetensors.h"

enum { ST_MAX_HEADER_BYTES = 100000000, ST_MAX_TENSORS = 100000, ST_MAX_METADATA = 100000 };

struct st_pair {
    const char *key, *value;
};

/* Strings point into the text that was parsed. */
struct st_header {
    struct st_tensor *tensors; /* by data offset; offset_bytes counts from the start of the data, file is 0 */
    size_t n_tensors;
    struct st_pair *pairs; /* __metadata__ */
    size_t n_pairs;
    int64_t data_bytes; /* the sum of all tensors */
};

/* Parses and checks `text` (length bytes and one writable byte behind them), which it overwrites. `where`
 * names the file in messages. LORAD_DATA, LORAD_NOMEM. Owns: *out, freed with st_header_free; `text` must
 * outlive it. */
enum status st_header_parse(struct st_header *out, char *text, size_t length,
                            const char *where) LORAD_WARN_UNUSED;
void st_header_free(struct st_header *header);

#endif
