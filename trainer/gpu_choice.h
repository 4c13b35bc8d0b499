/*
 * gpu_choice.h: which GPU each rank takes of those it sees, however they were shown to it: every rank all of
 * its host's (then in order), or each rank one of its own as its number 0 (CUDA_VISIBLE_DEVICES of a
 * launcher, Slurm's binding).
 */
#ifndef LORAD_TRAINER_GPU_CHOICE_H
#define LORAD_TRAINER_GPU_CHOICE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "kernels/device.h"

struct gpu_choice {
    int number;  /* of the GPUs that this rank sees */
    int sharers; /* ranks that take the same one */
};

enum { GPU_SIGHT_MOST = 32 };

/* What a rank sees. */
struct gpu_sight {
    char host[64];
    int32_t may_share; /* LORAD_SHARE_GPU=1 */
    int32_t n;
    struct device_id gpu[GPU_SIGHT_MOST];
};

/* The rank's choice, from what all see [size]: rank by rank, each takes the first GPU that the fewest have.
 * LORAD_CONFIG when that one is taken and the rank may not share, or when it sees none and another rank does.
 */
enum status gpu_share_out(struct gpu_choice *out, const struct gpu_sight *all, int size,
                          int rank) LORAD_WARN_UNUSED;

/* For a device of this kind; number 0, alone, for one that is no GPU. Takes none. LORAD_CONFIG as above, on
 * every rank. Collective over the world. */
enum status gpu_choose(struct gpu_choice *out, const char *kind) LORAD_WARN_UNUSED;

#endif
