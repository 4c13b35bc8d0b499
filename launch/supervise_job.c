#include "launch/supervise_job.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"

enum { SWEEP_MS = 5000, SWEEP_STEP_MS = 5 };

/* ---- starting ---- */

/* In the child. mpirun ends its ranks when it is asked to; a rank alone has nobody to wait for. */
static void become(char *const *argv, bool alone, pid_t parent, int report)
{
    sigset_t none;
    sigemptyset(&none);
    setsid();
    prctl(PR_SET_PDEATHSIG, alone ? SIGKILL : SIGTERM);
    if (getppid() != parent) _exit(1);
    int null = open("/dev/null", O_RDONLY);
    if (null >= 0) dup2(null, STDIN_FILENO);
    if (null > STDERR_FILENO) close(null);
    signal(SIGPIPE, SIG_DFL);
    /* What comes before mpirun or the rank listens would end it; from then on it is heard. */
    signal(SIGUSR1, SIG_IGN);
    signal(SIGUSR2, SIG_IGN);
    sigprocmask(SIG_SETMASK, &none, NULL);
    execvp(argv[0], argv);
    int error = errno;
    if (write(report, &error, sizeof error) < 0) _exit(127);
    _exit(127);
}

enum status job_start(struct job *out, char *const *argv, bool alone)
{
    int ends[2], error = 0;
    if (pipe2(ends, O_CLOEXEC) != 0) return FAIL(LORAD_NOMEM, "cannot make a pipe: %s", strerror(errno));
    pid_t parent = getpid(), pid = fork();
    if (pid == 0) become(argv, alone, parent, ends[1]);
    close(ends[1]);
    if (pid < 0) {
        close(ends[0]);
        return FAIL(LORAD_NOMEM, "cannot start a process: %s", strerror(errno));
    }
    ssize_t n;
    do n = read(ends[0], &error, sizeof error);
    while (n < 0 && errno == EINTR);
    close(ends[0]);
    if (n == (ssize_t)sizeof error) {
        waitpid(pid, NULL, 0);
        return FAIL(LORAD_NOT_FOUND, "cannot start %s: %s; is Open MPI installed (openmpi-bin) and in PATH?",
                    argv[0], strerror(error));
    }
    out->pid = pid;
    return LORAD_OK;
}

void job_signal(const struct job *job, int number)
{
    if (job->pid > 0) kill(job->pid, number);
}

bool job_ended(const struct job *job, int *code)
{
    for (;;) {
        siginfo_t end = {.si_pid = 0};
        if (waitid(P_ALL, 0, &end, WEXITED | WNOHANG | WNOWAIT) != 0 || end.si_pid == 0) return false;
        if (end.si_pid == job->pid) {
            *code = end.si_code == CLD_EXITED ? end.si_status : 128 + end.si_status;
            return true;
        }
        waitpid(end.si_pid, NULL, 0); /* an orphan of it */
    }
}

/* ---- who is left ---- */

struct process {
    pid_t pid, parent, session;
    char state, name[16];
};

static bool read_process(struct process *out, const char *name)
{
    char path[64], text[512], *at, *from;
    snprintf(path, sizeof path, "/proc/%.20s/stat", name);
    int fd = open(path, O_RDONLY | O_CLOEXEC), parent, group, session;
    if (fd < 0) return false;
    ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    if (n <= 0) return false;
    text[n] = '\0';
    from = strchr(text, '(');
    at = strrchr(text, ')'); /* the name before it may hold anything */
    if (!at || !from || sscanf(at + 1, " %c %d %d %d", &out->state, &parent, &group, &session) != 4)
        return false;
    out->pid = (pid_t)atoi(name);
    out->parent = (pid_t)parent;
    out->session = (pid_t)session;
    snprintf(out->name, sizeof out->name, "%.*s", (int)(at - from - 1), from + 1);
    return true;
}

static bool is_alive(const struct process *process)
{
    return process->state != 'Z' && process->state != 'X';
}

/* By which mpirun starts ranks on other hosts. */
static bool is_agent(const struct process *process)
{
    static const char *const names[] = {"ssh", "rsh", "qrsh", "blaunch", "srun", "orted"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(process->name, names[i]) == 0) return true;
    return false;
}

/* How many living processes of the session there are; with a parent, only the ranks that are its children;
 * `number` is sent to each. */
static int visit(pid_t session, pid_t parent, int number)
{
    struct process process;
    DIR *entries = opendir("/proc");
    int n = 0;
    if (!entries) return 0;
    for (struct dirent *entry; (entry = readdir(entries));) {
        if (!isdigit((unsigned char)entry->d_name[0]) || !read_process(&process, entry->d_name)) continue;
        if (process.session != session || !is_alive(&process)) continue;
        if (parent && (process.parent != parent || is_agent(&process))) continue;
        n++;
        if (number) kill(process.pid, number);
    }
    closedir(entries);
    return n;
}

/* Living ranks named in a file of numbers; -1: this kernel does not list the children of a thread. */
static int count_listed(const char *path)
{
    char name[32];
    struct process process;
    FILE *file = fopen(path, "re");
    int n = 0;
    if (!file) return -1;
    while (fscanf(file, "%31s", name) == 1)
        if (read_process(&process, name)) n += is_alive(&process) && !is_agent(&process);
    fclose(file);
    return n;
}

int job_ranks(const struct job *job)
{
    char path[512];
    int ranks = 0;
    if (job->pid <= 0) return 0;
    snprintf(path, sizeof path, "/proc/%d/task", (int)job->pid);
    DIR *entries = opendir(path);
    if (!entries) return 0;
    for (struct dirent *entry; ranks >= 0 && (entry = readdir(entries));) {
        if (!isdigit((unsigned char)entry->d_name[0])) continue;
        snprintf(path, sizeof path, "/proc/%d/task/%.20s/children", (int)job->pid, entry->d_name);
        int n = count_listed(path);
        ranks = n < 0 ? -1 : ranks + n;
    }
    closedir(entries);
    return ranks >= 0 ? ranks : visit(job->pid, job->pid, 0);
}

void job_kill(const struct job *job)
{
    if (job->pid > 0) visit(job->pid, 0, SIGKILL);
}

void job_sweep(struct job *job)
{
    int left = job->pid > 0 ? visit(job->pid, 0, SIGKILL) : 0;
    for (int ms = 0; left > 0 && ms < SWEEP_MS; ms += SWEEP_STEP_MS) {
        clock_sleep_ms(SWEEP_STEP_MS);
        left = visit(job->pid, 0, SIGKILL);
    }
    if (left > 0)
        log_warn("%d processes of the job that ended do not die; a later checkpoint of theirs is fenced off",
                 left);
    while (waitpid(-1, NULL, WNOHANG) > 0) continue; /* only now can another process get its number */
    job->pid = 0;
}
