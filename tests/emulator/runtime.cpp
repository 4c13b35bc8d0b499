/*
 * runtime.cpp: CUDA's runtime API for the emulated GPU: memory, streams, events, and what can be wrong with
 * them.
 *
 * 1. Device memory is one range of addresses that only kernels and copies may touch: the host's code is
 * stopped by a signal where it uses a device pointer. New memory holds NaN patterns. Bytes around every block
 * are looked at when it is freed.
 * 2. LORAD_EMULATOR_STREAMS: "lazy" (what is enqueued runs as late as the API allows: when the host waits, or
 * memory is freed), "eager" (at once) or "mixed" (now and then a stream runs a little, or all that it has,
 * whichever it is). A missing wait between streams, or a pinned block that is reused too early, shows under
 * lazy where the one that should wait is late, and under mixed where it is early.
 * 3. A stream is used with its device current, as CUDA wants it. Errors of the API also wait in
 * cudaGetLastError.
 * 4. LORAD_EMULATOR_GPUS, _ARCH (90), _MEMORY (bytes), _DRIVER (13000; 0: none) describe the machine;
 * LORAD_EMULATOR_VISIBLE is CUDA_VISIBLE_DEVICES' numbers for it: "2,0" shows GPUs 2 and 0 as 0 and 1.
 * Thread: any; one lock.
 */
#include "streams.h"

#include <errno.h>
#include <map>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <string>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
#include <vector>

namespace {

enum { RUNTIME_VERSION = CUDART_VERSION, ALIGN = 256, GUARD = 256, MOST_GPUS = 16, SHARED_PLAIN = 48 * 1024 };
enum { NAN_BYTE = 0xff, GUARD_BYTE = 0xa5, PAGEABLE_QUICK = 64 * 1024 };
const size_t ARENA = (size_t)1 << 38, PAGE = 4096;

struct block {
    size_t bytes;
    int device;
};

} // namespace

struct CUevent_st {
    int device;
    bool timing;
    std::shared_ptr<event> state;
};

std::recursive_mutex lock;

