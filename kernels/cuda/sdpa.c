/*
 * sdpa.c: attention by cuDNN: which calls it takes, the plans it has, and their runs.
 *
 * 1. Plans are compiled when they are first needed and kept: a training run needs as many as there are steps
 * of sequences and lengths in its batches (sdpa_layout.h), usually one to four in each direction.
 * 2. Both directions of one step are compiled at the same time, the backward by a thread of its own, as soon
 * as a first backward has told what rows it is called with. Each direction has its own handle of cuDNN, since
 * a handle is for one thread.
 * 3. A kind of calls (heads, and the step of sequences and lengths) is taken only if cuDNN has a kernel for
 * both directions, so that the log-sum-exps of a forward are always read by the backward of the same side.
 * 4. What cuDNN promises and then cannot compile (no NVRTC beside it, an older driver) is refused from then
 * on, as long as no forward of its kind has run: lorad's own kernels take over instead of the run ending.
 */
#include "kernels/cuda/sdpa.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/memory.h"
#include "base/thread.h"
#include "kernels/cuda/sdpa_graph.h"
#include "kernels/cuda/sdpa_kernels.h"
#include "kernels/cuda/sdpa_layout.h"

enum { FORWARD, BACKWARD, DIRECTIONS, MOST_KINDS = 256 };

struct kind {
    enum dtype dtype;
    int32_t q_heads, kv_heads, head_dim, batch, tokens;
    bool windowed, taken;
    bool ran; /* forward: there are log-sum-exps that only cuDNN reads */
};

struct slot {
    struct sdpa_key key;
    struct sdpa_plan *plan;
};

struct cuda_sdpa {
    struct cuda_device *device;
    const struct sdpa_library *cudnn;
    void *handle[DIRECTIONS];
    struct kind kind[MOST_KINDS];
    int kinds;
    struct slot *slots;
    size_t n_slots, capacity;
    struct sdpa_key backward; /* the last one asked for; batch 0: none yet */
};

/* ---- create ---- */

/* Kernels of these GPUs read log-sum-exps that are packed; those for older and for small GPUs do not. */
static bool arch_fits(int arch)
{
    return arch == 90 || (arch >= 100 && arch < 110);
}

enum status cuda_sdpa_create(struct cuda_sdpa **out, struct cuda_device *device)
{
    *out = NULL;
    if (device->deterministic || !arch_fits(device->arch)) {
        log_info("attention: lorad's own kernels, since %s",
                 device->deterministic ? "the run is deterministic" : "cuDNN's want a GPU like H100 or B200");
        return LORAD_OK;
    }
    const struct sdpa_library *library;
    if (sdpa_library_open(&library) != LORAD_OK) {
        log_warn("attention: lorad's own kernels, which are slower, since there is no cuDNN to use: %s",
                 status_message());
        status_clear();
        return LORAD_OK;
    }
    struct cuda_sdpa *sdpa = memory_new(1, sizeof *sdpa);
    if (!sdpa) return LORAD_NOMEM;
    *sdpa = (struct cuda_sdpa){.device = device, .cudnn = library};
    log_info("attention: cuDNN %s", sdpa_library_version(library));
    *out = sdpa;
    return LORAD_OK;
}

void cuda_sdpa_destroy(struct cuda_sdpa *sdpa)
{
    if (!sdpa) return;
    for (size_t i = 0; i < sdpa->n_slots; i++) sdpa_plan_destroy(sdpa->slots[i].plan);
    for (int i = 0; i < DIRECTIONS; i++) sdpa_handle_destroy(sdpa->cudnn, sdpa->handle[i]);
    free(sdpa->slots);
    free(sdpa);
}

const char *cuda_sdpa_version(const struct cuda_sdpa *sdpa)
{
    return sdpa_library_version(sdpa->cudnn);
}

/* ---- keys ---- */

/* What both directions have in common; batch or tokens are 0 where there are too many. */
static struct sdpa_key key_of(const struct matrix *q, const struct matrix *k, int32_t head_dim,
                              int32_t window, const struct sequences *sequences)
{
    struct sdpa_key key = {.dtype = q->dtype};
    key.windowed = window > 0 && window < sequences->longest; /* else it hides nothing */
    key.q_heads = (int32_t)(q->cols / head_dim);
    key.kv_heads = (int32_t)(k->cols / head_dim);
    key.head_dim = head_dim;
    key.batch = sdpa_batch_step(sequences->count);
    key.tokens = sdpa_tokens_step(sequences->longest);
    key.stride[SDPA_Q] = q->stride;
    key.stride[SDPA_K] = k->stride;
    key.stride[SDPA_LSE] = key.q_heads;
    return key;
}

