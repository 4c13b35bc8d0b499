/* prepare_folder.h: the contents of one folder of the cache, for prepare.c, which decides who fills which. */
#ifndef LORAD_DATALOADER_PREPARE_FOLDER_H
#define LORAD_DATALOADER_PREPARE_FOLDER_H

#include "dataloader/prepare.h"

enum folder_state {
    FOLDER_GROWING,  /* or not there */
    FOLDER_COMPLETE, /* the report is set */
    FOLDER_DAMAGED,  /* sealed, but cannot be used; why is the recorded message */
};
/* Fails when the files cannot be read now, which says nothing about what is in them. */
enum status prepare_folder_look(enum folder_state *state, const char *folder,
                                struct prepare_report *report) LORAD_WARN_UNUSED;

/* Called once the raw rows are known and the folder can be opened. */
typedef void prepare_known(void *context);

/* Fills the folder, or what is missing of it, and seals it. The job has options, list, folder, stop and
 * counters; the rest is made and freed here. Nobody else fills it at the same time. */
enum status prepare_folder_fill(struct prepare_job *job, struct prepare_report *report, prepare_known *known,
                                void *context) LORAD_WARN_UNUSED;
/* Removes it. */
enum status prepare_folder_discard(const char *folder) LORAD_WARN_UNUSED;

#endif
