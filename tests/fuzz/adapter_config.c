/* adapter_config.json: anything is refused or gives a configuration that is usable and writes itself back. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checkpoint/adapter_file.h"
#include "support/test.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    char path[700];
    snprintf(path, sizeof path, "%s/adapter_config.json", test_tmpdir());
    FILE *file = fopen(path, "wb");
    if (!file || fwrite(bytes, 1, length, file) != length || fclose(file) != 0) abort();
    struct adapter_config config;
    if (adapter_config_read(&config, test_tmpdir()) == LORAD_OK) {
        if (config.r < 1 || config.n_target_modules < 1 ||
            !(config.lora_dropout >= 0 && config.lora_dropout < 1))
            abort();
        for (int32_t i = 0; i < config.n_target_modules; i++)
            if (!*config.target_modules[i]) abort();
        adapter_config_free(&config);
    }
    return 0;
}
