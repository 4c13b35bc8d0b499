#include "launch/spinning.h"

#include <stdbool.h>
#include <stdlib.h>
#include <unistd.h>

void spinning_choose(char **argv)
{
    if (getenv("GOMP_SPINCOUNT") || getenv("OMP_WAIT_POLICY")) return;
    /* A run that was just stopped and goes on has filled its own cores for the last minute: that is not other
     * work. */
    double load, cores = (double)sysconf(_SC_NPROCESSORS_ONLN);
    bool crowded = getloadavg(&load, 1) == 1 && load > 1.25 * cores;
    if (setenv("GOMP_SPINCOUNT", crowded ? "1000" : "1000000", 1) == 0) execv("/proc/self/exe", argv);
    /* Where that cannot be done the program runs all the same. */
}
