/*
 * cuDNN accepts the graphs of attention that lorad builds, for H100 and B200, and needs no more workspace
 * than is planned. No GPU: cuDNN is given the properties of one, and libcuda is the one that the toolkit
 * brings for linking (tests/CMakeLists.txt puts it on LD_LIBRARY_PATH), with which everything works up to the
 * loading of the compiled kernel.
 *
 * LORAD_SDPA_ALL=1 takes all variants instead of a part of them.
 */
#include "support/test.h"

#include <dlfcn.h>

#include "kernels/cuda/sdpa_layout.h"

#if LORAD_TEST_CUDNN

static const struct sdpa_library *library;

/* The properties that cuDNN 9 wants to know, as of H100 and B200; deviceVer is the architecture. */
static const char *gpu_like(int arch)
{
    static char json[1024];
    int shared = arch == 80 ? 166912 : 232448, processors = arch == 80 ? 108 : arch == 90 ? 132 : 148;
    snprintf(
        json, sizeof json,
        "{\"maxGridSize\":[2147483647,65535,65535],\"maxBlockSize\":[1024,1024,64],\"regsPerBlock\":65536,"
        "\"warpSize\":32,\"maxSharedMemoryPerBlock\":49152,\"maxSharedMemoryPerBlockOptin\":%d,"
        "\"reservedSharedMemoryPerBlock\":1024,\"maxRegistersPerSM\":65536,\"maxCtasPerSM\":32,"
        "\"maxThreadsPerBlock\":1024,\"maxThreadsPerSM\":2048,\"pciDeviceId\":0,\"isTccDriver\":0,"
        "\"supportCoopLaunch\":1,\"smClockRateKHz\":1700000,\"memClockRateKHz\":2600000,"
        "\"l2CacheSize\":52428800,\"deviceName\":\"GPU\",\"deviceVer\":%d,\"driverVer\":13000,"
        "\"multiProcessorCount\":%d,\"totalGlobalMem\":85000000000,\"cudaDeviceId\":0}",
        shared, arch * 10, processors);
    return json;
}

struct variant {
    int32_t q_heads, kv_heads, head_dim, batch, tokens;
    bool windowed, normed; /* normed: rotated q and k lie in a matrix of their own (Qwen3) */
    enum dtype dtype;
};

static struct sdpa_key key_of(const struct variant *v, bool backward)
{
    struct sdpa_key key = {.dtype = v->dtype};
    key.backward = backward;
    key.windowed = v->windowed;
    key.q_heads = v->q_heads;
    key.kv_heads = v->kv_heads;
    key.head_dim = v->head_dim;
    key.batch = v->batch;
    key.tokens = v->tokens;
    int64_t q = (int64_t)v->q_heads * v->head_dim, kv = (int64_t)v->kv_heads * v->head_dim, row = q + 2 * kv;
    key.stride[SDPA_Q] = key.stride[SDPA_K] = v->normed ? q + kv : row;
    key.stride[SDPA_V] = row;
    key.stride[SDPA_OUT] = q + 16;
    key.stride[SDPA_LSE] = v->q_heads;
    if (!backward) return key;
    key.stride[SDPA_DOUT] = 3 * q;
    key.stride[SDPA_DQ] = row + 48;
    key.stride[SDPA_DK] = key.stride[SDPA_DV] = sdpa_key_copies(&key) ? kv : row + 48;
    return key;
}

static void check(const struct variant *v, int arch)
{
    for (int backward = 0; backward < 2; backward++) {
        struct sdpa_key key = key_of(v, backward);
        size_t bytes = 0;
        enum status status = sdpa_plan_find(&bytes, library, NULL, &key, gpu_like(arch));
        if (status == LORAD_OK && bytes <= sdpa_workspace_allowed(key.batch)) continue;
        fail_msg("sm_%d %s, heads %d/%d of %d, %d x %d tokens%s%s: %zu bytes of workspace, %s", arch,
                 backward ? "backward" : "forward", v->q_heads, v->kv_heads, v->head_dim, v->batch, v->tokens,
                 v->windowed ? ", window" : "", v->normed ? ", normed" : "", bytes,
                 status == LORAD_OK ? "more than planned" : status_message());
    }
}

/* Every n-th of all combinations; n shares no divisor with the lengths of the lists, so every value is met.
 */
