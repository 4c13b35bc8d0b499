/*
 * comm.h: collectives over a group of ranks. Kinds: self (one rank), mpi, nccl.
 *
 * The world is created once; groups (tensor parallel, data parallel) are cut from it. Buffers are memory of
 * the device the communicator was made for. Memory of a GPU goes through host memory with mpi, in pieces that
 * overlap, and from GPU to GPU with nccl, which keeps mpi for all that is host memory.
 *
 * Collective: every function marked so is called by all ranks of the group, in the same order, with the same
 * count, dtype and reduction. A branch that changes the order of collectives may depend on agreed values
 * only. Fail-stop: an error on one rank ends all. The rank that sees it first calls comm_abort with its exit
 * code; a peer that waits gets LORAD_PEER_LOST or is ended by the launcher. comm never retries.
 * LORAD_COMM_CHECK=1 (debug builds: unless 0) compares every call with the peers' first and names the rank
 * that differs; LORAD_COMM_SHM=0 keeps ranks of one host from exchanging through shared memory. Both are for
 * tests. Determinism: for the same group, count and dtype the reduction order is fixed, and every rank
 * receives the same bits; with nccl every rank does, but from run to run only what was created as
 * deterministic. Thread: the main thread only, except comm_abort and comm_health.
 */
#ifndef LORAD_COMM_COMM_H
#define LORAD_COMM_COMM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "kernels/device.h"
#include "kernels/tensor.h"

struct comm;

enum comm_reduction { COMM_SUM, COMM_MAX, COMM_MIN };

struct comm_world_info {
    int rank, world;
    int local_rank, local_world; /* among the ranks of this host */
    int threads; /* CPU threads for this rank: its share of the cores that this host's ranks may use */
};

/* Before any collective, and only for verbs that run on ranks: starts MPI when mpirun or srun launched more
 * than one rank, installs no signal handlers, chooses shared-memory transport when all ranks share this host
 * and the user chose nothing (OMPI_MCA_btl, _pml, _mtl, _osc unset). Without a launcher, and under `mpirun
 * -np 1`, it is rank 0 of 1 and MPI is not touched. LORAD_CONFIG for the singleton trap: alone although
 * SLURM_NTASKS, PMI_SIZE or OMPI_COMM_WORLD_SIZE says that more than one process was started. LORAD_PEER_LOST
 * when MPI does not start. */
enum status comm_startup(struct comm_world_info *out) LORAD_WARN_UNUSED;
/* Ends MPI cleanly after a barrier, when it runs. Collective. */
void comm_shutdown(void);

struct comm_options {
    const char *kind;      /* "auto" (NULL), "self", "mpi", "nccl" */
    struct device *device; /* NULL: host memory. Borrowed */
    bool deterministic;    /* the same bits in every run on the same ranks and machines; only nccl asks */
};

/* "auto" is self for one rank, nccl when every rank has a GPU of its own that NCCL can use (over GPUs that
 * ranks share: mpi, and a line says why), else mpi; nccl of one rank is self. LORAD_CONFIG when a kind that
 * was named does not fit the launch or the machine. Collective over the world. Owns: *out. */
enum status comm_create(struct comm **out, const struct comm_options *options) LORAD_WARN_UNUSED;
/* The ranks that give the same color (>= 0), ordered by key, then by rank. With nccl GPUs are connected here,
 * for the world by its first collective over device memory. Collective over `comm`. Owns: *out. */
enum status comm_split(struct comm **out, struct comm *comm, int color, int key) LORAD_WARN_UNUSED;
void comm_destroy(struct comm *comm); /* NULL ok */

int comm_rank(const struct comm *comm);
int comm_size(const struct comm *comm);
const char *comm_kind(const struct comm *comm);
/* "self", "mpi", or the library with its version, which bits may depend on: "NCCL 2.28.9". Borrowed. */
const char *comm_describe(const struct comm *comm);
/* What would carry collectives from GPU to GPU here: "NCCL 2.28.9", or "". Takes no GPU. */
void comm_device_library(char *words, size_t bytes);

/* In place over a dense buffer of device memory. Integer sums wrap; count may be 0. On a device that is not
 * the host the result is there for what is enqueued next on the compute stream, and the call may return long
 * before; errors of other ranks then come with a later call.
 * self, mpi: operands are combined in rank order, DTYPE_BF16 and DTYPE_F16 in f32, rounded once; max and min
 * of a NaN are NaN. nccl: in an order of its own, which may differ along the buffer, and halves are rounded
 * after every addition (for two ranks that is the same as once); of a NaN and a number either may win.
 * Collective. */
enum status comm_all_reduce(struct comm *comm, void *buffer, int64_t count, enum dtype dtype,
                            enum comm_reduction reduction) LORAD_WARN_UNUSED;
/* out [size][count] gathers in [count] in rank order; `in` may be this rank's place in out. Collective. */
enum status comm_all_gather(struct comm *comm, const void *in, void *out, int64_t count,
                            enum dtype dtype) LORAD_WARN_UNUSED;
/* in [size][count], combined as comm_all_reduce does, block by block: out [count] is the block of this rank's
 * number. It may be this rank's place in `in`; the other blocks stay as they were. Collective. */
enum status comm_reduce_scatter(struct comm *comm, const void *in, void *out, int64_t count, enum dtype dtype,
                                enum comm_reduction reduction) LORAD_WARN_UNUSED;
enum status comm_broadcast(struct comm *comm, void *buffer, int64_t count, enum dtype dtype,
                           int root) LORAD_WARN_UNUSED;

/* Host-side twins for control values (agreements, receipts, ids): buffers in host memory whatever the device;
 * block. */
enum status comm_host_all_reduce(struct comm *comm, void *buffer, int64_t count, enum dtype dtype,
                                 enum comm_reduction reduction) LORAD_WARN_UNUSED;
enum status comm_host_all_gather(struct comm *comm, const void *in, void *out,
                                 size_t bytes) LORAD_WARN_UNUSED;
enum status comm_host_broadcast(struct comm *comm, void *buffer, size_t bytes, int root) LORAD_WARN_UNUSED;
enum status comm_barrier(struct comm *comm) LORAD_WARN_UNUSED;

/* LORAD_OK on every rank when `mine` is LORAD_OK on every rank: used before a branch that a local failure
 * could split. Otherwise every rank gets the code of the lowest rank that failed, and that rank's message as
 * the recorded one, with "rank N: " before it (a group of one: `mine` and its message as they are). Blocks.
 * Collective. */
enum status comm_agree(struct comm *comm, enum status mine) LORAD_WARN_UNUSED;

/* Collectives that were enqueued on the device and are over there count from now on as time waited
 * (activity_waited_seconds). Never waits, so after the device was waited for it counts all. */
void comm_settle(void);

/* LORAD_OK, or what the library of some group of this process found out by itself (LORAD_PEER_LOST: a
 * connection broke). Its device then waits for ever: the caller ends the run. Never waits. Thread: any. */
enum status comm_health(void) LORAD_WARN_UNUSED;

/* Ends every rank of the job with this exit code, now; this process alone when MPI does not run. The caller
 * has reported why: peers notice within a fraction of a second, but say PEER_LOST only 3 s later, so that the
 * cause is what the user reads. Thread: any. */
void comm_abort(int exit_code) __attribute__((noreturn));

#endif
