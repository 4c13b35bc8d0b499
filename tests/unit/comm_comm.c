#include "support/test.h"

#include "base/clock.h"
#include "comm/comm.h"
#include "comm/activity_impl.h"
#include "support/lazy_device.h"

static struct comm *self(void)
{
    struct comm *comm;
    assert_ok(comm_create(&comm, &(struct comm_options){.kind = "self"}));
    return comm;
}

static void without_a_launcher_there_is_one_rank(void **state)
{
    (void)state;
    struct comm_world_info info;
    assert_ok(comm_startup(&info));
    assert_int_equal(info.rank, 0);
    assert_int_equal(info.world, 1);
    assert_int_equal(info.local_world, 1);
    assert_true(info.threads >= 1);
    assert_false(comm_mpi_running());
    comm_shutdown();
}

static void a_group_of_one_leaves_values_alone(void **state)
{
    (void)state;
    struct comm *comm = self(), *part;
    float value[3] = {1, 2, 3}, out[3] = {0};
    assert_int_equal(comm_size(comm), 1);
    assert_string_equal(comm_kind(comm), "self");
    assert_ok(comm_all_reduce(comm, value, 3, DTYPE_F32, COMM_SUM));
    assert_ok(comm_all_gather(comm, value, out, 3, DTYPE_F32));
    assert_memory_equal(value, out, sizeof out);
    assert_ok(comm_all_gather(comm, out, out, 3, DTYPE_F32));
    memset(out, 0, sizeof out);
    assert_ok(comm_reduce_scatter(comm, value, out, 3, DTYPE_F32, COMM_SUM));
    assert_memory_equal(value, out, sizeof out);
    assert_ok(comm_reduce_scatter(comm, out, out, 3, DTYPE_F32, COMM_SUM));
    assert_memory_equal(value, out, sizeof out);
    assert_ok(comm_broadcast(comm, value, 3, DTYPE_F32, 0));
    assert_ok(comm_host_all_reduce(comm, value, 3, DTYPE_F32, COMM_MAX));
    assert_ok(comm_host_broadcast(comm, value, sizeof value, 0));
    assert_ok(comm_barrier(comm));
    assert_ok(comm_split(&part, comm, 3, 0));
    assert_int_equal(comm_size(part), 1);
    assert_true(value[0] == 1 && value[1] == 2 && value[2] == 3);
    comm_destroy(part);
    comm_destroy(comm);
    comm_destroy(NULL);
}

static void wrong_calls_are_bugs(void **state)
{
    (void)state;
    struct comm *comm = self(), *other;
    float value = 1;
    assert_fails(comm_all_reduce(comm, &value, -1, DTYPE_F32, COMM_SUM), LORAD_BUG, "all_reduce of -1");
    assert_fails(comm_reduce_scatter(comm, &value, &value, -1, DTYPE_F32, COMM_SUM), LORAD_BUG,
                 "reduce_scatter of -1");
    assert_fails(comm_broadcast(comm, &value, 1, DTYPE_F32, 1), LORAD_BUG, "from rank 1 of a group of 1");
    assert_fails(comm_split(&other, comm, -1, 0), LORAD_BUG, "color");
    assert_fails(comm_create(&other, &(struct comm_options){.kind = "nccl"}), LORAD_CONFIG, "nccl");
    assert_fails(comm_create(&other, &(struct comm_options){.kind = "mpi"}), LORAD_CONFIG, "mpirun");
    assert_null(comm_activity().what);
    comm_destroy(comm);
}

static void agreeing_alone_keeps_the_message(void **state)
{
    (void)state;
    struct comm *comm = self();
    assert_ok(comm_agree(comm, LORAD_OK));
    enum status mine = FAIL(LORAD_DATA, "row 7 is bad");
    assert_int_equal(comm_agree(comm, mine), LORAD_DATA);
    assert_string_equal(status_message(), "row 7 is bad");
    comm_destroy(comm);
}

static void the_activity_counts_collectives(void **state)
{
    (void)state;
    struct comm *comm = self();
    uint64_t before = comm_activity().sequence;
    int64_t start = clock_monotonic_ns();
    assert_ok(comm_barrier(comm));
    struct comm_activity after = comm_activity();
    assert_int_equal(after.sequence, before + 1);
    assert_true(after.since_ns >= start);
    assert_null(after.what);
    comm_destroy(comm);
}

