/*
 * ops.c: the rate of every operation at the shapes of a Qwen2-0.5B layer: T = 1024, d = 896, 14/2 heads of
 * 64, f = 4864, 151,936 columns in chunks of 256 rows; on a GPU (LORAD_TEST_DEVICE=cuda) also of a 7B layer:
 * T = 4096, d = 4096, 32/8 heads of 128, f = 14336. bench_ops [THREADS [NAME]] with NAME a part of an
 * operation's name.
 *
 * GFLOP/s counts what the mathematics needs (a causal half, 5 products in the backward); GB/s what must be
 * moved once. LORAD_CPU_PATH chooses an instruction path.
 */
#include "support/op_run.h"
#include "support/test_device.h"

struct bench {
    enum op_id op;
    const char *name;
    struct op_shape shape;
};
#define COUNT(list) (int)(sizeof(list) / sizeof(list)[0])

static const struct bench benches[] = {
    {OP_ID_embed, "1024 x 896", {.tokens = 1024, .dim = 896}},
    {OP_ID_rmsnorm, "1024 x 896, residual added", {.tokens = 1024, .dim = 896, .spare = 64, .variant = 2}},
    {OP_ID_rmsnorm_backward, "1024 x 896", {.tokens = 1024, .dim = 896, .spare = 64}},
    {OP_ID_rmsnorm_apply, "1024 x 896", {.tokens = 1024, .dim = 896, .spare = 64}},
    {OP_ID_rope,
     "14 + 2 heads of 64",
     {.tokens = 1024, .q_heads = 14, .kv_heads = 2, .head_dim = 64, .spare = 128}},
    {OP_ID_rope,
     "the same, normed",
     {.tokens = 1024, .q_heads = 14, .kv_heads = 2, .head_dim = 64, .variant = 2}},
    {OP_ID_rope_norm_backward,
     "14 + 2 heads of 64",
     {.tokens = 1024, .q_heads = 14, .kv_heads = 2, .head_dim = 64}},
    {OP_ID_attention, "one sequence of 1024", {.tokens = 1024, .q_heads = 14, .kv_heads = 2, .head_dim = 64}},
    {OP_ID_attention,
     "8 sequences of 128",
     {.tokens = 1024,
      .q_heads = 14,
      .kv_heads = 2,
      .head_dim = 64,
      .lengths = {128, 128, 128, 128, 128, 128, 128, 128}}},
    {OP_ID_attention, "8/8 heads of 128", {.tokens = 1024, .q_heads = 8, .kv_heads = 8, .head_dim = 128}},
    {OP_ID_attention_backward,
     "one sequence of 1024",
     {.tokens = 1024, .q_heads = 14, .kv_heads = 2, .head_dim = 64}},
    {OP_ID_attention_backward,
     "8 sequences of 128",
     {.tokens = 1024,
      .q_heads = 14,
      .kv_heads = 2,
      .head_dim = 64,
      .lengths = {128, 128, 128, 128, 128, 128, 128, 128}}},
    {OP_ID_attention_backward,
     "8/8 heads of 128",
     {.tokens = 1024, .q_heads = 8, .kv_heads = 8, .head_dim = 128}},
    {OP_ID_attention_decode,
     "14/2 heads, 1024 tokens",
     {.tokens = 1024, .q_heads = 14, .kv_heads = 2, .head_dim = 64}},
    {OP_ID_swiglu, "1024 x 4864", {.tokens = 1024, .dim = 4864, .spare = 32}},
    {OP_ID_swiglu_backward, "1024 x 4864", {.tokens = 1024, .dim = 4864, .spare = 64}},
    {OP_ID_add, "1024 x 896", {.tokens = 1024, .dim = 896}},
    {OP_ID_copy, "1024 x 896, from f32", {.tokens = 1024, .dim = 896, .variant = 1}},
    {OP_ID_gather_rows, "512 of 1024 x 896", {.tokens = 1024, .dim = 896}},
    {OP_ID_scatter_rows, "512 of 1024 x 896", {.tokens = 1024, .dim = 896}},
    {OP_ID_loss_stats, "256 x 151936", {.tokens = 256, .dim = 151936}},
    {OP_ID_loss_grad, "256 x 151936", {.tokens = 256, .dim = 151936}},
    {OP_ID_adamw, "8.8 M parameters", {.dim = 8800000, .variant = 10}},
    {OP_ID_sum_squares, "8.8 M parameters", {.dim = 8800000}},
    {OP_ID_fixed_add, "8.8 M parameters", {.dim = 8800000}},
    {OP_ID_fixed_read, "8.8 M parameters", {.dim = 8800000}},
};

