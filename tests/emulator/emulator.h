/*
 * emulator.h: between the emulator's two halves and the headers that stand in for CUDA's.
 *
 * emulator.cpp runs a kernel: threads of a block are fibers of one thread of the process. runtime.cpp is the
 * runtime API: memory, streams, events.
 */
#ifndef LORAD_EMULATOR_H
#define LORAD_EMULATOR_H

#include <functional>
#include <stddef.h>
#include <stdint.h>

#include <cuda_runtime_api.h>

struct uint3 {
    unsigned x, y, z;
};

struct dim3 {
    unsigned x, y, z;
    dim3(int64_t a = 1, int64_t b = 1, int64_t c = 1) : x((unsigned)a), y((unsigned)b), z((unsigned)c)
    {
    }
};

namespace emulator {

/* Prints what a kernel or the host did wrong, and where, and aborts. */
[[noreturn]] void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

struct launch {
    const char *name;
    dim3 grid, block;
    size_t shared_bytes;
    std::function<void()> thread; /* the kernel with its arguments, for one thread */
};

/* emulator.cpp: runs all blocks to their end. */
void run(const launch &kernel);

/* runtime.cpp: checks the launch as the driver would (its error waits in cudaGetLastError) and enqueues it.
 */
void enqueue(launch &&kernel, const void *address, cudaStream_t stream);

/* What a running kernel calls. */
void barrier();
unsigned char *dynamic_shared();

/* An operation of the lanes of `mask` together: the last to arrive runs complete() with what each lane
 * brought (NULL: a lane outside the mask, or that has left the kernel), then all go on. */
typedef void collective(void *const lane[32], uint32_t mask);
void together(uint32_t mask, collective *complete, void *mine);
int lane();

/* Copies in the background: they arrive when they are waited for, and until then the target holds NaN. */
void copy_begin(void *to, const void *from, bool valid);
void copy_commit();
void copy_wait(int groups);

} // namespace emulator

#endif
