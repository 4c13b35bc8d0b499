/*
 * device.c: which backends exist, and the functions of device.h in front of a backend's table.
 *
 * 1. The list of backends below is the only place that knows their names. The CPU is built in; CUDA is a
 * library that is opened when it is asked for, so that one program starts on machines with and without a GPU.
 * 2. A device that was asked for by name and is not there is refused; only "auto" chooses.
 */
#include "kernels/device_impl.h"

#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/log.h"

#define CUDA_LIBRARY "lorad_cuda.so"

/* *out: the table of the backend, or NULL with the reason in `why` when it cannot be used on this machine;
 * `broken` then tells whether it is there. */
typedef void find_backend(const struct device_ops **out, bool *broken, char *why, size_t why_bytes);

static void find_cpu(const struct device_ops **out, bool *broken, char *why, size_t why_bytes)
{
    (void)broken, (void)why, (void)why_bytes;
    *out = &cpu_backend;
}

/* Whether a file of that name lies next to the program; its path. */
static bool is_beside_program(char path[PATH_MAX], const char *name)
{
    ssize_t length = readlink("/proc/self/exe", path, PATH_MAX - 1);
    if (length <= 0) return false;
    path[length] = '\0';
    char *slash = strrchr(path, '/');
    if (!slash || (size_t)(slash + 1 - path) + strlen(name) >= PATH_MAX) return false;
    strcpy(slash + 1, name);
    return access(path, F_OK) == 0;
}

/* Next to the program first, then wherever the dynamic linker looks; LORAD_CUDA_LIBRARY names another one.
 * The library stays open: its code may be on the stack of other threads at exit. */
static void *open_library(const char *name, bool *is_there)
{
    char path[PATH_MAX];
    const char *wanted = getenv("LORAD_CUDA_LIBRARY");
    *is_there = wanted ? access(wanted, F_OK) == 0 : is_beside_program(path, name);
    return dlopen(wanted ? wanted : *is_there ? path : name, RTLD_NOW | RTLD_LOCAL);
}

/* Whether "auto" may pass CUDA over without opening it: loading NVIDIA's libraries costs a small run half of
 * its start. The driver's library stays open like ours, which needs it. */
static bool cuda_is_absent(char *why, size_t why_bytes)
{
    char path[PATH_MAX];
    if (getenv("LORAD_CUDA_LIBRARY") || !is_beside_program(path, CUDA_LIBRARY)) return false;
    if (dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL)) return false;
    snprintf(why, why_bytes, "there is no NVIDIA driver");
    return true;
}

static void find_cuda(const struct device_ops **out, bool *broken, char *why, size_t why_bytes)
{
    *out = NULL;
    *broken = false;
    void *library = open_library(CUDA_LIBRARY, broken);
    if (!library) {
        snprintf(why, why_bytes, "%s", dlerror());
        return;
    }
    *broken = true;
    const struct device_ops *ops = dlsym(library, "lorad_cuda_backend");
    if (!ops) {
        snprintf(why, why_bytes, "%s is not a library of lorad: %s", CUDA_LIBRARY, dlerror());
    } else if (ops->size != sizeof *ops) {
        snprintf(why, why_bytes, "%s belongs to another release of lorad", CUDA_LIBRARY);
    } else {
        *out = ops;
    }
}

/* In the order in which "auto" tries them. */
static const struct {
    const char *kind;
    find_backend *find;
    bool (*is_absent)(char *why, size_t why_bytes); /* NULL: never */
} backends[] = {
    {"cuda", find_cuda, cuda_is_absent},
    {"cpu", find_cpu, NULL},
};

enum { N_BACKENDS = sizeof backends / sizeof backends[0] };

static bool passes_over(int i, const char *kind, char *why, size_t why_bytes)
{
    return strcmp(kind, "auto") == 0 && backends[i].is_absent && backends[i].is_absent(why, why_bytes);
}

