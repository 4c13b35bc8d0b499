#include "support/test.h"

#include "base/random.h"
#include "dataloader/packing.h"
#include "support/synthetic_rows.h"

static void check_packing(struct packing packing, const int32_t *lengths, int32_t n, int32_t capacity)
{
    uint8_t *seen = calloc((size_t)n + 1, 1);
    int32_t lowest = -1;
    assert_int_equal(packing.start[0], 0);
    assert_int_equal(packing.start[packing.n_packs], n);
    for (int32_t pack = 0; pack < packing.n_packs; pack++) {
        int64_t tokens = 0;
        assert_true(packing.start[pack] < packing.start[pack + 1]);
        assert_true(packing.item[packing.start[pack]] > lowest); /* packs in the order of their lowest rows */
        lowest = packing.item[packing.start[pack]];
        for (int32_t i = packing.start[pack]; i < packing.start[pack + 1]; i++) {
            int32_t row = packing.item[i];
            assert_true(row >= 0 && row < n && !seen[row]);
            assert_true(i == packing.start[pack] || row > packing.item[i - 1]);
            seen[row] = 1;
            tokens += lengths[row];
        }
        assert_true(tokens <= capacity);
    }
    free(seen);
}

static void no_row_is_lost_and_no_pack_overflows(void **state)
{
    (void)state;
    const int32_t capacities[] = {2, 63, 64, 65, 512, 4097, 100000, 300000};
    for (size_t k = 0; k < sizeof capacities / sizeof *capacities; k++) {
        struct packer *packer;
        assert_ok(packer_create(&packer, 4096, capacities[k]));
        for (uint64_t seed = 0; seed < 6; seed++) {
            int32_t n = seed == 0 ? 4096 : (int32_t)(random_philox(seed, 5, 0).word[0] % 4096);
            int32_t *lengths = synthetic_lengths(n, 1, capacities[k], seed);
            check_packing(packer_run(packer, lengths, n), lengths, n, capacities[k]);
            free(lengths);
        }
        packer_destroy(packer);
    }
}

/* Best fit by looking at every pack. Ties may go to different packs, so only the number of packs is compared.
 */
static int32_t packs_by_search(const int32_t *lengths, int32_t n, int32_t capacity)
{
    int32_t *room = calloc((size_t)n + 1, sizeof *room), n_packs = 0;
    for (int32_t length = capacity; length >= 1; length--)
        for (int32_t row = 0; row < n; row++) {
            if (lengths[row] != length) continue;
            int32_t best = -1;
            for (int32_t i = 0; i < n_packs; i++)
                if (room[i] >= length && (best < 0 || room[i] < room[best])) best = i;
            if (best < 0) room[best = n_packs++] = capacity;
            room[best] -= length;
        }
    free(room);
    return n_packs;
}

static void never_more_packs_than_best_fit(void **state)
{
    (void)state;
    struct packer *packer;
    int32_t better = 0;
    assert_ok(packer_create(&packer, 300, 100));
    for (uint64_t seed = 0; seed < 300; seed++) {
        int32_t n = 1 + (int32_t)(random_philox(seed, 6, 0).word[0] % 300), tokens = 0;
        int32_t *lengths = synthetic_lengths(n, 1 + (int32_t)(seed % 40), 100, seed);
        struct packing packing = packer_run(packer, lengths, n);
        check_packing(packing, lengths, n, 100);
        for (int32_t i = 0; i < n; i++) tokens += lengths[i];
        int32_t best_fit = packs_by_search(lengths, n, 100), least = (tokens + 99) / 100;
        assert_in_range(packing.n_packs, least, best_fit);
        if (best_fit == least) assert_int_equal(packing.n_packs, best_fit);
        better += packing.n_packs < best_fit;
        free(lengths);
    }
    assert_true(better > 10);
    packer_destroy(packer);
}

