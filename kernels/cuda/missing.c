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
