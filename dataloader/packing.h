/*
 * packing.h: rows of a window -> packs of at most `capacity` tokens.
 *
 * Best fit decreasing: each row, from the longest to the shortest, goes to the pack with the least room that
 * still takes it. At most 11/9 of the best possible number of packs + 1 (Johnson et al., SIAM J. Comput. 3,
 * 1974). Unless that has reached ceil(tokens / capacity), which no packing can beat, tight fit is tried: pack
 * by pack, the longest row left and then those which fill the rest best, found by a bounded depth-first
 * search ("minimum bin slack": Gupta and Ho, Prod. Planning and Control 10, 1999). The better of the two
 * counts. A pure function of the lengths.
 */
#ifndef LORAD_DATALOADER_PACKING_H
#define LORAD_DATALOADER_PACKING_H

#include <stdint.h>

#include "base/status.h"

struct packer;

/* Scratch for windows of at most max_rows rows. Owns: *out. */
enum status packer_create(struct packer **out, int32_t max_rows, int32_t capacity) LORAD_WARN_UNUSED;
void packer_destroy(struct packer *packer);
/* Room for more rows. */
enum status packer_reserve(struct packer *packer, int32_t max_rows) LORAD_WARN_UNUSED;

/* Pack i holds the rows item[start[i]] .. item[start[i + 1] - 1], numbers into `lengths`, ascending. Borrowed
 * from the packer until its next run. Packs are numbered in the order of their lowest row. */
struct packing {
    const int32_t *start; /* [n_packs + 1] */
    const int32_t *item;  /* [n] */
    int32_t n_packs;
};

/* lengths[n]: each 1 .. capacity. Allocates nothing. */
struct packing packer_run(struct packer *packer, const int32_t *lengths, int32_t n);

#endif
