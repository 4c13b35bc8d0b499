/*
 * comm.h: collectives over a group of ranks. Backends: self (one rank), mpi, nccl.
 *
 * The world is created once; groups (tensor parallel, data parallel) are cut from it. Buffers are memory of the device
 * the communicator was made for: host memory with self and mpi on the CPU.
 *
 * Collective: every function marked so is called by all ranks of the group, in the same order, with the same count,
 * dtype and reduction; debug builds check that. A branch that changes the order of collectives may depend on agreed
 * values only.
 * Fail-stop: an error on one rank ends all. The rank that sees it first calls comm_abort with its exit code; a peer that
 * waits gets LORAD_PEER_LOST or is ended by the launcher. comm never retries.
 * Determinism: for the same group, count and dtype the reduction order is fixed, and every rank receives the same bits.
 * Thread: the main thread only, except comm_abort.
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
};

/* Before anything else in main: starts MPI when the process was launched by mpirun or srun with more than one rank (or
 * as a PMIx singleton), installs no signal handlers, chooses shared-memory transport when all ranks share this host and
 * the user chose nothing (OMPI_MCA_btl unset). Refuses the singleton trap: MPI size 1 while SLURM_NTASKS > 1 or
 * OMPI_COMM_WORLD_SIZE > 1. LORAD_CONFIG, LORAD_BUG. Without a launcher it is rank 0 of 1 and MPI is not touched. */
enum status comm_startup(struct comm_world_info *out) LORAD_WARN_UNUSED;
/* Ends MPI cleanly after a barrier. Collective. */
void comm_shutdown(void);

/* "self", "mpi": what comm_create picks for `kind` "auto" is self for one rank, else mpi (nccl on CUDA devices, later).
 * Collective over the world. Owns: *out. */
enum status comm_create(struct comm **out, const char *kind, struct device *device) LORAD_WARN_UNUSED;
/* The ranks that give the same color, ordered by key. Collective over `comm`. Owns: *out. */
enum status comm_split(struct comm **out, struct comm *comm, int color, int key) LORAD_WARN_UNUSED;
void comm_destroy(struct comm *comm); /* NULL ok */

int comm_rank(const struct comm *comm);
int comm_size(const struct comm *comm);
const char *comm_kind(const struct comm *comm);

/* In place over a dense buffer of device memory; DTYPE_BF16 and DTYPE_F16 add in f32 and round once (mpi: per rank order
 * on one host; see comm_mpi.c). Enqueued on the compute stream. Collective. */
enum status comm_all_reduce(struct comm *comm, void *buffer, int64_t count, enum dtype dtype,
                            enum comm_reduction reduction) LORAD_WARN_UNUSED;
/* out [size][count] gathers in [count] in rank order. Collective. */
enum status comm_all_gather(struct comm *comm, const void *in, void *out, int64_t count, enum dtype dtype)
    LORAD_WARN_UNUSED;
enum status comm_broadcast(struct comm *comm, void *buffer, int64_t count, enum dtype dtype, int root)
    LORAD_WARN_UNUSED;

/* Host-side twins for control values (agreements, receipts, ids): buffers in host memory whatever the device; block. */
enum status comm_host_all_reduce(struct comm *comm, void *buffer, int64_t count, enum dtype dtype,
                                 enum comm_reduction reduction) LORAD_WARN_UNUSED;
enum status comm_host_all_gather(struct comm *comm, const void *in, void *out, size_t bytes) LORAD_WARN_UNUSED;
enum status comm_host_broadcast(struct comm *comm, void *buffer, size_t bytes, int root) LORAD_WARN_UNUSED;
enum status comm_barrier(struct comm *comm) LORAD_WARN_UNUSED;

/* True on every rank when `ok` is true on every rank: used before a branch that a local failure could split. When some
 * rank says false, the lowest such rank's message is given to all of them as the recorded status message, prefixed with
 * "rank N", and LORAD_* of that rank is returned; LORAD_OK otherwise. Blocks. Collective. */
enum status comm_agree(struct comm *comm, enum status mine) LORAD_WARN_UNUSED;

/* Ends every rank of the job with this exit code, now. Does not return when MPI runs. Thread: any. */
void comm_abort(int exit_code);

/* The watchdog looks here: what the main thread is doing. `what` is a string literal. Cheap. */
struct comm_activity {
    const char *what;    /* "all_reduce" ... or NULL when not inside a collective */
    int64_t since_ns;    /* clock_monotonic_ns at entry */
    uint64_t sequence;   /* collectives entered so far */
};
struct comm_activity comm_activity(void);

#endif
