/* thread.h: threads beside the main one. */
#ifndef LORAD_BASE_THREAD_H
#define LORAD_BASE_THREAD_H

#include <pthread.h>

/* pthread_create for a thread that leaves signals to the main one; only those of its own faults (BUS, SEGV,
 * FPE, ILL) reach it. Returns 0 or the error number. */
int thread_start(pthread_t *thread, void *(*run)(void *), void *argument);

#endif
