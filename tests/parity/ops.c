/*
 * ops.c: every operation of ops.def against the double reference, with redzones: on every instruction path of
 * this processor, with the same bits for 1, 2 and 4 threads; or on the GPU (LORAD_TEST_DEVICE=cuda), with the
 * same bits twice. Arguments are names of operations or of cases: only those, or with a minus, all but those.
 * LORAD_TEST_FAST=1: a GPU that is not deterministic.
 */
#include "support/op_run.h"
#include "support/test.h"
#include "support/test_device.h"

static char **only;

static const struct {
    const struct op_case *cases;
    const int *n;
} lists[] = {
    {op_cases_rows, &n_op_cases_rows},
    {op_cases_attention, &n_op_cases_attention},
    {op_cases_loss, &n_op_cases_loss},
};

static void run_on_all_threads(const struct op_case *test, enum dtype dtype)
{
    static struct op_run run;
    uint64_t bits = 0;
    for (int threads = 1; threads <= 4; threads *= 2) {
        struct device *device;
        assert_ok(device_open(&device, &(struct device_options){.kind = "cpu", .threads = threads}));
        op_case_run(&run, device, test, dtype, false);
        device_close(device);
        if (threads > 1 && run.bits != bits)
            fail_msg("%s (%s, %s): other bits with %d threads than with one", op_names[test->op], test->name,
                     dtype_name(dtype), threads);
        bits = run.bits;
    }
}

static void run_twice(const struct op_case *test, enum dtype dtype)
{
    static struct op_run run;
    static struct device *device; /* opened once, since that takes longer than a case */
    if (!device) device = test_device_open(0);
    uint64_t bits = 0;
    for (int i = 0; i < 2; i++) {
        test_device_turn(i);
        op_case_run(&run, device, test, dtype, false);
        if (i > 0 && run.bits != bits && !test_device_is_fast())
            fail_msg("%s (%s, %s): other bits the second time", op_names[test->op], test->name,
                     dtype_name(dtype));
        bits = run.bits;
    }
}

static bool is_wanted(const struct op_case *test)
{
    bool all = true; /* but those with a minus */
    for (char **name = only; *name; name++) {
        bool leave_out = **name == '-';
        if (strcmp(*name + leave_out, op_names[test->op]) == 0 || strcmp(*name + leave_out, test->name) == 0)
            return !leave_out;
        all &= leave_out;
    }
    return all;
}

static void run_list(int which, void (*run)(const struct op_case *, enum dtype))
{
    for (int i = 0; i < *lists[which].n; i++) {
        const struct op_case *test = &lists[which].cases[i];
        if (!is_wanted(test)) continue;
        /* what a GPU does otherwise when it need not be deterministic is for 16 bits */
        if (!test_device_is_fast()) run(test, DTYPE_F32);
        if (!test->f32_only) run(test, DTYPE_BF16);
        if (!test->f32_only && !test_device_is_cpu()) run(test, DTYPE_F16);
    }
}

/* A path that this processor lacks is refused by device_open. */
static void on_every_path(int which)
{
    static const char *const paths[] = {"baseline", "avx2", "avx512"};
    int ran = 0;
    for (int i = 0; i < 3; i++) {
        struct device *device;
        setenv("LORAD_CPU_PATH", paths[i], 1);
        if (device_open(&device, &(struct device_options){.kind = "cpu", .threads = 1}) != LORAD_OK) continue;
        device_close(device);
        run_list(which, run_on_all_threads);
        ran++;
    }
    unsetenv("LORAD_CPU_PATH");
    assert_true(ran > 0);
}

static void on_the_device(int which)
{
    if (test_device_is_cpu())
        on_every_path(which);
    else
        run_list(which, run_twice);
}

static void rows_agree(void **state)
{
    (void)state;
    on_the_device(0);
}

static void attention_agrees(void **state)
{
    (void)state;
    on_the_device(1);
}

static void loss_and_optimizer_agree(void **state)
{
    (void)state;
    on_the_device(2);
}

static void every_operation_has_a_case(void **state)
{
    (void)state;
    bool seen[OP_COUNT] = {false};
    for (int l = 0; l < 3; l++)
        for (int i = 0; i < *lists[l].n; i++) seen[lists[l].cases[i].op] = true;
    for (int op = 0; op < OP_COUNT; op++)
        if (!seen[op]) fail_msg("no case for op_%s", op_names[op]);
}

int main(int argc, char **argv)
{
    (void)argc;
    only = argv + 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_operation_has_a_case),
        cmocka_unit_test(rows_agree),
        cmocka_unit_test(attention_agrees),
        cmocka_unit_test(loss_and_optimizer_agree),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