namespace {

thread_local int current_device;
thread_local cudaError_t last_error;
thread_local int captures; /* that this thread has begun and not ended */
char *arena, *behind;      /* two views of the same memory: that of kernels, and one that is always open */
size_t arena_used;         /* bytes from the start that were ever given out */
std::map<char *, block> blocks, pinned;
std::map<const void *, int> shared_allowed; /* by kernel */
std::vector<CUstream_st *> streams;
CUstream_st legacy[MOST_GPUS]; /* stream 0 of each GPU */

long long setting(const char *name, long long otherwise)
{
    const char *text = getenv(name);
    return text ? atoll(text) : otherwise;
}

/* The machine's numbers of the GPUs that this process sees. */
std::vector<int> visible()
{
    int gpus = (int)setting("LORAD_EMULATOR_GPUS", 1);
    const char *text = getenv("LORAD_EMULATOR_VISIBLE");
    std::vector<int> seen;
    if (gpus > MOST_GPUS) gpus = MOST_GPUS;
    for (int i = 0; !text && i < gpus; i++) seen.push_back(i);
    for (char *end; text && *text; text = *end == ',' ? end + 1 : end) {
        long number = strtol(text, &end, 10);
        if (end == text || number < 0 || number >= gpus) break; /* as CUDA does: nothing behind it either */
        seen.push_back((int)number);
    }
    return seen;
}

enum pace { LAZY, EAGER, MIXED };
pace pace_of_streams()
{
    const char *text = getenv("LORAD_EMULATOR_STREAMS");
    if (!text || strcmp(text, "lazy") == 0) return LAZY;
    if (strcmp(text, "eager") == 0) return EAGER;
    if (strcmp(text, "mixed") != 0)
        emulator::fail("LORAD_EMULATOR_STREAMS is \"%s\", not lazy, eager or mixed", text);
    return MIXED;
}

/* Shared memory that a block may ask for (CUDA C++ Programming Guide, table of compute capabilities). */
int shared_optin()
{
    int arch = (int)setting("LORAD_EMULATOR_ARCH", 90);
    if (arch == 80 || arch == 87) return 163 * 1024;
    return arch / 10 == 8 || arch / 10 == 12 ? 99 * 1024 : 227 * 1024;
}

double now()
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

/* From its open() to its end, device memory may be touched where it is. */
int accesses;
struct access {
    bool is_open = false;
    void open()
    {
        if (!is_open && accesses++ == 0 && arena_used) mprotect(arena, arena_used, PROT_READ | PROT_WRITE);
        is_open = true;
    }
    ~access()
    {
        if (is_open && --accesses == 0 && arena_used) mprotect(arena, arena_used, PROT_NONE);
    }
};

bool in_arena(const void *at)
{
    return arena && (const char *)at >= arena && (const char *)at < arena + ARENA;
}

/* Where the runtime itself reaches device memory; host memory is where it is. */
char *reach(const void *at)
{
    return in_arena(at) ? behind + ((const char *)at - arena) : (char *)at;
}

/* The block of `list` that holds [at, at + bytes); end() when none does. */
std::map<char *, block>::iterator find(std::map<char *, block> &list, const void *at, size_t bytes)
{
    auto after = list.upper_bound((char *)at);
    if (after == list.begin()) return list.end();
    auto found = std::prev(after);
    return (const char *)at + bytes <= found->first + found->second.bytes ? found : list.end();
}

void check_device(const char *call, const void *at, size_t bytes)
{
    if (find(blocks, at, bytes) == blocks.end())
        emulator::fail("%s: [%p, + %zu) is not inside of one block of device memory", call, at, bytes);
}

void check_host(const char *call, const void *at)
{
    if (in_arena(at)) emulator::fail("%s: %p is device memory, where host memory is wanted", call, at);
}

/* Streams */

CUstream_st *stream_of(cudaStream_t stream)
{
    return stream ? stream : &legacy[current_device];
}

/* Whether the calling thread captures, which then ends in an error: what waits or allocates is not for it. */
bool spoils_capture()
{
    for (CUstream_st *stream : streams)
        if (captures && stream->capture) stream->capture->broken = true;
    return captures > 0;
}

void run_stream(CUstream_st *stream, const event *until, uint64_t generation);

void run_first(CUstream_st *stream, access &memory)
{
    item first = std::move(stream->items.front());
    stream->items.pop_front();
    if (first.wait) run_stream(first.other, first.wait.get(), first.generation);
    if (first.touches) memory.open();
    if (first.run) first.run();
}

/* Runs what is enqueued: all, or until an event is done. */
void run_stream(CUstream_st *stream, const event *until, uint64_t generation)
{
    access memory;
    while (!stream->items.empty() && !(until && until->done >= generation)) run_first(stream, memory);
}

void run_all()
{
    for (CUstream_st &stream : legacy) run_stream(&stream, nullptr, 0);
    for (CUstream_st *stream : streams) run_stream(stream, nullptr, 0);
}

/* One stream runs some of what it has; which and how much is a fixed sequence of draws. */
void run_some()
{
    static uint64_t draw = 0x9e3779b97f4a7c15u;
    draw ^= draw << 13;
    draw ^= draw >> 7;
    draw ^= draw << 17;
    if (streams.empty() || draw % 4 == 0) return;
    CUstream_st *stream = streams[draw / 4 % streams.size()];
    size_t most = draw / 1024 % 8 == 0 ? SIZE_MAX : draw / 8192 % 4;
    access memory;
    for (size_t i = 0; i < most && !stream->items.empty(); i++) run_first(stream, memory);
}

cudaError_t put(cudaStream_t stream, bool touches, std::function<void()> &&run)
{
    return put(stream, item{std::move(run), touches, nullptr, 0, nullptr});
}

} // namespace

