/*
 * length_histogram.h: how long rows are: exact counts in bins that grow with the length, and a drawing of
 * them.
 *
 * Lengths below 16 have a bin each, above there are 8 bins to each doubling, so that a quantile is off by
 * less than one part in eight. Adding and merging in any order gives the same histogram.
 */
#ifndef LORAD_DATALOADER_LENGTH_HISTOGRAM_H
#define LORAD_DATALOADER_LENGTH_HISTOGRAM_H

#include <stdbool.h>
#include <stdint.h>

#include "base/strbuf.h"

enum { HISTOGRAM_BINS = 16 + 27 * 8, HISTOGRAM_BARS = 16 };

struct length_histogram {
    int64_t count[HISTOGRAM_BINS];
    int64_t n, sum;
    int32_t shortest, longest; /* exact; 0 when n is 0 */
};

void length_histogram_add(struct length_histogram *histogram, int32_t length);
/* The smallest length that at least this share (0 to 1) of the rows does not exceed, up to the width of its
 * bin. */
int32_t length_histogram_quantile(const struct length_histogram *histogram, double share);
/* The lengths of a bin: first <= length <= last. */
void length_histogram_bin(int32_t bin, int32_t *first, int32_t *last);

/* At most HISTOGRAM_BARS bars that cover shortest to longest, for a drawing. */
struct histogram_bar {
    int32_t first, last;
    int64_t count;
};
int32_t length_histogram_bars(const struct length_histogram *histogram,
                              struct histogram_bar bars[HISTOGRAM_BARS]);

/* Lines for a terminal `columns` wide (at least 40 is assumed), bars in eighths of a block; in ASCII when
 * !utf8. */
void length_histogram_draw(const struct length_histogram *histogram, const char *title, int32_t columns,
                           bool utf8, struct strbuf *out);

/* "1,234,567", appended. */
void length_histogram_number(struct strbuf *out, int64_t number);

#endif
