/*
 * dataset_placeholder.h: holes, groups, growth and weights of a prepared folder of version 1, as the tests of
 * everything behind preparing set them. Stands in for a dataset that knows them itself; only
 * tests/support/synthetic_rows.c includes it. A row without a target is a hole.
 */
#ifndef LORAD_DATALOADER_DATASET_PLACEHOLDER_H
#define LORAD_DATALOADER_DATASET_PLACEHOLDER_H

#include "dataloader/dataloader.h"

void dataset_placeholder_groups(struct dataset *dataset, const int64_t *sizes, int32_t n);
/* Every third row's targets weigh this instead of 1. */
void dataset_placeholder_weight(struct dataset *dataset, float weight);
/* From now on rows are prepared only by dataset_placeholder_prepare, until all are, or preparing fails. */
void dataset_placeholder_grow(struct dataset *dataset);
void dataset_placeholder_prepare(struct dataset *dataset, const int64_t *rows, int32_t n);
void dataset_placeholder_finish(struct dataset *dataset, enum status failure); /* LORAD_OK: complete */

#endif
