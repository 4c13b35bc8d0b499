#include "support/golden.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "support/test.h"

const char *const golden_names[] = {"llama_mha",  "llama3_rope", "llama_linear", "mistral_window",
                                    "qwen2_bias", "qwen2_kv2",   "qwen3_norm",   NULL};

/* A whole tensor of the expected type into memory of its own, to which *(T **)out points then; its sizes in
 * shape[2] (1 for a missing dimension). */
static enum status read_tensor(void *out, const struct st_set *set, const char *name, enum st_dtype dtype,
                               int64_t shape[2])
{
    const struct st_tensor *tensor = st_find(set, name);
    if (!tensor) return FAIL(LORAD_DATA, "%s: no tensor %s", st_file_path(set, 0), name);
    if (tensor->dtype != dtype || tensor->n_dims < 1 || tensor->n_dims > 2)
        return FAIL(LORAD_DATA, "%s: %s is %s with %d dimensions", st_file_path(set, 0), name,
                    st_dtype_name(tensor->dtype), tensor->n_dims);
    shape[0] = tensor->shape[0];
    shape[1] = tensor->n_dims == 2 ? tensor->shape[1] : 1;
    void *memory = memory_new((size_t)tensor->size_bytes, 1);
    if (!memory) return LORAD_NOMEM;
    enum status status = st_read(set, tensor, memory);
    if (status != LORAD_OK) {
        free(memory);
        return status;
    }
    memcpy(out, &memory, sizeof memory);
    return LORAD_OK;
}

static enum status read_vector(void *out, const struct st_set *set, const char *name, enum st_dtype dtype,
                               int64_t *n)
{
    int64_t shape[2];
    TRY(read_tensor(out, set, name, dtype, shape));
    *n = shape[0];
    return LORAD_OK;
}

/* Positions, global token numbers, row numbers and the sizes of the largest micro-batch. */
static enum status derive(struct golden *g, int64_t tokens, int64_t starts)
{
    g->positions = memory_new((size_t)tokens, sizeof *g->positions);
    g->token_index = memory_new((size_t)tokens, sizeof *g->token_index);
    g->row_ids = memory_new((size_t)starts, sizeof *g->row_ids);
    if (!g->positions || !g->token_index || !g->row_ids) return LORAD_NOMEM;
    for (int32_t m = 0; m < g->micros; m++) {
        struct micro_batch batch = golden_micro(g, m);
        if (batch.seq_start[batch.n_sequences] != batch.n_tokens)
            return FAIL(LORAD_DATA, "micro-batch %d of the golden run does not end where its rows end", m);
        if (batch.n_tokens > g->max_tokens) g->max_tokens = batch.n_tokens;
        if (batch.n_sequences > g->max_sequences) g->max_sequences = batch.n_sequences;
        for (int32_t s = 0; s < batch.n_sequences; s++) {
            int32_t length = batch.seq_start[s + 1] - batch.seq_start[s];
            if (length > g->longest) g->longest = length;
            for (int32_t i = 0; i < length; i++) batch.positions[batch.seq_start[s] + i] = i;
        }
        for (int32_t i = 0; i < batch.n_tokens; i++) batch.token_index[i] = (int64_t)m * 1024 + i;
    }
    for (int64_t i = 0; i < starts; i++) g->row_ids[i] = i;
    return LORAD_OK;
}

static enum status read_all(struct golden *g)
{
    int64_t n, tokens, starts, shape[2];
    double *options;
    TRY(read_vector(&g->tokens, g->set, "tokens", ST_I32, &tokens));
    TRY(read_vector(&g->labels, g->set, "labels", ST_I32, &n));
    TRY(read_vector(&g->micro_start, g->set, "micro_start", ST_I32, &n));
    g->micros = (int32_t)n - 1;
    TRY(read_vector(&g->seq_start, g->set, "seq_start", ST_I32, &starts));
    TRY(read_vector(&g->micro_seq, g->set, "micro_seq", ST_I32, &n));
    TRY(read_vector(&g->step_micro, g->set, "step_micro", ST_I32, &n));
    g->steps = (int32_t)n - 1;
    TRY(read_vector(&g->loss, g->set, "loss", ST_F64, &n));
    TRY(read_vector(&g->grad_norm, g->set, "grad_norm", ST_F64, &n));
    TRY(read_vector(&g->lr, g->set, "lr", ST_F64, &n));
    TRY(read_vector(&g->supervised, g->set, "supervised", ST_I64, &n));
    TRY(read_tensor(&g->logits, g->set, "logits", ST_F32, shape));
    g->logit_rows = shape[0];
    g->vocab = shape[1];
    TRY(read_vector(&options, g->set, "options", ST_F64, &n));
    g->learning_rate = options[0];
    g->weight_decay = options[1];
    g->beta1 = options[2];
    g->beta2 = options[3];
    g->epsilon = options[4];
    g->max_grad_norm = options[5];
    g->warmup_steps = (int64_t)options[6];
    free(options);
    return derive(g, tokens, starts);
}

