/*
 * adapter.h: one adapter in training: f32 masters, gradients and Adam moments of this rank in device memory,
 * laid out by lora.h. `run` holds an array of adapters over one frozen base, today of length one.
 */
#ifndef LORAD_TRAINER_ADAPTER_H
#define LORAD_TRAINER_ADAPTER_H

#include <stdint.h>

#include "base/status.h"
#include "checkpoint/adapter_file.h"
#include "comm/comm.h"
#include "kernels/device.h"
#include "trainer/fixed_sums.h"
#include "trainer/lora.h"

struct adapter {
    const struct lora *lora;     /* borrowed */
    struct device *device;       /* borrowed */
    struct comm *tp, *dp;        /* borrowed; NULL is a group of one */
    float *param, *grad, *m, *v; /* [lora->count] device memory */
    float *host;                 /* [lora->count] host memory for copies */
    int64_t applied_steps;       /* Adam's t: updates applied so far */
    struct fixed_sums *sums;     /* owned; NULL: gradients are summed as floats, in `grad` alone */
};

/* Bytes of device memory that an adapter takes, its `sums` aside. */
size_t adapter_bytes(const struct lora *lora);

/* All zero. Owns: *out. */
enum status adapter_create(struct adapter **out, const struct lora *lora, struct device *device,
                           struct comm *tp, struct comm *dp) LORAD_WARN_UNUSED;
void adapter_destroy(struct adapter *adapter);

/* Fresh parameters: A by lora_init_a, B zero. */
enum status adapter_init(struct adapter *adapter, uint64_t seed) LORAD_WARN_UNUSED;

/* What lora shape a PEFT folder has; the strings live until adapter_config_free(config). */
enum status adapter_shape(struct lora_options *out, struct adapter_config *config,
                          const char *dir) LORAD_WARN_UNUSED;
/* Parameters from a PEFT folder of the same shape. LORAD_DATA names the tensor that is missing, extra or
 * misshaped. */
enum status adapter_load(struct adapter *adapter, const char *dir) LORAD_WARN_UNUSED;

enum status adapter_zero_grad(struct adapter *adapter) LORAD_WARN_UNUSED;

/* The vectors of an adapter, by name: "master", "adam.m", "adam.v", "grad". */
enum adapter_vector { ADAPTER_PARAM, ADAPTER_M, ADAPTER_V, ADAPTER_GRAD, ADAPTER_VECTORS };
float *adapter_vector(struct adapter *adapter, enum adapter_vector which);

/* Copies a vector to or from host memory of lora->count floats. Blocks. */
enum status adapter_read(struct adapter *adapter, enum adapter_vector which, float *host) LORAD_WARN_UNUSED;
enum status adapter_write_vector(struct adapter *adapter, enum adapter_vector which,
                                 const float *host) LORAD_WARN_UNUSED;

/* Whole factors on every rank of the tensor-parallel group, from each rank's pieces of `which`: *whole[i] is
 * dense [shape0, shape1] of tensor i; one block, free(whole). Collective over tp. Blocks. */
enum status adapter_gather(float ***whole, struct adapter *adapter,
                           enum adapter_vector which) LORAD_WARN_UNUSED;

/* Writes a PEFT folder from gathered parameters; what adapter_write says of it (NULL: not wanted). One rank
 * calls it. */
enum status adapter_export(struct adapter_written *written, const struct lora *lora, float *const *whole,
                           const struct lora_options *shape, const char *base_model, struct fs *fs,
                           const char *dir) LORAD_WARN_UNUSED;

#endif
