/*
 * graph.cpp: CUDA graphs of the emulated GPU: what a stream was given is kept, and enqueued again as a whole.
 *
 * A capture is of one stream without events, as the CUDA backend makes them, and forbids its thread what
 * CUDA's mode "thread local" does: to wait and to allocate.
 */
#include "streams.h"

#include <stdlib.h>

struct CUgraphExec_st {
    std::vector<item> items;
    bool uploaded = false;
};

static int uploaded; /* graphs in the GPU's memory; LORAD_EMULATOR_GRAPHS: for how many there is room */

extern "C" {

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, enum cudaStreamCaptureMode mode)
{
    locked hold(lock);
    if (!stream || stream->capture || mode != cudaStreamCaptureModeThreadLocal)
        return failed(cudaErrorInvalidValue);
    stream->capture.reset(new CUgraph_st);
    count_captures(1);
    return cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, enum cudaStreamCaptureStatus *status)
{
    locked hold(lock);
    *status = !stream || !stream->capture ? cudaStreamCaptureStatusNone
              : stream->capture->broken   ? cudaStreamCaptureStatusInvalidated
                                          : cudaStreamCaptureStatusActive;
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph)
{
    locked hold(lock);
    *graph = nullptr;
    if (!stream || !stream->capture) return failed(cudaErrorInvalidValue);
    std::unique_ptr<CUgraph_st> made = std::move(stream->capture);
    count_captures(-1);
    if (made->broken) return failed(cudaErrorStreamCaptureInvalidated);
    *graph = made.release();
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *out, cudaGraph_t graph, unsigned long long flags)
{
    (void)flags;
    locked hold(lock);
    *out = new CUgraphExec_st;
    (*out)->items = graph->items;
    return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
    delete graph;
    return cudaSuccess;
}

cudaError_t cudaGraphUpload(cudaGraphExec_t graph, cudaStream_t stream)
{
    (void)stream;
    locked hold(lock);
    const char *most = getenv("LORAD_EMULATOR_GRAPHS");
    if (graph->uploaded) return cudaSuccess;
    if (most && uploaded >= atoi(most)) return failed(cudaErrorMemoryAllocation);
    uploaded++;
    graph->uploaded = true;
    return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream)
{
    locked hold(lock);
    cudaError_t ready = cudaGraphUpload(graph, stream);
    if (ready != cudaSuccess) return ready;
    for (const item &each : graph->items) {
        cudaError_t error = put(stream, item(each));
        if (error != cudaSuccess) return error;
    }
    return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph)
{
    locked hold(lock);
    uploaded -= graph->uploaded;
    delete graph;
    return cudaSuccess;
}

} /* extern "C" */