enum status golden_open(struct golden **out, const char *name)
{
    struct golden *g = memory_new(1, sizeof *g);
    if (!g) return LORAD_NOMEM;
    char path[512];
    snprintf(g->model_dir, sizeof g->model_dir, "%s/golden/%s/model", test_data(), name);
    snprintf(g->adapter_dir, sizeof g->adapter_dir, "%s/golden/%s/adapter", test_data(), name);
    snprintf(path, sizeof path, "%s/golden/%s/golden.safetensors", test_data(), name);
    enum status status = st_open_file(&g->set, path);
    if (status == LORAD_OK) status = read_all(g);
    if (status != LORAD_OK) {
        golden_close(g);
        return status;
    }
    *out = g;
    return LORAD_OK;
}

void golden_close(struct golden *g)
{
    if (!g) return;
    st_close(g->set);
    void *const blocks[] = {g->tokens,      g->labels,    g->positions, g->token_index, g->row_ids,
                            g->micro_start, g->seq_start, g->micro_seq, g->step_micro,  g->logits,
                            g->loss,        g->grad_norm, g->lr,        g->supervised};
    for (size_t i = 0; i < sizeof blocks / sizeof *blocks; i++) free(blocks[i]);
    free(g);
}

struct micro_batch golden_micro(const struct golden *g, int32_t m)
{
    int32_t first = g->micro_start[m], seq = g->micro_seq[m];
    struct micro_batch batch = {
        .tokens = g->tokens + first,
        .positions = g->positions + first,
        .labels = g->labels + first,
        .token_index = g->token_index + first,
        .seq_start = g->seq_start + seq,
        .row_ids = g->row_ids + seq,
        .n_tokens = g->micro_start[m + 1] - first,
        .n_sequences = g->micro_seq[m + 1] - seq - 1,
    };
    for (int32_t i = 0; i < batch.n_tokens; i++) batch.n_supervised += batch.labels[i] >= 0;
    for (int32_t s = 0; s < batch.n_sequences; s++) {
        int32_t length = batch.seq_start[s + 1] - batch.seq_start[s];
        if (length > batch.longest) batch.longest = length;
    }
    return batch;
}

enum status golden_tensor(float **out, const struct golden *g, const char *kind, const char *name,
                          int64_t rows, int64_t cols)
{
    char full[256];
    int64_t shape[2] = {0, 0};
    snprintf(full, sizeof full, "%s.%s", kind, name);
    TRY(read_tensor(out, g->set, full, ST_F32, shape));
    if (shape[0] == rows && shape[1] == cols) return LORAD_OK;
    free(*out);
    *out = NULL;
    return FAIL(LORAD_DATA, "golden %s is [%lld, %lld], here it is [%lld, %lld]", full, (long long)shape[0],
                (long long)shape[1], (long long)rows, (long long)cols);
}

double golden_distance(const float *a, const float *b, const float *base, int64_t n)
{
    double difference = 0.0, size = 0.0;
    for (int64_t i = 0; i < n; i++) {
        double d = (double)a[i] - b[i], s = (double)b[i] - (base ? base[i] : 0.0f);
        difference += d * d;
        size += s * s;
    }
    double distance = sqrt(difference / size);
    return isfinite(distance) ? distance : INFINITY;
}

double golden_max_distance(const float *a, const float *b, int64_t n)
{
    double difference = 0.0, size = 0.0;
    for (int64_t i = 0; i < n; i++) {
        double d = fabs((double)a[i] - b[i]);
        if (!(d <= difference)) difference = d; /* a NaN stays */
        size = fmax(size, fabs((double)b[i]));
    }
    double distance = difference / size;
    return isfinite(distance) ? distance : INFINITY;
}
