#include "support/saver_rig.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/random.h"
#include "support/small_arch.h"
#include "trainer/snapshot.h"

static const char *const every[] = {"all"};

static float value_of(int64_t step, int vector, int32_t tensor, int64_t at)
{
    struct random_block dice =
        random_philox((uint64_t)step, (uint64_t)(vector * 1000 + tensor), (uint64_t)at);
    return random_unit_f32(dice.word[0]) + 0.5f;
}

static enum status build(struct saver_rig *rig, int32_t tp)
{
    struct session *s = &rig->session;
    struct device_options device = {.kind = "cpu", .threads = 1, .deterministic = true};
    struct lora_options lora = {.rank = 4, .alpha = 8, .targets = every, .n_targets = 1};
    rig->options.lora = s->lora_options = lora;
    TRY(device_open(&s->device, &device));
    TRY(comm_create(&s->world, &(struct comm_options){.device = s->device}));
    TRY(partition_make(&s->part, &small_arch, tp, s->ranks.world, s->ranks.rank));
    TRY(comm_split(&s->tp, s->world, s->part.dp_rank, s->part.tp_rank));
    TRY(comm_split(&s->dp, s->world, s->part.tp_rank, s->part.dp_rank));
    TRY(lora_create(&s->lora, &lora, &small_arch, &s->part));
    TRY(adapter_create(&s->adapter, s->lora, s->device, s->tp, s->dp));
    if (!(rig->reports = memory_new((size_t)s->ranks.world, sizeof *rig->reports))) return LORAD_NOMEM;
    return saver_start(&rig->saver);
}

enum status saver_rig_open(struct saver_rig **out, const char *output_dir, struct fs *fs, int32_t tp,
                           const struct comm_world_info *world)
{
    struct saver_rig *rig = memory_new(1, sizeof *rig);
    if (!rig) return LORAD_NOMEM;
    rig->options = (struct run_options){.model_dir = "model",
                                        .config_text = "lora_rank: 4\n",
                                        .save_compression_level = 1,
                                        .save_threads = 2};
    rig->session.options = &rig->options;
    rig->session.ranks = *world;
    rig->state = (struct run_state){.best_step = -1, .global_batch_size = 1};
    rig->saver = (struct saver){
        .session = &rig->session, .fs = fs, .output_dir = output_dir, .epoch = 1, .last_saved_step = -1};
    enum status status = build(rig, tp);
    if (status != LORAD_OK) {
        saver_rig_close(rig);
        return status;
    }
    *out = rig;
    return LORAD_OK;
}

void saver_rig_close(struct saver_rig *rig)
{
    if (!rig) return;
    struct session *s = &rig->session;
    saver_stop(&rig->saver);
    free(rig->reports);
    adapter_destroy(s->adapter);
    lora_destroy(s->lora);
    comm_destroy(s->dp);
    comm_destroy(s->tp);
    comm_destroy(s->world);
    device_close(s->device);
    free(rig);
}

enum status saver_rig_update(struct saver_rig *rig, int64_t step)
{
    struct adapter *adapter = rig->session.adapter;
    const struct lora *lora = rig->session.lora;
    TRY(saver_gate(&rig->saver));
    rig->state.step = rig->state.applied_steps = step;
    for (int v = 0; v < SNAPSHOT_VECTORS; v++)
        for (int32_t i = 0; i < lora->n_tensors; i++) {
            const struct lora_tensor *t = &lora->tensors[i];
            float *piece = adapter_vector(adapter, (enum adapter_vector)v) + t->offset;
            for (int64_t at = 0; at < t->rows * t->cols; at++)
                piece[at] =
                    value_of(step, v, i, (t->row + at / t->cols) * t->shape[1] + t->col + at % t->cols);
        }
    return LORAD_OK;
}

enum status saver_rig_boundary(struct saver_rig *rig)
{
    struct boundary_report mine = {0};
    saver_vote(&rig->saver, mine.saves);
    TRY(comm_host_all_gather(rig->session.world, &mine, rig->reports, sizeof mine));
    return saver_settle(&rig->saver, rig->reports);
}

enum status saver_rig_save(struct saver_rig *rig)
{
    return saver_begin(&rig->saver, &rig->state, &rig->identity);
}

/* ---- checking ---- */

static enum status compare(const float *values, int64_t step, int vector, int32_t tensor,
                           const struct lora_tensor *t)
{
    for (int64_t at = 0; at < t->shape[0] * t->shape[1]; at++)
        if (values[at] != value_of(step, vector, tensor, at))
            return FAIL(LORAD_BUG, "step %lld: %s, vector %d, element %lld is %g, not %g", (long long)step,
                        t->name, vector, (long long)at, (double)values[at],
                        (double)value_of(step, vector, tensor, at));
    return LORAD_OK;
}

static enum status verify_state(struct checkpoint *checkpoint, const struct lora *lora, int64_t step,
                                float *values)
{
    struct run_state state;
    char name[SNAPSHOT_NAME_BYTES];
    TRY(run_state_read(&state, checkpoint_state(checkpoint), "the checkpoint"));
    if (state.step != step) return FAIL(LORAD_BUG, "the state is that of step %lld", (long long)state.step);
    for (int v = 0; v < SNAPSHOT_VECTORS; v++)
        for (int32_t i = 0; i < lora->n_tensors; i++) {
            const struct lora_tensor *t = &lora->tensors[i];
            snapshot_name(name, v, t);
            TRY(checkpoint_read(checkpoint, name, "F32", t->shape, 0, t->shape[0], 0, t->shape[1], values));
            TRY(compare(values, step, v, i, t));
        }
    return LORAD_OK;
}

static enum status verify_adapter(const char *dir, const struct lora *lora, int64_t step, float *values)
{
    struct st_set *set;
    TRY(adapter_open(&set, dir));
    enum status status = LORAD_OK;
    for (int32_t i = 0; status == LORAD_OK && i < lora->n_tensors; i++) {
        const struct lora_tensor *t = &lora->tensors[i];
        char name[LORA_NAME_BYTES + 32];
        snprintf(name, sizeof name, "base_model.model.%s", t->name);
        const struct st_tensor *found = st_find(set, name);
        status = found ? st_read(set, found, values) : FAIL(LORAD_DATA, "%s lacks %s", dir, name);
        if (status == LORAD_OK) status = compare(values, step, ADAPTER_PARAM, i, t);
    }
    st_close(set);
    return status;
}

enum status saver_rig_verify(const struct saver_rig *rig, int64_t step, int32_t attempt)
{
    const struct lora *lora = rig->session.lora;
    struct checkpoint_id id = {.step = step, .epoch = rig->saver.epoch, .attempt = attempt};
    char name[CHECKPOINT_NAME_BYTES], dir[1024];
    int64_t most = 0;
    for (int32_t i = 0; i < lora->n_tensors; i++) {
        int64_t n = lora->tensors[i].shape[0] * lora->tensors[i].shape[1];
        if (n > most) most = n;
    }
    checkpoint_id_name(id, name);
    snprintf(dir, sizeof dir, "%s/ckpt/%s", rig->saver.output_dir, name);
    struct checkpoint *checkpoint;
    TRY(checkpoint_open(&checkpoint, dir, true));
    float *values = memory_new((size_t)most, sizeof *values);
    enum status status = values ? verify_state(checkpoint, lora, step, values) : LORAD_NOMEM;
    if (status == LORAD_OK) status = verify_adapter(dir, lora, step, values);
    free(values);
    checkpoint_close(checkpoint);
    return status;
}
