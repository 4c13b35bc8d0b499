/*
 * mixture.h: which raw row stands at a position of an epoch, when rows come from several groups with weights.
 *
 * Pure arithmetic: a function of the groups' sizes and weights, the seed, the stage, the epoch and the
 * position. It knows no lengths, no holes, no ranks and no memory of what was drawn, so any place is reached
 * in O(groups). docs/formats/tokens.md, "The order of rows", says it so that another program can compute it.
 *
 * An epoch draws, of group g, the draws D_g(epoch) .. D_g(epoch + 1) - 1 of all its draws, where D_g(e) is e
 * times its rows an epoch, rounded: so weight 0.5 gives every row exactly once in two epochs, weight 2 twice
 * in one. Draw j is a row of pass j / n_rows, and every pass is a keyed permutation of its own. The draws of
 * the groups are laid out in blocks of MIXTURE_BLOCK positions, in each of which every group has its share to
 * within rounding, exact over the epoch; the places inside a block are permuted by a key of the block.
 *
 * Rows added to a run (data_policy: append). A group has grown, its old rows being unchanged at its front;
 * the caller checks that. The epoch in progress is finished with the old rows, so that nothing behind or
 * right before the cursor changes; then follows one epoch in which every new row stands exactly once
 * (whatever the weights, but not of groups with weight 0); then epochs over all rows. The caller journals a
 * `struct mixture_append` {first epoch that had not begun, sizes of the groups before}, hands the whole
 * journal to mixture_create ever after, and makes the run one epoch longer. If nothing was trained between
 * two additions, the journal's last entry has that epoch already and stays as it is: its epoch then holds the
 * rows of both.
 */
#ifndef LORAD_DATALOADER_MIXTURE_H
#define LORAD_DATALOADER_MIXTURE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

enum {
    MIXTURE_BLOCK = 1024, /* positions with exact quotas */
    MIXTURE_MOST_EPOCHS = 1 << 20
};

enum mix_strategy {
    MIX_CONCAT,           /* an epoch draws weight * n_rows of every group */
    MIX_INTERLEAVE_UNDER, /* weights are probabilities; an epoch ends when the first group has been drawn once
                             through */
    MIX_INTERLEAVE_OVER   /* ... when all have been */
};

struct mixture_group {
    int64_t first_row, n_rows; /* raw rows [first_row, first_row + n_rows) */
    double weight;             /* 1 as a rule; 0: never drawn */
    double max_epochs;         /* at most max_epochs * n_rows draws in the stage; 0: no limit */
};

struct mixture_append {
    int64_t epoch;           /* the one that holds the new rows */
    const int64_t *old_rows; /* [n groups]: sizes before; 0 for a group that is new itself */
};

struct mixture_options {
    enum mix_strategy strategy;
    uint64_t seed;
    uint64_t stage; /* below 2^32 */
    bool shuffle;   /* false: every raw row once an epoch in the order of its number; weights and appends are
                       ignored */
    const struct mixture_append *appends; /* [n_appends], epochs ascending */
    int32_t n_appends;
};

struct mixture;

/* LORAD_CONFIG: a weight or max_epochs that makes no sense, or a group with a weight so small that it gives
 * less than one row an epoch. LORAD_DATA: nothing to draw; an append that adds nothing or does not fit the
 * groups. Owns: *out. */
enum status mixture_create(struct mixture **out, const struct mixture_group *groups, int32_t n,
                           const struct mixture_options *options) LORAD_WARN_UNUSED;
void mixture_destroy(struct mixture *mixture);

/* Length of an epoch. 0: every group has reached max_epochs (so have they in all later epochs), or the epoch
 * is not one of 0 .. MIXTURE_MOST_EPOCHS - 1. Thread: any. */
int64_t mixture_positions(const struct mixture *mixture, int64_t epoch);
/* The raw row at a position below mixture_positions. Thread: any. */
int64_t mixture_row(const struct mixture *mixture, int64_t epoch, int64_t position);
/* rows[i] = mixture_row(epoch, first + i), at a fraction of the cost when n is large. Thread: any. */
void mixture_rows(const struct mixture *mixture, int64_t epoch, int64_t first, int32_t n, int64_t *rows);
/* No row stands more often than this in an epoch. */
int64_t mixture_repeats(const struct mixture *mixture);

#endif