#define HEADS_7B .tokens = 4096, .q_heads = 32, .kv_heads = 8, .head_dim = 128
static const struct bench benches_7b[] = {
    {OP_ID_embed, "4096 x 4096", {.tokens = 4096, .dim = 4096}},
    {OP_ID_rmsnorm, "4096 x 4096, residual added", {.tokens = 4096, .dim = 4096, .spare = 64, .variant = 2}},
    {OP_ID_rmsnorm_backward, "4096 x 4096", {.tokens = 4096, .dim = 4096, .spare = 64}},
    {OP_ID_rmsnorm_apply, "4096 x 4096", {.tokens = 4096, .dim = 4096, .spare = 64}},
    {OP_ID_rope, "32 + 8 heads of 128", {HEADS_7B, .spare = 1024}},
    {OP_ID_rope, "the same, normed", {HEADS_7B, .variant = 2}},
    {OP_ID_rope_norm_backward, "32 + 8 heads of 128", {HEADS_7B}},
    {OP_ID_attention, "32/8 heads of 128, 4096", {HEADS_7B}},
    {OP_ID_attention_backward, "32/8 heads of 128, 4096", {HEADS_7B}},
    {OP_ID_swiglu, "4096 x 14336", {.tokens = 4096, .dim = 14336, .spare = 32}},
    {OP_ID_swiglu_backward, "4096 x 14336", {.tokens = 4096, .dim = 14336, .spare = 64}},
    {OP_ID_add, "4096 x 4096", {.tokens = 4096, .dim = 4096}},
    {OP_ID_copy, "4096 x 4096, from f32", {.tokens = 4096, .dim = 4096, .variant = 1}},
    {OP_ID_gather_rows, "2048 of 4096 x 4096", {.tokens = 4096, .dim = 4096}},
    {OP_ID_scatter_rows, "2048 of 4096 x 4096", {.tokens = 4096, .dim = 4096}},
    {OP_ID_loss_stats, "1024 x 128256", {.tokens = 1024, .dim = 128256}},
    {OP_ID_loss_grad, "1024 x 128256", {.tokens = 1024, .dim = 128256}},
    {OP_ID_adamw, "40 M parameters", {.dim = 40000000, .variant = 10}},
};

static const struct op_case *case_of(enum op_id op)
{
    const struct {
        const struct op_case *cases;
        int n;
    } lists[] = {{op_cases_rows, n_op_cases_rows},
                 {op_cases_attention, n_op_cases_attention},
                 {op_cases_loss, n_op_cases_loss}};
    for (int l = 0; l < 3; l++)
        for (int i = 0; i < lists[l].n; i++)
            if (lists[l].cases[i].op == op) return &lists[l].cases[i];
    return NULL;
}

static void measure(struct device *device, const struct bench *bench)
{
    static struct op_run run;
    struct op_case test = *case_of(bench->op);
    test.shape = bench->shape;
    for (int d = 0; d < (test.f32_only ? 1 : 2); d++) {
        enum dtype dtype = d ? DTYPE_BF16 : DTYPE_F32;
        op_case_run(&run, device, &test, dtype, true);
        printf("%-20s %-28s %-5s %10.1f %10.2f", op_names[test.op], bench->name, dtype_name(dtype),
               1e6 * run.seconds, 1e-9 * run.bytes / run.seconds);
        if (run.work > 0) printf(" %10.1f", 1e-9 * run.work / run.seconds);
        printf("\n");
        fflush(stdout);
    }
}

int main(int argc, char **argv)
{
    struct device *device = test_device_open(argc > 1 ? atoi(argv[1]) : 0);
    const char *wanted = argc > 2 ? argv[2] : "";
    printf("%s\n%-20s %-28s %-5s %10s %10s %10s\n", device_describe(device), "operation", "shape", "dtype",
           "us", "GB/s", "GFLOP/s");
    for (int i = 0; i < COUNT(benches); i++)
        if (strstr(op_names[benches[i].op], wanted)) measure(device, &benches[i]);
    for (int i = 0; i < COUNT(benches_7b) && !device_is_host(device); i++)
        if (strstr(op_names[benches_7b[i].op], wanted)) measure(device, &benches_7b[i]);
    device_close(device);
    return 0;
}
