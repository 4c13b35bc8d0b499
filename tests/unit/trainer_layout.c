/* Partition, adapter layout and schedule: pure arithmetic. */
#include "support/test.h"

#include <math.h>

#include "support/small_arch.h"
#include "trainer/lora.h"
#include "trainer/partition.h"
#include "trainer/schedule.h"

static const char *const all[] = {"all"};

static struct lora_options options_of(const char *const *targets, int32_t n, bool pattern)
{
    return (struct lora_options){
        .rank = 4, .alpha = 8, .targets = targets, .n_targets = n, .targets_are_pattern = pattern};
}

static void slices_cover_the_model_once(void **state)
{
    (void)state;
    for (int32_t tp = 1; tp <= 8; tp *= 2) {
        int64_t covered[MODULES] = {0}, vocab = 0;
        for (int32_t rank = 0; rank < tp; rank++) {
            struct partition p;
            assert_ok(partition_make(&p, &small_arch, tp, tp, rank));
            vocab += p.vocab_valid;
            for (int m = 0; m < MODULES; m++) {
                int64_t first, count;
                module_slice(&small_arch, &p, (enum module)m, &first, &count);
                if (m != MODULE_K && m != MODULE_V) assert_int_equal(first, covered[m]);
                covered[m] += count;
            }
        }
        int32_t holders = tp > 2 ? tp / 2 : 1;
        assert_int_equal(vocab, small_arch.vocab);
        assert_int_equal(covered[MODULE_Q], 128);
        assert_int_equal(covered[MODULE_K], 32 * holders);
        assert_int_equal(covered[MODULE_DOWN], 128);
    }
}

static void a_layout_that_does_not_divide_is_named(void **state)
{
    (void)state;
    struct partition p;
    assert_fails(partition_make(&p, &small_arch, 3, 3, 0), LORAD_CONFIG, "num_attention_heads (8)");
    assert_fails(partition_make(&p, &small_arch, 2, 3, 0), LORAD_CONFIG, "3 ranks");
    struct arch odd = small_arch;
    odd.kv_heads = 8;
    odd.intermediate = 100;
    assert_fails(partition_make(&p, &odd, 8, 8, 0), LORAD_CONFIG, "intermediate_size (100)");
    odd = small_arch;
    odd.heads = 12;
    odd.kv_heads = 3;
    assert_fails(partition_make(&p, &odd, 2, 2, 0), LORAD_CONFIG, "num_key_value_heads (3)");
}

/* Every element of every factor is held by the rank that should hold it, once per holder, at any width. */
static void the_flat_vector_holds_every_factor(void **state)
{
    (void)state;
    struct lora_options options = options_of(all, 1, false);
    for (int32_t tp = 1; tp <= 8; tp *= 2) {
        int64_t replicated = -1, count = -1, split_elements = 0;
        for (int32_t rank = 0; rank < tp; rank++) {
            struct partition p;
            struct lora *lora;
            assert_ok(partition_make(&p, &small_arch, tp, tp, rank));
            assert_ok(lora_create(&lora, &options, &small_arch, &p));
            assert_int_equal(lora->n_tensors, 3 * 7 * 2);
            int64_t end = 0;
            for (int32_t i = 0; i < lora->n_tensors; i++) {
                const struct lora_tensor *t = &lora->tensors[i];
                assert_true(t->offset >= end && t->offset % LORA_ALIGN == 0);
                assert_true(t->replicated == (t->offset < lora->replicated_count));
                end = t->offset + t->rows * t->cols;
                if (!t->replicated) split_elements += t->rows * t->cols;
                assert_true(t->row + t->rows <= t->shape[0] && t->col + t->cols <= t->shape[1]);
            }
            assert_true(end <= lora->count);
            if (rank > 0) assert_true(replicated == lora->replicated_count && count == lora->count);
            replicated = lora->replicated_count;
            count = lora->count;
            int64_t per_layer = 4 * (64 + 128) + 2 * 4 * (64 + 32) + 4 * (128 + 64) + 3 * 4 * (64 + 128);
            assert_int_equal(lora->parameters, 3 * per_layer);
            lora_destroy(lora);
        }
        /* B of q, gate, up (and of k, v unless their heads are shared), A of o and down: each split element
         * once. */
        int64_t once = 3 * 4 * (128 + 2 * 128 + (tp > 2 ? 0 : 2 * 32) + 128 + 128);
        assert_int_equal(split_elements, tp == 1 ? 0 : once);
    }
}

