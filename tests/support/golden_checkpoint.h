/* golden_checkpoint.h: the golden checkpoint of a release and the values that an independent reader found in
 * it. */
#ifndef LORAD_TESTS_SUPPORT_GOLDEN_CHECKPOINT_H
#define LORAD_TESTS_SUPPORT_GOLDEN_CHECKPOINT_H

#include <stddef.h>

#include "checkpoint/checkpoint.h"

#define GOLDEN_CHECKPOINT LORAD_TEST_DATA "/golden/checkpoint-v1"

struct json;
struct golden_values {
    char *bytes; /* the file */
    struct json *index;
    const char *items; /* behind the line of the index */
    size_t n;          /* tensors */
};
/* Fails the test when there is none. */
void golden_values_read(struct golden_values *out);
void golden_values_free(struct golden_values *values);

/* Reads every tensor of the index, whole. LORAD_BUG: a value differs. `context` is a struct golden_values. */
enum status golden_values_compare(struct checkpoint *checkpoint, void *context) LORAD_WARN_UNUSED;

#endif
