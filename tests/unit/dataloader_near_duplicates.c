#include "support/test.h"

#include <math.h>
#include <stdbool.h>

#include "base/random.h"
#include "dataloader/near_duplicates.h"

static struct row_signature sign_turns(const char *system, const char *user, const char *assistant)
{
    struct signature_maker maker = {0};
    struct row_signature signature;
    const struct message messages[] = {{ROLE_SYSTEM, system, strlen(system), 0},
                                       {ROLE_USER, user, strlen(user), 0},
                                       {ROLE_ASSISTANT, assistant, strlen(assistant), 1}};
    assert_ok(row_signature_make(&signature, &maker, messages, 3));
    signature_maker_free(&maker);
    return signature;
}

static struct row_signature sign(const char *text)
{
    return sign_turns("", text, "");
}

static double similarity(const char *a, const char *b)
{
    struct row_signature x = sign(a), y = sign(b);
    return row_signature_similarity(&x, &y);
}

static void what_counts_in_a_text(void **state)
{
    (void)state;
    struct row_signature a = sign("盗窃罪 怎么判？"), b = sign(" 盗窃罪\n\t怎么判？　"),
                         c = sign("盗窃罪怎么判?");
    assert_true(a.text_hash == b.text_hash);
    assert_true(a.text_hash != c.text_hash);
    assert_true(row_signature_similarity(&a, &c) == 1);
    assert_true(similarity("The Net Profit rose by 12%", "the net-profit ROSE, by １２ %") == 1);
    assert_true(similarity("净利润增长", "净利润下降") < 0.8);
    assert_true(similarity("", "!!") < 0.1); /* no letter at all: like nothing but itself */
    assert_true(similarity("是", "否") < 0.1);
    assert_true(similarity("是", "是。") == 1);
    assert_true(similarity("Straße über Ελλάδα", "straße, über Ελλάδα!") == 1);
    assert_true(similarity("ไทยสวัสดีครับ", "ไทย สวัสดีครับ") == 1); /* no spaces between words, or some */

    /* Roles make a text another one; a system message does not make rows alike. */
    a = sign_turns("", "一二三四五六", "七八九十");
    b = sign_turns("", "一二三四五六七八", "九十");
    assert_true(a.text_hash != b.text_hash);
    a = sign_turns("你是一位严谨、客观、专业的金融分析师，请回答下面的问题。", "银行是什么",
                   "吸收存款的机构");
    b = sign_turns("你是一位严谨、客观、专业的金融分析师，请回答下面的问题。", "证券怎么买",
                   "先去开一个账户");
    assert_true(row_signature_similarity(&a, &b) < 0.2);
    assert_true(a.text_hash != b.text_hash);
}

/* ---- estimates ---- */

/* Units are words w<number>; two texts share `shared` of their first units, so their Jaccard similarity is
 * known. */
static void words_from(char *to, uint32_t first, int32_t n)
{
    for (int32_t i = 0; i < n; i++) to += sprintf(to, "w%u ", first + (uint32_t)i);
}

static void estimates_are_unbiased_with_the_promised_error(void **state)
{
    (void)state;
    static const struct {
        int32_t n, shared;
    } cases[] = {{10, 8}, {30, 27}, {100, 70}, {100, 95}, {400, 200}, {2000, 1800}};
    char *a = malloc(100000), *b = malloc(100000);
    assert_non_null(a);
    assert_non_null(b);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int32_t n = cases[i].n, shared = cases[i].shared;
        double common = shared - 2, exact = common / (2 * (n - 2) - common), sum = 0, squares = 0;
        enum { TRIALS = 200 };
        for (uint32_t t = 0; t < TRIALS; t++) {
            uint32_t start = t * 100000;
            words_from(a, start, n);
            words_from(b, start, shared);
            words_from(b + strlen(b), start + 50000, n - shared);
            double s = similarity(a, b);
            sum += s;
            squares += (s - exact) * (s - exact);
        }
        double deviation = sqrt(squares / TRIALS), promised = sqrt(exact * (1 - exact) / SIGNATURE_LANES);
        if (fabs(sum / TRIALS - exact) > 4 * promised / sqrt(TRIALS) + 0.003 || deviation > 1.3 * promised)
            fail_msg("%d words, %d shared: %.3f exactly, %.3f on average, deviation %.3f (%.3f)", n, shared,
                     exact, sum / TRIALS, deviation, promised);
    }
    free(a);
    free(b);
}

