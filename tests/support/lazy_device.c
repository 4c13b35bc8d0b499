#include "support/lazy_device.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/device_impl.h"

enum { MOST_TASKS = 256 };

struct device_event {
    uint64_t after; /* tasks enqueued when it was recorded */
};

struct task {
    void *to;
    const void *from; /* NULL: work */
    size_t bytes;
    void (*work)(void *);
    void *argument;
};

struct lazy {
    struct device base;
    struct device_ops ops;
    struct task tasks[MOST_TASKS];
    uint64_t enqueued, done;
};

/* One extension for all devices: a slot of the table does not say whose it is. */
static const char *extension_name;
static const void *extension;

static struct lazy *lazy_of(const struct device *device)
{
    return (struct lazy *)device;
}

static void run_until(struct lazy *lazy, uint64_t last)
{
    while (lazy->done < last) {
        struct task *task = &lazy->tasks[lazy->done++ % MOST_TASKS];
        if (task->work)
            task->work(task->argument);
        else
            memcpy(task->to, task->from, task->bytes);
    }
}

static void enqueue(struct lazy *lazy, struct task task)
{
    if (lazy->enqueued - lazy->done == MOST_TASKS) run_until(lazy, lazy->done + 1);
    lazy->tasks[lazy->enqueued++ % MOST_TASKS] = task;
}

static void lazy_close(struct device *device)
{
    free(lazy_of(device));
}

static enum status lazy_alloc(void **out, struct device *device, size_t bytes)
{
    (void)device;
    *out = calloc(1, bytes);
    return *out ? LORAD_OK : LORAD_NOMEM;
}

static void lazy_free(struct device *device, void *block)
{
    (void)device;
    free(block);
}

static enum status lazy_copy(struct device *device, enum device_stream stream, void *to, const void *from,
                             size_t bytes)
{
    (void)stream;
    enqueue(lazy_of(device), (struct task){.to = to, .from = from, .bytes = bytes});
    return LORAD_OK;
}

static enum status lazy_event_create(struct device_event **out, struct device *device)
{
    (void)device;
    *out = calloc(1, sizeof **out);
    return *out ? LORAD_OK : LORAD_NOMEM;
}

static void lazy_event_destroy(struct device *device, struct device_event *event)
{
    (void)device;
    free(event);
}

static enum status lazy_event_record(struct device *device, enum device_stream stream,
                                     struct device_event *event)
{
    (void)stream;
    event->after = lazy_of(device)->enqueued;
    return LORAD_OK;
}

static enum status lazy_event_sync(struct device *device, struct device_event *event)
{
    run_until(lazy_of(device), event->after);
    return LORAD_OK;
}

static enum status lazy_sync(struct device *device)
{
    run_until(lazy_of(device), lazy_of(device)->enqueued);
    return LORAD_OK;
}

static const void *lazy_extension(const char *name)
{
    return extension_name && strcmp(name, extension_name) == 0 ? extension : NULL;
}

static void *lazy_native_stream(const struct device *device, enum device_stream stream)
{
    (void)stream;
    return lazy_of(device);
}

struct device *lazy_device_open(const char *name, const void *offered)
{
    struct lazy *lazy = calloc(1, sizeof *lazy);
    if (!lazy) abort();
    lazy->ops = (struct device_ops){.size = sizeof lazy->ops,
                                    .kind = "lazy",
                                    .close = lazy_close,
                                    .alloc = lazy_alloc,
                                    .free = lazy_free,
                                    .alloc_host = lazy_alloc,
                                    .free_host = lazy_free,
                                    .copy_to = lazy_copy,
                                    .copy_from = lazy_copy,
                                    .copy_inside = lazy_copy,
                                    .event_create = lazy_event_create,
                                    .event_destroy = lazy_event_destroy,
                                    .event_record = lazy_event_record,
                                    .event_sync = lazy_event_sync,
                                    .sync = lazy_sync,
                                    .extension = lazy_extension,
                                    .native_stream = lazy_native_stream};
    lazy->base.ops = &lazy->ops;
    extension_name = name;
    extension = offered;
    return &lazy->base;
}

void lazy_device_enqueue(struct device *device, void (*work)(void *), void *argument)
{
    enqueue(lazy_of(device), (struct task){.work = work, .argument = argument});
}

int lazy_device_waiting(const struct device *device)
{
    return (int)(lazy_of(device)->enqueued - lazy_of(device)->done);
}