static void test_there_is_a_kernel_for_all_that_is_taken(void **state)
{
    (void)state;
    static const int32_t heads[][2] = {{32, 8}, {28, 4}, {14, 2}, {32, 32}, {8, 2}, {7, 1}, {4, 1}};
    static const int32_t dims[] = {64, 80, 96, 128}, batches[] = {4, 32, 512},
                         lengths[] = {512, 1024, 4096, 8192, 32768, 131072};
    enum { HEADS = 7, DIMS = 4, BATCHES = 3, LENGTHS = 6, ALL = HEADS * DIMS * BATCHES * LENGTHS * 8 };
    int checked = 0;
    for (int i = 0; i < ALL; i += getenv("LORAD_SDPA_ALL") ? 1 : 89) {
        int n = i;
        struct variant v = {.q_heads = heads[n % HEADS][0], .kv_heads = heads[n % HEADS][1]};
        v.head_dim = dims[(n /= HEADS) % DIMS];
        v.batch = batches[(n /= DIMS) % BATCHES];
        v.tokens = lengths[(n /= BATCHES) % LENGTHS];
        v.windowed = (n /= LENGTHS) % 2;
        v.normed = n / 2 % 2;
        v.dtype = n / 4 % 2 ? DTYPE_F16 : DTYPE_BF16;
        assert_true(sdpa_kind_fits(v.dtype, v.q_heads, v.kv_heads, v.head_dim));
        check(&v, 90);
        check(&v, 100);
        checked++;
    }
    assert_true(checked > 40);
    print_message("%d variants\n", checked);
}

/* Heads of 256 have a backward on H100 alone; on B200 cuDNN says that there is none. */
static void test_wide_heads(void **state)
{
    (void)state;
    struct variant v = {.q_heads = 16, .kv_heads = 4, .head_dim = 256, .batch = 32, .tokens = 4096};
    v.dtype = DTYPE_BF16;
    check(&v, 90);
    struct sdpa_key key = key_of(&v, true);
    size_t bytes;
    assert_fails(sdpa_plan_find(&bytes, library, NULL, &key, gpu_like(100)), LORAD_NOT_FOUND, "no kernel");
}

/* A100's backward, which ignores where packed log-sum-exps lie, has a kernel too. It is recognised by its
 * workspace, were it ever asked for. */
static void test_the_backward_of_older_gpus_is_not_wanted(void **state)
{
    (void)state;
    struct variant v = {.q_heads = 32, .kv_heads = 8, .head_dim = 128, .batch = 4, .tokens = 2048};
    v.dtype = DTYPE_BF16;
    struct sdpa_key key = key_of(&v, true);
    size_t bytes = 0;
    if (sdpa_plan_find(&bytes, library, NULL, &key, gpu_like(80)) == LORAD_OK)
        assert_true(bytes > sdpa_workspace_allowed(key.batch));
}

/* Compiled, not only chosen: what is missing is the driver that would load the kernel. */
static void test_the_kernels_compile(void **state)
{
    (void)state;
    struct variant v = {.q_heads = 32, .kv_heads = 8, .head_dim = 128, .batch = 8, .tokens = 2048};
    v.dtype = DTYPE_BF16;
    for (int arch = 90; arch <= (getenv("LORAD_SDPA_ALL") ? 100 : 90); arch += 10) {
        for (int backward = 0; backward < 2; backward++) {
            struct sdpa_key key = key_of(&v, backward);
            struct sdpa_plan *plan = NULL;
            assert_fails(sdpa_plan_create(&plan, library, NULL, &key, gpu_like(arch)), LORAD_DEVICE,
                         "cuLibraryLoadData");
            assert_null(plan);
        }
    }
}

int main(void)
{
    if (!dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL)) {
        printf("skipped: %s (the one that the toolkit brings for linking will do)\n", dlerror());
        return 77;
    }
    if (sdpa_library_open(&library) != LORAD_OK) {
        printf("skipped: %s\n", status_message());
        return 77;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_there_is_a_kernel_for_all_that_is_taken),
        cmocka_unit_test(test_wide_heads),
        cmocka_unit_test(test_the_backward_of_older_gpus_is_not_wanted),
        cmocka_unit_test(test_the_kernels_compile),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

#else

int main(void)
{
    printf("skipped: built without the CUDA backend, so without cuDNN\n");
    return 77;
}

#endif
