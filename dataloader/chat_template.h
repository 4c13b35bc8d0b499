/*
 * chat_template.h: messages -> one text with known supervised byte ranges -> tokens and labels.
 *
 * The model's own template decides (recognised by its text); `template:` of the configuration names one
 * instead. The whole conversation is rendered, then tokenised whole; special tokens match only where the
 * template put them, so text of a user that looks like a special token stays text, unless
 * split_special_tokens is off. Assistant content and its end-of-turn token are supervised; a token that
 * straddles a border is not. docs/templates.md has the families.
 */
#ifndef LORAD_DATALOADER_CHAT_TEMPLATE_H
#define LORAD_DATALOADER_CHAT_TEMPLATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "dataloader/tokenizer.h"

enum message_role { ROLE_SYSTEM, ROLE_USER, ROLE_ASSISTANT };

struct message {
    enum message_role role;
    const char *content; /* UTF-8 */
    size_t length;
    float weight; /* of an assistant message in the loss: 1 as a rule, 0: not learnt */
};

struct chat_template;

/* name: NULL or "auto" recognises the model's own, and takes "plain" when the model has none; otherwise one
 * of the names in docs/templates.md. LORAD_CONFIG when the model's template is not recognised or the
 * tokenizer lacks a token that the template needs. Borrows the tokenizer. Owns: *out. */
enum status chat_template_open(struct chat_template **out, const struct tokenizer *tokenizer,
                               const char *name) LORAD_WARN_UNUSED;
void chat_template_close(struct chat_template *chat);
const char *chat_template_name(const struct chat_template *chat);
/* The token that ends an assistant turn: generation stops there. */
int32_t chat_template_end_token(const struct chat_template *chat);

struct encoded_row {
    struct token_list tokens;
    float *weights; /* [tokens.length]: of the token in the loss; 0: no target */
    size_t capacity;
    int32_t n_supervised; /* tokens with a weight above 0 */
};
void encoded_row_free(struct encoded_row *row);

struct chat_options {
    bool train_on_prompt;      /* supervise what stands before the answers, too */
    bool mask_history;         /* supervise the last assistant turn only */
    bool split_special_tokens; /* special tokens written in a message are plain text; a run has it on */
};

/* Replaces the contents of `row`. LORAD_DATA for invalid UTF-8 and for an order of roles that the template
 * refuses. */
enum status chat_template_encode(const struct chat_template *chat, const struct message *messages, size_t n,
                                 struct chat_options options, struct encoded_row *row) LORAD_WARN_UNUSED;
/* Text to go on training a base model with: the tokenizer's own prefix (BOS as a rule), the text, the
 * eos_token; all of it supervised, special tokens written in it plain text. Replaces the contents of `row`.
 * LORAD_DATA for invalid UTF-8, LORAD_CONFIG when the tokenizer names no eos_token. */
enum status chat_template_encode_text(const struct chat_template *chat, const char *text, size_t length,
                                      struct encoded_row *row) LORAD_WARN_UNUSED;
/* The prompt for generation: messages (ending with a user turn) and the opening of an assistant turn. */
enum status chat_template_prompt(const struct chat_template *chat, const struct message *messages, size_t n,
                                 struct token_list *out) LORAD_WARN_UNUSED;
/* Appends the text that is encoded: messages, and the opening of an assistant turn when `prompt`. The tokens
 * that the tokenizer puts before a text by itself (plain, alpaca, cornucopia) are no part of it. */
enum status chat_template_render(const struct chat_template *chat, const struct message *messages, size_t n,
                                 bool prompt, struct strbuf *out) LORAD_WARN_UNUSED;

#endif
