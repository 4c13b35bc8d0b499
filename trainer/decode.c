/* decode.c: greedy generation of one sequence with cached keys and values. */
#include <stdlib.h>

#include "base/memory.h"
#include "trainer/model_parts.h"

struct decoder {
    struct model *model;
    bool use_adapter;
    struct kv_cache cache;
    void *block;     /* device memory of the cache */
    float *logits;   /* [vocab] host */
    int64_t *index;  /* [max_tokens] zeros: no dropout in generation */
    int32_t *labels; /* [max_tokens] -1 */
    int32_t *positions;
};

/* Of the keys of a layer, or its values. */
static size_t plane_bytes(const struct arch *arch, const struct partition *part,
                          const struct model_options *options)
{
    return (size_t)options->max_positions * (size_t)part->kv_heads * (size_t)arch->head_dim *
           dtype_bytes(options->dtype);
}

size_t decoder_bytes(const struct arch *arch, const struct partition *part,
                     const struct model_options *options)
{
    return 2 * (size_t)arch->layers * plane_bytes(arch, part, options);
}

static enum status take_cache(struct decoder *decoder)
{
    struct model *model = decoder->model;
    int64_t rows = model->options.max_positions, cols = model_kv_cols(model);
    enum dtype act = model->options.dtype;
    size_t bytes = plane_bytes(model->arch, model->part, &model->options);
    int32_t layers = model->arch->layers;
    TRY(device_alloc(&decoder->block, model->device,
                     decoder_bytes(model->arch, model->part, &model->options)));
    for (int32_t i = 0; i < layers; i++) {
        char *at = (char *)decoder->block + (size_t)i * 2 * bytes;
        decoder->cache.k[i] = matrix_of(at, act, rows, cols, cols);
        decoder->cache.v[i] = matrix_of(at + bytes, act, rows, cols, cols);
    }
    return LORAD_OK;
}

enum status decoder_create(struct decoder **out, struct model *model, bool use_adapter)
{
    struct decoder *decoder = memory_new(1, sizeof *decoder);
    if (!decoder) return LORAD_NOMEM;
    decoder->model = model;
    decoder->use_adapter = use_adapter;
    size_t layers = (size_t)model->arch->layers, tokens = (size_t)model->options.max_tokens;
    decoder->cache.k = memory_new(layers, sizeof(struct matrix));
    decoder->cache.v = memory_new(layers, sizeof(struct matrix));
    decoder->logits = memory_new((size_t)model->arch->vocab, sizeof(float));
    decoder->index = memory_new(tokens, sizeof(int64_t));
    decoder->labels = memory_new(tokens, sizeof(int32_t));
    decoder->positions = memory_new(tokens, sizeof(int32_t));
    bool all = decoder->cache.k && decoder->cache.v && decoder->logits && decoder->index && decoder->labels &&
               decoder->positions;
    enum status status = all ? take_cache(decoder) : LORAD_NOMEM;
    if (status != LORAD_OK) {
        decoder_destroy(decoder);
        return status;
    }
    for (size_t i = 0; i < tokens; i++) decoder->labels[i] = -1;
    *out = decoder;
    return LORAD_OK;
}

void decoder_destroy(struct decoder *decoder)
{
    if (!decoder) return;
    device_free(decoder->model->device, decoder->block);
    free(decoder->cache.k);
    free(decoder->cache.v);
    free(decoder->logits);
    free(decoder->index);
    free(decoder->labels);
    free(decoder->positions);
    free(decoder);
}

static enum status feed(struct decoder *decoder, const int32_t *tokens, int32_t n)
{
    struct model *model = decoder->model;
    int32_t start[2] = {0, n};
    for (int32_t i = 0; i < n; i++) decoder->positions[i] = decoder->cache.length + i;
    struct micro_batch batch = {.tokens = (int32_t *)tokens,
                                .positions = decoder->positions,
                                .labels = decoder->labels,
                                .token_index = decoder->index,
                                .seq_start = start,
                                .n_tokens = n,
                                .n_sequences = 1,
                                .longest = n};
    struct pass pass = {.use_adapter = decoder->use_adapter, .cache = &decoder->cache};
    TRY(model_load_batch(model, &batch, &pass));
    TRY(model_forward(model, &pass));
    decoder->cache.length += n;
    return LORAD_OK;
}

enum status decoder_next(struct decoder *decoder, const int32_t *tokens, int32_t n, int32_t *next)
{
    struct model *model = decoder->model;
    if (n < 1 || n > model->options.max_positions - decoder->cache.length || n > model->options.max_tokens)
        return FAIL(LORAD_USAGE,
                    "the prompt and answer have more than %d tokens; shorten the prompt or raise cutoff_len",
                    model->options.max_positions);
    /* Attention over a filled cache takes one token at a time. */
    int32_t first = decoder->cache.length == 0 ? n : 1;
    for (int32_t done = 0; done < n; done += first) TRY(feed(decoder, tokens + done, first));
    TRY(model_last_logits(model, first - 1, 1, decoder->logits));
    int32_t best = 0;
    for (int32_t i = 1; i < model->arch->vocab; i++)
        if (decoder->logits[i] > decoder->logits[best]) best = i;
    *next = best;
    return LORAD_OK;
}
