/*
 * device_impl.h: what a backend of device.h, ops.h and panel.h provides. Included by kernels/ only.
 *
 * A backend is one const table. The functions of device.c and ops.c check the caller's contract once and then
 * call the slot of the same name, so a slot may rely on everything that the headers promise and need not
 * check it again. Every slot is filled, except those marked optional.
 *
 * The CPU backend is built in (cpu_backend). The CUDA backend lives in lorad_cuda.so, which exports
 *     const struct device_ops lorad_cuda_backend;
 */
#ifndef LORAD_KERNELS_DEVICE_IMPL_H
#define LORAD_KERNELS_DEVICE_IMPL_H

#include "kernels/device.h"
#include "kernels/ops.h"

struct panel_ops; /* panel_impl.h */

struct device_ops {
    size_t
        size; /* sizeof(struct device_ops) when the backend was compiled: another value is another release */
    const char *kind;     /* "cpu", "cuda" */
    bool is_host;         /* device pointers are host pointers */
    int32_t row_multiple; /* device_backend_row_multiple */

    /* Devices of this kind that this process can use; `words` describes them. 0: none (no driver, no GPU),
     * and `words` says why. Takes none of them: what is asked may be a verb that computes nothing. */
    int (*count)(char *words, size_t bytes);
    /* Of the device of this number, below count's. Optional: a host has one device. */
    enum status (*identify)(struct device_id *out, int number);
    /* options are checked; *out starts with a filled struct device. */
    enum status (*open)(struct device **out, const struct device_options *options);
    void (*close)(struct device *device);

    /* bytes > 0 */
    enum status (*alloc)(void **out, struct device *device, size_t bytes);
    void (*free)(struct device *device, void *block);
    enum status (*alloc_host)(void **out, struct device *device, size_t bytes);
    void (*free_host)(struct device *device, void *block);

    /* bytes > 0, ranges do not overlap */
    enum status (*copy_to)(struct device *device, enum device_stream stream, void *to, const void *from,
                           size_t bytes);
    enum status (*copy_from)(struct device *device, enum device_stream stream, void *to, const void *from,
                             size_t bytes);
    enum status (*copy_inside)(struct device *device, enum device_stream stream, void *to, const void *from,
                               size_t bytes);
    enum status (*zero)(struct device *device, enum device_stream stream, void *block, size_t bytes);

    enum status (*event_create)(struct device_event **out, struct device *device);
    void (*event_destroy)(struct device *device, struct device_event *event);
    enum status (*event_record)(struct device *device, enum device_stream stream, struct device_event *event);
    enum status (*stream_wait)(struct device *device, enum device_stream stream, struct device_event *event);
    enum status (*event_sync)(struct device *device, struct device_event *event);
    enum status (*sync)(struct device *device);

    /* All four or none. */
    enum status (*record_begin)(struct device *device); /* optional */
    enum status (*record_end)(struct device_recording **out, struct device *device, bool keep);
    enum status (*replay)(struct device *device, const struct device_recording *recording);
    void (*recording_destroy)(struct device *device, struct device_recording *recording);

    /* One slot for every operation of ops.def; arguments are checked, and no call has zero rows. */
#define OP(name) enum status (*name)(struct device * device, const struct op_##name *args);
#include "kernels/ops.def"
#undef OP

    /* See attention_scratch_bytes. Needs no device. */
    size_t (*attention_scratch)(const struct attention_shape *shape);
    const struct panel_ops *panel;

    /* Optional: what a library of the backend computes with, "cuBLASLt 13.1.0, cuDNN 9.19.0". */
    void (*libraries)(char *words, size_t bytes);
    const void *(*extension)(const char *name);                                     /* optional */
    void *(*native_stream)(const struct device *device, enum device_stream stream); /* optional */
};

/* device.h's name for a backend, from outside of kernels/. */
static inline const struct device_ops *device_backend_ops(const struct device_backend *backend)
{
    return (const struct device_ops *)(const void *)backend;
}

/* The part of a device that all backends share; a backend's own struct begins with it. */
struct device {
    const struct device_ops *ops;
    int64_t memory_bytes;
    char description[256];
};

/* The number of threads of a CPU device, for code of the CPU backend that opens its own parallel regions. */
int cpu_device_threads(const struct device *device);

extern const struct device_ops cpu_backend;
extern const struct panel_ops cpu_panel_ops; /* kernels/cpu/linear.c */

#endif
