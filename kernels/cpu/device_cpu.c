/*
 * device_cpu.c: the CPU as a device: memory, copies, threads, and the choice of the instruction path.
 *
 * 1. Every call has finished when it returns, so both streams and all events are always at their end.
 * 2. Blocks of device_alloc are aligned to 256 bytes and zero. Large ones are fresh pages of the kernel,
 * which costs nothing until they are touched, and puts a page near the thread that touches it first.
 * 3. After device_open nothing here or in the operations allocates.
 */
#include "kernels/cpu/cpu_impl.h"

#include <omp.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/memory.h"
#include "kernels/cpu/cpu_features.h"
#include "kernels/cpu/gemm.h"

enum { BLOCK_ALIGN = 256, PAGES_FROM = 1 << 20, MOST_THREADS = 1024 };

struct device_event {
    char unused;
};

/* Stands in the BLOCK_ALIGN bytes before every block. */
struct block_header {
    void *start;
    size_t bytes;
    bool pages; /* from mmap, not from malloc */
};

static enum status block_new(void **out, size_t bytes)
{
    size_t whole = (bytes + 2 * BLOCK_ALIGN - 1) / BLOCK_ALIGN * BLOCK_ALIGN;
    if (whole < bytes) return FAIL(LORAD_NOMEM, "%zu bytes are more than an address space", bytes);
    bool pages = whole >= PAGES_FROM;
    char *start;
    if (pages) {
        start = mmap(NULL, whole, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (start == MAP_FAILED) start = NULL;
        if (start) madvise(start, whole, MADV_HUGEPAGE); /* an advice: failing costs speed only */
    } else {
        start = aligned_alloc(BLOCK_ALIGN, whole);
        if (start) memset(start, 0, whole);
    }
    if (!start) return FAIL(LORAD_NOMEM, "no memory for %zu bytes", bytes);
    struct block_header *header = (struct block_header *)start;
    *header = (struct block_header){.start = start, .bytes = whole, .pages = pages};
    *out = start + BLOCK_ALIGN;
    return LORAD_OK;
}

static void block_free(void *block)
{
    if (!block) return;
    struct block_header header = *(struct block_header *)((char *)block - BLOCK_ALIGN);
    if (header.pages)
        munmap(header.start, header.bytes);
    else
        free(header.start);
}

static int allowed_cores(void)
{
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    return online > 0 ? (int)online : 1;
}

/* Physical memory, or the container's limit when that is lower. */
static int64_t usable_memory(void)
{
    static const char *const limits[] = {"/sys/fs/cgroup/memory.max",
                                         "/sys/fs/cgroup/memory/memory.limit_in_bytes"};
    int64_t bytes = (int64_t)sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGESIZE);
    for (int i = 0; i < 2; i++) {
        FILE *file = fopen(limits[i], "re");
        if (!file) continue;
        long long limit = 0;
        if (fscanf(file, "%lld", &limit) == 1 && limit > 0 && limit < bytes) bytes = limit;
        fclose(file);
    }
    return bytes;
}

/* LORAD_CPU_PATH (baseline, avx2, avx512) chooses a lesser path than the processor has: to compare, and for
 * tests. */
static enum status choose_path(const struct cpu_path **out)
{
    const struct cpu_features *have = cpu_features();
#if defined(__x86_64__)
    const struct {
        const struct cpu_path *path;
        bool usable;
    } paths[] = {{&cpu_avx512_path, have->avx512}, {&cpu_avx2_path, have->avx2}, {&cpu_baseline_path, true}};
#else
    (void)have;
    const struct {
        const struct cpu_path *path;
        bool usable;
    } paths[] = {{&cpu_baseline_path, true}};
#endif
    const char *wanted = getenv("LORAD_CPU_PATH");
    for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++) {
        if (!paths[i].usable || (wanted && strcmp(wanted, paths[i].path->name) != 0)) continue;
        *out = paths[i].path;
        return LORAD_OK;
    }
    return FAIL(LORAD_CONFIG, "LORAD_CPU_PATH: this processor has no path \"%s\" (baseline, avx2, avx512)",
                wanted);
}

static void cpu_close(struct device *device)
{
    struct cpu_device *cpu = (struct cpu_device *)device;
    block_free(cpu->scratch);
    block_free(cpu->blocks);
    free(cpu);
}

