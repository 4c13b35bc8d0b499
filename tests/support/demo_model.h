/* demo_model.h: tokenizer and template of the shipped model, for a group of tests: its set-up and tear-down.
 */
#ifndef LORAD_TESTS_SUPPORT_DEMO_MODEL_H
#define LORAD_TESTS_SUPPORT_DEMO_MODEL_H

#include "dataloader/chat_template.h"
#include "dataloader/tokenizer.h"

extern struct tokenizer *tokenizer;
extern struct chat_template *chat;

int open_model(void **state);
int close_model(void **state);

#endif
