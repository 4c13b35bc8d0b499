/* synthetic_rows.h: prepared datasets without a tokenizer, for the tests of everything behind preparing. */
#ifndef LORAD_TESTS_SUPPORT_SYNTHETIC_ROWS_H
#define LORAD_TESTS_SUPPORT_SYNTHETIC_ROWS_H

#include <stdint.h>

#include "dataloader/dataloader.h"

enum { SYNTHETIC_VOCAB = 1000 };

/* Token t of row r, and whether it is supervised: functions of (r, t). */
int32_t synthetic_token(int64_t row, int32_t t);
uint8_t synthetic_supervised(int64_t row, int32_t t, int32_t length);

/* Writes rows of lengths[i] tokens (2 at least; 0: a hole) to a new folder and opens it. Row i comes from source i % 2, line i + 1.
 * Fails the test on any error. The folder name goes to folder[512] unless NULL. */
struct dataset *synthetic_dataset(const int32_t *lengths, int64_t n, int64_t shard_bytes, char *folder);

/* n lengths between shortest and longest, skewed to short ones like real rows. Owned by the caller. */
int32_t *synthetic_lengths(int64_t n, int32_t shortest, int32_t longest, uint64_t seed);

#endif
