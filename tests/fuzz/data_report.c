/* report.json: what is read is written as it is read again, and the page of it can be made. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "dataloader/report_html.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    struct data_report *report, *again;
    struct strbuf first = STRBUF_EMPTY, second = STRBUF_EMPTY, page = STRBUF_EMPTY;
    if (data_report_read(&report, (const char *)bytes, length, "fuzz") != LORAD_OK) return 0;
    data_report_write(report, &first);
    if (data_report_read(&again, first.data, first.length, "fuzz") != LORAD_OK) abort();
    data_report_write(again, &second);
    if (first.length != second.length || memcmp(first.data, second.data, first.length) != 0) abort();
    report_html(&page, report, again, &(struct report_html_options){.title = NULL});
    data_report_text(report, again, 80, true, &page);
    data_report_destroy(report);
    data_report_destroy(again);
    strbuf_free(&first);
    strbuf_free(&second);
    strbuf_free(&page);
    return 0;
}