static void a_slice_of_a_is_the_slice_of_the_whole(void **state)
{
    (void)state;
    struct lora_options options = options_of(all, 1, false);
    struct partition whole_p, part_p;
    struct lora *whole, *part;
    assert_ok(partition_make(&whole_p, &small_arch, 1, 1, 0));
    assert_ok(partition_make(&part_p, &small_arch, 4, 4, 3));
    assert_ok(lora_create(&whole, &options, &small_arch, &whole_p));
    assert_ok(lora_create(&part, &options, &small_arch, &part_p));
    const struct lora_tensor *w = lora_find(whole, 2, MODULE_DOWN, false),
                             *s = lora_find(part, 2, MODULE_DOWN, false);
    float full[4 * 128], slice[4 * 32];
    assert_int_equal(s->cols, 32);
    lora_init_a(w, 17, full);
    lora_init_a(s, 17, slice);
    double square = 0;
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 32; j++) assert_true(slice[i * 32 + j] == full[i * 128 + 96 + j]);
    for (int i = 0; i < 4 * 128; i++) {
        assert_true(fabsf(full[i]) <= 1 / sqrtf(128));
        square += (double)full[i] * full[i];
    }
    assert_true(fabs(square * 128 / (4 * 128) - 1.0 / 3) < 0.06); /* variance of a uniform distribution */
    lora_destroy(whole);
    lora_destroy(part);
}

static void targets_choose_modules_as_peft_does(void **state)
{
    (void)state;
    static const char *const two[] = {"q_proj", "mlp.up_proj"};
    static const char *const wrong[] = {"q_proj", "query"};
    static const char *const pattern[] = {".*layers\\.[12]\\..*v_proj"};
    struct partition p;
    struct lora *lora;
    assert_ok(partition_make(&p, &small_arch, 1, 1, 0));
    struct lora_options options = options_of(two, 2, false);
    assert_ok(lora_create(&lora, &options, &small_arch, &p));
    assert_int_equal(lora->n_tensors, 3 * 2 * 2);
    assert_non_null(lora_find(lora, 0, MODULE_UP, true));
    assert_null(lora_find(lora, 0, MODULE_GATE, true));
    lora_destroy(lora);
    options = options_of(pattern, 1, true);
    assert_ok(lora_create(&lora, &options, &small_arch, &p));
    assert_int_equal(lora->n_tensors, 2 * 2);
    assert_int_equal(lora->first_layer, 1);
    lora_destroy(lora);
    options = options_of(wrong, 2, false);
    assert_fails(lora_create(&lora, &options, &small_arch, &p), LORAD_CONFIG, "\"query\"");
    static const char *const broken[] = {"(q_proj"};
    options = options_of(broken, 1, true);
    assert_fails(lora_create(&lora, &options, &small_arch, &p), LORAD_CONFIG, "regular expression");
}

/* Values of transformers 4.56 get_scheduler for 100 steps with 10 warm-up steps. */
static void schedules_follow_transformers(void **state)
{
    (void)state;
    struct optimizer_options o = {.learning_rate = 2e-4, .warmup_ratio = 0.1, .min_lr = 2e-5};
    assert_int_equal(schedule_warmup(&o, 100), 10);
    assert_int_equal(schedule_warmup(&o, 101), 11);
    o.schedule = SCHEDULE_LINEAR;
    assert_true(schedule_factor(&o, 0, 100) == 0);
    assert_true(schedule_factor(&o, 5, 100) == 0.5);
    assert_true(schedule_factor(&o, 10, 100) == 1);
    assert_true(fabs(schedule_factor(&o, 55, 100) - 0.5) < 1e-15);
    assert_true(schedule_factor(&o, 100, 100) == 0);
    o.schedule = SCHEDULE_COSINE;
    assert_true(fabs(schedule_factor(&o, 55, 100) - 0.5) < 1e-15);
    assert_true(fabs(schedule_factor(&o, 32, 100) - 0.8596695) < 1e-6);
    o.schedule = SCHEDULE_COSINE_WITH_MIN_LR;
    assert_true(fabs(schedule_factor(&o, 100, 100) - 0.1) < 1e-12);
    o.schedule = SCHEDULE_CONSTANT;
    assert_true(schedule_factor(&o, 0, 100) == 1);
    o.schedule = SCHEDULE_CONSTANT_WITH_WARMUP;
    o.warmup_steps = 4;
    assert_true(schedule_factor(&o, 1, 100) == 0.25);
    assert_true(schedule_factor(&o, 99, 100) == 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(slices_cover_the_model_once),
        cmocka_unit_test(a_layout_that_does_not_divide_is_named),
        cmocka_unit_test(the_flat_vector_holds_every_factor),
        cmocka_unit_test(a_slice_of_a_is_the_slice_of_the_whole),
        cmocka_unit_test(targets_choose_modules_as_peft_does),
        cmocka_unit_test(schedules_follow_transformers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
