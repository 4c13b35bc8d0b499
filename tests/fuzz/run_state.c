/* run_state.c: a checkpoint's `state` from anywhere: read in full, or refused. */
#include <stddef.h>
#include <stdint.h>

#include "trainer/state.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct json *json = NULL;
    struct run_state state;
    if (js_parse(&json, (const char *)data, size, "fuzz") == LORAD_OK) {
        if (run_state_read(&state, json, "fuzz") == LORAD_OK)
            ASSERT(state.stage.number >= 0 && state.stage.number < MOST_STAGES &&
                   state.stage.n_appends >= 0 && state.stage.n_appends <= MOST_APPENDS &&
                   state.scales.n >= 0 && state.scales.n <= MOST_FIXED_SCALES && state.n_overrides >= 0 &&
                   state.n_overrides <= MOST_OVERRIDES);
        js_destroy(json);
    }
    status_clear();
    return 0;
}
