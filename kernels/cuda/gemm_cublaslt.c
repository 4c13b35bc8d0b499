/*
 * gemm_cublaslt.c: gemm.h by cuBLASLt (cuBLAS Library documentation, "Using the cublasLt API"). The owner of
 * cublasLt.h.
 *
 * cuBLASLt is column-major: a row-major [rows, cols] matrix is its [cols, rows], so d^T = op(b)^T op(a)^T,
 * and b is its A, a its B.
 *
 * An algorithm is chosen once per description. Tokens differ from micro-batch to micro-batch, so unless the
 * device is deterministic m and k are counted in steps of BUCKET: the first of a bucket chooses for all that
 * its algorithm fits.
 *
 * 1. Split sums are added in f32 and in one order (no INPLACE, no OUTPUT_TYPE reduction).
 * 2. Timing repeats a product, so it is done only where that spoils nothing: beta = 0, or d may be spoiled,
 * or another d can be had; and not while a stream is captured.
 */
#include <cublasLt.h>

#include <float.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"
#include "kernels/cuda/gemm.h"
#include "kernels/cuda/gemm_cache.h"

enum { BUCKET = 256, CANDIDATES = 12, RUNS = 3, WORKSPACE_BYTES = 32 << 20, MOST_ALIGN = 256 };

struct cuda_gemm {
    struct cuda_device *device;
    cublasLtHandle_t handle;
    struct gemm_cache *cache;
    char *path; /* of the cache's file; NULL: none */
    cudaEvent_t begin, end;
};

/* What cuBLASLt wants to know of a product. */
struct description {
    cublasLtMatmulDescOpaque_t operation;
    cublasLtMatrixLayoutOpaque_t a, b, d;
};

static enum status check(cublasStatus_t status, const char *call)
{
    if (status == CUBLAS_STATUS_SUCCESS) return LORAD_OK;
    return FAIL(status == CUBLAS_STATUS_ALLOC_FAILED ? LORAD_NOMEM : LORAD_DEVICE, "GPU: %s: %s", call,
                cublasLtGetStatusString(status));
}
#define LT_TRY(call) TRY(check((call), #call))

/* Opening */

static enum status machine_of(struct gemm_machine *machine, const struct cuda_device *device)
{
    struct cudaDeviceProp properties;
    CUDA_TRY(cudaGetDeviceProperties(&properties, device->number));
    machine->cublaslt_version = cublasLtGetVersion();
    machine->multiprocessors = device->multiprocessors;
    snprintf(machine->gpu, sizeof machine->gpu, "%s", properties.name);
    return LORAD_OK;
}

static enum status open_cache(struct cuda_gemm *gemm)
{
    struct gemm_machine machine;
    TRY(machine_of(&machine, gemm->device));
    TRY(gemm_cache_create(&gemm->cache, &machine));
    if (gemm->device->deterministic) return LORAD_OK; /* chosen without timing, so nothing is worth keeping */
    if (gemm_cache_path(&gemm->path, &machine) != LORAD_OK) return LORAD_OK;
    enum status status = gemm_cache_load(gemm->cache, gemm->path);
    if (status == LORAD_DATA) log_debug("%s; products are timed again", status_message());
    return status == LORAD_NOMEM ? status : LORAD_OK;
}

static enum status set_up(struct cuda_gemm *gemm)
{
    LT_TRY(cublasLtCreate(&gemm->handle));
    CUDA_TRY(cudaEventCreate(&gemm->begin));
    CUDA_TRY(cudaEventCreate(&gemm->end));
    return open_cache(gemm);
}

enum status cuda_gemm_create(struct cuda_gemm **out, struct cuda_device *device)
{
    struct cuda_gemm *gemm = memory_new(1, sizeof *gemm);
    if (!gemm) return LORAD_NOMEM;
    gemm->device = device;
    enum status status = set_up(gemm);
    if (status != LORAD_OK) {
        cuda_gemm_destroy(gemm);
        return status;
    }
    *out = gemm;
    return LORAD_OK;
}

