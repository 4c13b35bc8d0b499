/* verb_help.c: `lorad help` and what --version says. */
#include "launch/verbs.h"

#include <stdio.h>

enum status verb_help(const struct command *command)
{
    struct strbuf text = STRBUF_EMPTY;
    enum status status = LORAD_OK;
    if (command->markdown)
        config_help_markdown(&text);
    else if (command->word)
        status = config_help_key(&text, command->word);
    else
        config_help_all(&text);
    if (status == LORAD_OK) status = strbuf_status(&text);
    if (status == LORAD_OK && (fputs(strbuf_text(&text), stdout) < 0 || fflush(stdout) != 0))
        status = FAIL(LORAD_IO, "cannot write to standard output");
    strbuf_free(&text);
    return status;
}

void version_text(struct strbuf *out)
{
    strbuf_printf(out,
                  "lorad %s\n  built by    %s, %s\n  collectives self, shared memory, %s\n  libraries   %s\n",
                  LORAD_VERSION, LORAD_COMPILER, LORAD_BUILD_TYPE, LORAD_MPI, LORAD_LIBRARIES);
}
