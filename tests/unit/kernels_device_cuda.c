/*
 * kernels_device_cuda.c: kernels/cuda/device_cuda.c on an emulated GPU: which GPUs there are, what is
 * refused and in which words, and memory, copies, streams and events, with everything enqueued running as
 * late as it may.
 */
#include <pthread.h>

#include "kernels/device.h"
#include "kernels/ops.h"
#include "support/test.h"
#include "support/test_device.h"

static const char *const variables[] = {"LORAD_EMULATOR_GPUS",    "LORAD_EMULATOR_DRIVER",
                                        "LORAD_EMULATOR_ARCH",    "LORAD_EMULATOR_MEMORY",
                                        "LORAD_EMULATOR_VISIBLE", "LORAD_EMULATOR_STREAMS"};

static int plain_machine(void **state)
{
    (void)state;
    test_device_emulate();
    for (size_t i = 0; i < sizeof variables / sizeof variables[0]; i++) unsetenv(variables[i]);
    return 0;
}

static struct device *open_gpu(int number)
{
    struct device *device;
    struct device_options options = {.kind = "cuda", .number = number, .deterministic = true};
    assert_ok(device_open(&device, &options));
    return device;
}

static void refused(int number, enum status status, const char *words)
{
    struct device *device;
    struct device_options options = {.kind = "cuda", .number = number, .deterministic = true};
    assert_fails(device_open(&device, &options), status, words);
}

static void gpus_have_their_own_memory(void **state)
{
    (void)state;
    setenv("LORAD_EMULATOR_GPUS", "2", 1);
    struct device *first = open_gpu(0), *second = open_gpu(1);
    assert_string_equal(device_describe(first),
                        "Emulated GPU, 4 SMs, 8 GiB, compute 9.0, CUDA 13.0, driver 13.0, deterministic, "
                        "emulated products");
    assert_string_equal(device_kind(first), "cuda");
    assert_false(device_is_host(first));
    assert_true(device_memory_bytes(first) > 7LL << 30 && device_memory_bytes(first) < 8LL << 30);
    void *blocks[2], *none;
    setenv("LORAD_EMULATOR_MEMORY", "100000000", 1); /* 67 MB of it are taken: each has its own */
    assert_ok(device_alloc(&blocks[0], first, 25000000));
    assert_ok(device_alloc(&blocks[1], second, 25000000));
    assert_fails(device_alloc(&none, second, 25000000), LORAD_NOMEM, "GPU 1: no memory for 25000000 bytes");
    unsetenv("LORAD_EMULATOR_MEMORY");
    device_free(first, blocks[0]);
    device_free(second, blocks[1]);
    device_close(first);
    device_close(second);
    refused(2, LORAD_CONFIG, "there is no GPU 2: the NVIDIA driver shows 2");
    struct device *fast;
    assert_ok(device_open(&fast, &(struct device_options){.kind = "auto"}));
    assert_non_null(strstr(device_describe(fast), "driver 13.0, fast, emulated products, cuDNN 9"));
    device_close(fast);
}

static int64_t memory_of(int sharers)
{
    struct device *device;
    assert_ok(device_open(&device, &(struct device_options){.kind = "cuda", .sharers = sharers}));
    int64_t bytes = device_memory_bytes(device);
    device_close(device);
    return bytes;
}

static void ranks_that_share_a_gpu_share_its_memory(void **state)
{
    (void)state;
    int64_t alone = memory_of(0);
    assert_true(alone > 7LL << 30);
    assert_int_equal(memory_of(1), alone);
    assert_true(memory_of(2) < 4LL << 30);
    assert_true(memory_of(4) < 2LL << 30);
}

