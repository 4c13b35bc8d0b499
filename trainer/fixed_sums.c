#include "trainer/fixed_sums.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "comm/activity.h"

/* Of 2^bits units an addend may have: ROOM bits above the greatest of the step before, and at least 2^LEAST
 * units for its greatest element, so that rounding to units never errs by more than f32 does. A factor
 * without a history begins as if its greatest had been below 2^FIRST_EXPONENT: a sum over a micro-batch's
 * tokens is rarely outside [2^-12, 2^14). */
enum { ROOM = 10, LEAST = 24, FIRST_EXPONENT = 4, SLOWEST_FALL = 4, SUM_BITS = 62 };

struct fixed_sums {
    const struct lora *lora;
    struct device *device;
    int64_t *sum;                   /* device [lora->count] */
    int32_t *most;                  /* device [n]: bits of the greatest |element| of each factor */
    int32_t *host_most;             /* host [n]: the same, of all ranks once they agreed */
    int16_t *exponent;              /* [n] e */
    struct fixed_segment *segments; /* [n], with the shifts of the step in hand */
    int32_t n, bits;
    bool again; /* the step in hand is computed the second time */
};

static size_t sum_bytes(const struct lora *lora)
{
    return (size_t)lora->count * sizeof(int64_t);
}

static size_t most_bytes(const struct lora *lora)
{
    return (size_t)lora->n_tensors * sizeof(int32_t);
}

size_t fixed_sums_bytes(const struct lora *lora)
{
    return sum_bytes(lora) + most_bytes(lora);
}

enum status fixed_sums_create(struct fixed_sums **out, const struct lora *lora, struct device *device)
{
    if (lora->n_tensors > MOST_FIXED_SCALES)
        return FAIL(LORAD_CONFIG,
                    "deterministic: elastic keeps units for at most %d factors, this adapter has %d; use "
                    "deterministic: true",
                    MOST_FIXED_SCALES, lora->n_tensors);
    struct fixed_sums *sums = memory_new(1, sizeof *sums);
    if (!sums) return LORAD_NOMEM;
    size_t n = (size_t)lora->n_tensors;
    *sums = (struct fixed_sums){.lora = lora, .device = device, .n = lora->n_tensors};
    sums->exponent = memory_new(n, sizeof *sums->exponent);
    sums->segments = memory_new(n, sizeof *sums->segments);
    void *block = NULL, *host = NULL;
    enum status status = sums->exponent && sums->segments ? LORAD_OK : LORAD_NOMEM;
    if (status == LORAD_OK) status = device_alloc(&block, device, fixed_sums_bytes(lora));
    sums->sum = block;
    if (status == LORAD_OK) status = device_alloc_host(&host, device, most_bytes(lora));
    sums->host_most = host;
    if (status != LORAD_OK) {
        fixed_sums_destroy(sums);
        return status;
    }
    sums->most = (int32_t *)(void *)(sums->sum + lora->count);
    for (int32_t i = 0; i < sums->n; i++) sums->exponent[i] = FIXED_UNKNOWN;
    fixed_sums_set_addends(sums, 1);
    *out = sums;
    return LORAD_OK;
}

void fixed_sums_destroy(struct fixed_sums *sums)
{
    if (!sums) return;
    device_free(sums->device, sums->sum);
    device_free_host(sums->device, sums->host_most);
    free(sums->exponent);
    free(sums->segments);
    free(sums);
}

void fixed_sums_set_addends(struct fixed_sums *sums, int64_t most)
{
    sums->bits = SUM_BITS;
    while (sums->bits > LEAST + ROOM + 1 && (most - 1) >> (SUM_BITS - sums->bits)) sums->bits--;
    if (sums->bits > FIXED_MOST_BITS) sums->bits = FIXED_MOST_BITS;
}

/* The unit of each factor from its e. */
static void choose_shifts(struct fixed_sums *sums)
{
    for (int32_t i = 0; i < sums->n; i++) {
        const struct lora_tensor *t = &sums->lora->tensors[i];
        int exponent = sums->exponent[i] == FIXED_UNKNOWN ? FIRST_EXPONENT : sums->exponent[i];
        sums->segments[i] = (struct fixed_segment){
            .start = t->offset, .count = t->rows * t->cols, .shift = sums->bits - ROOM - exponent};
    }
}

enum status fixed_sums_begin(struct fixed_sums *sums)
{
    choose_shifts(sums);
    return device_zero(sums->device, STREAM_COMPUTE, sums->sum, fixed_sums_bytes(sums->lora));
}

