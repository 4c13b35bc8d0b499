/* Any text as a configuration: no crash, and what resolves without problems resolves to itself. */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "launch/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size > CONFIG_MAX_BYTES) return 0; /* config_load refuses them */
    struct config *config = NULL, *again = NULL;
    if (config_parse(&config, (const char *)data, size, "fuzz.yaml", NULL, 0) != LORAD_OK) return 0;
    if (config_problem_count(config) == 0) {
        const char *text = config_run(config)->config_text;
        if (config_parse(&again, text, strlen(text), "resolved", NULL, 0) == LORAD_OK) {
            ASSERT(config_problem_count(again) == 0);
            ASSERT(strcmp(config_run(again)->config_text, text) == 0);
        }
    }
    config_destroy(again);
    config_destroy(config);
    return 0;
}