/* By what tells them apart, not by the number under which they are shown. */
static void gpus_are_listed(void **state)
{
    (void)state;
    struct device_id all[8], seen[8];
    int n = -1;
    setenv("LORAD_EMULATOR_GPUS", "4", 1);
    setenv("LORAD_EMULATOR_MEMORY", "50000000", 1); /* opening one would fail */
    assert_ok(device_list(all, &n, 8, "cuda"));
    assert_int_equal(n, 4);
    for (int i = 1; i < n; i++) assert_memory_not_equal(&all[0], &all[i], sizeof all[0]);
    setenv("LORAD_EMULATOR_VISIBLE", "3,1", 1);
    assert_ok(device_list(seen, &n, 8, "auto"));
    assert_int_equal(n, 2);
    assert_memory_equal(&seen[0], &all[3], sizeof seen[0]);
    assert_memory_equal(&seen[1], &all[1], sizeof seen[1]);
    assert_ok(device_list(seen, &n, 1, "cuda"));
    assert_int_equal(n, 1);
    assert_ok(device_list(seen, &n, 8, "cpu"));
    assert_int_equal(n, 0);
    setenv("LORAD_EMULATOR_VISIBLE", "", 1);
    assert_ok(device_list(seen, &n, 8, "cuda"));
    assert_int_equal(n, 0);
}

static void looking_takes_no_gpu(void **state)
{
    (void)state;
    char words[256];
    setenv("LORAD_EMULATOR_GPUS", "2", 1);
    setenv("LORAD_EMULATOR_MEMORY", "50000000", 1); /* opening one would fail */
    assert_ok(device_probe(words, sizeof words, "cuda"));
    assert_string_equal(words, "2 x Emulated GPU, 0 GiB, compute 9.0, CUDA 13.0, driver 13.0");
    setenv("LORAD_EMULATOR_DRIVER", "0", 1);
    assert_fails(device_probe(words, sizeof words, "cuda"), LORAD_CONFIG,
                 "there is no cuda here: there is no NVIDIA driver");
    assert_ok(device_probe(words, sizeof words, "cpu"));
    assert_string_equal(words, "");
}

static void what_is_missing_is_named(void **state)
{
    (void)state;
    setenv("LORAD_EMULATOR_DRIVER", "0", 1);
    refused(0, LORAD_CONFIG, "device: cuda was asked for, but there is no NVIDIA driver");
    struct device *device;
    assert_ok(device_open(&device, &(struct device_options){.kind = "auto", .threads = 1}));
    assert_string_equal(device_kind(device), "cpu");
    device_close(device);
    setenv("LORAD_EMULATOR_DRIVER", "12040", 1);
    refused(0, LORAD_CONFIG, "the NVIDIA driver is for CUDA 12.4, and 13.0 or later is needed");
    unsetenv("LORAD_EMULATOR_DRIVER");
    setenv("LORAD_EMULATOR_GPUS", "0", 1);
    refused(0, LORAD_CONFIG, "the NVIDIA driver shows no GPU");
    setenv("LORAD_EMULATOR_GPUS", "1", 1);
    setenv("LORAD_EMULATOR_ARCH", "75", 1);
    refused(0, LORAD_CONFIG, "Emulated GPU has compute capability 7.5; 8.0 (A100) or later is needed");
}

static void short_memory_is_told_in_numbers(void **state)
{
    (void)state;
    setenv("LORAD_EMULATOR_MEMORY", "50000000", 1);
    refused(0, LORAD_NOMEM, "GPU 0: no memory for 67108864 bytes (0.06 GiB): 0.05 of 0.05 GiB are free");
    setenv("LORAD_EMULATOR_MEMORY", "1000000000", 1);
    struct device *device = open_gpu(0);
    void *none;
    assert_fails(device_alloc(&none, device, (size_t)2 << 30), LORAD_NOMEM,
                 "no memory for 2147483648 bytes (2.00 GiB)");
    float *block; /* what was refused is not held against the next operation */
    assert_ok(device_alloc((void **)&block, device, 64 * sizeof *block));
    struct op_copy copy = {.in = matrix_of(block, DTYPE_F32, 4, 8, 8),
                           .out = matrix_of(block + 32, DTYPE_F32, 4, 8, 8)};
    assert_ok(op_copy(device, &copy));
    device_free(device, block);
    device_close(device);
}

