#include "support/demo_model.h"

#include "base/log.h"
#include "support/test.h"

struct tokenizer *tokenizer;
struct chat_template *chat;

int open_model(void **state)
{
    (void)state;
    log_set_level(LOG_ERROR);
    assert_ok(tokenizer_open(&tokenizer, LORAD_TEST_DATA "/models/fin-zh-tiny"));
    assert_ok(chat_template_open(&chat, tokenizer, NULL));
    return 0;
}

int close_model(void **state)
{
    (void)state;
    chat_template_close(chat);
    tokenizer_close(tokenizer);
    return 0;
}