/* ---- groups ---- */

static struct row_signature drawn(uint64_t key)
{
    struct row_signature s = {.text_hash = random_key(key, 1, 0, 0, 0) | 1};
    for (uint64_t i = 0; i < SIGNATURE_BANDS; i++) s.band[i] = random_key(key, 2, i, 0, 0);
    return s;
}

/* Like `base`, but for `lanes` of the 128 lanes, chosen by the key. */
static struct row_signature changed(const struct row_signature *base, int32_t lanes, uint64_t key)
{
    struct row_signature s = *base;
    bool done[SIGNATURE_LANES] = {false};
    for (uint64_t i = 0; lanes > 0; i++) {
        struct random_block dice = random_philox(key, 3, i);
        uint32_t lane = dice.word[0] % SIGNATURE_LANES;
        if (done[lane]) continue;
        done[lane] = true;
        lanes--;
        s.band[lane / 8] ^= (uint64_t)(1 + dice.word[1] % 255) << (lane % 8 * 8);
    }
    s.text_hash = random_key(key, 4, 0, 0, 0) | 1;
    return s;
}

static void the_s_curve_is_the_documented_one(void **state)
{
    (void)state;
    static const int32_t lanes[] = {10, 16, 20}; /* differ: similarity about 0.92, 0.87, 0.84 */
    enum { TRIALS = 2000 };
    for (size_t i = 0; i < sizeof lanes / sizeof *lanes; i++) {
        struct row_signature *rows = malloc(2 * TRIALS * sizeof *rows);
        struct duplicates found;
        assert_non_null(rows);
        for (uint64_t t = 0; t < TRIALS; t++) {
            rows[2 * t] = drawn(t);
            rows[2 * t + 1] = changed(&rows[2 * t], lanes[i], t + 1000000);
        }
        assert_ok(duplicates_find(&found, rows, 2 * TRIALS));
        double s = 1 - lanes[i] / 128.0, p = 1 - pow(1 - pow(s, 8), 16);
        assert_int_equal(found.exact_rows, 0);
        assert_int_equal(found.near_rows, found.near_groups);
        if (fabs((double)found.near_rows / TRIALS - p) > 0.02)
            fail_msg("%d lanes differ: %d of %d pairs found, expected %.3f", lanes[i], (int)found.near_rows,
                     TRIALS, p);
        free(rows);
    }
}

static void groups_are_those_of_all_pairs(void **state)
{
    (void)state;
    enum { N = 3000, KINDS = 400 };
    static struct row_signature rows[N];
    static int32_t root[N];
    struct duplicates found;
    for (uint64_t i = 0; i < N; i++) {
        struct random_block dice = random_philox(9, 0, i);
        struct row_signature base = drawn(dice.word[0] % KINDS);
        int32_t differ = dice.word[1] % 3 == 0 ? 0 : (int32_t)(dice.word[1] % 5);
        rows[i] = differ == 0 ? base : changed(&base, differ, i);
        if (dice.word[2] % 10 == 0) memset(&rows[i], 0, sizeof rows[i]); /* a hole */
    }
    assert_ok(duplicates_find(&found, rows, N));
    int64_t present = 0, exact_rows = 0, exact_groups = 0, near_rows = 0, near_groups = 0;
    static bool copy[N], counted[N];
    for (int32_t i = 0; i < N; i++) {
        present += rows[i].text_hash != 0;
        root[i] = i;
        int32_t copies_before = 0, first = i;
        for (int32_t k = i - 1; k >= 0 && rows[i].text_hash; k--)
            if (rows[k].text_hash == rows[i].text_hash) {
                copies_before++;
                first = k;
            }
        copy[i] = first != i;
        exact_rows += copy[i];
        exact_groups += copies_before == 1;
        if (copy[i] || !rows[i].text_hash) continue;
        /* at most 8 lanes differ between two of a kind: every pair shares a band, and is similar enough */
        for (int32_t k = 0; k < i; k++)
            if (rows[k].text_hash && !copy[k] && row_signature_similarity(&rows[i], &rows[k]) >= 0.8) {
                root[i] = root[k];
                break;
            }
    }
    for (int32_t i = 0; i < N; i++) {
        if (root[i] == i) continue;
        near_rows++;
        near_groups += !counted[root[i]];
        counted[root[i]] = true;
    }
    assert_int_equal(found.rows, present);
    assert_int_equal(found.exact_rows, exact_rows);
    assert_int_equal(found.exact_groups, exact_groups);
    assert_int_equal(found.near_rows, near_rows);
    assert_int_equal(found.near_groups, near_groups);
    assert_int_equal(found.n_exact, DUPLICATE_PAIRS);
    assert_int_equal(found.n_near, DUPLICATE_PAIRS);
    for (int32_t i = 0; i < DUPLICATE_PAIRS; i++) {
        assert_true(i == 0 || (found.exact[i].row > found.exact[i - 1].row &&
                               found.near[i].row > found.near[i - 1].row));
        assert_true(rows[found.exact[i].row].text_hash == rows[found.exact[i].of_row].text_hash);
        assert_true(found.near[i].of_row < found.near[i].row && found.near[i].similarity >= 0.8);
        assert_int_equal(root[found.near[i].row], root[found.near[i].of_row]);
    }
}

