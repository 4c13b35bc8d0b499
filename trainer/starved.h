/* starved.h: how long the threads of this process wanted a processor and got none. */
#ifndef LORAD_TRAINER_STARVED_H
#define LORAD_TRAINER_STARVED_H

#include <stdint.h>

enum { STARVED_THREADS = 128 };

struct starved {
    int n; /* starts zeroed */
    struct starved_thread {
        int32_t thread;
        int64_t ran_ns, delay_ns; /* so far */
    } seen[STARVED_THREADS];
};

/* In the last gap_ns, the time since the last call, by the thread that waited longest; 0 at the first call,
 * and where the kernel does not tell (no schedstat). Reads two files per thread: for once a second. */
int64_t starved_ns(struct starved *starved, int64_t gap_ns);

#endif
