#include "launch/find_run.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"

/* Only where the run is counts here: other mistakes in the file are none of this verb's business. */
static enum status read_config(struct found_run *found, const struct command *command)
{
    TRY(config_load(&found->config, command->config_path, NULL, 0));
    const struct run_options *run = config_run(found->config);
    if (!run->output_dir) {
        TRY(config_status(found->config));
        return FAIL(LORAD_CONFIG, "%s: output_dir is missing", command->config_path);
    }
    found->target.output_dir = run->output_dir;
    found->target.run_name = run->run_name;
    found->target.redis_url = run->redis_url;
    found->target.redis_prefix = run->redis_prefix;
    return LORAD_OK;
}

enum status find_run(struct found_run *out, const struct command *command, const char *word)
{
    struct found_run found = {.config = NULL};
    const char *environment = getenv("LORAD_REDIS_URL");
    if (word && command->config_path)
        return FAIL(LORAD_USAGE, "\"%s\" and --config both say which run: give one of them", word);
    if (command->config_path) {
        enum status status = read_config(&found, command);
        if (status != LORAD_OK) {
            found_run_free(&found);
            return status;
        }
    }
    if (command->redis_url)
        found.target.redis_url = command->redis_url;
    else if (environment && *environment)
        found.target.redis_url = environment;
    if (command->redis_prefix) found.target.redis_prefix = command->redis_prefix;
    if (word && found.target.redis_url && !file_is_dir(word))
        found.target.run_name = word;
    else if (word)
        found.target.output_dir = word;
    else if (!command->config_path)
        found.target.output_dir = ".";
    *out = found;
    return LORAD_OK;
}

void found_run_free(struct found_run *found)
{
    config_destroy(found->config);
    *found = (struct found_run){.config = NULL};
}
