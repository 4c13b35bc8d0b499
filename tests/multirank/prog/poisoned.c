/*
 * poisoned: lorad itself, but for gradients that LORAD_TEST_POISON spoils, such as "4:nan 8:spike
 * 13:collapse" (steps from 0). nan, inf and spike (times 2^20) befall the micro-batch that holds the first
 * token of the global batch, whichever rank has it; collapse (times 2^-30) all of them.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "trainer/model.h"

enum status __real_model_train(struct model *model, const struct train_pass *pass);
enum status __wrap_model_train(struct model *model, const struct train_pass *pass);

/* The word for a step; "" when there is none. */
static void poison_of(int64_t step, char word[16])
{
    const char *at = getenv("LORAD_TEST_POISON");
    word[0] = 0;
    for (; at && *at; at += strcspn(at, " "), at += strspn(at, " ")) {
        long long number;
        char what[16];
        if (sscanf(at, "%lld:%15s", &number, what) == 2 && number == step) memcpy(word, what, sizeof what);
    }
}

enum status __wrap_model_train(struct model *model, const struct train_pass *pass)
{
    char word[16];
    struct adapter *adapter = pass->adapter;
    TRY(__real_model_train(model, pass));
    poison_of(pass->step, word);
    bool first = pass->batch->token_index[0] == 0, all = strcmp(word, "collapse") == 0;
    if (!word[0] || !(first || all)) return LORAD_OK;
    float factor = all ? 0x1p-30f : strcmp(word, "spike") == 0 ? 0x1p20f : 1;
    for (int64_t i = 0; i < adapter->lora->count; i++) adapter->grad[i] *= factor;
    if (strcmp(word, "nan") == 0) adapter->grad[adapter->lora->tensors[3].offset] = NAN;
    if (strcmp(word, "inf") == 0) adapter->grad[adapter->lora->tensors[1].offset] = INFINITY;
    return LORAD_OK;
}
