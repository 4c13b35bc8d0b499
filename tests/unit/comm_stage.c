/* Device memory through host memory in pieces, over a device that copies only what is waited for. */
#include "support/test.h"

#include <stdlib.h>
#include <string.h>

#include "comm/comm_impl.h"
#include "support/lazy_device.h"

/* A group of three in which the others have whatever follows from where in the buffer they are asked. */
enum { SIZE = 3, ME = 1, MOST = 5 << 20 };

static int64_t position; /* bytes that went through the group in this collective */

static int32_t value_of(int rank, int64_t i)
{
    return (int32_t)(i * 7 + rank * 1000003);
}

static enum status group_all_reduce(void *group, void *buffer, int64_t count, enum dtype dtype,
                                    enum comm_reduction reduction)
{
    (void)group;
    assert_int_equal(dtype, DTYPE_I32);
    assert_int_equal(reduction, COMM_SUM);
    int32_t *values = buffer;
    int64_t first = position / 4;
    for (int64_t i = 0; i < count; i++)
        values[i] = value_of(0, first + i) + values[i] + value_of(2, first + i);
    position += count * 4;
    return LORAD_OK;
}

static enum status group_all_gather(void *group, const void *in, void *out, size_t bytes)
{
    (void)group;
    int64_t first = position / 4, count = (int64_t)bytes / 4;
    for (int r = 0; r < SIZE; r++)
        for (int64_t i = 0; i < count; i++)
            ((int32_t *)out)[r * count + i] = r == ME ? ((const int32_t *)in)[i] : value_of(r, first + i);
    position += (int64_t)bytes;
    return LORAD_OK;
}

/* What the blocks of this rank hold for the others must be there as well. */
static enum status group_reduce_scatter(void *group, const void *in, void *out, int64_t count,
                                        enum dtype dtype, enum comm_reduction reduction)
{
    (void)group;
    assert_int_equal(dtype, DTYPE_I32);
    assert_int_equal(reduction, COMM_SUM);
    const int32_t *blocks = in;
    int64_t first = position / 4;
    for (int r = 0; r < SIZE; r++)
        for (int64_t i = 0; i < count; i++)
            if (r != ME) assert_int_equal(blocks[r * count + i], value_of(r, first + i));
    for (int64_t i = 0; i < count; i++)
        ((int32_t *)out)[i] = value_of(0, first + i) + blocks[ME * count + i] + value_of(2, first + i);
    position += count * 4;
    return LORAD_OK;
}

/* What the root gives must be its own by now; others receive it. */
static enum status group_broadcast(void *group, void *buffer, size_t bytes, int root)
{
    (void)group;
    int64_t first = position / 4, count = (int64_t)bytes / 4;
    for (int64_t i = 0; i < count; i++) {
        if (root == ME) assert_int_equal(((int32_t *)buffer)[i], value_of(ME, first + i));
        ((int32_t *)buffer)[i] = value_of(root, first + i);
    }
    position += (int64_t)bytes;
    return LORAD_OK;
}

static const struct comm_ops group_ops = {.kind = "test",
                                          .all_reduce = group_all_reduce,
                                          .all_gather = group_all_gather,
                                          .reduce_scatter = group_reduce_scatter,
                                          .broadcast = group_broadcast};
static const struct comm_host host = {.ops = &group_ops, .rank = ME, .size = SIZE};
static const int64_t counts[] = {1, 3, 1000, 524287, 524288, 524289, 1048576, 1048577, 1200001};
enum { N_COUNTS = sizeof counts / sizeof *counts };

struct rig {
    struct device *device;
    struct comm_stage *stage;
    int32_t *memory, *gathered; /* of the device: [MOST / 4], SIZE times that */
};

static void rig_open(struct rig *rig)
{
    rig->device = lazy_device_open(NULL, NULL);
    assert_ok(comm_stage_create(&rig->stage, &host, rig->device));
    assert_ok(device_alloc((void **)&rig->memory, rig->device, MOST));
    assert_ok(device_alloc((void **)&rig->gathered, rig->device, (size_t)SIZE * MOST));
}

static void rig_close(struct rig *rig)
{
    comm_stage_destroy(rig->stage);
    device_free(rig->device, rig->memory);
    device_free(rig->device, rig->gathered);
    device_close(rig->device);
}

static void begin(struct rig *rig, int64_t count)
{
    position = 0;
    for (int64_t i = 0; i < count; i++) rig->memory[i] = value_of(ME, i);
}

