#include "trainer/partition.h"

enum { VOCAB_ALIGN = 64 };

static enum status check_divides(int32_t what, const char *name, int32_t tp)
{
    if (what % tp == 0) return LORAD_OK;
    return FAIL(LORAD_CONFIG, "tensor_parallel_size %d does not divide the model's %s (%d)", tp, name, what);
}

enum status partition_make(struct partition *out, const struct arch *arch, int32_t tp, int32_t world,
                           int32_t rank)
{
    if (tp < 1 || world % tp != 0)
        return FAIL(
            LORAD_CONFIG,
            "%d ranks cannot form groups of tensor_parallel_size %d; start a multiple of it (mpirun -np)",
            world, tp);
    TRY(check_divides(arch->heads, "num_attention_heads", tp));
    TRY(check_divides(arch->intermediate, "intermediate_size", tp));
    if (arch->kv_heads % tp != 0 && tp % arch->kv_heads != 0)
        return FAIL(LORAD_CONFIG,
                    "tensor_parallel_size %d neither divides nor is a multiple of num_key_value_heads (%d)",
                    tp, arch->kv_heads);
    if (arch->intermediate / tp % 8 != 0)
        return FAIL(LORAD_CONFIG,
                    "intermediate_size %d over tensor_parallel_size %d leaves %d columns a rank; it must be "
                    "a multiple of 8",
                    arch->intermediate, tp, arch->intermediate / tp);

    struct partition p = {.tp = tp, .tp_rank = rank % tp, .dp = world / tp, .dp_rank = rank / tp};
    p.heads = arch->heads / tp;
    p.first_head = p.tp_rank * p.heads;
    p.kv_holders = tp > arch->kv_heads ? tp / arch->kv_heads : 1;
    p.kv_heads = tp > arch->kv_heads ? 1 : arch->kv_heads / tp;
    p.first_kv_head = p.tp_rank / p.kv_holders * p.kv_heads;
    p.intermediate = arch->intermediate / tp;
    p.first_intermediate = p.tp_rank * p.intermediate;
    p.vocab_cols = (arch->vocab + tp - 1) / tp;
    if (tp > 1 || p.vocab_cols % 8)
        p.vocab_cols = (p.vocab_cols + VOCAB_ALIGN - 1) / VOCAB_ALIGN * VOCAB_ALIGN;
    p.first_vocab = p.tp_rank * p.vocab_cols;
    int32_t left = arch->vocab - p.first_vocab;
    p.vocab_valid = left < 0 ? 0 : left < p.vocab_cols ? left : p.vocab_cols;
    *out = p;
    return LORAD_OK;
}