static void memory_is_aligned_and_zero(void **state)
{
    (void)state;
    struct device *device = open_gpu(0);
    const size_t sizes[] = {0, 1, 255, 4096, 3u << 20};
    for (int i = 0; i < 5; i++) {
        char *block, *pinned, *seen = malloc(sizes[i] + 1);
        assert_ok(device_alloc((void **)&block, device, sizes[i]));
        assert_ok(device_alloc_host((void **)&pinned, device, sizes[i]));
        assert_int_equal((uintptr_t)block % 256, 0);
        assert_ok(device_copy_from(device, STREAM_COPY, seen, block, sizes[i]));
        for (size_t b = 0; b < sizes[i]; b++) assert_true(seen[b] == 0 && pinned[b] == 0);
        free(seen);
        device_free(device, block);
        device_free_host(device, pinned);
    }
    device_free(device, NULL);
    device_free_host(device, NULL);
    device_close(device);
}

/* More and greater copies than the ring holds, each from the same memory, which changes at once. */
static void small_copies_take_their_bytes_along(void **state)
{
    (void)state;
    enum { COPIES = 4000, MOST = 70000 };
    struct device *device = open_gpu(0);
    unsigned char *block, *host = malloc(MOST), *seen = malloc(MOST);
    struct device_event *copied;
    assert_ok(device_event_create(&copied, device));
    size_t at[64], bytes[64];
    for (int round = 0; round < COPIES / 64; round++) {
        size_t total = 0;
        for (int i = 0; i < 64; i++) {
            at[i] = total;
            bytes[i] = 1 + (size_t)((round * 64 + i) * 7919 % (i % 16 ? 3000 : MOST));
            total += bytes[i];
        }
        assert_ok(device_alloc((void **)&block, device, total));
        for (int i = 0; i < 64; i++) {
            memset(host, round + i, bytes[i]);
            assert_ok(
                device_copy_to(device, i % 2 ? STREAM_COPY : STREAM_COMPUTE, block + at[i], host, bytes[i]));
        }
        assert_ok(device_event_record(device, STREAM_COPY, copied));
        assert_ok(device_stream_wait(device, STREAM_COMPUTE, copied));
        for (int i = 0; i < 64; i++) {
            assert_ok(device_copy_from(device, STREAM_COMPUTE, seen, block + at[i], bytes[i]));
            for (size_t b = 0; b < bytes[i]; b++) assert_int_equal(seen[b], (unsigned char)(round + i));
        }
        device_free(device, block);
    }
    device_event_destroy(device, copied);
    free(host);
    free(seen);
    device_close(device);
}

/* The greatest vectors of a micro-batch: nothing waits for what is before them. */
static void copies_of_a_step_do_not_wait(void **state)
{
    (void)state;
    enum { BYTES = 512 << 10, COPIES = 3 };
    struct device *device = open_gpu(0);
    char *block, *mark, *pinned, *host = malloc(BYTES), *seen = malloc(BYTES);
    assert_ok(device_alloc((void **)&block, device, COPIES * BYTES));
    assert_ok(device_alloc((void **)&mark, device, 1));
    assert_ok(device_alloc_host((void **)&pinned, device, 1));
    *pinned = 7;
    assert_ok(device_copy_from(device, STREAM_COMPUTE, pinned, mark, 1));
    memset(host, 1, BYTES);
    assert_ok(device_copy_to(device, STREAM_COMPUTE, block, host, BYTES));
    assert_int_equal(*pinned, 7);
    for (int i = 1; i < COPIES; i++) { /* more than the ring holds */
        memset(host, 1 + i, BYTES);
        assert_ok(device_copy_to(device, STREAM_COMPUTE, block + i * BYTES, host, BYTES));
    }
    for (int i = 0; i < COPIES; i++) {
        assert_ok(device_copy_from(device, STREAM_COMPUTE, seen, block + i * BYTES, BYTES));
        for (int b = 0; b < BYTES; b++) assert_int_equal(seen[b], 1 + i);
    }
    device_free_host(device, pinned);
    device_free(device, mark);
    device_free(device, block);
    free(host);
    free(seen);
    device_close(device);
}

