/* trainer/gpu_choice.c: which GPU each rank takes, from what all of them see. */
#include "trainer/gpu_choice.h"

#include <string.h>

#include "support/test.h"

enum { RANKS = 4 };

/* "01 01 23 23": what each rank sees, a letter a GPU; "." is none. */
static void see(struct gpu_sight *all, const char *text)
{
    memset(all, 0, RANKS * sizeof *all);
    for (int r = 0; r < RANKS; r++) {
        strcpy(all[r].host, "node7");
        for (; *text && *text != ' '; text++)
            if (*text != '.') all[r].gpu[all[r].n++].bytes[15] = (unsigned char)*text;
        if (*text) text++;
    }
}

static void takes(const char *text, const char *number, const char *sharers)
{
    struct gpu_sight all[RANKS];
    see(all, text);
    for (int r = 0; r < RANKS; r++) {
        struct gpu_choice choice;
        all[r].may_share = 1;
        assert_ok(gpu_share_out(&choice, all, RANKS, r));
        assert_int_equal(choice.number, number[r] - '0');
        assert_int_equal(choice.sharers, sharers[r] - '0');
        if (strcmp(sharers, "1111") != 0) continue;
        all[r].may_share = 0;
        assert_ok(gpu_share_out(&choice, all, RANKS, r));
    }
}

static void ranks_take_what_is_free(void **state)
{
    (void)state;
    takes("abcd abcd abcd abcd", "0123", "1111");
    takes("a b c d", "0000", "1111");     /* one is shown to each */
    takes("ab ab cd cd", "0101", "1111"); /* those of a socket */
    takes("ab cd ef gh", "0000", "1111");
    takes("bacd acbd dabc cdba", "0000", "1111");
    takes("abcd dcba abcd dcba", "0011", "1111");
    takes("ab ab ab ab", "0101", "2222");
    takes("abc abc abc abc", "0120", "2112");
    takes("a a a a", "0000", "4444");
    takes("a a b b", "0000", "2222");
}

static void a_gpu_is_for_one_rank(void **state)
{
    (void)state;
    struct gpu_sight all[RANKS];
    struct gpu_choice choice;
    see(all, "ab ab ab c");
    assert_ok(gpu_share_out(&choice, all, RANKS, 0));
    assert_ok(gpu_share_out(&choice, all, RANKS, 1));
    assert_ok(gpu_share_out(&choice, all, RANKS, 3));
    assert_fails(
        gpu_share_out(&choice, all, RANKS, 2), LORAD_CONFIG,
        "ranks 0 and 2 of host node7 would both use GPU-00000000-0000-0000-0000-000000000061: rank 2 "
        "sees 2 GPUs, and other ranks have them; start at most one rank per GPU");
}

static void a_host_without_gpus_is_not_overlooked(void **state)
{
    (void)state;
    struct gpu_sight all[RANKS];
    struct gpu_choice choice;
    see(all, ". . . .");
    assert_ok(gpu_share_out(&choice, all, RANKS, 3));
    assert_true(choice.number == 0 && choice.sharers == 1);
    see(all, "a b . c");
    assert_ok(gpu_share_out(&choice, all, RANKS, 3));
    assert_fails(gpu_share_out(&choice, all, RANKS, 2), LORAD_CONFIG,
                 "rank 2 on host node7 sees no GPU, and rank 0 on host node7 does");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ranks_take_what_is_free),
        cmocka_unit_test(a_gpu_is_for_one_rank),
        cmocka_unit_test(a_host_without_gpus_is_not_overlooked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
