/* spinning.h: how long idle threads wait awake. */
#ifndef LORAD_LAUNCH_SPINNING_H
#define LORAD_LAUNCH_SPINNING_H

/* Between two parallel loops an idle thread can spin or sleep. Spinning is right on a machine of our own:
 * waking a sleeper costs more than many of the loops (a step took 0.83 s spinning long, 1.1 to 1.5 s sleeping
 * early). Beside other work it steals the very cores that the rank's other threads wait for (a step was 5 to
 * 20 times slower spinning). So: long where the load average says that the cores are free, short where it
 * does not. libgomp reads the setting before main; this sets it and starts the program again, once, unless
 * the user chose GOMP_SPINCOUNT or OMP_WAIT_POLICY. At the start of main; not in a supervisor, whose ranks
 * would inherit the choice. */
void spinning_choose(char **argv);

#endif