/* What a rank that waits for its device is seen in: the last collective that may still run there. */
static void a_wait_for_the_device_shows_what_was_enqueued(void **state)
{
    (void)state;
    struct device *device = lazy_device_open(NULL, NULL);
    uint64_t signs = comm_activity().signs;
    activity_device_begin(device);
    assert_true(comm_activity().on_device);
    assert_null(comm_activity().what); /* its own work alone */
    activity_device_end(device);
    assert_true(comm_activity().signs > signs);

    activity_enter(OP_ALL_REDUCE);
    activity_enqueued(OP_ALL_REDUCE);
    activity_leave();
    assert_null(comm_activity().what);
    activity_device_begin(device);
    assert_string_equal(comm_activity().what, "all_reduce");
    activity_device_end(device);
    assert_false(comm_activity().on_device);

    assert_ok(activity_device_sync(device));
    activity_device_begin(device);
    assert_null(comm_activity().what); /* nothing came after the last wait */
    activity_device_end(device);
    device_close(device);
}

/* 2^-8 rounds away when added to 1 in bf16, and not in f32: three operands show that only the end is rounded.
 */
static void halves_are_rounded_once(void **state)
{
    (void)state;
    const uint16_t one = f32_to_bf16(1), tiny = f32_to_bf16(0x1p-9f);
    const uint16_t a[1] = {one}, b[1] = {tiny}, c[1] = {tiny}, d[1] = {tiny};
    const void *in[4] = {a, b, c, d};
    uint16_t out;
    comm_reduce(&out, in, 4, 1, DTYPE_BF16, COMM_SUM);
    assert_true(bf16_to_f32(out) == 1.0078125f); /* 1 + 3 * 2^-9 is nearer to 1 + 2^-7 than to 1 */
}

static void sums_go_from_left_to_right(void **state)
{
    (void)state;
    enum { N = 5000 };
    static float a[N], b[N], c[N];
    for (int i = 0; i < N; i++) {
        a[i] = 1e8f;
        b[i] = -1e8f;
        c[i] = 0.5f + (float)i;
    }
    const void *in[3] = {a, b, c}, *turned[3] = {c, a, b};
    static float out[N];
    comm_reduce(out, in, 3, N, DTYPE_F32, COMM_SUM);
    for (int i = 0; i < N; i++) assert_true(out[i] == c[i]);
    comm_reduce(out, turned, 3, N, DTYPE_F32, COMM_SUM);
    assert_true(out[0] == 0.0f);                   /* 0.5 is lost in 1e8 */
    comm_reduce(a, in, 3, N, DTYPE_F32, COMM_MAX); /* in place */
    for (int i = 0; i < N; i++) assert_true(a[i] == 1e8f);
}

static void integers_wrap_and_a_nan_wins(void **state)
{
    (void)state;
    const int64_t top = INT64_MAX, one = 1;
    const int32_t top32 = INT32_MAX, one32 = 1;
    const void *in[2] = {&top, &one}, *in32[2] = {&top32, &one32};
    int64_t out;
    int32_t out32;
    comm_reduce(&out, in, 2, 1, DTYPE_I64, COMM_SUM);
    assert_true(out == INT64_MIN);
    comm_reduce(&out32, in32, 2, 1, DTYPE_I32, COMM_SUM);
    assert_true(out32 == INT32_MIN);
    const double nan = 0.0 / 0.0, two = 2;
    const void *first[2] = {&nan, &two}, *second[2] = {&two, &nan};
    double real;
    for (int reduction = COMM_MAX; reduction <= COMM_MIN; reduction++) {
        comm_reduce(&real, first, 2, 1, DTYPE_F64, (enum comm_reduction)reduction);
        assert_true(real != real);
        comm_reduce(&real, second, 2, 1, DTYPE_F64, (enum comm_reduction)reduction);
        assert_true(real != real);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(without_a_launcher_there_is_one_rank),
        cmocka_unit_test(a_group_of_one_leaves_values_alone),
        cmocka_unit_test(wrong_calls_are_bugs),
        cmocka_unit_test(agreeing_alone_keeps_the_message),
        cmocka_unit_test(the_activity_counts_collectives),
        cmocka_unit_test(a_wait_for_the_device_shows_what_was_enqueued),
        cmocka_unit_test(halves_are_rounded_once),
        cmocka_unit_test(sums_go_from_left_to_right),
        cmocka_unit_test(integers_wrap_and_a_nan_wins),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
