/*
 * comm_impl.h: what a backend of comm.h fills in. Only files of this folder include it.
 *
 * A backend is a const table over its own state, one state per group, and speaks host memory. Wrappers in
 * comm.c check arguments and record the activity, so a slot sees valid arguments and count > 0, always on the
 * thread that made the group. Every slot that communicates is collective and blocks until the result is in
 * the buffer. Memory of other devices goes through comm_device.c or comm_stage.c.
 */
#ifndef LORAD_COMM_COMM_IMPL_H
#define LORAD_COMM_COMM_IMPL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "comm/comm.h"

struct comm_ops {
    const char *kind;

    /* The group of all ranks. Owns: *out. */
    enum status (*create)(void **out);
    /* The ranks that give the same color, ordered by key, then by rank. Owns: *out. */
    enum status (*split)(void **out, void *group, int color, int key);
    void (*destroy)(void *group);
    int (*rank)(const void *group);
    int (*size)(const void *group);

    /* Host memory. Reductions go in rank order (comm_reduce.c). */
    enum status (*all_reduce)(void *group, void *buffer, int64_t count, enum dtype dtype,
                              enum comm_reduction reduction);
    enum status (*all_gather)(void *group, const void *in, void *out, size_t bytes);
    /* in [size][count]; out may be this rank's place in it. */
    enum status (*reduce_scatter)(void *group, const void *in, void *out, int64_t count, enum dtype dtype,
                                  enum comm_reduction reduction);
    enum status (*broadcast)(void *group, void *buffer, size_t bytes, int root);
    enum status (*barrier)(void *group);
};

extern const struct comm_ops comm_self_ops;
extern const struct comm_ops comm_mpi_ops;

/* ---- memory of a device that is not the host ---- */

/* The GPU behind a device, and the library that would carry its collectives. */
struct comm_place {
    char bus[32];    /* "0000:18:00.0": what tells GPUs of a host apart, whatever CUDA_VISIBLE_DEVICES says */
    int32_t number;  /* the runtime's, of this process */
    int32_t version; /* 22809 */
};

/*
 * Collectives that a device library offers over its own memory: device_extension(device, "lorad_nccl_ops").
 * The library is apart from the program and may call functions of base only.
 *
 * A group is made from an id, which its rank 0 makes and the host group hands out. Only `check` may be called
 * on another thread than the group's own, beside any slot but `abort` and `destroy`.
 */
struct comm_device_ops {
    size_t size; /* sizeof(struct comm_device_ops) when it was compiled: another value is another release */
    const char *name;  /* "NCCL" */
    int setup_seconds; /* create takes less where all is well */

    /* As in struct comm_place; needs no GPU. */
    enum status (*version)(int32_t *out);
    /* On the thread that opened the device. */
    enum status (*locate)(struct comm_place *out);
    /* Before the first group of this process. `words`: what was chosen, for people; "" when nothing was. */
    void (*prepare)(bool deterministic, char *words, size_t bytes);
    enum status (*make_id)(void *id);
    /* Blocks until all ranks of the group have come and have exchanged something; on a thread of its own,
     * which may wait for ever for one that does not come. */
    enum status (*create)(void **out, const void *id, int rank, int size, const struct comm_place *place,
                          bool deterministic);
    /* What the library found out by itself: a lost connection. Never waits. */
    enum status (*check)(void *group);
    /* Seconds that the group's collectives have taken on the device so far, waiting for peers included, as
     * far as they are known to be over. Never waits. */
    double (*seconds)(void *group);
    /* Ends what is under way on the device, and the group. */
    void (*abort)(void *group);
    /* After all that was enqueued has finished here. NULL is fine. */
    void (*destroy)(void *group);

    /* Enqueue on `stream` (device_native_stream) and return. */
    enum status (*all_reduce)(void *group, void *stream, void *buffer, int64_t count, enum dtype dtype,
                              enum comm_reduction reduction);
    enum status (*all_gather)(void *group, void *stream, const void *in, void *out, size_t bytes);
    enum status (*reduce_scatter)(void *group, void *stream, const void *in, void *out, int64_t count,
                                  enum dtype dtype, enum comm_reduction reduction);
    enum status (*broadcast)(void *group, void *stream, void *buffer, size_t bytes, int root);
};
enum { COMM_ID_BYTES = 128 };

/* A group over host memory: a backend's table and its state. */
struct comm_host {
    const struct comm_ops *ops;
    void *group;
    int rank, size;
};

/*
 * comm_device.c: a communicator's device collectives through a library's own table.
 */
struct comm_device;
/* Whether the devices of all ranks can talk by such a library: then *out is its table and `words` its name
 * and version, else *out is NULL and they say what is in the way; the same on every rank. Collective. */
enum status comm_device_find(const struct comm_device_ops **out, char *words, size_t bytes,
                             const struct comm_host *host, struct device *device) LORAD_WARN_UNUSED;
/* Over the ranks of `host`, more than one. Borrows: host, device. Blocks. Collective. Owns: *out. */
enum status comm_device_create(struct comm_device **out, const struct comm_device_ops *ops,
                               const struct comm_host *host, struct device *device,
                               bool deterministic) LORAD_WARN_UNUSED;
