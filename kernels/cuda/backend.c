/* backend.c: the table of the CUDA backend, which is all that lorad_cuda.so exports. */
#include "kernels/cuda/device_cuda.h"

__attribute__((visibility("default"))) const struct device_ops lorad_cuda_backend = {
    .size = sizeof(struct device_ops),
    .kind = "cuda",
    .is_host = false,
    .row_multiple = CUDA_ROW_MULTIPLE,
    .count = cuda_count,
    .identify = cuda_identify,
    .open = cuda_open,
    .close = cuda_close,
    .alloc = cuda_alloc,
    .free = cuda_free,
    .alloc_host = cuda_alloc_host,
    .free_host = cuda_free_host,
    .copy_to = cuda_copy_to,
    .copy_from = cuda_copy_from,
    .copy_inside = cuda_copy_inside,
    .zero = cuda_zero,
    .event_create = cuda_event_create,
    .event_destroy = cuda_event_destroy,
    .event_record = cuda_event_record,
    .stream_wait = cuda_stream_wait,
    .event_sync = cuda_event_sync,
    .sync = cuda_sync,
    .record_begin = cuda_record_begin,
    .record_end = cuda_record_end,
    .replay = cuda_replay,
    .recording_destroy = cuda_recording_destroy,
#define OP(name) .name = cuda_##name,
#include "kernels/ops.def"
#undef OP
    .attention_scratch = cuda_attention_scratch,
    .panel = &cuda_panel_ops,
    .libraries = cuda_libraries,
    .extension = cuda_extension,
    .native_stream = cuda_native_stream,
};
