/*
 * fixed_dealings TP DEALING: 40 optimizer steps on gradients that are a function of (step, micro-batch, TP
 * rank), dealt to the data-parallel ranks as DEALING says, summed in fixed point. Prints loss, gradient norm
 * and a hash of the masters after every step, which must not depend on the dealing. Micro-batch 3 of step 12
 * is 2^16 times the others, one of step 20 has a NaN, one of step 21 an infinity, steps from 28 on are 2^-30
 * of those before, step 33 has zeros alone.
 *
 * DEALING: rounds, backwards, blocks, lopsided (all but one to the first rank), idle (all to the last),
 * changing (another number of ranks every 7 steps). On one rank the error against sums in f64 is printed to
 * standard error.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/memory.h"
#include "base/random.h"
#include "kernels/loss_sum.h"
#include "support/small_arch.h"
#include "trainer/optimizer.h"

enum { MICROS = 11, STEPS = 40 };

struct trial {
    struct comm_world_info ranks;
    struct device *device;
    struct comm *world, *tp, *dp;
    struct partition part;
    struct lora *lora;
    struct adapter *adapter;
    struct optimizer *optimizer;
    const char *dealing;
    double *exact;             /* [lora->count] sums in f64; one rank only */
    float *plain;              /* the same in f32, one micro-batch after the other */
    double error, plain_error; /* the greatest of any step, of the step's greatest sum */
    int32_t computed_again;
};

/* Which data-parallel rank computes the n-th micro-batch in the order of the dealing; *micro: which one it
 * is. */
static int deal(const struct trial *t, int step, int n, int *micro)
{
    int dp = t->part.dp, ranks = 1 + step / 7 % dp;
    *micro = n;
    if (strcmp(t->dealing, "backwards") == 0) {
        *micro = MICROS - 1 - n;
        return (n + 1) % dp;
    }
    if (strcmp(t->dealing, "blocks") == 0) return n * dp / MICROS;
    if (strcmp(t->dealing, "lopsided") == 0) return n == 4 ? dp - 1 : 0;
    if (strcmp(t->dealing, "idle") == 0) return dp - 1;
    return n % (strcmp(t->dealing, "changing") == 0 ? ranks : dp);
}

static void draw_gradient(struct trial *t, int step, int micro)
{
    double scale = step >= 28 ? 0x1p-30 : 1;
    float *grad = t->adapter->grad;
    if (step == 12 && micro == 3) scale *= 0x1p16;
    if (step == 33) scale = 0;
    for (int32_t i = 0; i < t->lora->n_tensors; i++) {
        const struct lora_tensor *tensor = &t->lora->tensors[i];
        uint64_t key = random_key(1, RANDOM_TEST, (uint64_t)(step * MICROS + micro),
                                  (uint64_t)t->part.tp_rank, (uint64_t)i);
        for (int64_t k = 0; k < tensor->rows * tensor->cols; k++) {
            struct random_block block = random_philox(key, (uint64_t)k, 0);
            double value = 2 * random_unit_f64(block.word[0], block.word[1]) - 1;
            grad[tensor->offset + k] =
                (float)(scale * value * ldexp(1, i % 9 - 4 - (int)(block.word[2] % 12)));
        }
    }
    if (step == 20 && micro == 7) grad[t->lora->tensors[5].offset + 3] = NAN;
    if (step == 21 && micro == 2) grad[t->lora->tensors[0].offset] = -INFINITY;
}

static void follow_sums(struct trial *t, int n)
{
    if (!t->exact) return;
    for (int64_t i = 0; i < t->lora->count; i++) {
        t->exact[i] = (double)t->adapter->grad[i] + (n ? t->exact[i] : 0);
        t->plain[i] = t->adapter->grad[i] + (n ? t->plain[i] : 0);
    }
}

static enum status accumulate(struct trial *t, int step, struct loss_sum *loss)
{
    *loss = (struct loss_sum){0};
    TRY(fixed_sums_begin(t->adapter->sums));
    for (int n = 0; n < MICROS; n++) {
        int micro;
        if (deal(t, step, n, &micro) != t->part.dp_rank) continue;
        struct random_block block = random_philox(2, (uint64_t)step, (uint64_t)micro);
        loss_sum_add(loss, 100 * random_unit_f64(block.word[0], block.word[1]));
        draw_gradient(t, step, micro);
        follow_sums(t, n);
        TRY(fixed_sums_add(t->adapter->sums, t->adapter->grad));
    }
    return LORAD_OK;
}

static void note_error(struct trial *t)
{
    double greatest = 0, error = 0, plain = 0;
    for (int64_t i = 0; t->exact && i < t->lora->count; i++) {
        greatest = fmax(greatest, fabs(t->exact[i]));
        error = fmax(error, fabs((double)t->adapter->grad[i] - t->exact[i]));
        plain = fmax(plain, fabs((double)t->plain[i] - t->exact[i]));
    }
    if (!(greatest > 0)) return;
    t->error = fmax(t->error, error / greatest);
    t->plain_error = fmax(t->plain_error, plain / greatest);
}

