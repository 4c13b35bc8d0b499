/* length_histogram.c: bins, quantiles and the drawing for a terminal. */
#include "dataloader/length_histogram.h"

#include <stdio.h>

enum {
    LINEAR_BINS = 16,
    PER_DOUBLING = 8,
    LABEL_COLUMNS = 17,
    NUMBERS_COLUMNS = 24,
    LEAST_COLUMNS = 40,
    MOST_BAR = 80
};

static int32_t bin_of(int32_t length)
{
    if (length < LINEAR_BINS) return length;
    int32_t doubling = 31 - __builtin_clz((uint32_t)length);
    return LINEAR_BINS + (doubling - 4) * PER_DOUBLING + ((length >> (doubling - 3)) & (PER_DOUBLING - 1));
}

void length_histogram_bin(int32_t bin, int32_t *first, int32_t *last)
{
    if (bin < LINEAR_BINS) {
        *first = *last = bin;
        return;
    }
    int32_t doubling = (bin - LINEAR_BINS) / PER_DOUBLING + 4, part = (bin - LINEAR_BINS) % PER_DOUBLING;
    int64_t width = (int64_t)1 << (doubling - 3), start = (PER_DOUBLING + part) * width;
    *first = (int32_t)start;
    *last = (int32_t)(start + width - 1);
}

void length_histogram_add(struct length_histogram *h, int32_t length)
{
    if (length < 0) length = 0;
    if (h->n == 0 || length < h->shortest) h->shortest = length;
    if (h->n == 0 || length > h->longest) h->longest = length;
    h->count[bin_of(length)]++;
    h->n++;
    h->sum += length;
}

int32_t length_histogram_quantile(const struct length_histogram *h, double share)
{
    double wanted = share * (double)h->n;
    int64_t seen = 0;
    int32_t first, last;
    if (h->n == 0) return 0;
    if (!(wanted > 0)) return h->shortest;
    for (int32_t bin = 0; bin < HISTOGRAM_BINS; bin++) {
        seen += h->count[bin];
        if (h->count[bin] == 0 || (double)seen < wanted) continue;
        length_histogram_bin(bin, &first, &last);
        return last < h->longest ? last : h->longest;
    }
    return h->longest;
}

/* A bar joins 1, 2, 4, 8 or 16 bins, so that its ends are round numbers but for the outermost two. */
int32_t length_histogram_bars(const struct length_histogram *h, struct histogram_bar bars[HISTOGRAM_BARS])
{
    if (h->n == 0) return 0;
    int32_t low = bin_of(h->shortest), high = bin_of(h->longest), joined = 1, ignored;
    while (high / joined - low / joined + 1 > HISTOGRAM_BARS) joined *= 2;
    int32_t n = high / joined - low / joined + 1;
    for (int32_t i = 0; i < n; i++) {
        int32_t first = (low / joined + i) * joined, last = first + joined - 1;
        if (last >= HISTOGRAM_BINS) last = HISTOGRAM_BINS - 1;
        length_histogram_bin(first, &bars[i].first, &ignored);
        length_histogram_bin(last, &ignored, &bars[i].last);
        bars[i].count = 0;
        for (int32_t bin = first; bin <= last; bin++) bars[i].count += h->count[bin];
    }
    bars[0].first = h->shortest;
    bars[n - 1].last = h->longest;
    return n;
}

/* ---- drawing ---- */

void length_histogram_number(struct strbuf *out, int64_t number)
{
    char digits[24];
    int n = snprintf(digits, sizeof digits, "%lld", (long long)(number < 0 ? -number : number));
    if (number < 0) strbuf_putc(out, '-');
    for (int i = 0; i < n; i++) {
        if (i > 0 && (n - i) % 3 == 0) strbuf_putc(out, ',');
        strbuf_putc(out, digits[i]);
    }
}

static void pad(struct strbuf *out, int64_t columns)
{
    while (columns-- > 0) strbuf_putc(out, ' ');
}

/* "1,024–2,047", right-aligned. */
static void add_label(struct strbuf *out, const struct histogram_bar *bar, bool utf8)
{
    struct strbuf label = STRBUF_EMPTY;
    length_histogram_number(&label, bar->first);
    size_t taken = label.length;
    if (bar->last > bar->first) {
        size_t before = label.length;
        strbuf_puts(&label, utf8 ? "–" : "-");
        size_t dash = label.length - before;
        length_histogram_number(&label, bar->last);
        taken = label.length - dash + 1;
    }
    pad(out, LABEL_COLUMNS - (int64_t)taken);
    strbuf_puts(out, strbuf_text(&label));
    strbuf_free(&label);
}

static void add_bar(struct strbuf *out, double share, int32_t columns, bool utf8)
{
    static const char *const eighths[] = {"", "▏", "▎", "▍", "▌", "▋", "▊", "▉"};
    int32_t units = (int32_t)(share * columns * (utf8 ? 8 : 1) + 0.5), whole = utf8 ? units / 8 : units;
    if (units == 0 && share > 0) units = 1; /* something is there */
    if (!utf8 && whole == 0) whole = units;
    for (int32_t i = 0; i < whole; i++) strbuf_puts(out, utf8 ? "█" : "#");
    if (utf8) strbuf_puts(out, eighths[units % 8]);
    pad(out, columns - whole - (utf8 && units % 8 > 0));
}

void length_histogram_draw(const struct length_histogram *h, const char *title, int32_t columns, bool utf8,
                           struct strbuf *out)
{
    struct histogram_bar bars[HISTOGRAM_BARS];
    int32_t n = length_histogram_bars(h, bars);
    int64_t most = 1;
    if (columns < LEAST_COLUMNS + 12) columns = LEAST_COLUMNS + 12;
    int32_t width = columns - LABEL_COLUMNS - NUMBERS_COLUMNS;
    if (width > MOST_BAR) width = MOST_BAR;
    strbuf_puts(out, title);
    if (n == 0) {
        strbuf_puts(out, ": none\n");
        return;
    }
    strbuf_puts(out, ": median ");
    length_histogram_number(out, length_histogram_quantile(h, 0.5));
    strbuf_puts(out, ", 90 % up to ");
    length_histogram_number(out, length_histogram_quantile(h, 0.9));
    strbuf_puts(out, ", 99 % up to ");
    length_histogram_number(out, length_histogram_quantile(h, 0.99));
    strbuf_puts(out, ", longest ");
    length_histogram_number(out, h->longest);
    strbuf_putc(out, '\n');
    for (int32_t i = 0; i < n; i++)
        if (bars[i].count > most) most = bars[i].count;
    for (int32_t i = 0; i < n; i++) {
        struct strbuf number = STRBUF_EMPTY;
        add_label(out, &bars[i], utf8);
        strbuf_puts(out, "  ");
        add_bar(out, (double)bars[i].count / (double)most, width, utf8);
        length_histogram_number(&number, bars[i].count);
        strbuf_printf(out, " %12s %5.1f %%\n", strbuf_text(&number),
                      100.0 * (double)bars[i].count / (double)h->n);
        strbuf_free(&number);
    }
}
