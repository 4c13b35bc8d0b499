#include "support/rig.h"

#include <stdlib.h>

#include "base/memory.h"
#include "support/test_device.h"
#include "trainer/gpu_choice.h"
#include "trainer/weights.h"

static enum status open_parallel(struct rig *rig, const struct rig_options *options,
                                 const struct comm_world_info *world)
{
    struct gpu_choice gpu;
    TRY(gpu_choose(&gpu, test_device_kind()));
    struct device_options device = {.kind = test_device_kind(),
                                    .number = gpu.number,
                                    .threads = world->threads,
                                    .deterministic = !options->fast};
    TRY(test_device_opened(device_open(&rig->device, &device)));
    TRY(comm_create(&rig->world,
                    &(struct comm_options){.device = rig->device, .deterministic = !options->fast}));
    TRY(partition_make(&rig->partition, &rig->arch, options->tp, world->world, world->rank));
    TRY(comm_split(&rig->tp, rig->world, rig->partition.dp_rank, rig->partition.tp_rank));
    return comm_split(&rig->dp, rig->world, rig->partition.tp_rank, rig->partition.dp_rank);
}

static enum status load_weights(struct rig *rig, const char *model_dir, int threads)
{
    struct st_set *set;
    TRY(st_open_dir(&set, model_dir));
    enum status status = weights_check(set, &rig->arch);
    if (status == LORAD_OK) status = weights_load(rig->model, set, threads);
    st_close(set);
    return status;
}

static enum status build(struct rig *rig, const struct rig_options *options,
                         const struct comm_world_info *world)
{
    TRY(arch_read(&rig->arch, options->model_dir));
    TRY(open_parallel(rig, options, world));
    if (options->adapter_dir) {
        TRY(adapter_shape(&rig->shape, &rig->config, options->adapter_dir));
        if (options->dropout > 0) rig->shape.dropout = options->dropout;
        TRY(lora_create(&rig->lora, &rig->shape, &rig->arch, &rig->partition));
    }
    TRY(model_create(&rig->model, &rig->arch, &rig->partition, rig->lora, &options->model, rig->device,
                     rig->tp));
    TRY(load_weights(rig, options->model_dir, world->threads));
    if (!rig->lora) return LORAD_OK;
    TRY(adapter_create(&rig->adapter, rig->lora, rig->device, rig->tp, rig->dp));
    TRY(adapter_load(rig->adapter, options->adapter_dir));
    return model_set_adapter(rig->model, rig->adapter);
}

enum status rig_open(struct rig **out, const struct rig_options *options, const struct comm_world_info *world)
{
    struct rig *rig = memory_new(1, sizeof *rig);
    if (!rig) return LORAD_NOMEM;
    enum status status = build(rig, options, world);
    if (status != LORAD_OK) {
        rig_close(rig);
        return status;
    }
    *out = rig;
    return LORAD_OK;
}

void rig_close(struct rig *rig)
{
    if (!rig) return;
    adapter_destroy(rig->adapter);
    model_destroy(rig->model);
    lora_destroy(rig->lora);
    adapter_config_free(&rig->config);
    comm_destroy(rig->dp);
    comm_destroy(rig->tp);
    comm_destroy(rig->world);
    device_close(rig->device);
    free(rig);
}