static enum status save(struct cuda_gemm *gemm)
{
    char *folder = memory_string(gemm->path);
    if (!folder) return LORAD_NOMEM;
    *strrchr(folder, '/') = '\0';
    enum status status = file_make_dirs(folder);
    free(folder);
    return status == LORAD_OK ? gemm_cache_save(gemm->cache, gemm->path) : status;
}

void cuda_gemm_destroy(struct cuda_gemm *gemm)
{
    if (!gemm) return;
    if (gemm->path && save(gemm) != LORAD_OK) log_debug("%s", status_message()); /* costs only time */
    gemm_cache_destroy(gemm->cache);
    free(gemm->path);
    if (gemm->begin) cudaEventDestroy(gemm->begin);
    if (gemm->end) cudaEventDestroy(gemm->end);
    if (gemm->handle) cublasLtDestroy(gemm->handle);
    free(gemm);
}

void cuda_gemm_name(char *words, size_t bytes)
{
    size_t version = cublasLtGetVersion();
    snprintf(words, bytes, "cuBLASLt %zu.%zu.%zu", version / 10000, version / 100 % 100, version % 100);
}

/* Describing */

static cudaDataType_t type_of(enum dtype dtype)
{
    return dtype == DTYPE_F32 ? CUDA_R_32F : dtype == DTYPE_BF16 ? CUDA_R_16BF : CUDA_R_16F;
}

static enum status set(struct description *to, cublasLtMatmulDescAttributes_t attribute, const void *value,
                       size_t bytes)
{
    return check(cublasLtMatmulDescSetAttribute(&to->operation, attribute, value, bytes),
                 "cublasLtMatmulDescSetAttribute");
}

static enum status layout(cublasLtMatrixLayoutOpaque_t *to, struct matrix m)
{
    return check(cublasLtMatrixLayoutInit(to, type_of(m.dtype), (uint64_t)m.cols, (uint64_t)m.rows, m.stride),
                 "cublasLtMatrixLayoutInit");
}

static enum status describe(struct description *to, const struct cuda_product *p)
{
    int32_t turn_first = p->turn_b ? CUBLAS_OP_T : CUBLAS_OP_N;
    int32_t turn_second = p->turn_a ? CUBLAS_OP_T : CUBLAS_OP_N;
    LT_TRY(cublasLtMatmulDescInit(&to->operation, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    TRY(set(to, CUBLASLT_MATMUL_DESC_TRANSA, &turn_first, sizeof turn_first));
    TRY(set(to, CUBLASLT_MATMUL_DESC_TRANSB, &turn_second, sizeof turn_second));
    if (p->bias) {
        uint32_t epilogue = CUBLASLT_EPILOGUE_BIAS; /* its vector has d's dtype, which is the default */
        TRY(set(to, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue));
        TRY(set(to, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &p->bias, sizeof p->bias));
    }
    TRY(layout(&to->a, p->b));
    TRY(layout(&to->b, p->a));
    return layout(&to->d, p->d);
}

static uint16_t alignment(const void *pointer)
{
    uintptr_t bits = (uintptr_t)pointer | MOST_ALIGN;
    return (uint16_t)(bits & -bits);
}

static int64_t depth(const struct cuda_product *p)
{
    return p->turn_a ? p->a.rows : p->a.cols;
}

static struct gemm_key key_of(const struct cuda_product *p, bool exact)
{
    int64_t step = exact ? 1 : BUCKET;
    return (struct gemm_key){
        .m = (p->d.rows + step - 1) / step,
        .n = p->d.cols,
        .k = (depth(p) + step - 1) / step,
        .a_stride = p->a.stride,
        .b_stride = p->b.stride,
        .d_stride = p->d.stride,
        .a_align = alignment(p->a.data),
        .b_align = alignment(p->b.data),
        .d_align = alignment(p->d.data),
        .dtype = (uint8_t)p->a.dtype,
        .d_dtype = (uint8_t)p->d.dtype,
        .turn_a = p->turn_a,
        .turn_b = p->turn_b,
        .bias = p->bias != NULL,
        .adds = p->beta != 0,
        .exact = exact,
    };
}

/* Choosing */

static cublasStatus_t multiply(struct cuda_gemm *gemm, struct description *d, const struct cuda_product *p,
                               const cublasLtMatmulAlgo_t *algorithm)
{
    return cublasLtMatmul(gemm->handle, &d->operation, &p->alpha, p->b.data, &d->a, p->a.data, &d->b,
                          &p->beta, p->d.data, &d->d, p->d.data, &d->d, algorithm, gemm->device->workspace,
                          WORKSPACE_BYTES, gemm->device->stream[STREAM_COMPUTE]);
}

static enum status prefer(cublasLtMatmulPreferenceOpaque_t *to, const struct gemm_key *key)
{
    const struct {
        cublasLtMatmulPreferenceAttributes_t attribute;
        uint32_t value;
    } wishes[] = {
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, key->b_align},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, key->a_align},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, key->d_align},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, key->d_align},
        {CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
         CUBLASLT_REDUCTION_SCHEME_NONE | CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE},
    };
    uint64_t workspace = WORKSPACE_BYTES;
    LT_TRY(cublasLtMatmulPreferenceInit(to));
    for (size_t i = 0; i < sizeof wishes / sizeof wishes[0]; i++)
        LT_TRY(cublasLtMatmulPreferenceSetAttribute(to, wishes[i].attribute, &wishes[i].value,
                                                    sizeof wishes[i].value));
    LT_TRY(cublasLtMatmulPreferenceSetAttribute(to, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace,
                                                sizeof workspace));
    return LORAD_OK;
}