enum status device_open(struct device **out, const struct device_options *options)
{
    const char *kind = options->kind ? options->kind : "auto";
    bool any = strcmp(kind, "auto") == 0;
    if (options->threads < 0) return FAIL(LORAD_CONFIG, "device: %d threads", options->threads);
    for (int i = 0; i < N_BACKENDS; i++) {
        if (!any && strcmp(kind, backends[i].kind) != 0) continue;
        const struct device_ops *ops = NULL;
        char why[512] = "";
        bool broken = false;
        if (passes_over(i, kind, why, sizeof why)) {
            log_line(LOG_INFO, "device: not %s: %s", backends[i].kind, why);
            continue;
        }
        backends[i].find(&ops, &broken, why, sizeof why);
        if (ops && ops->count(why, sizeof why) > 0) return ops->open(out, options);
        if (!any) {
            return FAIL(
                LORAD_CONFIG,
                "device: %s was asked for, but %s; set device to cpu or auto, or install what is missing",
                kind, why);
        }
        /* A slow run on the CPU must not be the first sign of a library that does not load. */
        log_line(ops ? LOG_INFO : broken ? LOG_WARN : LOG_DEBUG, "device: not %s: %s", backends[i].kind, why);
    }
    return FAIL(LORAD_CONFIG, "device: \"%s\" is not one of auto, cpu, cuda", kind);
}

void device_close(struct device *device)
{
    if (device) device->ops->close(device);
}

enum status device_backend_find(const struct device_backend **out, const char *kind)
{
    for (int i = 0; i < N_BACKENDS; i++) {
        if (strcmp(kind, backends[i].kind) != 0) continue;
        const struct device_ops *ops = NULL;
        bool broken;
        char why[512] = "";
        backends[i].find(&ops, &broken, why, sizeof why);
        if (!ops) return FAIL(LORAD_CONFIG, "device: there is no %s here: %s", kind, why);
        *out = (const struct device_backend *)(const void *)ops;
        return LORAD_OK;
    }
    return FAIL(LORAD_CONFIG, "device: \"%s\" is not one of cpu, cuda", kind);
}

enum status device_probe(char *words, size_t bytes, const char *kind)
{
    const struct device_backend *backend;
    TRY(device_backend_find(&backend, kind));
    if (device_backend_ops(backend)->count(words, bytes) > 0) return LORAD_OK;
    char why[512];
    snprintf(why, sizeof why, "%s", words);
    return FAIL(LORAD_CONFIG, "device: there is no %s here: %s", kind, why);
}

enum status device_list(struct device_id *out, int *n, int most, const char *kind)
{
    bool any = strcmp(kind, "auto") == 0;
    int listed = 0;
    for (int i = 0; i < N_BACKENDS; i++) {
        if (!any && strcmp(kind, backends[i].kind) != 0) continue;
        const struct device_ops *ops = NULL;
        char why[512];
        bool broken;
        if (passes_over(i, kind, why, sizeof why)) continue;
        backends[i].find(&ops, &broken, why, sizeof why);
        if (!ops || !ops->identify) continue;
        int count = ops->count(why, sizeof why);
        for (; listed < count && listed < most; listed++) TRY(ops->identify(&out[listed], listed));
        if (listed > 0) break;
    }
    *n = listed;
    return LORAD_OK;
}

const struct device_backend *device_backend(const struct device *device)
{
    return (const struct device_backend *)(const void *)device->ops;
}

enum status device_libraries(char *words, size_t bytes, const char *kind)
{
    const struct device_backend *backend;
    TRY(device_backend_find(&backend, kind));
    if (bytes) *words = '\0';
    if (device_backend_ops(backend)->libraries) device_backend_ops(backend)->libraries(words, bytes);
    return LORAD_OK;
}

const void *device_extension(const struct device *device, const char *name)
{
    return device->ops->extension ? device->ops->extension(name) : NULL;
}

const void *device_backend_extension(const struct device_backend *backend, const char *name)
{
    const struct device_ops *ops = device_backend_ops(backend);
    return ops->extension ? ops->extension(name) : NULL;
}

void *device_native_stream(const struct device *device, enum device_stream stream)
{
    return device->ops->native_stream ? device->ops->native_stream(device, stream) : NULL;
}

const char *device_kind(const struct device *device)
{
    return device->ops->kind;
}

const char *device_describe(const struct device *device)
{
    return device->description;
}

