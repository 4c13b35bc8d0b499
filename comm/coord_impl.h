/* coord_impl.h: what a coordinator of coord.h fills in. Only files of this folder include it. Contracts:
 * coord.h. */
#ifndef LORAD_COMM_COORD_IMPL_H
#define LORAD_COMM_COORD_IMPL_H

#include "comm/coord.h"

struct coord_ops {
    const char *kind;
    enum status (*join)(void **out, int64_t *epoch, const struct coord_options *options, int64_t at_least);
    void (*leave)(void *state);
    enum status (*record_resume)(void *state, int64_t base_step, int64_t base_epoch,
                                 const char *manifest_hash);
    enum status (*is_fenced)(bool *out, const char *output_dir, int64_t step, int64_t epoch);
    enum status (*check_owner)(void *state);
    void (*heartbeat)(void *state, int64_t step, const char *phase);
};

extern const struct coord_ops coord_file_ops;

#endif
