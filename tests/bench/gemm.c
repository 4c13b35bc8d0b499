/*
 * gemm.c: how fast a panel multiplies. Program bench_gemm; not a test.
 *
 *     bench_gemm [--threads N] [--tokens T] [--rank R] [--shape IN,OUT] [--kernel NAME] [--seconds S]
 * [--clock cpu]
 *
 * For each dtype, kernel and shape it prints the best of many runs: forward and backward without the adapter
 * and with it, as billions of useful operations a second (2 T in out each; the adapter's own are not
 * counted), so that the difference is what the adapter costs; and the seconds it took to load the weights.
 * Above it the rate of registers alone, which no kernel exceeds. `--clock cpu` counts processor time instead
 * of time, for one thread on a busy machine.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "base/clock.h"
#include "base/memory.h"
#include "base/random.h"
#include "kernels/cpu/cpu_features.h"
#include "kernels/cpu/gemm.h"
#include "kernels/panel.h"
#include "support/test_device.h"

struct options {
    int threads;
    int64_t tokens, in, out;
    int32_t rank;
    const char *kernel;
    double seconds;
};

static bool cpu_clock; /* --clock cpu */

static double now(void)
{
    struct timespec time;
    clock_gettime(cpu_clock ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

static void check(enum status status)
{
    if (status == LORAD_OK) return;
    fprintf(stderr, "bench_gemm: %s\n", status_message());
    exit(status_exit_code(status));
}

#if defined(__x86_64__)
enum { CHAINS = 16, STEPS = 2000000 };

#define PEAK(name, isa, step, flops)                                                                         \
    __attribute__((target(isa))) static double peak_##name(void)                                             \
    {                                                                                                        \
        __m512 sum[CHAINS], one = _mm512_set1_ps(1);                                                         \
        _Pragma("GCC unroll 16") for (int i = 0; i < CHAINS; i++) sum[i] = _mm512_setzero_ps();              \
        double start = now();                                                                                \
        for (long n = 0; n < STEPS; n++) {                                                                   \
            _Pragma("GCC unroll 16") for (int i = 0; i < CHAINS; i++)                                        \
            {                                                                                                \
                sum[i] = step;                                                                               \
                __asm__ volatile("" : "+v"(sum[i]));                                                         \
            }                                                                                                \
        }                                                                                                    \
        return (double)STEPS * CHAINS * (flops) / (now() - start) * 1e-9;                                    \
    }

PEAK(fma, "avx512f", _mm512_fmadd_ps(one, one, sum[i]), 32)
PEAK(dpbf16, "avx512f,avx512bf16", _mm512_dpbf16_ps(sum[i], (__m512bh)one, (__m512bh)one), 64)

static void print_peaks(void)
{
    const struct cpu_features *cpu = cpu_features();
    double fma = 0, dpbf16 = 0;
    for (int i = 0; i < 5; i++) {
        if (cpu->avx512) fma = fmax(fma, peak_fma());
        if (cpu->avx512_bf16) dpbf16 = fmax(dpbf16, peak_dpbf16());
    }
    printf("%s; one core, registers only: f32 FMA %.0f, VDPBF16PS %.0f GFLOP/s\n", cpu->model, fma, dpbf16);
}
#else
static void print_peaks(void)
{
}
#endif

static void fill(struct matrix m)
{
    for (int64_t i = 0; i < m.rows; i++)
        for (int64_t j = 0; j < m.cols; j++) {
            float value = (float)((i * 31 + j * 17) % 251) / 125 - 1;
            if (m.dtype == DTYPE_F32)
                ((float *)m.data)[i * m.stride + j] = value;
            else
                ((uint16_t *)m.data)[i * m.stride + j] = f32_to_bf16(value);
        }
}

static struct matrix host_matrix_new(int64_t rows, int64_t cols, int64_t stride, enum dtype dtype)
{
    struct matrix m = matrix_of(NULL, dtype, rows, cols, stride);
    m.data = memory_new((size_t)(rows * stride), dtype_bytes(dtype));
    if (!m.data) check(LORAD_NOMEM);
    fill(m);
    return m;
}

static struct matrix matrix_new(struct device *device, int64_t rows, int64_t cols, int64_t stride,
                                enum dtype dtype)
{
    struct matrix host = host_matrix_new(rows, cols, stride, dtype), m = host;
    size_t bytes = (size_t)(rows * stride) * dtype_bytes(dtype);
    check(device_alloc(&m.data, device, bytes));
    check(device_copy_to(device, STREAM_COMPUTE, m.data, host.data, bytes));
    check(device_sync(device));
    free(host.data);
    return m;
}

/* Best seconds of a forward and of a backward, and those of loading. */
static void measure(const struct options *o, enum dtype dtype, int32_t rank, double best[3])
{
    struct device *device = test_device_open(o->threads);
    struct panel_spec spec = {.in = o->in,
                              .part = {{.out = o->out, .rank = rank}},
                              .n_parts = 1,
                              .dtype = dtype,
                              .y_dtype = dtype,
                              .needs_dx = true,
                              .max_tokens = o->tokens};
    size_t weights_bytes, scratch_bytes;
    panel_bytes(device_backend(device), &spec, &weights_bytes, &scratch_bytes);
    void *scratch;
    check(device_alloc(&scratch, device, scratch_bytes));
    struct panel *panel;
    check(panel_create(&panel, device, &spec, scratch));
    struct matrix weights = host_matrix_new(o->out, o->in, o->in, dtype);
    best[2] = now();
    check(panel_load_rows(panel, 0, 0, weights));
    best[2] = now() - best[2];
    check(panel_seal(panel));
    int64_t spare = panel_spare(&spec);
    struct matrix x = matrix_new(device, o->tokens, o->in, o->in + spare, dtype);
    struct matrix y = matrix_new(device, o->tokens, o->out, o->out, dtype);
    struct matrix dy = matrix_new(device, o->tokens, o->out, o->out + spare, dtype);
    struct matrix dx = matrix_new(device, o->tokens, o->in, o->in, dtype);
    float *da = NULL, *db = NULL;
    if (rank) {
        check(device_alloc((void **)&da, device, (size_t)(rank * o->in) * sizeof *da));
        check(device_alloc((void **)&db, device, (size_t)(rank * o->out) * sizeof *db));
        check(panel_set_adapters(&(struct panel_adapter){panel, 0, da, db, 2}, 1));
    }
    struct panel_forward forward = {.x = x, .y = y, .adapter = rank > 0};
    struct panel_backward backward = {
        .x = x, .u = matrix_part(x, 0, o->tokens, o->in, spare), .dy = dy, .dx = dx, .da = {da}, .db = {db}};
    best[0] = best[1] = INFINITY;
    int64_t start = clock_monotonic_ns();
    for (int i = 0; i < 3 || clock_seconds_since(start) < o->seconds; i++) {
        double begin = now();
        check(panel_forward(panel, &forward));
        check(device_sync(device));
        best[0] = fmin(best[0], now() - begin);
        begin = now();
        check(panel_backward(panel, &backward));
        check(device_sync(device));
        best[1] = fmin(best[1], now() - begin);
    }
    free(weights.data);
    void *blocks[] = {x.data, y.data, dy.data, dx.data, da, db, scratch};
    panel_destroy(panel);
    for (size_t i = 0; i < sizeof blocks / sizeof blocks[0]; i++) device_free(device, blocks[i]);
    device_close(device);
}

static void measure_kernel(const struct options *o, enum dtype dtype, const char *name)
{
    double plain[3], adapted[3], work = 2e-9 * (double)o->tokens * (double)o->in * (double)o->out;
    measure(o, dtype, 0, plain);
    measure(o, dtype, o->rank, adapted);
    printf("%-5s %-12s %6lld %6lld %7lld %2d   %8.1f %8.1f   %8.1f %8.1f  %5.1f %%  %6.3f\n",
           dtype_name(dtype), name, (long long)o->tokens, (long long)o->in, (long long)o->out, o->threads,
           work / plain[0], work / plain[1], work / adapted[0], work / adapted[1],
           100 * ((adapted[0] + adapted[1]) / (plain[0] + plain[1]) - 1), plain[2]);
    fflush(stdout);
}

static void measure_shape(const struct options *o)
{
    static const char *const names[] = {"openblas", "amx", "avx512_bf16", "avx512", "avx2", "generic"};
    for (int d = 0; d < 2; d++) {
        enum dtype dtype = d ? DTYPE_BF16 : DTYPE_F32;
        if (!test_device_is_cpu()) measure_kernel(o, dtype, test_device_kind());
        for (size_t i = 0; test_device_is_cpu() && i < sizeof names / sizeof names[0]; i++) {
            const struct gemm_kernel *kernel = gemm_kernel_named(dtype, names[i]);
            bool named = o->kernel && strcmp(o->kernel, names[i]) == 0;
            if (!kernel || (o->kernel && !named && strcmp(o->kernel, "all") != 0)) continue;
            if (!o->kernel && kernel != gemm_kernel(dtype)) continue;
            const struct gemm_kernel *usual = gemm_kernel(dtype);
            gemm_kernel_force(dtype, kernel);
            measure_kernel(o, dtype, names[i]);
            gemm_kernel_force(dtype, usual);
        }
    }
}

int main(int argc, char **argv)
{
    static const int64_t shapes[][2] = {{896, 896}, {896, 9728}, {4864, 896}, {4096, 4096}, {4096, 11008}};
    struct options o = {.threads = 1, .tokens = 512, .rank = 16, .seconds = 0.5};
    for (int i = 1; i + 1 < argc; i += 2) {
        long long first = atoll(argv[i + 1]);
        if (strcmp(argv[i], "--threads") == 0) o.threads = (int)first;
        if (strcmp(argv[i], "--tokens") == 0) o.tokens = first;
        if (strcmp(argv[i], "--rank") == 0) o.rank = (int32_t)first;
        if (strcmp(argv[i], "--kernel") == 0) o.kernel = argv[i + 1];
        if (strcmp(argv[i], "--clock") == 0) cpu_clock = strcmp(argv[i + 1], "cpu") == 0;
        if (strcmp(argv[i], "--seconds") == 0) o.seconds = atof(argv[i + 1]);
        if (strcmp(argv[i], "--shape") == 0) {
            const char *comma = strchr(argv[i + 1], ',');
            o.in = first;
            o.out = comma ? atoll(comma + 1) : first;
        }
    }
    print_peaks();
    printf("%-5s %-12s %6s %6s %7s %2s   %8s %8s   %8s %8s  %s  %s\n", "dtype", "kernel", "tokens", "in",
           "out", "th", "forward", "backward", "+ rank", "+ rank", "adapter", "load s");
    if (o.in) {
        measure_shape(&o);
        return 0;
    }
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        o.in = shapes[i][0];
        o.out = shapes[i][1];
        measure_shape(&o);
    }
    return 0;
}
