/*
 * The shipped model against tests/data/models/fin-zh-tiny.oracle.json: mean next-token losses and last logits
 * of four texts computed in float64, each text alone and all of them packed into one micro-batch, and the
 * decoder with its cache.
 *
 * Tolerances. float32: the file says that float32 agrees with it to about 1e-5; losses 1e-5 relative, logits
 * 1e-4 of the largest. bf16: 8 bits of mantissa in weights and activations; about twice what was measured.
 */
#include <math.h>

#include "base/json.h"
#include "base/memory.h"
#include "support/rig.h"
#include "support/test.h"

enum { TEXTS = 4, MOST_TOKENS = 1024, TOP = 5 };

static struct {
    struct json *document;
    int32_t tokens[MOST_TOKENS], positions[MOST_TOKENS], labels[MOST_TOKENS], start[TEXTS + 1];
    int64_t token_index[MOST_TOKENS], row_ids[TEXTS];
    double loss[TEXTS], logit[TEXTS][TOP];
    int32_t id[TEXTS][TOP], longest;
} oracle;

static char model_dir[512];

static int read_oracle(void **state)
{
    (void)state;
    char path[sizeof model_dir + 16];
    snprintf(model_dir, sizeof model_dir, "%s/models/fin-zh-tiny", test_data());
    snprintf(path, sizeof path, "%s.oracle.json", model_dir);
    assert_ok(js_read_file(&oracle.document, path, 1 << 20));
    const struct json *texts = js_get(oracle.document, "sequences");
    assert_int_equal(js_length(texts), TEXTS);
    int32_t at = 0;
    for (size_t s = 0; s < TEXTS; s++) {
        const struct json *ids = js_get(js_at(texts, s), "token_ids"),
                          *truth = js_get(js_at(texts, s), "fp64");
        int32_t n = (int32_t)js_length(ids);
        assert_true(n > 1 && at + n <= MOST_TOKENS);
        for (int32_t i = 0; i < n; i++) {
            oracle.tokens[at + i] = (int32_t)js_int(js_at(ids, (size_t)i), -1);
            oracle.positions[at + i] = i;
            oracle.labels[at + i] = i + 1 < n ? (int32_t)js_int(js_at(ids, (size_t)i + 1), -1) : -1;
            oracle.token_index[at + i] = at + i;
        }
        oracle.loss[s] = js_real(js_get(truth, "mean_next_token_loss"), NAN);
        for (size_t k = 0; k < TOP; k++) {
            const struct json *top = js_at(js_get(truth, "top5_last"), k);
            oracle.id[s][k] = (int32_t)js_int(js_get(top, "id"), -1);
            oracle.logit[s][k] = js_real(js_get(top, "logit"), NAN);
        }
        if (n > oracle.longest) oracle.longest = n;
        at += n;
        oracle.start[s + 1] = at;
    }
    return 0;
}

static int free_oracle(void **state)
{
    (void)state;
    js_destroy(oracle.document);
    return 0;
}

static struct micro_batch batch_of(int32_t first, int32_t texts, int32_t *start)
{
    int32_t at = oracle.start[first];
    for (int32_t i = 0; i <= texts; i++) start[i] = oracle.start[first + i] - at;
    struct micro_batch batch = {
        .tokens = oracle.tokens + at,
        .positions = oracle.positions + at,
        .labels = oracle.labels + at,
        .token_index = oracle.token_index + at,
        .seq_start = start,
        .row_ids = oracle.row_ids,
        .n_tokens = start[texts],
        .n_sequences = texts,
        .n_supervised = start[texts] - texts,
    };
    for (int32_t i = 0; i < texts; i++)
        if (start[i + 1] - start[i] > batch.longest) batch.longest = start[i + 1] - start[i];
    return batch;
}

static struct rig *open_rig(enum dtype dtype)
{
    static const struct comm_world_info alone = {.world = 1, .local_world = 1, .threads = 1};
    struct rig_options options = {
        .model_dir = model_dir,
        .model = {.dtype = dtype,
                  .checkpointing = CHECKPOINTING_NONE,
                  .max_tokens = oracle.start[TEXTS],
                  .max_sequences = TEXTS,
                  .max_positions = oracle.longest + 1},
        .tp = 1,
    };
    struct rig *rig;
    assert_ok(rig_open(&rig, &options, &alone));
    return rig;
}

