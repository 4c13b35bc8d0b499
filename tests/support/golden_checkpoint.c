#include "support/golden_checkpoint.h"

#include "support/test.h"

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"

void golden_values_read(struct golden_values *out)
{
    size_t length;
    assert_ok(file_read(&out->bytes, &length, GOLDEN_CHECKPOINT ".values", 1 << 26));
    char *line = strchr(out->bytes, '\n');
    assert_non_null(line);
    assert_ok(js_parse(&out->index, out->bytes, (size_t)(line - out->bytes), "golden values"));
    out->items = line + 1;
    out->n = js_length(out->index);
}

void golden_values_free(struct golden_values *values)
{
    js_destroy(values->index);
    free(values->bytes);
}

enum status golden_values_compare(struct checkpoint *checkpoint, void *context)
{
    const struct golden_values *values = context;
    const char *items = values->items;
    for (size_t i = 0; i < values->n; i++) {
        const struct json *entry = js_at(values->index, i);
        const char *name = js_string(js_at(entry, 0), NULL), *dtype = js_string(js_at(entry, 1), NULL);
        int64_t shape[2] = {js_int(js_at(entry, 2), 0), js_int(js_at(entry, 3), 0)};
        size_t bytes = (size_t)(shape[0] * shape[1]) * (dtype[1] == '6' ? 8 : 4); /* I64 or F32 */
        void *found = memory_new(bytes, 1);
        enum status status =
            found ? checkpoint_read(checkpoint, name, dtype, shape, 0, shape[0], 0, shape[1], found)
                  : LORAD_NOMEM;
        if (status == LORAD_OK && memcmp(found, items, bytes) != 0)
            status = FAIL(LORAD_BUG, "%s has other values than the golden ones", name);
        free(found);
        TRY(status);
        items += bytes;
    }
    return LORAD_OK;
}
