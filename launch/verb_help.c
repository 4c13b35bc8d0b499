/* verb_help.c: `lorad help` and what --version says. */
#include "launch/verbs.h"

#include <stdio.h>

#include "comm/comm.h"
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

static void describe_cpu(struct strbuf *out)
{
    struct device *device = NULL;
    if (device_open(&device, &(struct device_options){.kind = "cpu"}) == LORAD_OK)
        strbuf_printf(out, "  device      %s\n", device_describe(device));
    else
        strbuf_printf(out, "  no %-8s %s\n", "cpu", status_message());
    device_close(device);
}

/* A GPU is not opened for this: that takes a second, and memory that a run may be using. */
static void describe_gpus(struct strbuf *out)
{
    char words[512];
    if (device_probe(words, sizeof words, "cuda") == LORAD_OK)
        strbuf_printf(out, "  device      %s\n", words);
    else
        strbuf_printf(out, "  no %-8s %s\n", "cuda", status_message());
    if (device_libraries(words, sizeof words, "cuda") == LORAD_OK)
        strbuf_printf(out, "  with cuda   %s\n", words);
}

void version_text(struct strbuf *out)
{
    strbuf_printf(out, "lorad %s\n  built by    %s, %s\n", LORAD_VERSION, LORAD_COMPILER, LORAD_BUILD_TYPE);
    describe_cpu(out);
    describe_gpus(out);
    char nccl[64];
    comm_device_library(nccl, sizeof nccl);
    strbuf_printf(out, "  collectives self, shared memory, %s%s%s\n  libraries   %s\n", LORAD_MPI,
                  *nccl ? ", " : "", nccl, LORAD_LIBRARIES);
}