static struct sdpa_key key_of_forward(const struct op_attention *args)
{
    struct sdpa_key key = key_of(&args->q, &args->k, args->head_dim, args->window, &args->sequences);
    key.stride[SDPA_V] = args->v.stride;
    key.stride[SDPA_OUT] = args->out.stride;
    return key;
}

/* dk and dv go through scratch where they are sums over heads. */
static void set_backward(struct sdpa_key *key, int64_t dout, int64_t dq, int64_t dk, int64_t dv)
{
    key->backward = true;
    key->stride[SDPA_DOUT] = dout;
    key->stride[SDPA_DQ] = dq;
    int64_t cols = (int64_t)key->kv_heads * key->head_dim;
    key->stride[SDPA_DK] = sdpa_key_copies(key) ? cols : dk;
    key->stride[SDPA_DV] = sdpa_key_copies(key) ? cols : dv;
}

static struct sdpa_key key_of_backward(const struct op_attention_backward *args)
{
    struct sdpa_key key = key_of(&args->q, &args->k, args->head_dim, args->window, &args->sequences);
    key.stride[SDPA_V] = args->v.stride;
    key.stride[SDPA_OUT] = args->out.stride;
    set_backward(&key, args->dout.stride, args->dq.stride, args->dk.stride, args->dv.stride);
    return key;
}

/* ---- what is taken ---- */

static bool rows_aligned(const struct matrix *m)
{
    return (uintptr_t)m->data % 16 == 0 && m->stride % 8 == 0;
}

/* Made at the first question: they load much that a process without attention does not need. */
static enum status make_handles(struct cuda_sdpa *sdpa)
{
    for (int i = 0; i < DIRECTIONS; i++)
        if (!sdpa->handle[i])
            TRY(sdpa_handle_create(&sdpa->handle[i], sdpa->cudnn, sdpa->device->stream[STREAM_COMPUTE]));
    return LORAD_OK;
}

static bool has_kernel(struct cuda_sdpa *sdpa, const struct sdpa_key *key)
{
    size_t bytes = 0;
    enum status status = make_handles(sdpa);
    if (status == LORAD_OK) status = sdpa_plan_find(&bytes, sdpa->cudnn, sdpa->handle[FORWARD], key, NULL);
    if (status == LORAD_OK && bytes <= sdpa_workspace_allowed(key->batch)) return true;
    log_warn("attention: lorad's own kernels, which are slower, for %d and %d heads of %d: %s", key->q_heads,
             key->kv_heads, key->head_dim,
             status == LORAD_OK ? "cuDNN's kernel wants more memory" : status_message());
    status_clear();
    return false;
}

/* Asks cuDNN with likely strides: whether there is a kernel does not depend on them. */
static bool ask(struct cuda_sdpa *sdpa, const struct sdpa_key *common)
{
    struct sdpa_key key = *common;
    key.stride[SDPA_V] = key.stride[SDPA_K];
    key.stride[SDPA_OUT] = (int64_t)key.q_heads * key.head_dim;
    if (!has_kernel(sdpa, &key)) return false;
    set_backward(&key, key.stride[SDPA_OUT], key.stride[SDPA_Q], key.stride[SDPA_K], key.stride[SDPA_K]);
    return has_kernel(sdpa, &key);
}

static struct kind *kind_of(struct cuda_sdpa *sdpa, const struct sdpa_key *key)
{
    for (int i = 0; i < sdpa->kinds; i++) {
        struct kind *kind = &sdpa->kind[i];
        if (kind->dtype == key->dtype && kind->q_heads == key->q_heads && kind->kv_heads == key->kv_heads &&
            kind->head_dim == key->head_dim && kind->batch == key->batch && kind->tokens == key->tokens &&
            kind->windowed == key->windowed)
            return kind;
    }
    return NULL;
}

bool cuda_sdpa_takes(struct cuda_sdpa *sdpa, const struct matrix *q, const struct matrix *k, int32_t head_dim,
                     int32_t window, const struct sequences *sequences)
{
    if (!sdpa || !rows_aligned(q) || !rows_aligned(k)) return false;
    struct sdpa_key key = key_of(q, k, head_dim, window, sequences);
    if (!sdpa_kind_fits(key.dtype, key.q_heads, key.kv_heads, head_dim) || !key.batch || !key.tokens)
        return false;
    const struct kind *known = kind_of(sdpa, &key);
    if (known) return known->taken;
    if (sdpa->kinds == MOST_KINDS) return false;
    struct kind kind = {.dtype = key.dtype,
                        .q_heads = key.q_heads,
                        .kv_heads = key.kv_heads,
                        .head_dim = head_dim,
                        .batch = key.batch,
                        .tokens = key.tokens,
                        .windowed = key.windowed,
                        .taken = ask(sdpa, &key)};
    sdpa->kind[sdpa->kinds++] = kind;
    return kind.taken;
}

