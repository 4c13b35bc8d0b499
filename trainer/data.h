/*
 * data.h: the rows of a run: one process per host prepares, all open.
 */
#ifndef LORAD_TRAINER_DATA_H
#define LORAD_TRAINER_DATA_H

#include "base/status.h"
#include "dataloader/dataloader.h"
#include "trainer/preparing.h"
#include "trainer/session.h"

/* Whether a stage asks for evaluation rows at all. */
bool data_has_eval(const struct stage_options *stage);

/* What dataset_prepare is asked for that part of a stage's rows. */
struct prepare_options data_prepare_options(const struct session *session, const struct stage_options *stage,
                                            enum data_part part);

/* Prepares (or finds) the rows and opens them. Reports problems once. preparing: NULL when all of them must
 * be there first; else it may be set to what goes on meanwhile (preparing.h). Collective; a session that has
 * not joined its ranks does it alone, without a report. Owns: *out, *preparing. */
enum status data_open(struct dataset **out, struct preparation **preparing, struct session *session,
                      const struct stage_options *stage,
                      enum data_part part) LORAD_WARN_UNUSED;

/* The report of preparing, for people. */
void data_print_report(enum data_part part, const struct prepare_report *report);

struct loader_options data_train_loader(const struct session *session, int64_t global_batch_size);
/* Every row once, in file order; a "step" is one micro-batch a data-parallel rank. */
struct loader_options data_eval_loader(const struct session *session);

struct loader_capacity data_larger(struct loader_capacity a, struct loader_capacity b);

#endif