static enum status cpu_open(struct device **out, const struct device_options *options)
{
    const struct cpu_path *path = NULL;
    TRY(choose_path(&path));
    int threads = options->threads ? options->threads : allowed_cores();
    if (threads > MOST_THREADS) threads = MOST_THREADS;

    struct cpu_device *cpu = memory_new(1, sizeof *cpu);
    if (!cpu) return LORAD_NOMEM;
    cpu->base.ops = &cpu_backend;
    cpu->base.memory_bytes = usable_memory();
    cpu->path = path;
    cpu->threads = threads;
    enum status status =
        block_new((void **)&cpu->scratch, (size_t)threads * CPU_SCRATCH_FLOATS * sizeof *cpu->scratch);
    if (status == LORAD_OK) status = block_new((void **)&cpu->blocks, CPU_BLOCKS * sizeof *cpu->blocks);
    if (status != LORAD_OK) {
        cpu_close(&cpu->base);
        return status;
    }
    snprintf(cpu->base.description, sizeof cpu->base.description, "cpu%s%s, %d thread%s, %s, %s",
             cpu_features()->model[0] ? " " : "", cpu_features()->model, threads, threads == 1 ? "" : "s",
             path->name, gemm_describe());
    omp_set_num_threads(threads); /* for the matrix library too */
    *out = &cpu->base;
    return LORAD_OK;
}

static int cpu_count(char *words, size_t bytes)
{
    if (bytes) *words = '\0';
    return 1;
}

int cpu_device_threads(const struct device *device)
{
    return ((const struct cpu_device *)device)->threads;
}

static enum status cpu_alloc(void **out, struct device *device, size_t bytes)
{
    (void)device;
    return block_new(out, bytes);
}

static void cpu_free(struct device *device, void *block)
{
    (void)device;
    block_free(block);
}

static enum status cpu_copy(struct device *device, enum device_stream stream, void *to, const void *from,
                            size_t bytes)
{
    (void)device, (void)stream;
    memcpy(to, from, bytes);
    return LORAD_OK;
}

static enum status cpu_zero(struct device *device, enum device_stream stream, void *block, size_t bytes)
{
    (void)device, (void)stream;
    memset(block, 0, bytes);
    return LORAD_OK;
}

static enum status cpu_event_create(struct device_event **out, struct device *device)
{
    (void)device;
    struct device_event *event = memory_new(1, sizeof *event);
    if (!event) return LORAD_NOMEM;
    *out = event;
    return LORAD_OK;
}

static void cpu_event_destroy(struct device *device, struct device_event *event)
{
    (void)device;
    free(event);
}

static enum status cpu_event_on_stream(struct device *device, enum device_stream stream,
                                       struct device_event *event)
{
    (void)device, (void)stream, (void)event;
    return LORAD_OK;
}

static enum status cpu_event_sync(struct device *device, struct device_event *event)
{
    (void)device, (void)event;
    return LORAD_OK;
}

static enum status cpu_sync(struct device *device)
{
    (void)device;
    return LORAD_OK;
}

static size_t cpu_attention_scratch(const struct attention_shape *shape)
{
    (void)shape;
    return 0;
}

#define OP(name)                                                                                             \
    static enum status run_##name(struct device *device, const struct op_##name *args)                       \
    {                                                                                                        \
        struct cpu_device *cpu = (struct cpu_device *)device;                                                \
        return cpu->path->name(cpu, args);                                                                   \
    }
#include "kernels/ops.def"
#undef OP

const struct device_ops cpu_backend = {
    .size = sizeof(struct device_ops),
    .kind = "cpu",
    .is_host = true,
    .row_multiple = 1,
    .count = cpu_count,
    .open = cpu_open,
    .close = cpu_close,
    .alloc = cpu_alloc,
    .free = cpu_free,
    .alloc_host = cpu_alloc,
    .free_host = cpu_free,
    .copy_to = cpu_copy,
    .copy_from = cpu_copy,
    .copy_inside = cpu_copy,
    .zero = cpu_zero,
    .event_create = cpu_event_create,
    .event_destroy = cpu_event_destroy,
    .event_record = cpu_event_on_stream,
    .stream_wait = cpu_event_on_stream,
    .event_sync = cpu_event_sync,
    .sync = cpu_sync,
#define OP(name) .name = run_##name,
#include "kernels/ops.def"
#undef OP
    .attention_scratch = cpu_attention_scratch,
    .panel = &cpu_panel_ops,
};
