/*
 * stage_identity.h: what may not change of a stage once it has begun, in a checkpoint and now, and the
 * difference in words: which dataset, how many rows more or less.
 */
#ifndef LORAD_TRAINER_STAGE_IDENTITY_H
#define LORAD_TRAINER_STAGE_IDENTITY_H

#include "base/json.h"
#include "base/strbuf.h"
#include "dataloader/dataloader.h"

/* All borrowed. The groups of a stage's rows are the entries of its `dataset`. */
struct stage_identity {
    const char *name;
    const struct dataset *rows;
    enum mix_strategy mix_strategy;
    const struct dataset_source *sources; /* [n_groups] */
    const double *weights, *max_epochs;   /* [n_groups] */
    const struct hash128 *hashes;         /* [n_groups] of all rows of each; NULL: not known */
    int32_t n_groups;
    bool may_grow; /* data_policy: append */
};

struct stage_span {
    int32_t first, end;
    int32_t growing; /* the one that is trained now, whose rows may have grown if it may_grow; -1: none */
};

/* Appends a JSON object, behind a comma unless it is the first. */
void stage_identity_write(struct strbuf *out, const struct stage_identity *stage, int32_t number);

/* Adds the differences between stages of a checkpoint (its list of such objects) and those of now. */
void stage_identity_compare(struct strbuf *differences, const struct json *was,
                            const struct stage_identity *stages, int32_t n, struct stage_span span);

/* Rows of each group in a checkpoint's object; the number of groups. */
int32_t stage_identity_rows(int64_t *rows, int32_t most, const struct json *was);

/* ", " and the words. */
void difference_add(struct strbuf *out, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
