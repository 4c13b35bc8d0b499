/*
 * partition.h: which part of the model a rank holds. Pure arithmetic.
 *
 * world = tp x dp; ranks of one tensor-parallel group are neighbours: tp_rank = rank % tp, dp_rank = rank /
 * tp. Column-split: q, k, v, gate, up (rows of W), and the vocabulary. Row-split: o, down (columns of W).
 * Where tp exceeds the key/value heads each head is held by tp / kv_heads ranks.
 */
#ifndef LORAD_TRAINER_PARTITION_H
#define LORAD_TRAINER_PARTITION_H

#include <stdint.h>

#include "base/status.h"
#include "trainer/arch.h"

struct partition {
    int32_t tp, tp_rank, dp, dp_rank;
    int32_t heads, first_head;       /* query heads of this rank */
    int32_t kv_heads, first_kv_head; /* key/value heads of this rank */
    int32_t kv_holders;              /* ranks that hold each key/value head; 1 unless tp > kv_heads */
    int32_t intermediate, first_intermediate;
    int32_t vocab_cols;  /* columns of the head and rows of the embedding, padding included */
    int32_t vocab_valid; /* of them in the vocabulary */
    int32_t first_vocab;
};

/* LORAD_CONFIG names the number that does not divide. */
enum status partition_make(struct partition *out, const struct arch *arch, int32_t tp, int32_t world,
                           int32_t rank) LORAD_WARN_UNUSED;

#endif
