/* verb_supervise.c: `lorad run`: from the command line and the configuration to what the supervisor starts.
 */
#include "launch/verbs.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/memory.h"
#include "launch/config.h"
#include "launch/supervise.h"
#include "launch/supervise_folder.h"

enum { DEFAULT_RESTARTS = 100, DEFAULT_GRACE_SECONDS = 300, OWN_WORDS = 48, WORD_BYTES = 4096 };

static enum status read_config(struct config **out, const struct command *command)
{
    TRY(config_load(out, command->config_path, command->sets, command->n_sets));
    if (config_problem_count(*out) == 0) config_check_paths(*out);
    size_t n = config_problem_count(*out);
    for (size_t i = 0; n > 1 && i < n; i++) log_error("%s", config_problem(*out, i));
    enum status status = config_status(*out);
    if (n > 1) status = FAIL(status, "%s: %zu problems, listed above", command->config_path, n);
    if (status == LORAD_OK) return LORAD_OK;
    config_destroy(*out);
    *out = NULL;
    return status;
}

/* ---- the words of a start ---- */

struct words {
    char **all; /* [n], then NULL */
    size_t n, capacity;
    bool failed;
};

static void add(struct words *words, const char *word)
{
    char *copy = words->n + 1 < words->capacity ? memory_string(word) : NULL;
    if (copy)
        words->all[words->n++] = copy;
    else
        words->failed = true;
}

static void add_two(struct words *words, const char *first, const char *second)
{
    add(words, first);
    add(words, second);
}

static void add_mca(struct words *words, const char *name, const char *value)
{
    add(words, "--mca");
    add_two(words, name, value);
}

static void words_free(struct words *words)
{
    for (size_t i = 0; i < words->n; i++) free(words->all[i]);
    free(words->all);
}

static int ranks_of(const struct command *command, const struct config *config)
{
    const char *slurm = getenv("SLURM_NTASKS");
    if (command->np > 0) return command->np;
    if (slurm && atoi(slurm) > 0) return atoi(slurm);
    return config_run(config)->tensor_parallel_size;
}

static bool names_hosts(const char *argument)
{
    static const char *const options[] = {"-H",
                                          "-host",
                                          "--host",
                                          "-hostfile",
                                          "--hostfile",
                                          "-machinefile",
                                          "--machinefile",
                                          "-default-hostfile",
                                          "--default-hostfile"};
    for (size_t i = 0; i < sizeof options / sizeof *options; i++)
        if (strcmp(argument, options[i]) == 0) return true;
    return false;
}

