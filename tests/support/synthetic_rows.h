/* synthetic_rows.h: prepared datasets without a tokenizer, for the tests of everything behind preparing. */
#ifndef LORAD_TESTS_SUPPORT_SYNTHETIC_ROWS_H
#define LORAD_TESTS_SUPPORT_SYNTHETIC_ROWS_H

#include <stdint.h>

#include "dataloader/dataloader.h"

enum { SYNTHETIC_VOCAB = 1000 };

/* Token t of row r, and whether it is supervised: functions of (r, t). */
int32_t synthetic_token(int64_t row, int32_t t);
uint8_t synthetic_supervised(int64_t row, int32_t t, int32_t length);

/* Writes rows of lengths[i] tokens (2 at least; 0: a hole) to a new folder and opens it. Row i comes from
 * source i % 2, line i + 1. Fails the test on any error. The folder name goes to folder[512] unless NULL. */
struct dataset *synthetic_dataset(const int32_t *lengths, int64_t n, int64_t shard_bytes, char *folder);

struct synthetic_rows {
    const int32_t *lengths; /* [n]; 0: a hole */
    int64_t n;
    const int64_t *groups; /* [n_groups] sizes, NULL: one */
    int32_t n_groups;
    int64_t shard_bytes; /* 0: 1 MiB */
    float weight;        /* of the targets of every third row; 0: 1 as all others */
};
/* The same with everything that a dataset can have. */
struct dataset *synthetic_dataset_of(const struct synthetic_rows *rows);
float synthetic_weight(const struct synthetic_rows *rows, int64_t row);

/* One that grows: held as a preparing process holds it. Borrows what `rows` points to. */
struct synthetic_growth;
struct synthetic_growth *synthetic_grow(const struct synthetic_rows *rows, struct dataset **out);
/* These are prepared now, if they were not before. Thread: any. */
void synthetic_prepare(struct synthetic_growth *growth, const int64_t *rows, int32_t n);
/* All others are as well and the folder is complete; or preparing has failed. Destroys. */
void synthetic_finish(struct synthetic_growth *growth, enum status failure);

/* n lengths between shortest and longest, skewed to short ones like real rows. Owned by the caller. */
int32_t *synthetic_lengths(int64_t n, int32_t shortest, int32_t longest, uint64_t seed);

#endif