void comm_device_destroy(struct comm_device *group); /* NULL ok */
enum status comm_device_all_reduce(struct comm_device *group, void *buffer, int64_t count, enum dtype dtype,
                                   enum comm_reduction reduction) LORAD_WARN_UNUSED;
enum status comm_device_all_gather(struct comm_device *group, const void *in, void *out,
                                   size_t bytes) LORAD_WARN_UNUSED;
enum status comm_device_reduce_scatter(struct comm_device *group, const void *in, void *out, int64_t count,
                                       enum dtype dtype, enum comm_reduction reduction) LORAD_WARN_UNUSED;
enum status comm_device_broadcast(struct comm_device *group, void *buffer, size_t bytes,
                                  int root) LORAD_WARN_UNUSED;

/*
 * comm_stage.c: device memory through a group over host memory, in pieces: while the host exchanges one, the
 * next one comes from the device and the last one goes back.
 */
struct comm_stage;
/* Borrows: host, device. Owns: *out. */
enum status comm_stage_create(struct comm_stage **out, const struct comm_host *host,
                              struct device *device) LORAD_WARN_UNUSED;
void comm_stage_destroy(struct comm_stage *stage); /* NULL ok */
enum status comm_stage_all_reduce(struct comm_stage *stage, void *buffer, int64_t count, enum dtype dtype,
                                  enum comm_reduction reduction) LORAD_WARN_UNUSED;
enum status comm_stage_all_gather(struct comm_stage *stage, const void *in, void *out,
                                  size_t bytes) LORAD_WARN_UNUSED;
enum status comm_stage_reduce_scatter(struct comm_stage *stage, const void *in, void *out, int64_t count,
                                      enum dtype dtype, enum comm_reduction reduction) LORAD_WARN_UNUSED;
enum status comm_stage_broadcast(struct comm_stage *stage, void *buffer, size_t bytes,
                                 int root) LORAD_WARN_UNUSED;

/*
 * comm_reduce.c: out[i] = in[0][i] op in[1][i] op ..., left to right, `ways` operands of `count` elements.
 * bf16 and f16 accumulate in f32 and round once; a NaN in any operand of max and min gives NaN. `out` may be
 * one of the operands.
 */
void comm_reduce(void *out, const void *const *in, int ways, int64_t count, enum dtype dtype,
                 enum comm_reduction reduction);

typedef enum status (*comm_exchange)(void *group, const void *in, void *out, size_t bytes);

/*
 * comm_share.c: memory that the ranks of a group have in common, when they share a host and see each other's
 * processes: an anonymous memory file of the group's rank 0 that the others map through /proc, so nothing is
 * left behind however the run ends. `gather` is an all-gather of `bytes` per rank over the group. *out is
 * zeroed memory at least as large as asked for, or NULL with LORAD_OK when some rank cannot map it (then no
 * rank has it). peers [size]. munmap(*out, bytes) gives it back. Collective.
 */
struct comm_peer {
    int32_t pid, fd, ready, world_rank;
    uint64_t pid_space; /* inode of the PID namespace: pids mean something within one only; 0: unknown */
};
struct comm_sharing {
    int rank, size, world_rank;
    bool wanted; /* by this rank */
    size_t bytes;
    comm_exchange gather;
    void *group;
};
enum status comm_share_memory(void **out, struct comm_peer *peers,
                              const struct comm_sharing *sharing) LORAD_WARN_UNUSED;

/*
 * comm_shm.c: a group whose ranks share a host exchanges through one memory segment instead of messages.
 * *out is NULL with LORAD_OK when the segment cannot be shared (comm_share_memory).
 */
struct comm_shm;
enum status comm_shm_create(struct comm_shm **out, int rank, int size, int world_rank, bool crowded,
                            comm_exchange gather, void *group) LORAD_WARN_UNUSED;
void comm_shm_destroy(struct comm_shm *shm);
enum status comm_shm_all_reduce(struct comm_shm *shm, void *buffer, int64_t count, enum dtype dtype,
                                enum comm_reduction reduction) LORAD_WARN_UNUSED;
enum status comm_shm_all_gather(struct comm_shm *shm, const void *in, void *out,
                                size_t bytes) LORAD_WARN_UNUSED;
enum status comm_shm_reduce_scatter(struct comm_shm *shm, const void *in, void *out, int64_t count,
                                    enum dtype dtype, enum comm_reduction reduction) LORAD_WARN_UNUSED;
enum status comm_shm_broadcast(struct comm_shm *shm, void *buffer, size_t bytes, int root) LORAD_WARN_UNUSED;
enum status comm_shm_barrier(struct comm_shm *shm) LORAD_WARN_UNUSED;
/* Tells every rank that shares a segment with this process that the run is over. Async-signal-safe; any
 * thread. */
void comm_shm_abort(void);
/* Whether some rank did that. */
bool comm_shm_over(void);

/* comm_mpi.c: the process-wide part of MPI. */
enum status comm_mpi_start(struct comm_world_info *out) LORAD_WARN_UNUSED;
bool comm_mpi_running(void);
void comm_mpi_stop(void);
void comm_mpi_abort(int exit_code);

/* LORAD_PEER_LOST after giving the rank that failed first 3 s to end the run with its own message. */
enum status comm_peer_lost(const char *format, ...) __attribute__((format(printf, 1, 2), cold));

#endif