/* No row is shorter than an eighth of a pack, so what best fit leaves over in one is lost. */
static void windows_of_middling_rows_are_filled(void **state)
{
    (void)state;
    enum { N = 4096, CAPACITY = 512 };
    struct packer *packer;
    int64_t tokens = 0, packs = 0, best_fit = 0;
    assert_ok(packer_create(&packer, N, CAPACITY));
    for (uint64_t seed = 0; seed < 4; seed++) {
        int32_t *lengths = synthetic_lengths(N, CAPACITY / 8, CAPACITY * 7 / 8, seed);
        for (int32_t i = 0; i < N; i++) tokens += lengths[i];
        packs += packer_run(packer, lengths, N).n_packs;
        best_fit += packs_by_search(lengths, N, CAPACITY);
        free(lengths);
    }
    double filled = (double)tokens / (double)packs / CAPACITY,
           before = (double)tokens / (double)best_fit / CAPACITY;
    printf("packing: %.2f %% real tokens, best fit alone %.2f %%\n", 100 * filled, 100 * before);
    assert_true(filled > 0.995 && before < filled);
    packer_destroy(packer);
}

static void more_rows_than_at_first(void **state)
{
    (void)state;
    struct packer *packer;
    int32_t *lengths = synthetic_lengths(5000, 1, 64, 3);
    assert_ok(packer_create(&packer, 10, 64));
    assert_ok(packer_reserve(packer, 5000));
    check_packing(packer_run(packer, lengths, 5000), lengths, 5000, 64);
    packer_destroy(packer);
    free(lengths);
}

static void known_cases(void **state)
{
    (void)state;
    struct packer *packer;
    assert_ok(packer_create(&packer, 8, 10));
    const int32_t lengths[] = {3, 7, 10, 5, 5, 2, 8};
    struct packing packing = packer_run(packer, lengths, 7);
    assert_int_equal(packing.n_packs, 4);
    const int32_t items[] = {0, 1, 2, 3, 4, 5, 6}, starts[] = {0, 2, 3, 5, 7};
    assert_memory_equal(packing.item, items, sizeof items);
    assert_memory_equal(packing.start, starts, sizeof starts);
    /* Best fit makes 6 4 | 4 4 3 | 3 of these; 6 3 3 | 4 4 4 fits into two. */
    struct packer *twelve;
    assert_ok(packer_create(&twelve, 8, 12));
    assert_int_equal(packer_run(twelve, (const int32_t[]){6, 4, 4, 4, 3, 3}, 6).n_packs, 2);
    packer_destroy(twelve);
    assert_int_equal(packer_run(packer, lengths, 0).n_packs, 0);
    assert_int_equal(packer_run(packer, lengths, 1).n_packs, 1);
    packer_destroy(packer);
}

static void a_run_does_not_depend_on_the_one_before(void **state)
{
    (void)state;
    struct packer *packer, *fresh;
    int32_t *first = synthetic_lengths(4000, 5, 512, 1), *second = synthetic_lengths(3000, 5, 512, 2);
    assert_ok(packer_create(&packer, 4096, 512));
    assert_ok(packer_create(&fresh, 4096, 512));
    packer_run(packer, first, 4000);
    struct packing again = packer_run(packer, second, 3000), expected = packer_run(fresh, second, 3000);
    assert_int_equal(again.n_packs, expected.n_packs);
    assert_memory_equal(again.item, expected.item, 3000 * sizeof(int32_t));
    packer_destroy(packer);
    packer_destroy(fresh);
    free(first);
    free(second);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(no_row_is_lost_and_no_pack_overflows),
                                       cmocka_unit_test(never_more_packs_than_best_fit),
                                       cmocka_unit_test(windows_of_middling_rows_are_filled),
                                       cmocka_unit_test(more_rows_than_at_first),
                                       cmocka_unit_test(known_cases),
                                       cmocka_unit_test(a_run_does_not_depend_on_the_one_before)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
