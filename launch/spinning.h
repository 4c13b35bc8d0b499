/* spinning.h: how long idle threads wait awake. */
#ifndef LORAD_LAUNCH_SPINNING_H
#define LORAD_LAUNCH_SPINNING_H

/* libgomp lets an idle thread spin for milliseconds before it sleeps. On a machine that others use too, that steals the
 * very cores that the rank's other threads wait for: a step was 5 to 20 times slower beside other work. It reads its
 * settings before main, so this sets a short spin (tens of microseconds) and starts the program again, once, unless the
 * user chose GOMP_SPINCOUNT or OMP_WAIT_POLICY. Call it first in main. */
void spinning_bound(char **argv);

#endif
