/*
 * preparing.h: rows that are being prepared, as a run sees them: on one rank of a host they are made, the
 * others follow; the run waits for all of them, or trains while it goes on.
 *
 * Training may begin with the first rows only when its length is known without the last one: with max_steps,
 * and no rule that looks at results. The order of rows is the same either way, so the losses are, too.
 */
#ifndef LORAD_TRAINER_PREPARING_H
#define LORAD_TRAINER_PREPARING_H

#include "base/status.h"
#include "dataloader/dataloader.h"
#include "trainer/session.h"
#include "trainer/trainer.h"

enum data_part { DATA_TRAIN, DATA_EVAL };
const char *preparing_name(enum data_part part); /* "training rows" */

enum preparing_until { PREPARING_ROWS, PREPARING_ALL }; /* the raw rows are known; all is done */
/* Waits, and shows how far it is. Blocks. Whatever preparing failed with; LORAD_REQUEUE when this rank was
 * asked to stop. */
enum status preparing_watch(struct preparation *preparation, enum progress_style style, enum data_part part,
                            enum preparing_until until) LORAD_WARN_UNUSED;

/* Begins on the first rank of every host and then on the others, which follow. *preparation is what goes on
 * when the rows may be trained on meanwhile (`may_go_on`, and all ranks agree about the folder); NULL: all of
 * them are there. Reports problems once. Collective. Owns: *dir (free), *preparation. */
enum status preparing_start(struct preparation **preparation, char **dir, const struct session *session,
                            const struct prepare_options *options, enum data_part part,
                            bool may_go_on) LORAD_WARN_UNUSED;

/* At a step boundary: whether preparing failed. Sets *preparation to NULL once it is done, and then reports.
 * Not collective: who sees a failure ends the run. */
enum status preparing_poll(struct preparation **preparation, const struct session *session,
                           enum data_part part) LORAD_WARN_UNUSED;
/* Waits until every rank has all rows and then reports; ends for all when one fails or is asked to stop
 * (LORAD_REQUEUE). Blocks. Collective: *preparation is NULL on all ranks or on none. */
enum status preparing_wait(struct preparation **preparation, const struct session *session,
                           enum data_part part) LORAD_WARN_UNUSED;
/* Waits for the end of it on this rank alone. Blocks. */
enum status preparing_finish(struct preparation **preparation, const struct session *session,
                             enum data_part part) LORAD_WARN_UNUSED;
/* Stops it; what is there is continued next time. */
void preparing_stop(struct preparation **preparation);

#endif
