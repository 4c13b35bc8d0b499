#include "support/test.h"

#include "base/random.h"
#include "base/utf8.h"
#include "dataloader/length_histogram.h"

static void bins_cover_every_length_once(void **state)
{
    (void)state;
    int64_t next = 0;
    for (int32_t bin = 0; bin < HISTOGRAM_BINS; bin++) {
        int32_t first, last;
        length_histogram_bin(bin, &first, &last);
        assert_int_equal(first, next);
        assert_true(last >= first && (last - first + 1) * 8LL <= (first > 16 ? first : 16 + 8 * first));
        next = (int64_t)last + 1;
        const int32_t ends[] = {first, last};
        for (int i = 0; i < 2; i++) {
            struct length_histogram h = {.n = 0};
            length_histogram_add(&h, ends[i]);
            assert_int_equal(h.count[bin], 1);
        }
    }
    assert_true(next == (int64_t)INT32_MAX + 1);
}

static int compare(const void *a, const void *b)
{
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return (x > y) - (x < y);
}

static void quantiles_are_close_and_sums_are_exact(void **state)
{
    (void)state;
    enum { N = 20000 };
    static int32_t length[N];
    struct length_histogram h = {.n = 0};
    int64_t sum = 0;
    for (uint64_t i = 0; i < N; i++) {
        struct random_block dice = random_philox(3, 0, i);
        length[i] = (int32_t)(dice.word[0] % 100 * (dice.word[1] % 50 + 1) + 2);
        length_histogram_add(&h, length[i]);
        sum += length[i];
    }
    qsort(length, N, sizeof *length, compare);
    assert_int_equal(h.shortest, length[0]);
    assert_int_equal(h.longest, length[N - 1]);
    assert_int_equal(h.sum, sum);
    for (int percent = 1; percent <= 100; percent++) {
        int32_t exact = length[(N * percent + 99) / 100 - 1],
                about = length_histogram_quantile(&h, percent / 100.0);
        if (about < exact || (about - exact) * 8 > exact)
            fail_msg("%d %%: %d, exactly %d", percent, about, exact);
    }
    assert_int_equal(length_histogram_quantile(&h, 1), length[N - 1]);
    assert_int_equal(length_histogram_quantile(&h, 0), length[0]);
}

static void bars_hold_every_row(void **state)
{
    (void)state;
    static const int32_t spans[][2] = {{5, 5},    {0, 3},       {1, 40},       {100, 130},
                                       {2, 2048}, {1, 1048576}, {0, INT32_MAX}};
    for (size_t i = 0; i < sizeof spans / sizeof *spans; i++) {
        struct length_histogram h = {.n = 0};
        struct histogram_bar bars[HISTOGRAM_BARS];
        for (int k = 0; k < 7; k++) length_histogram_add(&h, k % 2 ? spans[i][0] : spans[i][1]);
        int32_t n = length_histogram_bars(&h, bars);
        int64_t count = 0;
        assert_true(n >= 1 && n <= HISTOGRAM_BARS);
        assert_true(bars[0].first <= spans[i][0] && bars[n - 1].last >= spans[i][1]);
        for (int32_t b = 0; b < n; b++) {
            assert_true(bars[b].first <= bars[b].last);
            if (b > 0) assert_true(bars[b].first == bars[b - 1].last + 1);
            count += bars[b].count;
        }
        assert_int_equal(count, 7);
    }
}

/* Columns of the lines that hold a bar: all equal, and no more than asked for. */
static void drawings_fit_the_terminal(void **state)
{
    (void)state;
    struct length_histogram h = {.n = 0};
    struct strbuf out = STRBUF_EMPTY;
    for (int32_t i = 0; i < 5000; i++) length_histogram_add(&h, 20 + i * i / 9000);
    for (int32_t columns = 52; columns <= 200; columns += 37)
        for (int utf8 = 0; utf8 < 2; utf8++) {
            strbuf_clear(&out);
            length_histogram_draw(&h, "Tokens", columns, utf8, &out);
            assert_true(utf8_valid(out.data, out.length, NULL));
            int32_t line = 0, width = 0, taken = -1;
            for (size_t i = 0; i < out.length; i++) {
                if (!utf8) assert_true((unsigned char)out.data[i] < 0x80);
                if (out.data[i] != '\n') {
                    width += ((unsigned char)out.data[i] & 0xC0) != 0x80;
                    continue;
                }
                if (line > 0) assert_true(width <= columns && (taken < 0 || width == taken));
                if (line++ > 0) taken = width;
                width = 0;
            }
            assert_true(line > 5 && line <= HISTOGRAM_BARS + 1);
        }
    strbuf_clear(&out);
    struct length_histogram none = {.n = 0};
    length_histogram_draw(&none, "Tokens", 80, true, &out);
    assert_string_equal(strbuf_text(&out), "Tokens: none\n");
    strbuf_clear(&out);
    length_histogram_number(&out, 1234567);
    strbuf_putc(&out, ' ');
    length_histogram_number(&out, -999);
    strbuf_putc(&out, ' ');
    length_histogram_number(&out, 1000);
    assert_string_equal(strbuf_text(&out), "1,234,567 -999 1,000");
    strbuf_free(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bins_cover_every_length_once),
        cmocka_unit_test(quantiles_are_close_and_sums_are_exact),
        cmocka_unit_test(bars_hold_every_row),
        cmocka_unit_test(drawings_fit_the_terminal),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