cudaError_t put(cudaStream_t given, item &&work)
{
    CUstream_st *stream = stream_of(given);
    if (given && stream->device != current_device) return failed(cudaErrorInvalidResourceHandle);
    if (stream == &legacy[current_device] && spoils_capture()) return failed(cudaErrorStreamCaptureImplicit);
    if (stream->capture) {
        stream->capture->items.push_back(std::move(work));
        return cudaSuccess;
    }
    stream->items.push_back(std::move(work));
    pace pace = pace_of_streams();
    if (pace == EAGER) run_stream(stream, nullptr, 0);
    if (pace == MIXED) run_some();
    return cudaSuccess;
}

cudaError_t failed(cudaError_t error)
{
    if (error != cudaSuccess) last_error = error;
    return error;
}

void count_captures(int difference)
{
    captures += difference;
}

/* Kernels */

void emulator::enqueue(launch &&kernel, const void *address, cudaStream_t stream)
{
    locked hold(lock);
    const dim3 &grid = kernel.grid, &block = kernel.block;
    uint64_t threads = (uint64_t)block.x * block.y * block.z;
    bool fits = grid.x && grid.y && grid.z && grid.x <= 0x7fffffffu && grid.y <= 65535 && grid.z <= 65535 &&
                threads && threads <= 1024 && block.z <= 64;
    auto allowed = shared_allowed.find(address);
    size_t most = allowed == shared_allowed.end() ? SHARED_PLAIN : (size_t)allowed->second;
    if (!fits)
        failed(cudaErrorInvalidConfiguration);
    else if (kernel.shared_bytes > most)
        failed(cudaErrorInvalidValue);
    else
        (void)put(stream, true, [=] { run(kernel); });
}

