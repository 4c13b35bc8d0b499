/*
 * trainer/plan.c against what is then taken: on an emulated GPU, whose allocations are counted, a run of each
 * kind takes what its plan says.
 */
#include "trainer/plan.h"

#include "base/arena.h"
#include "kernels/device_impl.h"
#include "kernels/panel.h"
#include "support/test.h"
#include "support/test_device.h"
#include "trainer/fixed_sums.h"

static const struct device_ops *real;
static struct device_ops counting;
static size_t taken;

static enum status count_alloc(void **out, struct device *device, size_t bytes)
{
    taken += bytes;
    return real->alloc(out, device, bytes);
}

static struct device *open_counted(void)
{
    struct device *device;
    assert_ok(device_open(&device, &(struct device_options){.kind = "cuda", .deterministic = true}));
    real = device->ops;
    counting = *real;
    counting.alloc = count_alloc;
    device->ops = &counting;
    taken = 0;
    return device;
}

static const struct arch arch = {.family = "qwen3",
                                 .hidden = 64,
                                 .layers = 2,
                                 .heads = 4,
                                 .kv_heads = 2,
                                 .head_dim = 16,
                                 .intermediate = 96,
                                 .vocab = 512,
                                 .max_positions = 128,
                                 .qk_norm = true,
                                 .qkv_bias = true,
                                 .norm_eps = 1e-6f,
                                 .rope = {.theta = 10000}};

struct kind {
    bool training, adapted, elastic, generates;
    int64_t room; /* below what keeping all takes */
};

static struct plan make_plan(const struct kind *kind, struct model_options *options,
                             const struct partition *part, const struct lora *lora)
{
    struct plan plan;
    struct plan_request request = {.model = *options, .elastic = kind->elastic, .generates = kind->generates};
    assert_ok(device_backend_find(&request.backend, "cuda"));
    assert_ok(plan_make(&plan, &arch, part, lora, &request));
    if (kind->room > 0) {
        request.available = (int64_t)plan.total - kind->room;
        assert_ok(plan_make(&plan, &arch, part, lora, &request));
    }
    options->checkpointing = plan.checkpointing;
    options->keep_inputs = plan.keep_inputs;
    return plan;
}

static void takes_what_is_planned(struct kind kind)
{
    static const char *const all[] = {"all"};
    const struct lora_options shape = {.rank = 4, .alpha = 8, .targets = all, .n_targets = 1};
    struct model_options options = {.dtype = DTYPE_BF16,
                                    .max_tokens = 256,
                                    .max_sequences = 8,
                                    .max_positions = 128,
                                    .training = kind.training,
                                    .deterministic = true};
    struct partition part;
    struct lora *lora = NULL;
    struct model *model;
    struct adapter *adapter = NULL;
    struct fixed_sums *sums = NULL;
    struct decoder *decoder = NULL;
    struct device *device = open_counted();
    assert_ok(partition_make(&part, &arch, 1, 1, 0));
    if (kind.adapted) assert_ok(lora_create(&lora, &shape, &arch, &part));
    struct plan plan = make_plan(&kind, &options, &part, lora);
    assert_ok(model_create(&model, &arch, &part, lora, &options, device, NULL));
    if (lora) assert_ok(adapter_create(&adapter, lora, device, NULL, NULL));
    if (kind.elastic) assert_ok(fixed_sums_create(&sums, lora, device));
    if (kind.generates) assert_ok(decoder_create(&decoder, model, lora != NULL));
    /* arenas of one block begin at borders */
    assert_in_range(taken, plan.total, plan.total + 2 * ARENA_ALIGN);
    decoder_destroy(decoder);
    fixed_sums_destroy(sums);
    adapter_destroy(adapter);
    model_destroy(model);
    lora_destroy(lora);
    device->ops = real;
    device_close(device);
}

static void a_run_takes_what_is_planned(void **state)
{
    (void)state;
    takes_what_is_planned((struct kind){.training = true, .adapted = true});
    takes_what_is_planned((struct kind){.training = true, .adapted = true, .room = 1});
    takes_what_is_planned((struct kind){.training = true, .adapted = true, .room = 200 << 10});
    takes_what_is_planned((struct kind){.training = true, .adapted = true, .elastic = true});
    takes_what_is_planned((struct kind){.adapted = true});
    takes_what_is_planned((struct kind){0});
}

static void generating_takes_what_is_planned(void **state)
{
    (void)state;
    takes_what_is_planned((struct kind){.adapted = true, .generates = true});
    takes_what_is_planned((struct kind){.generates = true});
    struct model_options options = {.dtype = DTYPE_BF16, .max_tokens = 8, .max_positions = 100};
    struct partition part;
    struct plan plan;
    assert_ok(partition_make(&part, &arch, 2, 2, 1));
    assert_int_equal(decoder_bytes(&arch, &part, &options), 2 * 2 * 100 * 16 * 2);
    struct plan_request request = {.model = options, .generates = true, .available = 1000};
    assert_ok(device_backend_find(&request.backend, "cuda"));
    assert_fails(plan_make(&plan, &arch, &part, NULL, &request), LORAD_NOMEM, "cache of keys and values 0,");
}

static void large_blocks_take_whole_pages(void **state)
{
    (void)state;
    const struct device_backend *backend;
    struct panel_spec spec = {.in = 4096,
                              .n_parts = 1,
                              .part = {{.out = 4096, .rank = 8}},
                              .dtype = DTYPE_BF16,
                              .y_dtype = DTYPE_BF16,
                              .max_tokens = 256};
    size_t weights, scratch;
    assert_ok(device_backend_find(&backend, "cuda"));
    panel_bytes(backend, &spec, &weights, &scratch);
    assert_int_equal(weights, 34 << 20);
}

int main(void)
{
    test_device_emulate();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_run_takes_what_is_planned),
        cmocka_unit_test(generating_takes_what_is_planned),
        cmocka_unit_test(large_blocks_take_whole_pages),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