/* mpirun learns of hosts from a resource manager, or from what somebody has set for it. */
static bool has_other_hosts(void)
{
    static const char *const names[] = {"PBS_NODEFILE", "PE_HOSTFILE", "LSB_DJOB_HOSTFILE",
                                        "OMPI_MCA_orte_default_hostfile"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (getenv(names[i])) return true;
    return false;
}

/* Ranks of one host only: what concerns its cores and its folders can be said. */
static bool is_local(const struct command *command)
{
    const char *nodes = getenv("SLURM_JOB_NUM_NODES");
    for (size_t i = 0; i < command->n_rest; i++)
        if (names_hosts(command->rest[i])) return false;
    /* salloc may leave its shell where it was called: mpirun then starts the ranks on the job's node */
    if (getenv("SLURM_JOB_ID") && !getenv("SLURMD_NODENAME")) return false;
    return !command->hostfile && !has_other_hosts() && (!nodes || atoi(nodes) <= 1);
}

/* Nothing that mpirun does is needed. */
static bool is_alone(const struct command *command, int ranks)
{
    return ranks == 1 && is_local(command) && command->n_rest == 0 && !getenv("SLURM_JOB_ID");
}

static void add_local(struct words *words, int ranks, const struct scratch *scratch)
{
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    if (!getenv("SLURM_JOB_ID")) add(words, "--oversubscribe"); /* Slurm's own count of slots stands */
    if (ranks > cores) add_mca(words, "mpi_yield_when_idle", "1");
    add_mca(words, "orte_tmpdir_base", scratch->path);
    add_mca(words, "btl_vader_backing_directory", scratch->path);
}

static void add_mpirun(struct words *words, const struct command *command, int ranks,
                       const struct scratch *scratch)
{
    char count[16];
    snprintf(count, sizeof count, "%d", ranks);
    add(words, "mpirun");
    if (is_local(command)) add(words, "-q"); /* else it would not say that a host is lost */
    add_two(words, "-np", count);
    if (command->hostfile) add_two(words, "--hostfile", command->hostfile);
    if (is_local(command)) add_local(words, ranks, scratch);
    /* A rank's threads share its cores; a dead rank ends the others at once; a dead host is noticed in 11 s.
     */
    add_two(words, "--bind-to", "none");
    add_mca(words, "odls_base_sigkill_timeout", "0");
    add_mca(words, "oob_tcp_keepalive_time", "5");
    add_mca(words, "oob_tcp_keepalive_intvl", "2");
    add_mca(words, "oob_tcp_keepalive_probes", "3");
    add_two(words, "-x", "LORAD_JOB_ID");
    add_two(words, "-x", "LORAD_RESTART_COUNT");
    add_two(words, "-x", "LORAD_GRACE_SECONDS");
    /* the name only: a list of processes shows no password */
    if (!is_local(command) && getenv("REDISCLI_AUTH")) add_two(words, "-x", "REDISCLI_AUTH");
    for (size_t i = 0; i < command->n_rest; i++) add(words, command->rest[i]);
}

static enum status make_words(struct words *out, const struct command *command, int ranks,
                              const struct scratch *scratch, bool go_on)
{
    char program[WORD_BYTES];
    ssize_t n = readlink("/proc/self/exe", program, sizeof program - 1);
    if (n <= 0) return FAIL(LORAD_BUG, "cannot find the program's own file");
    program[n] = '\0';
    out->capacity = OWN_WORDS + command->n_rest + 2 * command->n_sets;
    out->all = memory_new(out->capacity, sizeof *out->all);
    if (!out->all) return LORAD_NOMEM;
    if (!is_alone(command, ranks)) add_mpirun(out, command, ranks, scratch);
    add(out, program);
    add_two(out, "--config", command->config_path);
    for (size_t i = 0; i < command->n_sets; i++) add_two(out, "--set", command->sets[i]);
    if (go_on) add_two(out, "--set", "resume_from_checkpoint=auto");
    return out->failed ? FAIL(LORAD_NOMEM, "out of memory") : LORAD_OK;
}

/* ---- the verb ---- */

/* The announced time, also to the ranks. */
static enum status choose_grace(double *out, const struct run_options *run)
{
    char text[32];
    const char *announced = getenv("LORAD_GRACE_SECONDS");
    double seconds = announced ? atof(announced) : 0;
    if (seconds <= 0) seconds = run->stop_grace_seconds > 0 ? run->stop_grace_seconds : DEFAULT_GRACE_SECONDS;
    snprintf(text, sizeof text, "%g", seconds);
    if (setenv("LORAD_GRACE_SECONDS", text, 1) != 0) return FAIL(LORAD_NOMEM, "out of memory");
    *out = seconds;
    return LORAD_OK;
}

static enum status allow_root(void)
{
    if (geteuid() != 0) return LORAD_OK;
    if (setenv("OMPI_ALLOW_RUN_AS_ROOT", "1", 0) == 0 &&
        setenv("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1", 0) == 0)
        return LORAD_OK;
    return FAIL(LORAD_NOMEM, "out of memory");
}

struct supervised {
    struct config *config;
    struct scratch scratch;
    struct claim claim;
    struct words first, again;
};

static enum status supervise_command(int *code, struct supervised *it, const struct command *command)
{
    TRY(read_config(&it->config, command));
    const struct run_options *run = config_run(it->config);
    int ranks = ranks_of(command, it->config);
    struct supervise_plan plan = {.output_dir = run->output_dir,
                                  .alone = is_alone(command, ranks),
                                  .local_ranks = is_local(command) ? ranks : 0,
                                  .restarts = command->restarts >= 0 ? command->restarts : DEFAULT_RESTARTS};
    TRY(choose_grace(&plan.grace_seconds, run));
    TRY(allow_root());
    TRY(scratch_open(&it->scratch));
    TRY(make_words(&it->first, command, ranks, &it->scratch, false));
    TRY(make_words(&it->again, command, ranks, &it->scratch, true));
    TRY(claim_open(&it->claim, run->output_dir));
    plan.argv = it->first.all;
    plan.again = it->again.all;
    *code = supervise(&plan, &it->claim, &it->scratch);
    return LORAD_OK;
}

int run_supervised(const struct command *command)
{
    struct supervised it = {.scratch = {.fd = -1}, .claim = {.fd = -1}};
    int code = 0;
    enum status status = supervise_command(&code, &it, command);
    if (status != LORAD_OK) {
        log_error("%s", status_message());
        code = status_exit_code(status);
    }
    claim_close(&it.claim);
    scratch_close(&it.scratch);
    words_free(&it.first);
    words_free(&it.again);
    config_destroy(it.config);
    return code;
}