extern "C" {

cudaError_t emulator_enqueue(cudaStream_t stream, void (*run)(void *data), void *data)
{
    locked hold(lock);
    std::shared_ptr<void> owned(data, free); /* a graph runs it often */
    return put(stream, true, [=] { run(owned.get()); });
}

cudaError_t cudaFuncSetAttribute(const void *kernel, enum cudaFuncAttribute attribute, int value)
{
    locked hold(lock);
    if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaSuccess;
    if (value < 0 || value > shared_optin()) return failed(cudaErrorInvalidValue);
    shared_allowed[kernel] = value;
    return cudaSuccess;
}

/* The machine */

cudaError_t cudaDriverGetVersion(int *version)
{
    *version = (int)setting("LORAD_EMULATOR_DRIVER", RUNTIME_VERSION);
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *version)
{
    *version = RUNTIME_VERSION;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int *count)
{
    if (setting("LORAD_EMULATOR_DRIVER", RUNTIME_VERSION) < RUNTIME_VERSION)
        return failed(cudaErrorInsufficientDriver); /* *count stays what it was, as CUDA does it */
    *count = (int)visible().size();
    return *count ? cudaSuccess : failed(cudaErrorNoDevice);
}

cudaError_t cudaSetDevice(int device)
{
    int count = 0;
    cudaError_t error = cudaGetDeviceCount(&count);
    if (error != cudaSuccess) return error;
    if (device < 0 || device >= count) return failed(cudaErrorInvalidDevice);
    current_device = device;
    legacy[device].device = device;
    return cudaSuccess;
}

cudaError_t cudaGetDevice(int *device)
{
    *device = current_device;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *out, int device)
{
    int count = 0, arch = (int)setting("LORAD_EMULATOR_ARCH", 90);
    cudaError_t error = cudaGetDeviceCount(&count);
    if (error != cudaSuccess) return error;
    if (device < 0 || device >= count) return failed(cudaErrorInvalidDevice);
    *out = {};
    snprintf(out->name, sizeof out->name, "Emulated GPU");
    char host[256] = "";
    gethostname(host, sizeof host - 1);
    size_t machine = std::hash<std::string>()(host);
    memcpy(out->uuid.bytes, &machine, sizeof machine);
    out->uuid.bytes[sizeof out->uuid.bytes - 1] = (char)visible()[(size_t)device];
    out->totalGlobalMem = (size_t)setting("LORAD_EMULATOR_MEMORY", (long long)8 << 30);
    out->sharedMemPerBlock = SHARED_PLAIN;
    out->sharedMemPerBlockOptin = shared_optin();
    out->major = arch / 10;
    out->minor = arch % 10;
    out->multiProcessorCount = 4;
    out->maxThreadsPerBlock = 1024;
    out->warpSize = 32;
    out->l2CacheSize = 1 << 20;
    return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attribute, int device)
{
    struct cudaDeviceProp properties;
    cudaError_t error = cudaGetDeviceProperties(&properties, device);
    if (error != cudaSuccess) return error;
    switch (attribute) {
    case cudaDevAttrMultiProcessorCount:
        *value = properties.multiProcessorCount;
        return cudaSuccess;
    case cudaDevAttrComputeCapabilityMajor:
        *value = properties.major;
        return cudaSuccess;
    case cudaDevAttrComputeCapabilityMinor:
        *value = properties.minor;
        return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
        *value = shared_optin() + 1024;
        return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
        *value = shared_optin();
        return cudaSuccess;
    }
    return failed(cudaErrorInvalidValue);
}

cudaError_t cudaDeviceGetPCIBusId(char *text, int bytes, int device)
{
    std::vector<int> seen = visible();
    if (device < 0 || (size_t)device >= seen.size()) return failed(cudaErrorInvalidDevice);
    snprintf(text, (size_t)bytes, "0000:%02x:00.0", 0x18 + seen[(size_t)device]);
    return cudaSuccess;
}

cudaError_t cudaDeviceSynchronize(void)
{
    locked hold(lock);
    if (spoils_capture()) return failed(cudaErrorStreamCaptureUnsupported);
    run_all();
    return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes)
{
    locked hold(lock);
    struct cudaDeviceProp properties;
    cudaError_t error = cudaGetDeviceProperties(&properties, current_device);
    if (error != cudaSuccess) return error;
    size_t used = 0;
    for (auto &entry : blocks)
        if (entry.second.device == current_device) used += entry.second.bytes;
    *total_bytes = properties.totalGlobalMem;
    *free_bytes = used < *total_bytes ? *total_bytes - used : 0;
    return cudaSuccess;
}

/* Errors */

cudaError_t cudaGetLastError(void)
{
    cudaError_t error = last_error;
    last_error = cudaSuccess;
    return error;
}

cudaError_t cudaPeekAtLastError(void)
{
    return last_error;
}

#define ERRORS(X)                                                                                            \
    X(cudaSuccess, "no error")                                                                               \
    X(cudaErrorInvalidValue, "invalid argument")                                                             \
    X(cudaErrorMemoryAllocation, "out of memory")                                                            \
    X(cudaErrorInvalidConfiguration, "invalid configuration argument")                                       \
    X(cudaErrorInsufficientDriver, "CUDA driver version is insufficient for CUDA runtime version")           \
    X(cudaErrorNoDevice, "no CUDA-capable device is detected")                                               \
    X(cudaErrorInvalidDevice, "invalid device ordinal")                                                      \
    X(cudaErrorInvalidResourceHandle, "invalid resource handle")                                             \
    X(cudaErrorNotReady, "device not ready")                                                                 \
    X(cudaErrorStreamCaptureUnsupported, "operation not permitted when stream is capturing")                 \
    X(cudaErrorStreamCaptureInvalidated, "operation failed due to a previous error during capture")          \
    X(cudaErrorStreamCaptureImplicit, "operation would make the legacy stream depend on a capturing stream")

const char *cudaGetErrorName(cudaError_t error)
{
    switch (error) {
#define X(name, words)                                                                                       \
    case name:                                                                                               \
        return #name;
        ERRORS(X)
#undef X
    }
    return "unrecognized error code";
}

const char *cudaGetErrorString(cudaError_t error)
{
    switch (error) {
#define X(name, words)                                                                                       \
    case name:                                                                                               \
        return words;
        ERRORS(X)
#undef X
    }
    return "unrecognized error code";
}

/* Memory */

static void arena_new()
{
    int memory = memfd_create("emulated GPU", MFD_CLOEXEC);
    if (memory < 0 || ftruncate(memory, (off_t)ARENA) != 0)
        emulator::fail("no device memory: %s", strerror(errno));
    void *views[2];
    for (int i = 0; i < 2; i++) {
        views[i] = mmap(nullptr, ARENA, i ? PROT_READ | PROT_WRITE : PROT_NONE, MAP_SHARED | MAP_NORESERVE,
                        memory, 0);
        if (views[i] == MAP_FAILED) emulator::fail("no addresses for device memory: %s", strerror(errno));
    }
    arena = (char *)views[0];
    behind = (char *)views[1];
    close(memory);
}

/* Blocks are laid into the arena in the first gap that is wide enough, with GUARD bytes before and after. */
cudaError_t cudaMalloc(void **out, size_t bytes)
{
    locked hold(lock);
    if (spoils_capture()) return failed(cudaErrorStreamCaptureUnsupported);
    size_t room = 0, total = 0;
    cudaError_t error = cudaMemGetInfo(&room, &total);
    if (error != cudaSuccess) return error;
    if (bytes > room) return failed(cudaErrorMemoryAllocation);
    if (!arena) arena_new();
    size_t whole = GUARD + (bytes + ALIGN - 1) / ALIGN * ALIGN + GUARD;
    char *start = arena;
    for (auto &entry : blocks) {
        if (start + whole <= entry.first - GUARD) break;
        start = entry.first + (entry.second.bytes + ALIGN - 1) / ALIGN * ALIGN + GUARD;
    }
    size_t end = ((size_t)(start - arena) + whole + PAGE - 1) / PAGE * PAGE;
    if (end > ARENA) return failed(cudaErrorMemoryAllocation);
    if (end > arena_used) {
        arena_used = end;
        if (accesses) mprotect(arena, arena_used, PROT_READ | PROT_WRITE);
    }
    memset(reach(start), GUARD_BYTE, whole);
    memset(reach(start + GUARD), NAN_BYTE, bytes);
    blocks[start + GUARD] = {bytes, current_device};
    *out = start + GUARD;
    return cudaSuccess;
}

static void check_guards(const char *at, size_t bytes)
{
    const char *end = at + (bytes + ALIGN - 1) / ALIGN * ALIGN + GUARD;
    for (const char *b = at - GUARD; b < end; b++)
        if ((b < at || b >= at + bytes) && (unsigned char)*b != GUARD_BYTE)
            emulator::fail("byte %td of a block of %zu bytes of device memory was written", b - at, bytes);
}

cudaError_t cudaFree(void *pointer)
{
    locked hold(lock);
    if (spoils_capture()) return failed(cudaErrorStreamCaptureUnsupported);
    if (!pointer) return cudaSuccess;
    run_all();
    auto found = blocks.find((char *)pointer);
    if (found == blocks.end()) return failed(cudaErrorInvalidValue);
    check_guards(reach(found->first), found->second.bytes);
    blocks.erase(found);
    return cudaSuccess;
}

cudaError_t cudaHostAlloc(void **out, size_t bytes, unsigned flags)
{
    (void)flags;
    locked hold(lock);
    if (spoils_capture()) return failed(cudaErrorStreamCaptureUnsupported);
    int count = 0;
    cudaError_t error = cudaGetDeviceCount(&count);
    if (error != cudaSuccess) return error;
    char *start = (char *)aligned_alloc(ALIGN, (bytes + ALIGN - 1) / ALIGN * ALIGN);
    if (!start) return failed(cudaErrorMemoryAllocation);
    memset(start, NAN_BYTE, bytes);
    pinned[start] = {bytes, current_device};
    *out = start;
    return cudaSuccess;
}

cudaError_t cudaMallocHost(void **out, size_t bytes)
{
    return cudaHostAlloc(out, bytes, cudaHostAllocDefault);
}

cudaError_t cudaFreeHost(void *pointer)
{
    locked hold(lock);
    if (spoils_capture()) return failed(cudaErrorStreamCaptureUnsupported);
    if (!pointer) return cudaSuccess;
    run_all();
    if (!pinned.erase((char *)pointer)) return failed(cudaErrorInvalidValue);
    free(pointer);
    return cudaSuccess;
}

cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes *out, const void *pointer)
{
    locked hold(lock);
    *out = {};
    out->device = -1;
    for (auto *list : {&blocks, &pinned}) {
        auto found = find(*list, pointer, 1);
        if (found == list->end()) continue;
        out->type = list == &blocks ? cudaMemoryTypeDevice : cudaMemoryTypeHost;
        out->device = found->second.device;
        out->devicePointer = (void *)pointer;
        out->hostPointer = list == &blocks ? nullptr : (void *)pointer;
    }
    return cudaSuccess;
}

