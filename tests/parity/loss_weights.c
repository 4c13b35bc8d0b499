/*
 * What the weights of a micro-batch mean: a row of weight 2 counts as if it stood there twice, in the loss
 * and in every gradient. A golden run gives two packed rows; float32 with each ladder step of activation
 * checkpointing.
 *
 * Tolerance. Both sides add the same numbers in another order and a product by 2 is exact, so they agree
 * within a few roundings of float32 sums: 1e-6 of the loss, 1e-5 of a factor's gradient (norm-wise).
 */
#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "support/golden.h"
#include "support/rig.h"
#include "support/test.h"

enum { MOST_ROWS = 3 };

struct rows {
    struct micro_batch batch;
    double weight; /* sum over the targets */
};

static void free_rows(struct rows *rows)
{
    free(rows->batch.tokens);
    free(rows->batch.positions);
    free(rows->batch.labels);
    free(rows->batch.weights);
    free(rows->batch.token_index);
    free(rows->batch.seq_start);
    free(rows->batch.row_ids);
}

/* Sequences pick[0..n) of `from` packed into a micro-batch, sequence i with weight[i]. */
static struct rows pack_rows(const struct micro_batch *from, const int32_t *pick, const float *weight,
                             int32_t n)
{
    size_t most = (size_t)MOST_ROWS * (size_t)from->longest;
    struct micro_batch b = {.tokens = memory_new(most, sizeof(int32_t)),
                            .positions = memory_new(most, sizeof(int32_t)),
                            .labels = memory_new(most, sizeof(int32_t)),
                            .weights = memory_new(most, sizeof(float)),
                            .token_index = memory_new(most, sizeof(int64_t)),
                            .seq_start = memory_new(MOST_ROWS + 1, sizeof(int32_t)),
                            .row_ids = memory_new(MOST_ROWS, sizeof(int64_t)),
                            .n_sequences = n,
                            .longest = from->longest};
    struct rows rows = {.weight = 0};
    for (int32_t i = 0; i < n; i++) {
        for (int32_t t = from->seq_start[pick[i]]; t < from->seq_start[pick[i] + 1]; t++) {
            int32_t at = b.n_tokens++;
            bool target = from->labels[t] >= 0;
            b.tokens[at] = from->tokens[t];
            b.positions[at] = from->positions[t];
            b.labels[at] = from->labels[t];
            b.weights[at] = target ? weight[i] : 0.0f;
            b.token_index[at] = at;
            b.n_supervised += target;
            rows.weight += (double)b.weights[at];
        }
        b.seq_start[i + 1] = b.n_tokens;
    }
    rows.batch = b;
    return rows;
}

static struct rig *open_rig(const struct golden *golden, enum checkpointing checkpointing)
{
    static const struct comm_world_info alone = {.world = 1, .local_world = 1, .threads = 1};
    struct rig_options options = {.model_dir = golden->model_dir,
                                  .adapter_dir = golden->adapter_dir,
                                  .model = {.dtype = DTYPE_F32,
                                            .checkpointing = checkpointing,
                                            .max_tokens = MOST_ROWS * golden->longest,
                                            .max_sequences = MOST_ROWS,
                                            .max_positions = golden->longest,
                                            .training = true},
                                  .tp = 1};
    struct rig *rig;
    assert_ok(rig_open(&rig, &options, &alone));
    return rig;
}

/* The loss of one pass; the gradient of every factor goes to gradient[lora->count]. */
static double pass(struct rig *rig, const struct rows *rows, float *gradient)
{
    struct model_sums sums;
    assert_ok(model_zero_sums(rig->model));
    assert_ok(adapter_zero_grad(rig->adapter));
    assert_ok(model_train(
        rig->model,
        &(struct train_pass){.batch = &rows->batch, .adapter = rig->adapter, .gradient_scale = 1}));
    assert_ok(model_read_sums(rig->model, &sums));
    assert_ok(adapter_read(rig->adapter, ADAPTER_GRAD, gradient));
    return loss_sum_value(&sums.loss) / rows->weight;
}

static double worst_factor(const struct lora *lora, const float *a, const float *b)
{
    double worst = 0;
    for (int32_t i = 0; i < lora->n_tensors; i++) {
        const struct lora_tensor *t = &lora->tensors[i];
        worst = fmax(worst, golden_distance(a + t->offset, b + t->offset, NULL, t->rows * t->cols));
    }
    return worst;
}

/* Two sequences of micro-batch 0 that have targets. */
static void find_pair(const struct micro_batch *batch, int32_t pair[2])
{
    int32_t found = 0;
    for (int32_t s = 0; s < batch->n_sequences && found < 2; s++)
        for (int32_t t = batch->seq_start[s]; t < batch->seq_start[s + 1]; t++)
            if (batch->labels[t] >= 0) {
                pair[found++] = s;
                break;
            }
    assert_int_equal(found, 2);
}

static void compare(const char *name, enum checkpointing checkpointing)
{
    struct golden *golden;
    assert_ok(golden_open(&golden, name));
    struct micro_batch batch = golden_micro(golden, 0);
    int32_t pair[2];
    find_pair(&batch, pair);
    struct rig *rig = open_rig(golden, checkpointing);
    float *gradient[3];
    for (int i = 0; i < 3; i++) {
        gradient[i] = memory_new((size_t)rig->lora->count, sizeof(float));
        assert_non_null(gradient[i]);
    }
    struct rows weighted = pack_rows(&batch, pair, (float[]){2, 1}, 2),
                repeated = pack_rows(&batch, (int32_t[]){pair[0], pair[0], pair[1]}, (float[]){1, 1, 1}, 3),
                plain = pack_rows(&batch, pair, (float[]){1, 1}, 2);
    double loss = pass(rig, &weighted, gradient[0]), wanted = pass(rig, &repeated, gradient[1]),
           unweighted = pass(rig, &plain, gradient[2]);
    double gap = fabs(loss - wanted) / wanted, factor = worst_factor(rig->lora, gradient[0], gradient[1]);
    printf("%s: loss %.9g, repeated %.9g (%.1e), gradient %.1e; unweighted %.9g\n", name, loss, wanted, gap,
           factor, unweighted);
    assert_true(gap <= 1e-6);
    assert_true(factor <= 1e-5);
    assert_true(fabs(unweighted - wanted) / wanted > 1e-4); /* the weights matter here at all */
    assert_true(worst_factor(rig->lora, gradient[2], gradient[1]) > 1e-2);
    for (int i = 0; i < 3; i++) free(gradient[i]);
    free_rows(&weighted);
    free_rows(&repeated);
    free_rows(&plain);
    rig_close(rig);
    golden_close(golden);
}

static void weight_2_is_twice(void **state)
{
    (void)state;
    for (int i = 0; golden_names[i]; i++) compare(golden_names[i], CHECKPOINTING_NONE);
}

static void with_activation_checkpointing(void **state)
{
    (void)state;
    compare("llama_mha", CHECKPOINTING_MLP);
    compare("llama_mha", CHECKPOINTING_LAYER);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(weight_2_is_twice),
        cmocka_unit_test(with_activation_checkpointing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
