/* signals.h: what the outside world may ask of a running job. */
#ifndef LORAD_LAUNCH_SIGNALS_H
#define LORAD_LAUNCH_SIGNALS_H

/* USR1, TERM, INT: finish the step, checkpoint, end with exit code 75. USR2: checkpoint, go on. A second INT:
 * exit 130 at once. PIPE is ignored. Installed before MPI starts, because a signal may come while it does. */
void signals_install(void);

#endif
