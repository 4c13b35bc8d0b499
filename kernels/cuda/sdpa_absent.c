/* sdpa_absent.c: sdpa.h where it is built without cuDNN (the tests' emulation): nothing is taken. */
#include "kernels/cuda/sdpa.h"

__attribute__((weak)) enum status cuda_sdpa_create(struct cuda_sdpa **out, struct cuda_device *device)
{
    (void)device;
    *out = NULL;
    return LORAD_OK;
}

__attribute__((weak)) void cuda_sdpa_destroy(struct cuda_sdpa *sdpa)
{
    (void)sdpa;
}

__attribute__((weak)) bool cuda_sdpa_takes(struct cuda_sdpa *sdpa, const struct matrix *q,
                                           const struct matrix *k, int32_t head_dim, int32_t window,
                                           const struct sequences *sequences)
{
    (void)sdpa, (void)q, (void)k, (void)head_dim, (void)window, (void)sequences;
    return false;
}

__attribute__((weak)) enum status cuda_sdpa_forward(struct cuda_sdpa *sdpa, const struct op_attention *args)
{
    (void)sdpa, (void)args;
    return FAIL(LORAD_BUG, "cuda: built without cuDNN");
}

__attribute__((weak)) enum status cuda_sdpa_backward(struct cuda_sdpa *sdpa,
                                                     const struct op_attention_backward *args)
{
    (void)sdpa, (void)args;
    return FAIL(LORAD_BUG, "cuda: built without cuDNN");
}

__attribute__((weak)) size_t cuda_sdpa_scratch(const struct attention_shape *shape)
{
    (void)shape;
    return 0;
}
