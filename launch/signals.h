/* signals.h: what the outside world may ask of a running job. */
#ifndef LORAD_LAUNCH_SIGNALS_H
#define LORAD_LAUNCH_SIGNALS_H

#include <stdbool.h>

/* USR1, TERM, INT: finish the step, checkpoint, end with exit code 75. USR2: checkpoint, go on. A second INT:
 * exit 130 at once. PIPE is ignored. Installed before MPI starts, because a signal may come while it does. */
void signals_install(void);

/* BUS: a mapped file became shorter than it was, or cannot be read: names it and ends with the code of
 * LORAD_IO. */
void signals_explain_bus(void);

/* Whether TERM came: the launcher is ending the job. */
bool signals_terminating(void);

#endif
