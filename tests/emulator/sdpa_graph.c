/*
 * sdpa_graph.c: an emulated cuDNN behind sdpa_graph.h, so that all of the backend around cuDNN's attention
 * runs here.
 *
 * It works from what a plan is given alone (offsets, lengths, strides of the key), in plain loops, and stops
 * the process when a table, a length or the workspace is not as cuDNN needs it. Sums that cuDNN keeps in
 * scratch are kept there. LORAD_EMULATOR_CUDNN=0: there is none; broken: it has kernels and compiles none.
 */
#include "kernels/cuda/sdpa_graph.h"

#include <cuda_runtime_api.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <stdbool.h>
#include <string.h>

#include "base/memory.h"

enum { WORKSPACE_LEAST = 1152, WORKSPACE_EACH = 448 /* as cuDNN 9.19 has it */, TILE = 128 };

struct sdpa_library {
    const char *version;
};

struct sdpa_plan {
    struct sdpa_key key;
};

struct handle {
    cudaStream_t stream;
};

enum status sdpa_library_open(const struct sdpa_library **out)
{
    static const struct sdpa_library library = {"9 (emulated)"};
    const char *wanted = getenv("LORAD_EMULATOR_CUDNN");
    if (wanted && strcmp(wanted, "0") == 0)
        return FAIL(LORAD_NOT_FOUND, "libcudnn.so.9: LORAD_EMULATOR_CUDNN is 0");
    *out = &library;
    return LORAD_OK;
}

const char *sdpa_library_version(const struct sdpa_library *library)
{
    return library->version;
}

enum status sdpa_handle_create(void **out, const struct sdpa_library *library, void *stream)
{
    (void)library;
    struct handle *handle = memory_new(1, sizeof *handle);
    if (!handle) return LORAD_NOMEM;
    handle->stream = stream;
    *out = handle;
    return LORAD_OK;
}

void sdpa_handle_destroy(const struct sdpa_library *library, void *handle)
{
    (void)library;
    free(handle);
}

static size_t workspace_of(const struct sdpa_key *key)
{
    return WORKSPACE_LEAST + (size_t)key->batch * WORKSPACE_EACH;
}

enum status sdpa_plan_find(size_t *workspace, const struct sdpa_library *library, void *handle,
                           const struct sdpa_key *key, const char *gpu)
{
    (void)library, (void)handle, (void)gpu;
    if (key->head_dim > 128 && key->backward) return FAIL(LORAD_NOT_FOUND, "no kernel, as on B200");
    *workspace = workspace_of(key);
    return LORAD_OK;
}

enum status sdpa_plan_create(struct sdpa_plan **out, const struct sdpa_library *library, void *handle,
                             const struct sdpa_key *key, const char *gpu)
{
    (void)library, (void)handle, (void)gpu;
    const char *wanted = getenv("LORAD_EMULATOR_CUDNN");
    if (wanted && strcmp(wanted, "broken") == 0)
        return FAIL(LORAD_DEVICE, "emulated cuDNN: no kernel compiles");
    struct sdpa_plan *plan = memory_new(1, sizeof *plan);
    if (!plan) return LORAD_NOMEM;
    plan->key = *key;
    *out = plan;
    return LORAD_OK;
}

void sdpa_plan_destroy(struct sdpa_plan *plan)
{
    free(plan);
}

size_t sdpa_plan_workspace(const struct sdpa_plan *plan)
{
    return workspace_of(&plan->key);
}

/* ---- a run ---- */

struct job {
    struct sdpa_key key;
    struct sdpa_values values;
};