static double text_loss(struct rig *rig, int32_t text)
{
    int32_t start[2];
    struct micro_batch batch = batch_of(text, 1, start);
    struct model_sums sums;
    assert_ok(model_zero_sums(rig->model));
    assert_ok(model_eval(rig->model, &(struct eval_pass){.batch = &batch}));
    assert_ok(model_read_sums(rig->model, &sums));
    return loss_sum_value(&sums.loss) / batch.n_supervised;
}

/* Worst relative errors over the texts. */
static void measure_alone(struct rig *rig, double *loss, double *logit)
{
    float *logits = memory_new((size_t)rig->arch.vocab, sizeof *logits);
    assert_non_null(logits);
    *loss = *logit = 0.0;
    for (int32_t s = 0; s < TEXTS; s++) {
        double error = fabs(text_loss(rig, s) - oracle.loss[s]) / oracle.loss[s];
        *loss = fmax(*loss, isnan(error) ? INFINITY : error);
        int32_t start[2];
        struct micro_batch batch = batch_of(s, 1, start);
        assert_ok(model_logits(rig->model, &batch, false, batch.n_tokens - 1, 1, logits));
        for (int k = 0; k < TOP; k++) {
            error = fabs(logits[oracle.id[s][k]] - oracle.logit[s][k]) / fabs(oracle.logit[s][0]);
            *logit = fmax(*logit, isnan(error) ? INFINITY : error);
        }
    }
    free(logits);
    printf("worst of %d texts: loss %.1e, logits %.1e\n", TEXTS, *loss, *logit);
}

static void float32_matches(void **state)
{
    (void)state;
    double loss, logit;
    struct rig *rig = open_rig(DTYPE_F32);
    measure_alone(rig, &loss, &logit);
    assert_true(loss <= 1e-5);
    assert_true(logit <= 1e-4);
    rig_close(rig);
}

static void bf16_is_near(void **state)
{
    (void)state;
    double loss, logit;
    struct rig *rig = open_rig(DTYPE_BF16);
    measure_alone(rig, &loss, &logit);
    assert_true(loss <= 1e-3);
    assert_true(logit <= 1e-2);
    rig_close(rig);
}

static void packing_changes_nothing(void **state)
{
    (void)state;
    struct rig *rig = open_rig(DTYPE_F32);
    int32_t start[TEXTS + 1];
    struct micro_batch batch = batch_of(0, TEXTS, start);
    float *row_loss = memory_new((size_t)batch.n_supervised, sizeof *row_loss), *at = row_loss;
    assert_non_null(row_loss);
    assert_ok(model_zero_sums(rig->model));
    assert_ok(model_eval(rig->model, &(struct eval_pass){.batch = &batch, .row_loss = row_loss}));
    for (int32_t s = 0; s < TEXTS; s++) {
        double sum = 0.0;
        int32_t n = start[s + 1] - start[s] - 1;
        for (int32_t i = 0; i < n; i++) sum += *at++;
        assert_true(fabs(sum / n - oracle.loss[s]) <= 1e-5 * oracle.loss[s]);
    }
    free(row_loss);
    rig_close(rig);
}

static void decoder_agrees(void **state)
{
    (void)state;
    struct rig *rig = open_rig(DTYPE_F32);
    for (int32_t s = 0; s < TEXTS; s++) {
        const int32_t *tokens = oracle.tokens + oracle.start[s];
        int32_t n = oracle.start[s + 1] - oracle.start[s], next = -1;
        struct decoder *decoder;
        assert_ok(decoder_create(&decoder, rig->model, false));
        assert_ok(decoder_next(decoder, tokens, n - 3, &next));
        for (int32_t i = n - 3; i < n; i++) assert_ok(decoder_next(decoder, tokens + i, 1, &next));
        assert_int_equal(next, oracle.id[s][0]);
        decoder_destroy(decoder);
    }
    rig_close(rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(float32_matches),
        cmocka_unit_test(packing_changes_nothing),
        cmocka_unit_test(decoder_agrees),
        cmocka_unit_test(bf16_is_near),
    };
    return cmocka_run_group_tests(tests, read_oracle, free_oracle);
}
