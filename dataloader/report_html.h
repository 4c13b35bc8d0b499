/*
 * report_html.h: a data report as one HTML file: no scripts, no other files, light and dark.
 */
#ifndef LORAD_DATALOADER_REPORT_HTML_H
#define LORAD_DATALOADER_REPORT_HTML_H

#include "base/strbuf.h"
#include "dataloader/data_report.h"

struct report_html_options {
    const char *title;         /* NULL: "Data report" */
    const char *model;         /* whose tokenizer counted; NULL: not said */
    const char *template_name; /* NULL: not said */
    int32_t cutoff_len;        /* 0: not said */
};

/* Appends the page. eval may be NULL. Any text in names and words is escaped. */
void report_html(struct strbuf *out, const struct data_report *train, const struct data_report *eval,
                 const struct report_html_options *options);

#endif
