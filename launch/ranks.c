/*
 * ranks.c: the frame around a verb that runs on ranks.
 *
 * 1. A failure is printed once. One that all ranks share (comm_agree gave it to them: "rank N: ...") is
 *    printed by rank 0; one that this rank alone has is printed here, and ends the job with its code.
 * 2. After a shared end all ranks pass a barrier (comm_shutdown); then rank 0 exits with the run's code and
 *    the others with 0, because mpirun kills the rest as soon as one exits otherwise.
 */
#include "launch/ranks.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "launch/config.h"
#include "launch/signals.h"
#include "launch/verbs.h"

enum { PEER_SPEAKS_FIRST_MS = 1500, POLL_MS = 50 };

/* Every rank reads the file; *out only when it has no problems. Rank 0 prints all of them. */
static enum status read_config(struct config **out, const struct command *command,
                               const struct comm_world_info *world)
{
    struct config *config = NULL;
    TRY(config_load(&config, command->config_path, command->sets, command->n_sets));
    if (config_problem_count(config) == 0) config_check_paths(config);
    size_t n = config_problem_count(config);
    if (n > 1 && world->rank == 0)
        for (size_t i = 0; i < n; i++) log_error("%s", config_problem(config, i));
    enum status status = config_status(config);
    if (n > 1 && world->rank == 0)
        status = FAIL(status, "%s: %zu problems, listed above", command->config_path, n);
    if (status != LORAD_OK) {
        config_destroy(config);
        return status;
    }
    *out = config;
    return LORAD_OK;
}

/* All ranks must train by the same configuration. Collective. */
static enum status compare_configs(struct comm *comm, const struct config *config)
{
    int size = comm_size(comm);
    struct hash128 mine = config_run(config)->config_hash, *all = calloc((size_t)size, sizeof *all);
    enum status status = all ? LORAD_OK : FAIL(LORAD_NOMEM, "out of memory");
    status = comm_agree(comm, status);
    if (status == LORAD_OK) status = comm_host_all_gather(comm, &mine, all, sizeof mine);
    for (int i = 1; i < size && status == LORAD_OK; i++)
        if (!hash128_equal(all[0], all[i]))
            status = FAIL(LORAD_CONFIG,
                          "rank %d read another configuration than rank 0: the file and the --set options "
                          "must be the same on all hosts",
                          i);
    free(all);
    return status;
}

static enum status agree_on_config(struct config **out, const struct command *command,
                                   const struct comm_world_info *world)
{
    struct comm *comm = NULL;
    struct config *config = NULL;
    TRY(comm_create(&comm, &(struct comm_options){.kind = "auto"}));
    enum status status = comm_agree(comm, read_config(&config, command, world));
    if (status == LORAD_OK) status = compare_configs(comm, config);
    comm_destroy(comm);
    if (status != LORAD_OK) {
        config_destroy(config);
        return status;
    }
    if (world->rank == 0 && config_noted(config)[0])
        log_info("these keys change nothing here: %s", config_noted(config));
    *out = config;
    return LORAD_OK;
}

static bool is_failure(enum status status)
{
    return status != LORAD_OK && status != LORAD_REQUEUE && status != LORAD_STOPPED;
}

/* Whether every rank has this outcome: comm_agree marks the failures that it shares. */
static bool outcome_is_shared(enum status status, const struct comm_world_info *world)
{
    if (!is_failure(status) || world->world == 1) return true;
    return status != LORAD_PEER_LOST && status != LORAD_BUG && strncmp(status_message(), "rank ", 5) == 0;
}

/* When all ranks fail alike without having agreed on it, rank 0 says so, and the launcher ends the others. */
static bool rank_0_ends_the_job(void)
{
    for (int waited = 0; waited < PEER_SPEAKS_FIRST_MS; waited += POLL_MS) {
        if (signals_terminating()) return true;
        clock_sleep_ms(POLL_MS);
    }
    return false;
}

static int end_of_ranks(enum status status, const struct comm_world_info *world)
{
    int code = status_exit_code(status);
    if (outcome_is_shared(status, world)) {
        if (is_failure(status) && world->rank == 0) log_error("%s", status_message());
        comm_shutdown();
        return world->rank == 0 ? code : 0;
    }
    if (world->rank != 0 && rank_0_ends_the_job()) return code;
    log_error("%s", status_message());
    log_debug("detected at %s", status_origin());
    comm_abort(code);
    return code;
}

int run_on_ranks(const struct command *command)
{
    struct comm_world_info world = {.world = 1, .local_world = 1};
    signals_install(command->verb->ranks == verb_train);
    enum status status = comm_startup(&world);
    if (status != LORAD_OK) {
        log_error("%s", status_message());
        return status_exit_code(status);
    }
    log_set_rank(world.rank, world.world);
    struct config *config = NULL;
    status = agree_on_config(&config, command, &world);
    if (status == LORAD_OK) status = command->verb->ranks(command, config, &world);
    int code = end_of_ranks(status, &world);
    config_destroy(config);
    return code;
}
