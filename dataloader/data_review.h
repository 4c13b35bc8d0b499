/*
 * data_review.h: what takes a look at all prepared rows at once: duplicates, and evaluation rows that the
 * training rows hold too. For `lorad prepare` and `lorad check`; never on the way to a first step.
 */
#ifndef LORAD_DATALOADER_DATA_REVIEW_H
#define LORAD_DATALOADER_DATA_REVIEW_H

#include "base/status.h"
#include "dataloader/data_report.h"
#include "dataloader/table_file.h"

/* signatures.bin: struct row_signature by raw row. */
extern const struct table_kind data_signatures;

/* The report of a complete folder, with duplicates when it has signatures. They are found once and kept in
 * report.json. Blocks. Owns: *out. */
enum status data_review(struct data_report **out, const char *folder) LORAD_WARN_UNUSED;
/* Sets the overlap in `eval`, the report of eval_folder, when both folders have signatures. Found anew every
 * time, since the training rows may be others. Blocks. */
enum status data_review_overlap(struct data_report *eval, const char *eval_folder,
                                const char *train_folder) LORAD_WARN_UNUSED;
/* Writes the page of both to folder/report.html. eval may be NULL. */
struct report_html_options;
enum status data_review_html(const char *folder, const struct data_report *train,
                             const struct data_report *eval,
                             const struct report_html_options *options) LORAD_WARN_UNUSED;

#endif
