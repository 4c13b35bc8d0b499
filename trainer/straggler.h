/*
 * straggler.h: names a rank that is slower than the others, without stopping anything: in lock step the
 * slowest rank sets the pace of all.
 *
 * Each rank reports at every step boundary how long it worked itself, without waiting in collectives, and how
 * much there was to do. The ratio of its pace (seconds per work) to the lower median of the other ranks' in
 * the same step is weighed in a cumulative sum (E. S. Page, Continuous inspection schemes, 1954): the
 * logarithm of the ratio less that of 1.2, a ratio counting as at most 1.6 and at least 1/1.6, is added to
 * the rank's evidence, which stays between 0 and 3. At 3 the rank is a straggler until it is back at 0. So 11
 * steps are the least, 1.5 times as long takes about 15, and less than 1.2 times adds up to nothing.
 */
#ifndef LORAD_TRAINER_STRAGGLER_H
#define LORAD_TRAINER_STRAGGLER_H

#include "base/status.h"
#include "base/strbuf.h"
#include "comm/comm.h"
#include "comm/coord.h"
#include "dataloader/dataloader.h"
#include "trainer/arch.h"
#include "trainer/boundary.h"

struct straggler;

enum { STRAGGLER_HOST_BYTES = 128 };
/* hosts [world]. Owns: *out. */
enum status straggler_create(struct straggler **out, int world,
                             const char (*hosts)[STRAGGLER_HOST_BYTES]) LORAD_WARN_UNUSED;
/* Learns the ranks' hosts. With LORAD_STRAGGLER_TRACE=FILE in the environment every rank's pace is written
 * there, a line a step, for tests/tools/straggler_replay.c. *out is NULL, which every function here takes,
 * for one rank and on other ranks than 0. Owns: *out. Collective. */
enum status straggler_open(struct straggler **out, struct comm *world) LORAD_WARN_UNUSED;
void straggler_close(struct straggler *straggler);

/* The reports [world] of the step that ended. A rank that becomes a straggler, or is one no longer, is told
 * in a line of the log and as an event. */
void straggler_step(struct straggler *straggler, const struct boundary_report *reports, int64_t step,
                    struct coord *coord);

/* For people and for status: "rank 1 on host a works 1.52 times as long", or nothing. Appends; returns how
 * many stragglers there are. */
int straggler_text(const struct straggler *straggler, struct strbuf *out);

/* Multiplications of a micro-batch, up to a factor that is the same for all ranks. */
double straggler_work(const struct arch *arch, const struct micro_batch *batch);

#endif
