/*
 * graph.cpp: CUDA graphs of the emulated GPU: what a stream was given is kept, and enqueued again as a whole.
 *
 * A capture is of one stream without events, as the CUDA backend makes them, and forbids its thread what
 * CUDA's mode "thread local" does: to wait and to allocate.
 */
#include "streams.h"

struct CUgraphExec_st {
    std::vector<item> items;
};

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
    *out = new CUgraphExec_st{graph->items};
    return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
    delete graph;
    return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream)
{
    locked hold(lock);
    for (const item &each : graph->items) {
        cudaError_t error = put(stream, item(each));
        if (error != cudaSuccess) return error;
    }
    return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph)
{
    delete graph;
    return cudaSuccess;
}

} /* extern "C" */
