/* gpu_memory.h: the memory of GPUs by name, to plan for one that is not here. */
#ifndef LORAD_TRAINER_GPU_MEMORY_H
#define LORAD_TRAINER_GPU_MEMORY_H

#include <stdint.h>

#include "base/status.h"

/* Bytes that a program can use on the GPU `name` ("h200", "a100-80gb", any case), or of a size ("24GiB"):
 * what nvidia-smi shows as the total, less what opening a device takes and device_reserve_bytes. LORAD_USAGE
 * with the known names for another one, or when nothing is left. */
enum status gpu_memory_find(int64_t *bytes, const char *name) LORAD_WARN_UNUSED;

#endif
