/*
 * recording.c: recordings as CUDA graphs, by capturing the compute stream (CUDA C++ Programming Guide, CUDA
 * Graphs). The mode of capture lets other threads go on: the one that copies a checkpoint waits for events.
 */
#include "kernels/cuda/device_cuda.h"

#include <stdlib.h>

#include "base/memory.h"

struct device_recording {
    cudaGraphExec_t graph;
};

enum status cuda_record_begin(struct device *device)
{
    CUDA_TRY(cudaSetDevice(cuda_of(device)->number));
    CUDA_TRY(cudaStreamBeginCapture(cuda_compute(device), cudaStreamCaptureModeThreadLocal));
    cuda_of(device)->recording = true;
    return LORAD_OK;
}

/* Uploaded at once: a GPU that has no room for it says so here, where its user can still do without. */
static enum status keep_graph(struct device_recording **out, cudaGraph_t graph, cudaStream_t stream)
{
    struct device_recording *recording = memory_new(1, sizeof *recording);
    if (!recording) return LORAD_NOMEM;
    enum status status =
        cuda_check(cudaGraphInstantiate(&recording->graph, graph, 0), "cudaGraphInstantiate");
    if (status != LORAD_OK) {
        free(recording);
        return status;
    }
    status = cuda_check(cudaGraphUpload(recording->graph, stream), "cudaGraphUpload");
    if (status != LORAD_OK) {
        cudaGraphExecDestroy(recording->graph);
        free(recording);
        return status;
    }
    *out = recording;
    return LORAD_OK;
}

/* A capture that something spoiled is ended too; the error that spoiled it has been seen. */
enum status cuda_record_end(struct device_recording **out, struct device *device, bool keep)
{
    cudaGraph_t graph = NULL;
    *out = NULL;
    cuda_of(device)->recording = false;
    cudaError_t error = cudaStreamEndCapture(cuda_compute(device), &graph);
    if (!keep) (void)cudaGetLastError();
    enum status status = keep ? cuda_check(error, "cudaStreamEndCapture") : LORAD_OK;
    if (status == LORAD_OK && keep) status = keep_graph(out, graph, cuda_compute(device));
    if (graph) cudaGraphDestroy(graph);
    return status;
}

enum status cuda_replay(struct device *device, const struct device_recording *recording)
{
    CUDA_TRY(cudaSetDevice(cuda_of(device)->number));
    CUDA_TRY(cudaGraphLaunch(recording->graph, cuda_compute(device)));
    return LORAD_OK;
}

/* Not while it runs. */
void cuda_recording_destroy(struct device *device, struct device_recording *recording)
{
    (void)cudaSetDevice(cuda_of(device)->number);
    (void)cudaStreamSynchronize(cuda_compute(device));
    cudaGraphExecDestroy(recording->graph);
    free(recording);
}