/* Copies. From host memory that is not pinned the bytes are taken at the call, which for many of them waits
 * for what is before it (CUDA may); into such memory the call waits. */

cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch, size_t width,
                              size_t height, cudaMemcpyKind kind, cudaStream_t stream)
{
    locked hold(lock);
    if (!width || !height) return cudaSuccess;
    if (width > to_pitch || width > from_pitch) return failed(cudaErrorInvalidValue);
    size_t to_bytes = (height - 1) * to_pitch + width, from_bytes = (height - 1) * from_pitch + width;
    bool to_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
    bool from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
    if (kind == cudaMemcpyDefault) {
        to_device = in_arena(to);
        from_device = in_arena(from);
    }
    if (to_device)
        check_device("a copy's target", to, to_bytes);
    else
        check_host("a copy's target", to);
    if (from_device)
        check_device("a copy's source", from, from_bytes);
    else
        check_host("a copy's source", from);
    std::shared_ptr<std::vector<char>> taken;
    bool pageable = !from_device && find(pinned, from, from_bytes) == pinned.end();
    bool waits = !to_device && find(pinned, to, to_bytes) == pinned.end();
    if ((pageable || waits) && spoils_capture()) return failed(cudaErrorStreamCaptureUnsupported);
    if (pageable && from_bytes > PAGEABLE_QUICK) run_stream(stream_of(stream), nullptr, 0);
    if (pageable)
        taken = std::make_shared<std::vector<char>>((const char *)from, (const char *)from + from_bytes);
    cudaError_t error = put(stream, false, [=] {
        const char *source = taken ? taken->data() : reach(from);
        for (size_t row = 0; row < height; row++)
            memmove(reach(to) + row * to_pitch, source + row * from_pitch, width);
    });
    if (error == cudaSuccess && waits) run_stream(stream_of(stream), nullptr, 0);
    return error;
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream)
{
    return cudaMemcpy2DAsync(to, bytes, from, bytes, bytes, 1, kind, stream);
}

cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, cudaMemcpyKind kind)
{
    cudaError_t error = cudaMemcpyAsync(to, from, bytes, kind, nullptr);
    return error == cudaSuccess ? cudaStreamSynchronize(nullptr) : error;
}

cudaError_t cudaMemset2DAsync(void *pointer, size_t pitch, int value, size_t width, size_t height,
                              cudaStream_t stream)
{
    locked hold(lock);
    if (!width || !height) return cudaSuccess;
    if (width > pitch) return failed(cudaErrorInvalidValue);
    check_device("a fill's target", pointer, (height - 1) * pitch + width);
    return put(stream, false, [=] {
        for (size_t row = 0; row < height; row++) memset(reach(pointer) + row * pitch, value, width);
    });
}

cudaError_t cudaMemsetAsync(void *pointer, int value, size_t bytes, cudaStream_t stream)
{
    return cudaMemset2DAsync(pointer, bytes, value, bytes, 1, stream);
}

/* Of device memory it does not wait, as CUDA says. */
cudaError_t cudaMemset(void *pointer, int value, size_t bytes)
{
    return cudaMemsetAsync(pointer, value, bytes, nullptr);
}

/* Streams and events */

cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest)
{
    *least = 0;
    *greatest = -5;
    return cudaSuccess;
}

