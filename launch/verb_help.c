/* verb_help.c: `lorad help` and what --version says. */
#include "launch/verbs.h"

#include <stdio.h>

#include "kernels/device.h"

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

/* What the device is, or why it cannot be used here. */
static void describe_device(struct strbuf *out, const char *kind)
{
    struct device *device = NULL;
    if (device_open(&device, &(struct device_options){.kind = kind}) == LORAD_OK)
        strbuf_printf(out, "  device      %s\n", device_describe(device));
    else
        strbuf_printf(out, "  no %-8s %s\n", kind, status_message());
    device_close(device);
}

void version_text(struct strbuf *out)
{
    strbuf_printf(out, "lorad %s\n  built by    %s, %s\n", LORAD_VERSION, LORAD_COMPILER, LORAD_BUILD_TYPE);
    describe_device(out, "cpu");
    describe_device(out, "cuda");
    strbuf_printf(out, "  collectives self, shared memory, %s\n  libraries   %s\n", LORAD_MPI,
                  LORAD_LIBRARIES);
}
