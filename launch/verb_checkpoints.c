/* verb_checkpoints.c: `lorad inspect`, `lorad checkpoints` and `lorad gc`: after, or beside, a run. */
#include "launch/verbs.h"

#include <stdio.h>

#include "trainer/checkpoints.h"

/* What was found is shown also when the end was a failure, which says why. */
static enum status show(struct strbuf *text, enum status status)
{
    if ((fputs(strbuf_text(text), stdout) < 0 || fflush(stdout) != 0) && status == LORAD_OK)
        status = FAIL(LORAD_IO, "cannot write to standard output");
    strbuf_free(text);
    return status;
}

enum status verb_inspect(const struct command *command)
{
    struct config *config = NULL;
    struct strbuf text = STRBUF_EMPTY;
    struct checkpoints_view options = {
        .verify = command->verify, .tensors = command->tensors, .json = command->json};
    enum status status = LORAD_OK;
    if (command->config_path) {
        TRY(config_load(&config, command->config_path, command->sets, command->n_sets));
        status = config_status(config);
        options.config_text = config_run(config)->config_text;
    }
    if (status == LORAD_OK) status = checkpoints_inspect(&text, command->word, &options);
    status = show(&text, status);
    config_destroy(config);
    return status;
}

enum status verb_checkpoints(const struct command *command)
{
    struct strbuf text = STRBUF_EMPTY;
    enum status status = command->pin ? checkpoints_pin(&text, command->word, command->pin, true)
                         : command->unpin
                             ? checkpoints_pin(&text, command->word, command->unpin, false)
                             : checkpoints_table(&text, command->word, command->verify, command->json);
    return show(&text, status);
}

enum status verb_gc(const struct command *command)
{
    struct strbuf text = STRBUF_EMPTY;
    return show(&text, checkpoints_tidy(&text, command->word, command->keep, command->dry_run));
}