/* After a plan for a forward could not be made: whether the kind is left to lorad's own kernels. */
static bool give_up(struct kind *kind)
{
    if (kind->ran) return false;
    log_warn("attention: lorad's own kernels, which are slower, for %d and %d heads of %d: %s", kind->q_heads,
             kind->kv_heads, kind->head_dim, status_message());
    status_clear();
    kind->taken = false;
    return true;
}

/* ---- plans ---- */

_Static_assert(sizeof(struct sdpa_key) == 8 * sizeof(int32_t) + SDPA_PACKED * sizeof(int64_t),
               "bytes between the fields of a key");

static struct sdpa_plan *find(const struct cuda_sdpa *sdpa, const struct sdpa_key *key)
{
    for (size_t i = 0; i < sdpa->n_slots; i++)
        if (memcmp(&sdpa->slots[i].key, key, sizeof *key) == 0) return sdpa->slots[i].plan;
    return NULL;
}

static enum status keep(struct cuda_sdpa *sdpa, const struct sdpa_key *key, struct sdpa_plan *plan)
{
    void *slots = sdpa->slots;
    enum status status = memory_grow(&slots, &sdpa->capacity, sdpa->n_slots + 1, sizeof *sdpa->slots);
    if (status != LORAD_OK) {
        sdpa_plan_destroy(plan);
        return status;
    }
    sdpa->slots = slots;
    sdpa->slots[sdpa->n_slots].key = *key;
    sdpa->slots[sdpa->n_slots++].plan = plan;
    return LORAD_OK;
}

struct compilation {
    struct cuda_sdpa *sdpa;
    const struct sdpa_key *key;
    struct sdpa_plan *plan;
    enum status status;
};

static enum status compile(struct compilation *work)
{
    struct cuda_sdpa *sdpa = work->sdpa;
    TRY(sdpa_plan_create(&work->plan, sdpa->cudnn, sdpa->handle[work->key->backward ? BACKWARD : FORWARD],
                         work->key, NULL));
    if (sdpa_plan_workspace(work->plan) <= sdpa_workspace_allowed(work->key->batch)) return LORAD_OK;
    return FAIL(LORAD_DEVICE, "attention: cuDNN's kernel wants %zu bytes of workspace, there are %zu",
                sdpa_plan_workspace(work->plan), sdpa_workspace_allowed(work->key->batch));
}

static void *compile_ahead(void *argument)
{
    struct compilation *work = argument;
    work->status = cuda_check(cudaSetDevice(work->sdpa->device->number), "cudaSetDevice");
    if (work->status == LORAD_OK) work->status = compile(work);
    return NULL;
}

/* The plan of `key`; `ahead`, optional: another that will be needed. A failure of that one is left to its own
 * first use. */
static enum status plan_of(const struct sdpa_plan **out, struct cuda_sdpa *sdpa, const struct sdpa_key *key,
                           const struct sdpa_key *ahead)
{
    if ((*out = find(sdpa, key))) return LORAD_OK;
    struct compilation work = {.sdpa = sdpa, .key = key}, other = {.sdpa = sdpa, .key = ahead};
    pthread_t thread;
    bool started = ahead && !find(sdpa, ahead) && thread_start(&thread, compile_ahead, &other) == 0;
    work.status = compile(&work);
    if (started) {
        pthread_join(thread, NULL);
        if (other.status != LORAD_OK)
            sdpa_plan_destroy(other.plan);
        else if (keep(sdpa, ahead, other.plan) != LORAD_OK)
            status_clear();
    }
    if (work.status != LORAD_OK) {
        sdpa_plan_destroy(work.plan);
        return work.status;
    }
    *out = work.plan;
    return keep(sdpa, key, work.plan);
}

/* ---- runs ---- */

static enum status check_rows(const char *name, const struct matrix *m)
{
    if (rows_aligned(m)) return LORAD_OK;
    return FAIL(LORAD_BUG, "attention: rows of %s do not start at 16-byte borders", name);
}

