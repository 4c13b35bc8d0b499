/*
 * rig.h: a model with its adapter set up for a test or a tool, on any layout of ranks, without data, schedule
 * or run.
 */
#ifndef LORAD_TESTS_SUPPORT_RIG_H
#define LORAD_TESTS_SUPPORT_RIG_H

#include "base/status.h"
#include "checkpoint/adapter_file.h"
#include "comm/comm.h"
#include "kernels/device.h"
#include "trainer/adapter.h"
#include "trainer/arch.h"
#include "trainer/lora.h"
#include "trainer/model.h"
#include "trainer/partition.h"

struct rig_options {
    const char *model_dir;
    const char *adapter_dir; /* a PEFT folder; NULL: the frozen base alone */
    struct model_options model;
    double dropout; /* of the adapter, whose own is 0 */
    bool fast;      /* a GPU need not be deterministic; then model.deterministic is false too */
    int32_t tp;     /* ranks of a tensor-parallel group; the world's other factor is data parallel */
};

struct rig {
    struct arch arch;
    struct partition partition;
    struct adapter_config config;
    struct lora_options shape; /* strings live in config */
    struct lora *lora;
    struct device *device;
    struct comm *world, *tp, *dp;
    struct model *model;
    struct adapter *adapter;
};

/* Collective over the world. Owns: *out. */
enum status rig_open(struct rig **out, const struct rig_options *options,
                     const struct comm_world_info *world) LORAD_WARN_UNUSED;
void rig_close(struct rig *rig); /* NULL ok */

#endif
