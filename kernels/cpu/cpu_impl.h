/*
 * cpu_impl.h: what the files of the CPU backend share.
 *
 * The files of operations (embed, norm, rope, attention, swiglu, elementwise, loss, optim, fixed, path) are
 * compiled once for every instruction path: CPU_PATH is the path's name and becomes part of every global
 * name. A device uses one path from open to close, so the bits of a run depend on the path and on nothing
 * else of the machine.
 */
#ifndef LORAD_KERNELS_CPU_IMPL_H
#define LORAD_KERNELS_CPU_IMPL_H

#include "kernels/device_impl.h"

/* For one thread: room for attention's tiles, see attention.c. */
enum { CPU_SCRATCH_FLOATS = 3 << 20 };
/* Shared by the device: per-row or per-block results that are then added in order. */
enum { CPU_BLOCKS = 4096 };

struct cpu_device;

/* The operations for one instruction path. */
struct cpu_path {
    const char *name;
#define OP(name) enum status (*name)(struct cpu_device * device, const struct op_##name *args);
#include "kernels/ops.def"
#undef OP
};

struct cpu_device {
    struct device base;
    const struct cpu_path *path;
    int threads;
    float *scratch; /* [threads][CPU_SCRATCH_FLOATS], touched when used */
    double *blocks; /* [CPU_BLOCKS] */
};

static inline float *cpu_scratch(const struct cpu_device *device, int thread)
{
    return device->scratch + (size_t)thread * CPU_SCRATCH_FLOATS;
}

static inline void *matrix_row(const struct matrix *m, int64_t row)
{
    return (char *)m->data + (size_t)(row * m->stride) * dtype_bytes(m->dtype);
}

/* Threads worth waking for `elements` of elementwise work. */
static inline int cpu_threads_for(const struct cpu_device *device, int64_t elements)
{
    int64_t most = elements / 8192 + 1;
    return most < device->threads ? (int)most : device->threads;
}

#ifndef CPU_PATH
#define CPU_PATH baseline
#endif
#define CPU_JOIN2(name, path) cpu_##path##_##name
#define CPU_JOIN(name, path)  CPU_JOIN2(name, path)
#define CPU_OP(name)          CPU_JOIN(name, CPU_PATH)
#define CPU_TEXT2(text)       #text
#define CPU_TEXT(text)        CPU_TEXT2(text)

#define OP(name)              enum status CPU_OP(name)(struct cpu_device * device, const struct op_##name *args);
#include "kernels/ops.def"
#undef OP

extern const struct cpu_path cpu_baseline_path, cpu_avx2_path, cpu_avx512_path;

#endif
