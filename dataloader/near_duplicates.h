/*
 * near_duplicates.h: rows that say the same thing twice, inside a data set and between two of them.
 *
 * Exact: equal role by role once runs of white space count as one space. Found by a 64-bit hash.
 *
 * Near: the Jaccard similarity of two rows' shingles is at least 0.8.
 * - A unit is a word of letters and digits, or a single character where a script writes no spaces between
 *   words (Chinese, Japanese, Korean, Thai, ...). A shingle is three units in a row. Punctuation, spaces,
 *   ASCII case and width do not count; nor do system messages, since many rows share one.
 * - A signature is 128 minima of the shingles' hashes, made as in "Fast Similarity Sketching" (Dahlgaard,
 *   Knudsen, Thorup, FOCS 2017): one hash a shingle for long texts, and for short ones as good as 128
 *   independent hashes. 8 bits of each minimum are kept ("b-bit minwise hashing", Li and König, WWW 2010).
 * - Similarity is estimated from the share m of equal bytes as (m - 1/256) / (1 - 1/256), with a standard
 *   error of 0.035 at 0.8.
 * - Candidates come from 16 bands of 8 minima (Leskovec, Rajaraman, Ullman, "Mining of Massive Datasets",
 *   section 3.4): two rows of similarity s share a band with probability 1 - (1 - s^8)^16,
 *
 *       s   0.5   0.6   0.7   0.8   0.9     0.95
 *       p   0.06  0.24  0.61  0.95  0.9999  1.0000
 *
 *   and each candidate is verified by its estimate. Among the rows that share a band a row is compared with
 *   at most 8 others, so that a million equal rows cost what a million different ones do.
 *
 * Memory: a signature is 136 bytes and may stand in a mapped file. duplicates_find needs 21 bytes a row
 * beside it (210 MB for 10 million rows), overlap_find 40 bytes a row of the second set, which is the smaller
 * one.
 */
#ifndef LORAD_DATALOADER_NEAR_DUPLICATES_H
#define LORAD_DATALOADER_NEAR_DUPLICATES_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "dataloader/chat_template.h"

enum { SIGNATURE_LANES = 128, SIGNATURE_BANDS = 16, SIGNATURE_VERSION = 1, DUPLICATE_PAIRS = 20 };

/* Plain bytes of this machine's order; all zero: no row here (a hole). */
struct row_signature {
    uint64_t text_hash;             /* never 0 for a row */
    uint64_t band[SIGNATURE_BANDS]; /* 8 lanes of 8 bits each */
};

/* What one thread needs to make signatures. Starts zeroed. */
struct signature_maker {
    uint64_t *shingle;
    char *text;
    size_t capacity, text_capacity;
};
void signature_maker_free(struct signature_maker *maker);

/* A pure function of the messages. Contents must be valid UTF-8. LORAD_NOMEM only. */
enum status row_signature_make(struct row_signature *out, struct signature_maker *maker,
                               const struct message *messages, size_t n) LORAD_WARN_UNUSED;
/* Estimated Jaccard similarity, 0 to 1. */
double row_signature_similarity(const struct row_signature *a, const struct row_signature *b);

struct duplicate_pair {
    int64_t row, of_row; /* `row` repeats `of_row` */
    double similarity;   /* estimated; 1 for exact ones */
};

/* A group is what pairs link together. What a row is shown to repeat is the most similar earlier row of its
 * group, the first of them for exact copies. */
struct duplicates {
    int64_t rows;                     /* that have a signature */
    int64_t exact_rows, exact_groups; /* rows beyond the first of their group; groups of two and more */
    int64_t near_rows, near_groups;   /* the same over what is left when exact copies are taken out */
    int32_t n_exact, n_near;
    struct duplicate_pair exact[DUPLICATE_PAIRS]; /* the first, by `row` */
    struct duplicate_pair near[DUPLICATE_PAIRS];
};

/* signatures[i] is that of raw row i. A pure function of its input. Blocks (10 million rows: ten
 * seconds). LORAD_NOMEM; LORAD_DATA for more than 2^32 - 2 rows. */
enum status duplicates_find(struct duplicates *out, const struct row_signature *signatures,
                            int64_t n) LORAD_WARN_UNUSED;

/* Rows of `second` (evaluation) that `first` (training) holds too. */
struct overlap {
    int64_t rows; /* of the second set, with a signature */
    int64_t exact_rows, near_rows;
    int32_t n_pairs;
    struct duplicate_pair
        pair[DUPLICATE_PAIRS]; /* row: of the second set; of_row: the most similar one found in the
                                  first; exact ones before near ones, then by `row` */
};
enum status overlap_find(struct overlap *out, const struct row_signature *first, int64_t n_first,
                         const struct row_signature *second, int64_t n_second) LORAD_WARN_UNUSED;

#endif