/* Tables and workspace in scratch; values->at of the packed tensors is set. */
static enum status run(struct cuda_sdpa *sdpa, const struct sdpa_plan *plan, const struct sdpa_key *key,
                       const struct sequences *sequences, const struct sdpa_layout *layout, void *scratch,
                       struct sdpa_values *values)
{
    struct sdpa_tables tables = {.start = sequences->start, .count = sequences->count, .batch = key->batch};
    for (int i = SDPA_OFFSET; i < SDPA_TENSORS; i++) values->at[i] = (char *)scratch + layout->at[i];
    for (int i = 0; i < SDPA_PACKED; i++) {
        tables.offset[i] = values->at[SDPA_OFFSET + i];
        tables.stride[i] = key->stride[i];
    }
    tables.lengths = values->at[SDPA_LENGTHS];
    values->workspace = tables.workspace = (char *)scratch + layout->workspace;
    tables.workspace_bytes = sdpa_plan_workspace(plan);
    TRY(sdpa_write_tables(&sdpa->device->base, &tables));
    return sdpa_plan_run(plan, sdpa->handle[key->backward ? BACKWARD : FORWARD], values);
}

enum status cuda_sdpa_forward(struct cuda_sdpa *sdpa, const struct op_attention *args, bool *done)
{
    *done = true;
    TRY(check_rows("v", &args->v));
    TRY(check_rows("out", &args->out));
    struct sdpa_key key = key_of_forward(args), ahead = key;
    const struct sdpa_key *last = &sdpa->backward;
    set_backward(&ahead, last->stride[SDPA_DOUT], last->stride[SDPA_DQ], last->stride[SDPA_DK],
                 last->stride[SDPA_DV]);
    bool trained = last->q_heads == key.q_heads && last->kv_heads == key.kv_heads && last->dtype == key.dtype;
    const struct sdpa_plan *plan;
    struct kind *kind = kind_of(sdpa, &key);
    ASSERT(kind && kind->taken);
    enum status status = plan_of(&plan, sdpa, &key, trained ? &ahead : NULL);
    if (status == LORAD_DEVICE && give_up(kind)) {
        *done = false;
        return LORAD_OK;
    }
    TRY(status);
    kind->ran = true;
    struct sdpa_layout layout = sdpa_layout(&key, args->q.rows);
    struct sdpa_values values = {.scale = args->scale, .window = (float)args->window};
    values.at[SDPA_Q] = args->q.data;
    values.at[SDPA_K] = args->k.data;
    values.at[SDPA_V] = args->v.data;
    values.at[SDPA_OUT] = args->out.data;
    values.at[SDPA_LSE] = args->lse;
    return run(sdpa, plan, &key, &args->sequences, &layout, args->scratch, &values);
}

enum status cuda_sdpa_backward(struct cuda_sdpa *sdpa, const struct op_attention_backward *args)
{
    const struct matrix *const rows[] = {&args->v, &args->out, &args->dout, &args->dq, &args->dk, &args->dv};
    static const char *const names[] = {"v", "out", "dout", "dq", "dk", "dv"};
    for (int i = 0; i < 6; i++) TRY(check_rows(names[i], rows[i]));
    struct sdpa_key key = key_of_backward(args);
    sdpa->backward = key;
    const struct sdpa_plan *plan;
    TRY(plan_of(&plan, sdpa, &key, NULL));
    struct sdpa_layout layout = sdpa_layout(&key, args->q.rows);
    struct sdpa_values values = {.scale = args->scale, .window = (float)args->window};
    values.at[SDPA_Q] = args->q.data;
    values.at[SDPA_K] = args->k.data;
    values.at[SDPA_V] = args->v.data;
    values.at[SDPA_OUT] = args->out.data;
    values.at[SDPA_LSE] = (void *)(uintptr_t)args->lse; /* only read */
    values.at[SDPA_DOUT] = args->dout.data;
    values.at[SDPA_DQ] = args->dq.data;
    bool copies = sdpa_key_copies(&key);
    values.at[SDPA_DK] = copies ? (char *)args->scratch + layout.at[SDPA_DK] : args->dk.data;
    values.at[SDPA_DV] = copies ? (char *)args->scratch + layout.at[SDPA_DV] : args->dv.data;
    TRY(run(sdpa, plan, &key, &args->sequences, &layout, args->scratch, &values));
    if (!copies) return LORAD_OK;
    const struct matrix to[2] = {args->dk, args->dv};
    struct matrix from[2] = {args->dk, args->dv};
    for (int i = 0; i < 2; i++) {
        from[i].data = values.at[SDPA_DK + i];
        from[i].stride = from[i].cols;
    }
    return sdpa_copy_rows(&sdpa->device->base, from, to);
}
