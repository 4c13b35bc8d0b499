/* verb_run.c: the verbs that run on ranks: options from the command line joined to the configuration's. */
#include "launch/verbs.h"

#include <stdlib.h>

#include "base/file.h"

enum status verb_train(const struct command *command, const struct config *config,
                       const struct comm_world_info *world)
{
    (void)command;
    return run_train(config_run(config), world);
}

/* --adapter, else the adapter that a run left in output_dir; --no-adapter: none. */
static enum status choose_adapter(const char **out, const struct command *command,
                                  const struct run_options *run)
{
    const char *dir = command->adapter_dir ? command->adapter_dir : run->output_dir;
    if (command->no_adapter) {
        *out = NULL;
        return LORAD_OK;
    }
    char *file = file_join(dir, "adapter_model.safetensors");
    if (!file) return LORAD_NOMEM;
    bool there = file_exists(file);
    free(file);
    if (!there)
        return FAIL(LORAD_NOT_FOUND,
                    "%s holds no adapter_model.safetensors: name an adapter with --adapter DIR, or use "
                    "--no-adapter",
                    dir);
    *out = dir;
    return LORAD_OK;
}

enum status verb_eval(const struct command *command, const struct config *config,
                      const struct comm_world_info *world)
{
    const struct run_options *run = config_run(config);
    const struct stage_options last = run_stage(run, run_stages(run) - 1); /* what the adapter is for */
    if (last.n_eval_sources == 0 && last.val_size <= 0)
        return FAIL(LORAD_CONFIG,
                    "there are no held-out rows: set eval_file or val_size (or --set eval_file=FILE)");
    struct eval_options eval = {.per_row = command->per_row, .json = command->json};
    TRY(choose_adapter(&eval.adapter_dir, command, run));
    return run_eval(run, &eval, world);
}

enum status verb_generate(const struct command *command, const struct config *config,
                          const struct comm_world_info *world)
{
    struct generate_options generate = {
        .prompt = command->prompt, .system = command->system, .max_new_tokens = command->max_new_tokens};
    TRY(choose_adapter(&generate.adapter_dir, command, config_run(config)));
    return run_generate(config_run(config), &generate, world);
}