cudaError_t cudaStreamCreateWithPriority(cudaStream_t *out, unsigned flags, int priority)
{
    locked hold(lock);
    (void)flags, (void)priority;
    *out = new CUstream_st{current_device, {}, nullptr};
    streams.push_back(*out);
    return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *out, unsigned flags)
{
    return cudaStreamCreateWithPriority(out, flags, 0);
}

cudaError_t cudaStreamCreate(cudaStream_t *out)
{
    return cudaStreamCreateWithPriority(out, cudaStreamDefault, 0);
}

cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    locked hold(lock);
    if (!stream) return failed(cudaErrorInvalidResourceHandle);
    run_all(); /* events of this stream may be waited for elsewhere */
    for (size_t i = 0; i < streams.size(); i++)
        if (streams[i] == stream) streams.erase(streams.begin() + (ptrdiff_t)i);
    delete stream;
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
    locked hold(lock);
    if (spoils_capture()) return failed(cudaErrorStreamCaptureUnsupported);
    run_stream(stream_of(stream), nullptr, 0);
    return cudaSuccess;
}

cudaError_t cudaStreamQuery(cudaStream_t stream)
{
    locked hold(lock);
    if (spoils_capture()) return failed(cudaErrorStreamCaptureUnsupported);
    return stream_of(stream)->items.empty() ? cudaSuccess : cudaErrorNotReady;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *out, unsigned flags)
{
    locked hold(lock);
    *out = new CUevent_st{current_device, !(flags & cudaEventDisableTiming), std::make_shared<event>()};
    return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t *out)
{
    return cudaEventCreateWithFlags(out, cudaEventDefault);
}

cudaError_t cudaEventDestroy(cudaEvent_t given)
{
    locked hold(lock);
    delete given;
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t given, cudaStream_t stream)
{
    locked hold(lock);
    if (spoils_capture()) return failed(cudaErrorStreamCaptureUnsupported);
    CUstream_st *on = stream_of(stream);
    if (given->device != on->device) return failed(cudaErrorInvalidResourceHandle);
    std::shared_ptr<event> state = given->state;
    uint64_t generation = state->recorded + 1;
    cudaError_t error = put(stream, false, [=] {
        state->done = generation;
        state->seconds = now();
    });
    if (error != cudaSuccess) return error;
    state->recorded = generation;
    state->stream = on;
    return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t given, unsigned flags)
{
    (void)flags;
    locked hold(lock);
    if (spoils_capture()) return failed(cudaErrorStreamCaptureUnsupported);
    const std::shared_ptr<event> &state = given->state;
    if (state->done >= state->recorded) return cudaSuccess;
    return put(stream, item{nullptr, false, state, state->recorded, state->stream});
}

cudaError_t cudaEventSynchronize(cudaEvent_t given)
{
    locked hold(lock);
    if (spoils_capture()) return failed(cudaErrorStreamCaptureUnsupported);
    const event *state = given->state.get();
    if (state->done < state->recorded) run_stream(state->stream, state, state->recorded);
    return cudaSuccess;
}

/* Asked again and again, an event is done at last: the first time it is not, where it can be later. */
cudaError_t cudaEventQuery(cudaEvent_t given)
{
    locked hold(lock);
    if (spoils_capture()) return failed(cudaErrorStreamCaptureUnsupported);
    const event *state = given->state.get();
    if (state->done >= state->recorded) return cudaSuccess;
    run_stream(state->stream, state, state->recorded);
    return cudaErrorNotReady;
}

cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t start, cudaEvent_t end)
{
    locked hold(lock);
    if (!start->timing || !end->timing) return failed(cudaErrorInvalidResourceHandle);
    if (start->state->done < start->state->recorded || end->state->done < end->state->recorded)
        return cudaErrorNotReady;
    *milliseconds = (float)(1000 * (end->state->seconds - start->state->seconds));
    return cudaSuccess;
}

} /* extern "C" */
