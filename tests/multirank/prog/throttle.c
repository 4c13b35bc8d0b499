/*
 * throttle PID FACTOR: lets a process work FACTOR times as long for the same work, by stopping it for a part
 * of every 20 ms. TERM, or the end of the process, ends this; the process is left running.
 */
#include <signal.h>
#include <stdlib.h>

#include "base/clock.h"

static volatile sig_atomic_t over;

static void end(int number)
{
    (void)number;
    over = 1;
}

int main(int argc, char **argv)
{
    enum { PERIOD_US = 20000 };
    if (argc != 3 || atof(argv[2]) <= 1) return 64;
    pid_t pid = (pid_t)atoi(argv[1]);
    int64_t stopped_us = (int64_t)(PERIOD_US * (1 - 1 / atof(argv[2])));
    signal(SIGTERM, end);
    for (int64_t begin = clock_monotonic_ns(), at_us = 0; !over; at_us += PERIOD_US) {
        /* Where each half ends is known beforehand, so that being late adds up to nothing. */
        int64_t now_us = (clock_monotonic_ns() - begin) / 1000;
        if (now_us > at_us + PERIOD_US) at_us = now_us;
        if (kill(pid, SIGSTOP) != 0) return 0;
        while ((now_us = (clock_monotonic_ns() - begin) / 1000) < at_us + stopped_us)
            clock_sleep_ms((at_us + stopped_us - now_us) / 1000 + 1);
        kill(pid, SIGCONT);
        while ((now_us = (clock_monotonic_ns() - begin) / 1000) < at_us + PERIOD_US)
            clock_sleep_ms((at_us + PERIOD_US - now_us) / 1000 + 1);
    }
    return 0;
}