static void crowds_of_equal_and_alike_rows_end_soon(void **state)
{
    (void)state;
    enum { N = 200000 };
    struct row_signature *rows = malloc(N * sizeof *rows), base = drawn(1);
    struct duplicates found;
    assert_non_null(rows);
    for (uint64_t i = 0; i < N; i++) rows[i] = i % 2 ? base : changed(&base, 1, i);
    assert_ok(duplicates_find(&found, rows, N));
    assert_int_equal(found.exact_rows, N / 2 - 1);
    assert_int_equal(found.exact_groups, 1);
    assert_int_equal(found.near_rows, N / 2);
    assert_int_equal(found.near_groups, 1);

    struct overlap overlap; /* and the same crowd on both sides */
    assert_ok(overlap_find(&overlap, rows, N, rows, N));
    assert_int_equal(overlap.exact_rows, N);
    for (uint64_t i = 0; i < N; i++) rows[i] = changed(&base, 3, i);
    assert_ok(overlap_find(&overlap, rows, N / 2, rows + N / 2, N / 2));
    assert_int_equal(overlap.exact_rows, 0);
    assert_int_equal(overlap.near_rows, N / 2);
    free(rows);
}

static void evaluation_rows_are_found_in_the_training_rows(void **state)
{
    (void)state;
    enum { TRAIN = 5000, EVAL = 300 };
    static struct row_signature train[TRAIN], eval[EVAL];
    struct overlap found;
    for (uint64_t i = 0; i < TRAIN; i++) train[i] = drawn(i);
    train[77] = train[76];
    memset(&train[13], 0, sizeof train[13]);
    for (uint64_t i = 0; i < EVAL; i++) eval[i] = drawn(i + 1000000);
    eval[10] = train[4000];
    eval[20] = changed(&train[500], 8, 1);
    eval[21] = changed(&train[500], 30, 2); /* 0.77 */
    eval[30] = train[77];
    memset(&eval[40], 0, sizeof eval[40]);
    assert_ok(overlap_find(&found, train, TRAIN, eval, EVAL));
    assert_int_equal(found.rows, EVAL - 1);
    assert_int_equal(found.exact_rows, 2);
    assert_int_equal(found.near_rows, 1);
    assert_int_equal(found.n_pairs, 3);
    assert_int_equal(found.pair[0].row, 10);
    assert_int_equal(found.pair[0].of_row, 4000);
    assert_true(found.pair[0].similarity == 1);
    assert_int_equal(found.pair[1].of_row, 76);
    assert_int_equal(found.pair[2].row, 20);
    assert_int_equal(found.pair[2].of_row, 500);
    assert_true(fabs(found.pair[2].similarity - (1 - 8 / 128.0)) < 0.01);
    assert_ok(overlap_find(&found, train, TRAIN, eval, 0));
    assert_int_equal(found.rows, 0);
    assert_ok(overlap_find(&found, train, 0, eval, EVAL));
    assert_int_equal(found.exact_rows + found.near_rows, 0);
    struct duplicates none;
    assert_ok(duplicates_find(&none, train, 0));
    assert_int_equal(none.rows, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_counts_in_a_text),
        cmocka_unit_test(estimates_are_unbiased_with_the_promised_error),
        cmocka_unit_test(the_s_curve_is_the_documented_one),
        cmocka_unit_test(groups_are_those_of_all_pairs),
        cmocka_unit_test(crowds_of_equal_and_alike_rows_end_soon),
        cmocka_unit_test(evaluation_rows_are_found_in_the_training_rows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
