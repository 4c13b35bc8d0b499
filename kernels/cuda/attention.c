/*
 * attention.c: which kernels compute attention: cuDNN's (sdpa.h) where it takes the call, else those of
 * attention.h.
 *
 * LORAD_CUDA_ATTENTION=own or cudnn forces one of them, for tests and measurements. Forward and backward of a
 * call decide alike, since each reads the other's lse in its own order.
 */
#include "kernels/cuda/attention.h"
#include "kernels/cuda/sdpa.h"

#include <stdlib.h>
#include <string.h>

static enum status choose(bool *use_cudnn, struct device *device, const struct matrix *q,
                          const struct matrix *k, int32_t head_dim, float scale, int32_t window,
                          const struct sequences *sequences)
{
    const char *forced = getenv("LORAD_CUDA_ATTENTION");
    bool own = forced && strcmp(forced, "own") == 0, cudnn = forced && strcmp(forced, "cudnn") == 0;
    if (forced && !own && !cudnn)
        return FAIL(LORAD_CONFIG, "LORAD_CUDA_ATTENTION is '%s'; it may be own or cudnn", forced);
    *use_cudnn = !own && cuda_sdpa_takes(cuda_of(device)->sdpa, q, k, head_dim, window, sequences);
    if (*use_cudnn) return LORAD_OK;
    if (cudnn) return FAIL(LORAD_CONFIG, "LORAD_CUDA_ATTENTION is cudnn, which does not take this attention");
    if (!(scale > 0)) return FAIL(LORAD_BUG, "cuda: attention with a scale of %g", (double)scale);
    return LORAD_OK;
}

enum status cuda_attention(struct device *device, const struct op_attention *args)
{
    bool use_cudnn = false;
    TRY(choose(&use_cudnn, device, &args->q, &args->k, args->head_dim, args->scale, args->window,
               &args->sequences));
    if (use_cudnn) {
        bool done;
        TRY(cuda_sdpa_forward(cuda_of(device)->sdpa, args, &done));
        if (done) return LORAD_OK;
        TRY(choose(&use_cudnn, device, &args->q, &args->k, args->head_dim, args->scale, args->window,
                   &args->sequences)); /* it is refused from now on */
    }
    return flash_attention(device, args);
}

enum status cuda_attention_backward(struct device *device, const struct op_attention_backward *args)
{
    bool use_cudnn;
    TRY(choose(&use_cudnn, device, &args->q, &args->k, args->head_dim, args->scale, args->window,
               &args->sequences));
    return use_cudnn ? cuda_sdpa_backward(cuda_of(device)->sdpa, args)
                     : flash_attention_backward(device, args);
}

size_t cuda_attention_scratch(const struct attention_shape *shape)
{
    size_t cudnn = cuda_sdpa_scratch(shape), own = flash_attention_scratch(shape);
    return cudnn > own ? cudnn : own;
}