static void sums_of_any_size(void **state)
{
    (void)state;
    struct rig rig;
    rig_open(&rig);
    for (int c = 0; c < N_COUNTS; c++) {
        begin(&rig, counts[c]);
        assert_ok(comm_stage_all_reduce(rig.stage, rig.memory, counts[c], DTYPE_I32, COMM_SUM));
        assert_true(lazy_device_waiting(rig.device) >
                    0); /* what comes next on the stream is ordered behind */
        assert_ok(device_sync(rig.device));
        assert_int_equal(position, counts[c] * 4);
        for (int64_t i = 0; i < counts[c]; i++)
            assert_int_equal(rig.memory[i], value_of(0, i) + value_of(1, i) + value_of(2, i));
    }
    rig_close(&rig);
}

static void a_gather_of_any_size(void **state)
{
    (void)state;
    struct rig rig;
    rig_open(&rig);
    for (int c = 0; c < 2 * N_COUNTS; c++) {
        int64_t n = counts[c / 2];
        begin(&rig, n);
        int32_t *mine = rig.gathered + ME * n, *in = rig.memory;
        if (c % 2) in = memcpy(mine, rig.memory, (size_t)n * 4); /* in place */
        assert_ok(comm_stage_all_gather(rig.stage, in, rig.gathered, (size_t)n * 4));
        assert_ok(device_sync(rig.device));
        for (int r = 0; r < SIZE; r++)
            for (int64_t i = 0; i < n; i++) assert_int_equal(rig.gathered[r * n + i], value_of(r, i));
    }
    rig_close(&rig);
}

static void a_scattered_sum_of_any_size(void **state)
{
    (void)state;
    struct rig rig;
    rig_open(&rig);
    for (int c = 0; c < 2 * N_COUNTS; c++) {
        int64_t n = counts[c / 2];
        position = 0;
        for (int r = 0; r < SIZE; r++)
            for (int64_t i = 0; i < n; i++) rig.gathered[r * n + i] = value_of(r, i);
        int32_t *out = c % 2 ? rig.gathered + ME * n : rig.memory; /* in place, or not */
        assert_ok(comm_stage_reduce_scatter(rig.stage, rig.gathered, out, n, DTYPE_I32, COMM_SUM));
        assert_ok(device_sync(rig.device));
        assert_int_equal(position, n * 4);
        for (int64_t i = 0; i < n; i++)
            assert_int_equal(out[i], value_of(0, i) + value_of(1, i) + value_of(2, i));
        for (int64_t i = 0; i < n; i++) {
            assert_int_equal(rig.gathered[i], value_of(0, i));
            assert_int_equal(rig.gathered[2 * n + i], value_of(2, i));
        }
    }
    rig_close(&rig);
}

static void a_broadcast_of_any_size(void **state)
{
    (void)state;
    struct rig rig;
    rig_open(&rig);
    for (int c = 0; c < N_COUNTS; c++)
        for (int root = 0; root < SIZE; root++) {
            begin(&rig, counts[c]);
            assert_ok(comm_stage_broadcast(rig.stage, rig.memory, (size_t)counts[c] * 4, root));
            assert_ok(device_sync(rig.device));
            for (int64_t i = 0; i < counts[c]; i++) assert_int_equal(rig.memory[i], value_of(root, i));
        }
    rig_close(&rig);
}

/* Slots are used again by the next collective while the device still copies out of them. */
static void collectives_follow_each_other_without_waiting(void **state)
{
    (void)state;
    struct rig rig;
    rig_open(&rig);
    int64_t n = 600000;
    begin(&rig, n);
    assert_ok(comm_stage_broadcast(rig.stage, rig.memory, (size_t)n * 4, 2));
    position = 0;
    assert_ok(comm_stage_all_reduce(rig.stage, rig.memory, n, DTYPE_I32, COMM_SUM));
    position = 0;
    assert_ok(comm_stage_all_gather(rig.stage, rig.memory, rig.gathered, (size_t)n * 4));
    position = 0;
    assert_ok(comm_stage_all_reduce(rig.stage, rig.gathered, n, DTYPE_I32, COMM_SUM));
    position = 0;
    assert_ok(comm_stage_broadcast(rig.stage, rig.memory, (size_t)n * 4, 0));
    assert_ok(device_sync(rig.device));
    for (int64_t i = 0; i < n; i++) {
        assert_int_equal(rig.memory[i], value_of(0, i));
        assert_int_equal(rig.gathered[i], 2 * value_of(0, i) + value_of(2, i));
        assert_int_equal(rig.gathered[ME * n + i], value_of(0, i) + 2 * value_of(2, i));
    }
    rig_close(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sums_of_any_size),
        cmocka_unit_test(a_gather_of_any_size),
        cmocka_unit_test(a_scattered_sum_of_any_size),
        cmocka_unit_test(a_broadcast_of_any_size),
        cmocka_unit_test(collectives_follow_each_other_without_waiting),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