/* Sums of all ranks: losses of one TP rank of each replica, squares of the first replica. */
static enum status add_up(struct trial *t, struct loss_sum *loss, double *squares)
{
    struct share {
        struct loss_sum loss;
        double replicated, local;
    } mine = {.loss = *loss}, all[64];
    TRY(optimizer_squares(t->optimizer, t->adapter, &mine.replicated, &mine.local));
    TRY(comm_host_all_gather(t->world, &mine, all, sizeof mine));
    *loss = all[0].loss;
    *squares = all[0].replicated;
    for (int r = t->part.tp; r < t->ranks.world; r += t->part.tp) loss_sum_join(loss, &all[r].loss);
    for (int r = 0; r < t->part.tp; r++) *squares += all[r].local;
    return LORAD_OK;
}

static enum status print_step(struct trial *t, int step, double loss, double norm)
{
    uint64_t mine = hash64(t->adapter->param, (size_t)t->lora->count * sizeof(float)), all[64], hash = 0;
    TRY(comm_host_all_gather(t->world, &mine, all, sizeof mine));
    for (int r = 0; r < t->ranks.world; r++) {
        if (all[r] != all[r % t->part.tp])
            return FAIL(LORAD_BUG, "rank %d has other masters than its replica", r);
        if (r < t->part.tp) hash = hash * 31 + all[r];
    }
    if (t->ranks.rank == 0) printf("%d %.17g %.17g %016llx\n", step, loss, norm, (unsigned long long)hash);
    return LORAD_OK;
}

static enum status train_step(struct trial *t, int step)
{
    struct loss_sum loss;
    double greatest, squares;
    bool again;
    TRY(accumulate(t, step, &loss));
    TRY(fixed_sums_agree(t->adapter->sums, t->world, &again, &greatest));
    if (again) {
        t->computed_again++;
        TRY(accumulate(t, step, &loss));
        TRY(fixed_sums_agree(t->adapter->sums, t->world, &again, &greatest));
    }
    TRY(optimizer_reduce(t->adapter));
    TRY(add_up(t, &loss, &squares));
    if (isfinite(greatest)) {
        note_error(t);
        fixed_sums_accept(t->adapter->sums);
        TRY(optimizer_apply(t->optimizer, t->adapter, 1.0, 1.0 / MICROS));
    }
    return print_step(t, step, loss_sum_value(&loss), isfinite(greatest) ? sqrt(squares) : greatest);
}

static enum status open_trial(struct trial *t, int tp)
{
    static const char *const all[] = {"all"};
    struct lora_options lora = {.rank = 8, .alpha = 16, .targets = all, .n_targets = 1};
    struct optimizer_options options = {.learning_rate = 1e-3, .beta1 = 0.9, .beta2 = 0.999, .epsilon = 1e-8};
    TRY(device_open(&t->device, &(struct device_options){.kind = "cpu", .threads = 1}));
    TRY(comm_create(&t->world, &(struct comm_options){.device = t->device}));
    TRY(partition_make(&t->part, &small_arch, tp, t->ranks.world, t->ranks.rank));
    TRY(comm_split(&t->tp, t->world, t->part.dp_rank, t->part.tp_rank));
    TRY(comm_split(&t->dp, t->world, t->part.tp_rank, t->part.dp_rank));
    TRY(lora_create(&t->lora, &lora, &small_arch, &t->part));
    TRY(adapter_create(&t->adapter, t->lora, t->device, t->tp, t->dp));
    TRY(adapter_init(t->adapter, 1));
    TRY(fixed_sums_create(&t->adapter->sums, t->lora, t->device));
    fixed_sums_set_addends(t->adapter->sums, MICROS * tp);
    if (t->ranks.world == 1) {
        t->exact = memory_new((size_t)t->lora->count, sizeof *t->exact);
        t->plain = memory_new((size_t)t->lora->count, sizeof *t->plain);
        if (!t->exact || !t->plain) return LORAD_NOMEM;
    }
    return optimizer_create(&t->optimizer, t->lora, &options);
}

static enum status run(struct trial *t, int tp)
{
    TRY(open_trial(t, tp));
    for (int step = 0; step < STEPS; step++) TRY(train_step(t, step));
    if (t->ranks.rank == 0)
        fprintf(stderr, "%s on %d ranks: %d steps computed again", t->dealing, t->ranks.world,
                t->computed_again);
    if (t->exact)
        fprintf(stderr, "; error of the greatest sum: fixed point %.1e, f32 %.1e", t->error, t->plain_error);
    if (t->ranks.rank == 0) fprintf(stderr, "\n");
    return LORAD_OK;
}

int main(int argc, char **argv)
{
    struct trial t = {0};
    enum status status = comm_startup(&t.ranks);
    if (status == LORAD_OK && argc != 3) status = FAIL(LORAD_USAGE, "usage: fixed_dealings TP DEALING");
    if (status == LORAD_OK) {
        t.dealing = argv[2];
        status = run(&t, atoi(argv[1]));
    }
    if (status != LORAD_OK) {
        fprintf(stderr, "fixed_dealings: rank %d: %s\n", t.ranks.rank, status_message());
        comm_abort(1);
    }
    free(t.exact);
    free(t.plain);
    optimizer_destroy(t.optimizer);
    adapter_destroy(t.adapter);
    lora_destroy(t.lora);
    comm_destroy(t.dp);
    comm_destroy(t.tp);
    comm_destroy(t.world);
    device_close(t.device);
    comm_shutdown();
    return 0;
}