static enum status candidates(struct cuda_gemm *gemm, struct description *d, const struct cuda_product *p,
                              const struct gemm_key *key, cublasLtMatmulHeuristicResult_t *out, int *count)
{
    cublasLtMatmulPreferenceOpaque_t preference;
    int found = 0;
    TRY(prefer(&preference, key));
    cublasStatus_t status =
        cublasLtMatmulAlgoGetHeuristic(gemm->handle, &d->operation, &d->a, &d->b, &d->d, &d->d, &preference,
                                       gemm->device->deterministic ? 1 : CANDIDATES, out, &found);
    *count = 0;
    for (int i = 0; status == CUBLAS_STATUS_SUCCESS && i < found; i++)
        if (out[i].state == CUBLAS_STATUS_SUCCESS) out[(*count)++] = out[i];
    if (*count > 0) return LORAD_OK;
    return FAIL(LORAD_DEVICE,
                "GPU: cuBLASLt has no algorithm for [%lld, %lld] x [%lld, %lld] of %s into %s: %s",
                (long long)p->d.rows, (long long)depth(p), (long long)depth(p), (long long)p->d.cols,
                dtype_name(p->a.dtype), dtype_name(p->d.dtype), cublasLtGetStatusString(status));
}

/* Milliseconds of the fastest of a few runs; FLT_MAX: it does not run. */
static enum status time_one(struct cuda_gemm *gemm, struct description *d, const struct cuda_product *p,
                            const cublasLtMatmulAlgo_t *algorithm, float *best)
{
    cudaStream_t stream = gemm->device->stream[STREAM_COMPUTE];
    *best = FLT_MAX;
    for (int run = 0; run <= RUNS; run++) { /* the first loads the kernel */
        float time;
        CUDA_TRY(cudaEventRecord(gemm->begin, stream));
        if (multiply(gemm, d, p, algorithm) != CUBLAS_STATUS_SUCCESS) return LORAD_OK;
        CUDA_TRY(cudaEventRecord(gemm->end, stream));
        CUDA_TRY(cudaEventSynchronize(gemm->end));
        CUDA_TRY(cudaEventElapsedTime(&time, gemm->begin, gemm->end));
        if (run > 0 && time < *best) *best = time;
    }
    return LORAD_OK;
}

