/* evaluate.h: held-out loss over a dataset, at any number of ranks. */
#ifndef LORAD_TRAINER_EVALUATE_H
#define LORAD_TRAINER_EVALUATE_H

#include "base/status.h"
#include "trainer/data.h"
#include "trainer/session.h"

struct evaluation {
    double loss;     /* weighted mean over supervised tokens */
    double accuracy; /* of them predicted right */
    int64_t tokens;  /* supervised */
    double seconds;
    double *row_loss; /* [rows] mean loss of each row, when asked for; free */
    bool stopped;     /* a rank was asked to stop (request.h): the rest is not filled */
};

/* use_adapter false: the frozen base. Every rank gets the same numbers. Collective. */
enum status evaluate(struct evaluation *out, struct session *session, struct dataset *dataset,
                     bool use_adapter, bool per_row) LORAD_WARN_UNUSED;

#endif
