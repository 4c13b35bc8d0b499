/* signals.h: what the outside world may ask of a running job. */
#ifndef LORAD_LAUNCH_SIGNALS_H
#define LORAD_LAUNCH_SIGNALS_H

#include <stdbool.h>

/* With work to save: USR1, TERM, INT, HUP: finish the step, checkpoint, end with exit code 75; HUP is left
 * ignored where nohup has it so. USR2: checkpoint, go on. A second INT: exit 130 at once. Without: they end
 * the process, as they would any other. PIPE is ignored. Installed before MPI starts, because a signal may
 * come while it does. */
void signals_install(bool work_to_save);

/* BUS: a mapped file became shorter than it was, or cannot be read: names it and ends with the code of
 * LORAD_IO. */
void signals_explain_bus(void);

/* Whether TERM came: the launcher is ending the job. */
bool signals_terminating(void);

#endif