static void events_order_streams(void **state)
{
    (void)state;
    enum { BYTES = 1 << 20 };
    struct device *device = open_gpu(0);
    char *a, *b, *pinned;
    struct device_event *loaded, *done;
    assert_ok(device_alloc((void **)&a, device, BYTES));
    assert_ok(device_alloc((void **)&b, device, BYTES));
    assert_ok(device_alloc_host((void **)&pinned, device, BYTES));
    assert_ok(device_event_create(&loaded, device));
    assert_ok(device_event_create(&done, device));
    assert_ok(device_event_sync(device, done)); /* never recorded: done */
    for (int i = 1; i <= 3; i++) {
        memset(pinned, i, BYTES);
        assert_ok(device_copy_to(device, STREAM_COPY, a, pinned, BYTES));
        assert_ok(device_event_record(device, STREAM_COPY, loaded));
        assert_ok(device_stream_wait(device, STREAM_COMPUTE, loaded));
        assert_ok(device_copy(device, STREAM_COMPUTE, b, a, BYTES));
        assert_ok(device_zero(device, STREAM_COMPUTE, b, 1));
        assert_ok(device_copy_from(device, STREAM_COMPUTE, pinned, b, BYTES));
        assert_ok(device_event_record(device, STREAM_COMPUTE, done));
        assert_int_equal(pinned[0], i); /* nothing has waited yet */
        assert_ok(device_event_sync(device, done));
        assert_int_equal(pinned[0], 0);
        for (int k = 1; k < BYTES; k++) assert_int_equal(pinned[k], i);
    }
    assert_ptr_not_equal(device_native_stream(device, STREAM_COMPUTE),
                         device_native_stream(device, STREAM_COPY));
    assert_null(device_extension(device, "nothing of that name"));
    device_event_destroy(device, loaded);
    device_event_destroy(device, done);
    device_free_host(device, pinned);
    device_free(device, a);
    device_free(device, b);
    device_close(device);
}

/* What nobody waits for runs at some time of its own. */
static void mixed_streams_run_early_and_late(void **state)
{
    (void)state;
    setenv("LORAD_EMULATOR_STREAMS", "mixed", 1);
    struct device *device = open_gpu(0);
    char *block, *pinned;
    int early = 0, late = 0;
    assert_ok(device_alloc((void **)&block, device, 2));
    assert_ok(device_alloc_host((void **)&pinned, device, 1));
    for (int i = 0; i < 200; i++) {
        *pinned = 1;
        assert_ok(device_copy(device, STREAM_COPY, block, block + 1, 1));
        assert_ok(device_copy_from(device, STREAM_COPY, pinned, block, 1));
        assert_ok(device_zero(device, STREAM_COMPUTE, block + 1, 1));
        *pinned ? late++ : early++;
        struct device_event *done;
        assert_ok(device_event_create(&done, device));
        assert_ok(device_event_record(device, STREAM_COPY, done));
        assert_ok(device_event_sync(device, done));
        assert_int_equal(*pinned, 0);
        device_event_destroy(device, done);
    }
    assert_true(early > 10 && late > 10);
    device_free_host(device, pinned);
    device_free(device, block);
    device_close(device);
}

struct saver {
    struct device *device;
    const void *block;
    char seen[100];
    enum status status;
};

static void *save(void *argument)
{
    struct saver *saver = argument;
    saver->status =
        device_copy_from(saver->device, STREAM_COPY, saver->seen, saver->block, sizeof saver->seen);
    return NULL;
}

/* A thread that CUDA has not seen before has GPU 0 as its own. */
static void another_thread_copies(void **state)
{
    (void)state;
    setenv("LORAD_EMULATOR_GPUS", "2", 1);
    struct saver saver = {.device = open_gpu(1)};
    void *block;
    char text[100] = "from GPU 1";
    assert_ok(device_alloc(&block, saver.device, sizeof text));
    assert_ok(device_copy_to(saver.device, STREAM_COMPUTE, block, text, sizeof text));
    assert_ok(device_sync(saver.device));
    saver.block = block;
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, save, &saver), 0);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_int_equal(saver.status, LORAD_OK);
    assert_string_equal(saver.seen, text);
    device_free(saver.device, block);
    device_close(saver.device);
}

