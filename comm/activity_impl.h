/* activity_impl.h: how comm's own files write this rank's record. Only files of this folder include it. */
#ifndef LORAD_COMM_ACTIVITY_IMPL_H
#define LORAD_COMM_ACTIVITY_IMPL_H

#include "comm/activity.h"
#include "comm/comm_impl.h"

/* `what` is one of the words of activity.c's table, by number, so that it means the same in another process.
 */
enum op {
    OP_ALL_REDUCE,
    OP_ALL_GATHER,
    OP_REDUCE_SCATTER,
    OP_BROADCAST,
    OP_HOST_ALL_REDUCE,
    OP_HOST_ALL_GATHER,
    OP_HOST_BROADCAST,
    OP_BARRIER,
    OP_AGREE,
    OP_SPLIT,
    N_OPS
};
const char *activity_op_name(enum op op);

void activity_enter(enum op op);
void activity_leave(void);
/* This collective is enqueued on the device. Before activity_leave. */
void activity_enqueued(enum op op);
/* The rank of the world that this one sleeps for; -1: none. */
void activity_waits_for(int rank);
/* Waiting for others began at start_ns and is over. */
void activity_waited(int64_t start_ns);
void activity_waited_more(int64_t ns);

/* Puts the records of the ranks of one host side by side; `gather` is an all-gather over these ranks. This
 * rank is number `rank` of `size`. What cannot be shared stays private. Collective over them. */
enum status activity_share(int rank, int size, int world_rank, comm_exchange gather,
                           void *group) LORAD_WARN_UNUSED;

#endif
