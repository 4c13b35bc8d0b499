/*
 * batch_size.h: auto_find_batch_size: the largest micro-batch that a rank's memory holds.
 *
 * A micro-batch that needs less gradient checkpointing comes before a larger one that needs more, since
 * computing again costs more than a smaller matrix product loses. Beyond 16384 tokens nothing is gained.
 */
#ifndef LORAD_TRAINER_BATCH_SIZE_H
#define LORAD_TRAINER_BATCH_SIZE_H

#include "base/status.h"
#include "trainer/plan.h"
#include "trainer/stage.h"

/* Sets session->micro_batch_size to a power of two, at most a data-parallel rank's share of the global batch.
 * `request`: all but the size of the micro-batch. LORAD_NOMEM when not even one row fits. */
enum status batch_size_choose(struct session *session, const struct stages *stages,
                              const struct plan_request *request) LORAD_WARN_UNUSED;

#endif