#define REQUIRE(condition)                                                                                   \
    do {                                                                                                     \
        if (!(condition)) {                                                                                  \
            fprintf(stderr, "emulated cuDNN: %s does not hold\n", #condition);                               \
            abort();                                                                                         \
        }                                                                                                    \
    } while (0)

/* Where row `row` of head `head` of sequence `sequence` begins, in elements; wider: see SDPA_DK_HEADS. */
static int64_t place(const struct job *job, enum sdpa_tensor which, int64_t wider, int32_t sequence,
                     int64_t row, int64_t head)
{
    const int64_t *offset = job->values.at[SDPA_OFFSET + which];
    return (offset[sequence] + row * job->key.stride[which]) * wider +
           head * (which == SDPA_LSE ? 1 : job->key.head_dim);
}

static float get(const struct job *job, enum sdpa_tensor which, int64_t at)
{
    uint16_t bits = ((const uint16_t *)job->values.at[which])[at];
    return job->key.dtype == DTYPE_BF16 ? bf16_to_f32(bits) : f16_to_f32(bits);
}

static void put(const struct job *job, enum sdpa_tensor which, int64_t at, double value)
{
    ((uint16_t *)job->values.at[which])[at] =
        job->key.dtype == DTYPE_BF16 ? f32_to_bf16((float)value) : f32_to_f16((float)value);
}

static double dot(const struct job *job, enum sdpa_tensor a, int64_t at_a, enum sdpa_tensor b, int64_t at_b)
{
    double sum = 0;
    for (int32_t d = 0; d < job->key.head_dim; d++)
        sum += (double)get(job, a, at_a + d) * get(job, b, at_b + d);
    return sum;
}

static bool seen(const struct job *job, int64_t query, int64_t key)
{
    return key <= query && (!job->key.windowed || (float)key + job->values.window > (float)query);
}

static double score(const struct job *job, int32_t sequence, int64_t query, int64_t key, int64_t head)
{
    int64_t kv_head = head / (job->key.q_heads / job->key.kv_heads);
    return (double)job->values.scale * dot(job, SDPA_Q, place(job, SDPA_Q, 1, sequence, query, head), SDPA_K,
                                           place(job, SDPA_K, 1, sequence, key, kv_head));
}

static void check(const struct job *job)
{
    const struct sdpa_key *key = &job->key;
    const int32_t *lengths = job->values.at[SDPA_LENGTHS];
    const char *workspace = job->values.workspace;
    REQUIRE(key->tokens >= TILE && key->head_dim % 16 == 0);
    for (int t = 0; t < SDPA_PACKED; t++) {
        bool used = key->backward || (t != SDPA_DOUT && t != SDPA_DQ && t != SDPA_DK && t != SDPA_DV);
        REQUIRE((key->stride[t] > 0) == used);
        if (!used) continue;
        REQUIRE((uintptr_t)job->values.at[t] % 16 == 0 || t == SDPA_LSE);
        REQUIRE(t == SDPA_LSE || key->stride[t] % 8 == 0);
        const int64_t *offset = job->values.at[SDPA_OFFSET + t];
        REQUIRE(offset[0] == 0);
        for (int32_t s = 0; s < key->batch; s++)
            REQUIRE(lengths[s] >= 0 && lengths[s] <= key->tokens &&
                    offset[s + 1] == offset[s] + lengths[s] * key->stride[t]);
    }
    for (size_t i = 0; i < workspace_of(key); i++) REQUIRE(workspace[i] == 0);
}

static void forward_row(const struct job *job, int32_t s, int64_t query, int64_t head)
{
    const struct sdpa_key *key = &job->key;
    int64_t kv_head = head / (key->q_heads / key->kv_heads), out = place(job, SDPA_OUT, 1, s, query, head);
    double max = -INFINITY, sum = 0, row[256] = {0};
    for (int64_t j = 0; j <= query; j++)
        if (seen(job, query, j)) max = fmax(max, score(job, s, query, j, head));
    for (int64_t j = 0; j <= query; j++) {
        if (!seen(job, query, j)) continue;
        double weight = exp(score(job, s, query, j, head) - max);
        int64_t v = place(job, SDPA_V, 1, s, j, kv_head);
        sum += weight;
        for (int32_t d = 0; d < key->head_dim; d++) row[d] += weight * get(job, SDPA_V, v + d);
    }
    for (int32_t d = 0; d < key->head_dim; d++) put(job, SDPA_OUT, out + d, row[d] / sum);
    ((float *)job->values.at[SDPA_LSE])[place(job, SDPA_LSE, 1, s, query, head)] = (float)(max + log(sum));
}

/* dq of a row; what it adds to dk and dv of its keys goes to `dk` and `dv`, [length, head_dim] of one head.
 */
static void backward_row(const struct job *job, int32_t s, int64_t query, int64_t head, double *dk,
                         double *dv)
{
    const struct sdpa_key *key = &job->key;
    int64_t kv_head = head / (key->q_heads / key->kv_heads), d_all = key->head_dim;
    int64_t q = place(job, SDPA_Q, 1, s, query, head), dout = place(job, SDPA_DOUT, 1, s, query, head);
    int64_t dq = place(job, SDPA_DQ, 1, s, query, head), at = place(job, SDPA_LSE, 1, s, query, head);
    float *dq_sum = (float *)job->values.at[SDPA_DQ_SUM] + dq, *dout_out = job->values.at[SDPA_DOUT_OUT];
    double lse = ((const float *)job->values.at[SDPA_LSE])[at];
    dout_out[at] = (float)dot(job, SDPA_DOUT, dout, SDPA_OUT, place(job, SDPA_OUT, 1, s, query, head));
    for (int64_t d = 0; d < d_all; d++) dq_sum[d] = 0;
    for (int64_t j = 0; j <= query; j++) {
        if (!seen(job, query, j)) continue;
        int64_t k = place(job, SDPA_K, 1, s, j, kv_head), v = place(job, SDPA_V, 1, s, j, kv_head);
        double p = exp(score(job, s, query, j, head) - lse);
        double ds = p * (dot(job, SDPA_DOUT, dout, SDPA_V, v) - dout_out[at]) * job->values.scale;
        for (int64_t d = 0; d < d_all; d++) {
            dq_sum[d] += (float)(ds * get(job, SDPA_K, k + d));
            dk[j * d_all + d] += ds * get(job, SDPA_Q, q + d);
            dv[j * d_all + d] += p * get(job, SDPA_DOUT, dout + d);
        }
    }
    for (int64_t d = 0; d < d_all; d++) put(job, SDPA_DQ, dq + d, dq_sum[d]);
}

/* Rows of one head from `from` into `which`, at the places of `like` times `wider`. */
static void store_keys(const struct job *job, enum sdpa_tensor which, enum sdpa_tensor like, int64_t wider,
                       int32_t s, int64_t length, int64_t head, const double *from)
{
    for (int64_t j = 0; j < length; j++)
        for (int64_t d = 0; d < job->key.head_dim; d++)
            put(job, which, place(job, like, wider, s, j, head) + d, from[j * job->key.head_dim + d]);
}

/* The sum over a group of query heads, from what was stored for each. */
static void sum_heads(const struct job *job, enum sdpa_tensor from, enum sdpa_tensor to, int32_t s,
                      int64_t length)
{
    int64_t group = job->key.q_heads / job->key.kv_heads;
    for (int64_t j = 0; j < length; j++)
        for (int64_t head = 0; head < job->key.kv_heads; head++)
            for (int64_t d = 0; d < job->key.head_dim; d++) {
                double sum = 0;
                for (int64_t i = 0; i < group; i++)
                    sum += get(job, from, place(job, to, group, s, j, head * group + i) + d);
                put(job, to, place(job, to, 1, s, j, head) + d, sum);
            }
}

static void backward_sequence(const struct job *job, int32_t s, int64_t length)
{
    const struct sdpa_key *key = &job->key;
    size_t n = (size_t)(length * key->head_dim);
    int64_t group = key->q_heads / key->kv_heads;
    double *sums = calloc(2 * n + 1, sizeof *sums);
    REQUIRE(sums);
    for (int64_t head = 0; head < key->q_heads; head++) {
        memset(sums, 0, 2 * n * sizeof *sums);
        for (int64_t i = 0; i < length; i++) backward_row(job, s, i, head, sums, sums + n);
        store_keys(job, group > 1 ? SDPA_DK_HEADS : SDPA_DK, SDPA_DK, group, s, length, head, sums);
        store_keys(job, group > 1 ? SDPA_DV_HEADS : SDPA_DV, SDPA_DV, group, s, length, head, sums + n);
    }
    free(sums);
    if (group == 1) return;
    sum_heads(job, SDPA_DK_HEADS, SDPA_DK, s, length);
    sum_heads(job, SDPA_DV_HEADS, SDPA_DV, s, length);
}

static void run(void *data)
{
    const struct job *job = data;
    const int32_t *lengths = job->values.at[SDPA_LENGTHS];
    check(job);
    for (int32_t s = 0; s < job->key.batch; s++) {
        if (job->key.backward) backward_sequence(job, s, lengths[s]);
        for (int64_t i = 0; !job->key.backward && i < lengths[s]; i++)
            for (int64_t head = 0; head < job->key.q_heads; head++) forward_row(job, s, i, head);
    }
    memset(job->values.workspace, 0xff, workspace_of(&job->key)); /* it is the plan's */
}

enum status sdpa_plan_run(const struct sdpa_plan *plan, void *handle, const struct sdpa_values *values)
{
    struct job *job = memory_new(1, sizeof *job);
    if (!job) return LORAD_NOMEM;
    *job = (struct job){.key = plan->key, .values = *values};
    cudaError_t error = emulator_enqueue(((struct handle *)handle)->stream, run, job);
    return error == cudaSuccess ? LORAD_OK : FAIL(LORAD_DEVICE, "emulated cuDNN: error %d", (int)error);
}