/* What is recorded does not run until it is replayed, and then as often as it is. */
static void recordings_are_replayed(void **state)
{
    (void)state;
    enum { N = 1000 };
    struct device *device = open_gpu(0), *cpu;
    float *pinned;
    void *x, *y;
    struct device_recording *recording, *none;
    assert_true(device_records(device));
    assert_ok(device_alloc_host((void **)&pinned, device, N * sizeof(float)));
    assert_ok(device_alloc(&x, device, N * sizeof(float)));
    assert_ok(device_alloc(&y, device, N * sizeof(float)));
    for (int i = 0; i < N; i++) pinned[i] = (float)i;
    assert_ok(device_copy_to(device, STREAM_COMPUTE, x, pinned, N * sizeof(float)));
    struct op_add add = {.x = matrix_of(x, DTYPE_F32, 1, N, N), .y = matrix_of(y, DTYPE_F32, 1, N, N)};
    assert_ok(device_record_begin(device));
    assert_ok(op_add(device, &add));
    assert_ok(device_record_end(&recording, device, true));
    for (int i = 0; i < 3; i++) assert_ok(device_replay(device, recording));
    assert_ok(device_copy_from(device, STREAM_COMPUTE, pinned, y, N * sizeof(float)));
    assert_ok(device_sync(device));
    for (int i = 0; i < N; i++) assert_float_equal(pinned[i], 3.0f * (float)i, 0);
    device_recording_destroy(device, recording);

    /* a replay would read the host's memory as it is by then */
    assert_ok(device_record_begin(device));
    assert_fails(device_copy_to(device, STREAM_COMPUTE, x, pinned, 8), LORAD_BUG, "inside a recording");
    assert_fails(device_copy_from(device, STREAM_COMPUTE, pinned, x, 8), LORAD_BUG, "inside a recording");
    assert_fails(device_sync(device), LORAD_DEVICE, "(cudaErrorStreamCaptureUnsupported)");
    assert_null(strstr(status_message(), "an earlier operation"));
    assert_ok(device_record_end(&none, device, false));
    assert_null(none);
    assert_ok(device_copy_to(device, STREAM_COMPUTE, x, pinned, 8));
    assert_ok(device_sync(device));
    device_free(device, x);
    device_free(device, y);
    device_free_host(device, pinned);
    device_close(device);
    assert_ok(device_open(&cpu, &(struct device_options){.kind = "cpu", .threads = 1}));
    assert_false(device_records(cpu));
    assert_fails(device_record_begin(cpu), LORAD_BUG, "cpu does not record");
    device_close(cpu);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(gpus_have_their_own_memory, plain_machine),
        cmocka_unit_test_setup(ranks_that_share_a_gpu_share_its_memory, plain_machine),
        cmocka_unit_test_setup(gpus_are_listed, plain_machine),
        cmocka_unit_test_setup(looking_takes_no_gpu, plain_machine),
        cmocka_unit_test_setup(what_is_missing_is_named, plain_machine),
        cmocka_unit_test_setup(short_memory_is_told_in_numbers, plain_machine),
        cmocka_unit_test_setup(memory_is_aligned_and_zero, plain_machine),
        cmocka_unit_test_setup(small_copies_take_their_bytes_along, plain_machine),
        cmocka_unit_test_setup(copies_of_a_step_do_not_wait, plain_machine),
        cmocka_unit_test_setup(events_order_streams, plain_machine),
        cmocka_unit_test_setup(mixed_streams_run_early_and_late, plain_machine),
        cmocka_unit_test_setup(another_thread_copies, plain_machine),
        cmocka_unit_test_setup(recordings_are_replayed, plain_machine),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