/* *yes: whether *p may be repeated; its d is then one that may. */
static enum status may_time(const struct cuda_gemm *gemm, struct cuda_product *p, bool spoils, bool *yes)
{
    enum cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
    CUDA_TRY(cudaStreamIsCapturing(gemm->device->stream[STREAM_COMPUTE], &capture));
    *yes = !gemm->device->deterministic && capture == cudaStreamCaptureStatusNone;
    if (!*yes || p->beta == 0 || spoils) return LORAD_OK;
    *yes =
        (size_t)(p->d.rows * p->d.stride) * dtype_bytes(p->d.dtype) <= CUDA_WORKSPACE_BYTES - WORKSPACE_BYTES;
    if (*yes) p->d.data = (char *)gemm->device->workspace + WORKSPACE_BYTES;
    return LORAD_OK;
}

static enum status choose(struct gemm_entry **out, struct cuda_gemm *gemm, struct description *d,
                          const struct cuda_product *p, const struct gemm_key *key, bool spoils)
{
    cublasLtMatmulHeuristicResult_t found[CANDIDATES];
    int count = 0, best = 0;
    bool timed = false;
    TRY(candidates(gemm, d, p, key, found, &count));
    struct cuda_product trial = *p;
    TRY(may_time(gemm, &trial, spoils, &timed));
    float least = FLT_MAX;
    for (int i = 0; timed && i < count; i++) {
        float time;
        TRY(time_one(gemm, d, &trial, &found[i].algo, &time));
        if (time >= least) continue;
        least = time;
        best = i;
    }
    struct gemm_algorithm algorithm = {.workspace_bytes = found[best].workspaceSize};
    _Static_assert(sizeof algorithm.bytes == sizeof found[0].algo, "cuBLASLt's algorithms are 64 bytes");
    memcpy(algorithm.bytes, &found[best].algo, sizeof algorithm.bytes);
    TRY(gemm_cache_put(out, gemm->cache, key, &algorithm, timed));
    (*out)->checked[0] = p->d.rows;
    (*out)->checked[1] = depth(p);
    return LORAD_OK;
}

/* Whether an algorithm that was chosen for other numbers of the same bucket, or by another process, fits. */
static bool fits(struct cuda_gemm *gemm, struct description *d, const struct cuda_product *p,
                 struct gemm_entry *entry)
{
    cublasLtMatmulAlgo_t algorithm;
    cublasLtMatmulHeuristicResult_t result;
    if (entry->checked[0] == p->d.rows && entry->checked[1] == depth(p)) return true;
    memcpy(&algorithm, entry->algorithm.bytes, sizeof algorithm);
    if (cublasLtMatmulAlgoCheck(gemm->handle, &d->operation, &d->a, &d->b, &d->d, &d->d, &algorithm,
                                &result) != CUBLAS_STATUS_SUCCESS ||
        result.workspaceSize > WORKSPACE_BYTES)
        return false;
    entry->checked[0] = p->d.rows;
    entry->checked[1] = depth(p);
    return true;
}

/* *out: an entry whose algorithm fits. spoils: d may be written. */
static enum status entry_for(struct gemm_entry **out, struct cuda_gemm *gemm, struct description *d,
                             const struct cuda_product *p, bool spoils)
{
    for (int exact = gemm->device->deterministic; exact < 2; exact++) {
        struct gemm_key key = key_of(p, exact);
        struct gemm_entry *entry = gemm_cache_find(gemm->cache, &key);
        if (!entry) TRY(choose(&entry, gemm, d, p, &key, spoils));
        if (!fits(gemm, d, p, entry)) continue;
        *out = entry;
        return LORAD_OK;
    }
    return FAIL(LORAD_DEVICE, "GPU: cuBLASLt refuses the algorithm that it chose");
}

enum status cuda_gemm_choose(struct cuda_gemm *gemm, const struct cuda_product *product)
{
    struct description d;
    struct gemm_entry *entry;
    TRY(describe(&d, product));
    return entry_for(&entry, gemm, &d, product, true);
}

enum status cuda_gemm_run(struct cuda_gemm *gemm, const struct cuda_product *product)
{
    struct description d;
    struct gemm_entry *entry = NULL;
    cublasLtMatmulAlgo_t algorithm;
    TRY(describe(&d, product));
    TRY(entry_for(&entry, gemm, &d, product, false));
    memcpy(&algorithm, entry->algorithm.bytes, sizeof algorithm);
    return check(multiply(gemm, &d, product, &algorithm), "cublasLtMatmul");
}
