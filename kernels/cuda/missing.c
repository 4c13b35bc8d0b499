/* missing.c: stands in for rooms that are not built yet. */
#include "kernels/cuda/device_cuda.h"

#define OP(name)                                                                                             \
    __attribute__((weak)) enum status cuda_##name(struct device *device, const struct op_##name *args)       \
    {                                                                                                        \
        (void)device, (void)args;                                                                            \
        return FAIL(LORAD_BUG, "cuda: %s is not built", #name);                                              \
    }
#include "kernels/ops.def"
#undef OP

__attribute__((weak)) size_t cuda_attention_scratch(const struct attention_shape *shape)
{
    (void)shape;
    return 0;
}
__attribute__((weak)) const struct panel_ops cuda_panel_ops;

__attribute__((weak)) enum status cuda_gemm_create(struct cuda_gemm **out, struct cuda_device *device)
{
    (void)device;
    *out = NULL;
    return LORAD_OK;
}
__attribute__((weak)) void cuda_gemm_destroy(struct cuda_gemm *gemm)
{
    (void)gemm;
}