bool device_backend_is_host(const struct device_backend *backend)
{
    return device_backend_ops(backend)->is_host;
}

int32_t device_backend_row_multiple(const struct device_backend *backend)
{
    return device_backend_ops(backend)->row_multiple;
}

bool device_is_host(const struct device *device)
{
    return device->ops->is_host;
}

int64_t device_memory_bytes(const struct device *device)
{
    return device->memory_bytes;
}

/* An empty block is still a block with an address of its own. */
enum status device_alloc(void **out, struct device *device, size_t bytes)
{
    return device->ops->alloc(out, device, bytes ? bytes : 1);
}

void device_free(struct device *device, void *block)
{
    if (block) device->ops->free(device, block);
}

enum status device_alloc_host(void **out, struct device *device, size_t bytes)
{
    return device->ops->alloc_host(out, device, bytes ? bytes : 1);
}

void device_free_host(struct device *device, void *block)
{
    if (block) device->ops->free_host(device, block);
}

static enum status check_copy(const char *name, const void *to, const void *from, size_t bytes)
{
    if (!to || !from) return FAIL(LORAD_BUG, "%s: NULL for %zu bytes", name, bytes);
    uintptr_t a = (uintptr_t)to, b = (uintptr_t)from;
    if (a < b + bytes && b < a + bytes) return FAIL(LORAD_BUG, "%s: source and target overlap", name);
    return LORAD_OK;
}

enum status device_copy_to(struct device *device, enum device_stream stream, void *to_device,
                           const void *from_host, size_t bytes)
{
    if (bytes == 0) return LORAD_OK;
    TRY(check_copy("device_copy_to", to_device, from_host, bytes));
    return device->ops->copy_to(device, stream, to_device, from_host, bytes);
}

enum status device_copy_from(struct device *device, enum device_stream stream, void *to_host,
                             const void *from_device, size_t bytes)
{
    if (bytes == 0) return LORAD_OK;
    TRY(check_copy("device_copy_from", to_host, from_device, bytes));
    return device->ops->copy_from(device, stream, to_host, from_device, bytes);
}

enum status device_copy(struct device *device, enum device_stream stream, void *to, const void *from,
                        size_t bytes)
{
    if (bytes == 0) return LORAD_OK;
    TRY(check_copy("device_copy", to, from, bytes));
    return device->ops->copy_inside(device, stream, to, from, bytes);
}

enum status device_zero(struct device *device, enum device_stream stream, void *block, size_t bytes)
{
    if (bytes == 0) return LORAD_OK;
    if (!block) return FAIL(LORAD_BUG, "device_zero: NULL for %zu bytes", bytes);
    return device->ops->zero(device, stream, block, bytes);
}

enum status device_event_create(struct device_event **out, struct device *device)
{
    return device->ops->event_create(out, device);
}

void device_event_destroy(struct device *device, struct device_event *event)
{
    if (event) device->ops->event_destroy(device, event);
}

enum status device_event_record(struct device *device, enum device_stream stream, struct device_event *event)
{
    return device->ops->event_record(device, stream, event);
}

enum status device_stream_wait(struct device *device, enum device_stream stream, struct device_event *event)
{
    return device->ops->stream_wait(device, stream, event);
}

enum status device_event_sync(struct device *device, struct device_event *event)
{
    return device->ops->event_sync(device, event);
}

enum status device_sync(struct device *device)
{
    return device->ops->sync(device);
}

bool device_records(const struct device *device)
{
    return device->ops->record_begin != NULL;
}

enum status device_record_begin(struct device *device)
{
    if (!device_records(device))
        return FAIL(LORAD_BUG, "device_record_begin: %s does not record", device_kind(device));
    return device->ops->record_begin(device);
}

enum status device_record_end(struct device_recording **out, struct device *device, bool keep)
{
    return device->ops->record_end(out, device, keep);
}

enum status device_replay(struct device *device, const struct device_recording *recording)
{
    return device->ops->replay(device, recording);
}

void device_recording_destroy(struct device *device, struct device_recording *recording)
{
    if (recording) device->ops->recording_destroy(device, recording);
}
