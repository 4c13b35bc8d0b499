/* device_cuda.h: the functions of device_cuda.c, by the names of their slots in device_impl.h. */
#ifndef LORAD_KERNELS_DEVICE_CUDA_H
#define LORAD_KERNELS_DEVICE_CUDA_H

#include "kernels/cuda/cuda_impl.h"

#ifdef __cplusplus
extern "C" {
#endif

int cuda_count(char *words, size_t bytes);
void cuda_libraries(char *words, size_t bytes);
enum status cuda_identify(struct device_id *out, int number);
enum status cuda_open(struct device **out, const struct device_options *options);
void cuda_close(struct device *device);
enum status cuda_alloc(void **out, struct device *device, size_t bytes);
void cuda_free(struct device *device, void *block);
enum status cuda_alloc_host(void **out, struct device *device, size_t bytes);
void cuda_free_host(struct device *device, void *block);
enum status cuda_copy_to(struct device *device, enum device_stream stream, void *to, const void *from,
                         size_t bytes);
enum status cuda_copy_from(struct device *device, enum device_stream stream, void *to, const void *from,
                           size_t bytes);
enum status cuda_copy_inside(struct device *device, enum device_stream stream, void *to, const void *from,
                             size_t bytes);
enum status cuda_zero(struct device *device, enum device_stream stream, void *block, size_t bytes);
enum status cuda_event_create(struct device_event **out, struct device *device);
void cuda_event_destroy(struct device *device, struct device_event *event);
enum status cuda_event_record(struct device *device, enum device_stream stream, struct device_event *event);
enum status cuda_stream_wait(struct device *device, enum device_stream stream, struct device_event *event);
enum status cuda_event_sync(struct device *device, struct device_event *event);
enum status cuda_sync(struct device *device);

/* recording.c */
enum status cuda_record_begin(struct device *device);
enum status cuda_record_end(struct device_recording **out, struct device *device, bool keep);
enum status cuda_replay(struct device *device, const struct device_recording *recording);
void cuda_recording_destroy(struct device *device, struct device_recording *recording);

const void *cuda_extension(const char *name);
void *cuda_native_stream(const struct device *device, enum device_stream stream);

#ifdef __cplusplus
}
#endif

#endif
