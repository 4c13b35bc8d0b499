#include "launch/signals.h"

#include <signal.h>
#include <stddef.h>
#include <unistd.h>

#include "trainer/trainer.h"

static volatile sig_atomic_t interrupted, terminating;

static void on_signal(int number)
{
    if (number == SIGUSR2) {
        run_request(true, false);
        return;
    }
    if (number == SIGINT) {
        if (interrupted) _exit(130);
        interrupted = 1;
    }
    if (number == SIGTERM) terminating = 1;
    run_request(true, true);
}

void signals_install(void)
{
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    sigemptyset(&action.sa_mask);
    sigaction(SIGUSR1, &action, NULL);
    sigaction(SIGUSR2, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    struct sigaction ignore = {.sa_handler = SIG_IGN};
    sigemptyset(&ignore.sa_mask);
    sigaction(SIGPIPE, &ignore, NULL);
}

bool signals_terminating(void)
{
    return terminating;
}