enum status fixed_sums_add(struct fixed_sums *sums, float *grad)
{
    return op_fixed_add(sums->device, &(struct op_fixed_add){.x = grad,
                                                             .sum = sums->sum,
                                                             .most = sums->most,
                                                             .segments = sums->segments,
                                                             .n_segments = sums->n,
                                                             .bits = sums->bits});
}

static float greatest_of(const struct fixed_sums *sums, int32_t i)
{
    float value;
    memcpy(&value, &sums->host_most[i], sizeof value);
    return value;
}

/* The least e with greatest < 2^e. */
static int exponent_of(float greatest)
{
    int exponent;
    (void)frexp((double)greatest, &exponent);
    return exponent;
}

/* Whether a factor's greatest element was too large for its unit, or too small. */
static bool misfits(const struct fixed_sums *sums, int32_t i)
{
    double units = ldexp((double)greatest_of(sums, i), sums->segments[i].shift);
    return units > ldexp(1, sums->bits) || (units > 0 && units < ldexp(1, LEAST));
}

/* e of every factor from the addends that were agreed on, or what it was less `fall` when that is more. */
static void follow(struct fixed_sums *sums, int fall)
{
    for (int32_t i = 0; i < sums->n; i++) {
        if (!(greatest_of(sums, i) > 0)) continue;
        int now = exponent_of(greatest_of(sums, i)), slow = sums->exponent[i] - fall;
        sums->exponent[i] = (int16_t)(sums->exponent[i] != FIXED_UNKNOWN && slow > now ? slow : now);
    }
}

enum status fixed_sums_agree(struct fixed_sums *sums, struct comm *world, bool *again, double *greatest)
{
    int32_t most = 0;
    bool misfit = false;
    TRY(device_copy_from(sums->device, STREAM_COMPUTE, sums->host_most, sums->most, most_bytes(sums->lora)));
    TRY(activity_device_sync(sums->device));
    if (world) TRY(comm_host_all_reduce(world, sums->host_most, sums->n, DTYPE_I32, COMM_MAX));
    for (int32_t i = 0; i < sums->n; i++) most = sums->host_most[i] > most ? sums->host_most[i] : most;
    float value;
    memcpy(&value, &most, sizeof value);
    for (int32_t i = 0; i < sums->n && isfinite(value); i++) misfit |= misfits(sums, i);
    if (misfit && sums->again)
        return FAIL(LORAD_BUG, "the same micro-batches gave other gradients when computed again");
    if (misfit) follow(sums, INT16_MAX);
    sums->again = misfit;
    *again = misfit;
    *greatest = (double)value;
    return LORAD_OK;
}

enum status fixed_sums_reduce(struct fixed_sums *sums, struct comm *tp, struct comm *dp, float *grad)
{
    const struct lora *lora = sums->lora;
    if (tp && comm_size(tp) > 1 && lora->replicated_count > 0)
        TRY(comm_all_reduce(tp, sums->sum, lora->replicated_count, DTYPE_I64, COMM_SUM));
    if (dp && comm_size(dp) > 1) TRY(comm_all_reduce(dp, sums->sum, lora->count, DTYPE_I64, COMM_SUM));
    return op_fixed_read(sums->device,
                         &(struct op_fixed_read){
                             .sum = sums->sum, .x = grad, .segments = sums->segments, .n_segments = sums->n});
}

void fixed_sums_accept(struct fixed_sums *sums)
{
    follow(sums, SLOWEST_FALL);
}

/* The next factor in the checkpoint's order. */
static int32_t tensor_at(const struct lora *lora, int32_t *at)
{
    while (lora->index[*at] < 0) ++*at;
    return lora->index[(*at)++];
}

void fixed_sums_scales(const struct fixed_sums *sums, struct fixed_scales *out)
{
    out->n = sums->n;
    for (int32_t i = 0, at = 0; i < sums->n; i++)
        out->exponent[i] = sums->exponent[tensor_at(sums->lora, &at)];
}

enum status fixed_sums_restore(struct fixed_sums *sums, const struct fixed_scales *scales)
{
    if (scales->n == 0) return LORAD_OK;
    if (scales->n != sums->n)
        return FAIL(LORAD_DATA, "the checkpoint has units of %d factors, the adapter has %d factors",
                    scales->n, sums->n);
    for (int32_t i = 0, at = 0; i < sums->n; i++)
        sums->exponent[tensor_at(sums->lora, &at)] = scales->exponent[i];
    return LORAD_OK;
}
