/* streams.h: what is enqueued on the emulated GPU; between runtime.cpp, which runs it, and graph.cpp. */
#ifndef LORAD_EMULATOR_STREAMS_H
#define LORAD_EMULATOR_STREAMS_H

#include "emulator.h"

#include <deque>
#include <memory>
#include <mutex>
#include <vector>

struct event {
    uint64_t recorded = 0, done = 0; /* how often */
    double seconds = 0;              /* when it was done last */
    CUstream_st *stream = nullptr;   /* of the last record */
};

struct item {
    std::function<void()> run;
    bool touches;                /* device memory where it is: kernels */
    std::shared_ptr<event> wait; /* until its `generation`-th record is done on `other` */
    uint64_t generation;
    CUstream_st *other;
};

struct CUgraph_st {
    std::vector<item> items;
    bool broken = false; /* something was called that a capture does not allow */
};

struct CUstream_st {
    int device;
    std::deque<item> items;
    std::unique_ptr<CUgraph_st> capture; /* what is enqueued goes there */
};

extern std::recursive_mutex lock;
typedef std::lock_guard<std::recursive_mutex> locked;

/* The error, which also waits in cudaGetLastError. */
cudaError_t failed(cudaError_t error);
cudaError_t put(cudaStream_t stream, item &&work);
/* The calling thread begins (1) or ends (-1) a capture. */
void count_captures(int difference);

#endif
