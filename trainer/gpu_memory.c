#include "trainer/gpu_memory.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/strbuf.h"
#include "kernels/device.h"

/* Taken when a device is opened: CUDA's context, the workspace. */
enum { OPENED_MIB = 640 };

/* Totals as nvidia-smi reports them, MiB. */
static const struct {
    const char *name;
    int32_t mib;
} gpus[] = {
    {"b200", 183359},   {"h200", 143771}, {"h100", 81559},        {"h100-nvl", 95830},  {"h800", 81559},
    {"h20", 97871},     {"gh200", 97871}, {"a100-80gb", 81920},   {"a100-40gb", 40960}, {"a800", 81920},
    {"a30", 24576},     {"a10", 23028},   {"l40s", 46068},        {"l40", 46068},       {"l20", 46068},
    {"l4", 23034},      {"a6000", 49140}, {"rtx6000-ada", 49140}, {"rtx5090", 32607},   {"rtx4090", 24564},
    {"rtx3090", 24576},
};

static enum status unknown(const char *name)
{
    struct strbuf names = STRBUF_EMPTY;
    for (size_t i = 0; i < sizeof gpus / sizeof *gpus; i++)
        strbuf_printf(&names, "%s%s", i ? ", " : "", gpus[i].name);
    enum status status =
        FAIL(LORAD_USAGE, "--gpu: \"%s\" is not known; give its memory, as in 24GiB, or one of %s", name,
             strbuf_text(&names));
    strbuf_free(&names);
    return status;
}

enum status gpu_memory_find(int64_t *bytes, const char *name)
{
    double mib = 0;
    for (size_t i = 0; i < sizeof gpus / sizeof *gpus; i++)
        if (strcasecmp(name, gpus[i].name) == 0) mib = gpus[i].mib;
    if (mib == 0) {
        char *unit;
        double size = strtod(name, &unit);
        if (strcasecmp(unit, "gib") == 0 || strcasecmp(unit, "gb") == 0) mib = size * 1024;
    }
    if (!(mib > 0) || mib > 1e9) return unknown(name);
    int64_t total = (int64_t)(mib * 0x1p20), left = total - (OPENED_MIB << 20) - device_reserve_bytes(total);
    if (left <= 0) return FAIL(LORAD_USAGE, "--gpu: %s is less than CUDA and its libraries need", name);
    *bytes = left;
    return LORAD_OK;
}
