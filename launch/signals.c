#include "launch/signals.h"

#include <fcntl.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include "base/status.h"
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

void signals_install(bool work_to_save)
{
    static const int heard[] = {SIGUSR1, SIGUSR2, SIGTERM, SIGINT, SIGHUP};
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART}, before;
    sigemptyset(&action.sa_mask);
    for (size_t i = 0; work_to_save && i < sizeof heard / sizeof *heard; i++) {
        if (heard[i] == SIGHUP && sigaction(SIGHUP, NULL, &before) == 0 && before.sa_handler == SIG_IGN)
            continue;
        sigaction(heard[i], &action, NULL);
    }
    struct sigaction ignore = {.sa_handler = SIG_IGN};
    sigemptyset(&ignore.sa_mask);
    sigaction(SIGPIPE, &ignore, NULL);
}

/* ---- BUS: only what may be called in a handler ---- */

enum { LINE_BYTES = 4200 };

static bool read_line(char line[LINE_BYTES], int fd)
{
    size_t n = 0;
    char c = 0;
    while (c != '\n' && read(fd, &c, 1) == 1)
        if (c != '\n' && n + 1 < LINE_BYTES) line[n++] = c;
    line[n] = '\0';
    return n > 0;
}

static uintptr_t read_hex(const char **at)
{
    static const char digits[] = "0123456789abcdef";
    uintptr_t value = 0;
    for (const char *digit; **at && (digit = strchr(digits, **at)); ++*at)
        value = value * 16 + (uintptr_t)(digit - digits);
    return value;
}

/* The path in the line of /proc/self/maps that holds the address; NULL: there is none. */
static const char *find_file(char line[LINE_BYTES], uintptr_t address)
{
    const char *found = NULL;
    int fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
    if (fd < 0) return NULL;
    while (!found && read_line(line, fd)) {
        const char *at = line;
        uintptr_t begin = read_hex(&at);
        at += *at == '-';
        if (address >= begin && address < read_hex(&at)) found = strchr(at, '/');
    }
    close(fd);
    return found;
}

static void say(const char *text)
{
    if (write(STDERR_FILENO, text, strlen(text)) < 0) return;
}

static void on_bus(int number, siginfo_t *info, void *context)
{
    char line[LINE_BYTES];
    (void)number, (void)context;
    const char *path = find_file(line, (uintptr_t)info->si_addr);
    say("lorad: error: ");
    say(path ? path : "a file");
    say(" became shorter while it was read, or its disk fails: start again when it is complete\n");
    _exit(status_exit_code(LORAD_IO));
}

void signals_explain_bus(void)
{
    struct sigaction action = {.sa_sigaction = on_bus, .sa_flags = SA_SIGINFO | SA_RESETHAND};
    sigemptyset(&action.sa_mask);
    sigaction(SIGBUS, &action, NULL);
}

bool signals_terminating(void)
{
    return terminating;
}
