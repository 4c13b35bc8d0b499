/* loader_record.h: what a loader serves, kept as hashes, so that two ways of serving it can be compared. */
#ifndef LORAD_TESTS_SUPPORT_LOADER_RECORD_H
#define LORAD_TESTS_SUPPORT_LOADER_RECORD_H

#include <stdint.h>

#include "dataloader/dataloader.h"

/* Everything in it as one hash. */
uint64_t batch_hash(const struct micro_batch *batch);

/* A stretch of a run as one rank sees it. */
enum { MOST_STEPS = 400, MOST_BATCHES = 200000 };
struct record {
    struct step_info step[MOST_STEPS];
    struct data_cursor before[MOST_STEPS];
    uint64_t hash[MOST_BATCHES];
    int32_t first_batch[MOST_STEPS + 1];
    int32_t n_steps;
};

/* Serves at most n_steps steps, fewer when the data ends. Fails the test on any error. free. */
struct record *record_steps(struct dataset *dataset, const struct loader_options *options,
                            struct data_cursor from, int32_t n_steps);
/* Steps [from, from + a->n_steps) of b are those of a. */
void assert_same_steps(const struct record *a, const struct record *b, int32_t from);

#endif
