/*
 * chat_template.c: opening a template, and conversations as tokens with their weights.
 *
 * Invariants
 *  1. The token numbers are those of transformers' apply_chat_template, except that with split_special_tokens
 *     special tokens written in a message stay text.
 *  2. A token has a weight when it comes from at least one byte and all its bytes are supervised; which token
 *     it is does not matter, so an end token that is also the padding token is learnt.
 */
#include "dataloader/chat_template.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "dataloader/chat_parts.h"

/* ---- opening ---- */

static enum status need_token(int32_t *out, const struct chat_template *chat, const char *text)
{
    *out = tokenizer_token(chat->tokenizer, text);
    if (*out < 0)
        return FAIL(LORAD_CONFIG, "template: %s needs the token %s, which the tokenizer does not have",
                    chat->dialect->name, text);
    return LORAD_OK;
}

static enum status need_named(int32_t *out, const struct chat_template *chat, int32_t number, const char *key)
{
    *out = number;
    if (number < 0)
        return FAIL(LORAD_CONFIG, "template: %s needs %s, which tokenizer_config.json does not name",
                    chat->dialect->name, key);
    return LORAD_OK;
}

static enum status find_tokens(struct chat_template *chat)
{
    int32_t bos = tokenizer_bos(chat->tokenizer), eos = tokenizer_eos(chat->tokenizer);
    chat->bos = chat->start = chat->header_end = chat->end = -1;
    if (chat->dialect->bos) TRY(need_named(&chat->bos, chat, bos, "bos_token"));
    switch (chat->dialect->family) {
    case FAMILY_CHATML:
        TRY(need_token(&chat->start, chat, "<|im_start|>"));
        return need_token(&chat->end, chat, "<|im_end|>");
    case FAMILY_LLAMA3:
        TRY(need_named(&chat->bos, chat, bos, "bos_token"));
        TRY(need_token(&chat->start, chat, "<|start_header_id|>"));
        TRY(need_token(&chat->header_end, chat, "<|end_header_id|>"));
        return need_token(&chat->end, chat, "<|eot_id|>");
    case FAMILY_LLAMA2:
    case FAMILY_MISTRAL:
        TRY(need_named(&chat->bos, chat, bos, "bos_token"));
        return need_named(&chat->end, chat, eos, "eos_token");
    case FAMILY_ALPACA:
    case FAMILY_PLAIN:
        return need_named(&chat->end, chat, eos, "eos_token");
    }
    return LORAD_OK;
}

static enum status choose(struct chat_template *chat, const char *name)
{
    bool automatic = !name || strcmp(name, "auto") == 0;
    if (automatic && tokenizer_chat_template(chat->tokenizer)) {
        TRY(chat_recognise(&chat->dialect, &chat->default_system, chat->tokenizer));
        return find_tokens(chat);
    }
    TRY(chat_dialect_find(&chat->dialect, automatic ? "plain" : name));
    if (chat->dialect->default_system) {
        chat->default_system = memory_string(chat->dialect->default_system);
        if (!chat->default_system) return LORAD_NOMEM;
    }
    return find_tokens(chat);
}

enum status chat_template_open(struct chat_template **out, const struct tokenizer *tokenizer,
                               const char *name)
{
    struct chat_template *chat = memory_new(1, sizeof *chat);
    if (!chat) return LORAD_NOMEM;
    chat->tokenizer = tokenizer;
    enum status status = choose(chat, name);
    if (status != LORAD_OK) {
        chat_template_close(chat);
        return status;
    }
    *out = chat;
    return LORAD_OK;
}

void chat_template_close(struct chat_template *chat)
{
    if (!chat) return;
    free(chat->default_system);
    free(chat);
}

const char *chat_template_name(const struct chat_template *chat)
{
    return chat->dialect->name;
}

int32_t chat_template_end_token(const struct chat_template *chat)
{
    return chat->end;
}

void encoded_row_free(struct encoded_row *row)
{
    token_list_free(&row->tokens);
    free(row->weights);
    *row = (struct encoded_row){0};
}

/* ---- encoding ---- */

/* Appends a token that comes from no byte: its span is [at, at). */
static enum status add_token(const struct chat_template *chat, int32_t number, size_t at,
                             struct token_list *out)
{
    size_t length, i = out->length;
    const char *text = tokenizer_text(chat->tokenizer, number, &length);
    struct placed_token placed = {0, length, number};
    TRY(tokenizer_encode_placed(chat->tokenizer, text, length, &placed, 1, false, out));
    if (out->want_spans) out->start[i] = out->end[i] = (uint32_t)at;
    return LORAD_OK;
}

static enum status encode_rendering(const struct chat_template *chat, const struct rendering *rendering,
                                    bool split_special_tokens, struct token_list *out)
{
    const char *text = strbuf_text(&rendering->text);
    size_t n = 0;
    const int32_t *prefix = tokenizer_prefix(chat->tokenizer, &n);
    for (size_t i = 0; i < rendering->prefix; i++) TRY(add_token(chat, prefix[i], 0, out));
    return tokenizer_encode_placed(chat->tokenizer, text, rendering->text.length, rendering->placed,
                                   rendering->n_placed, !split_special_tokens, out);
}

static void mark(const struct rendering *rendering, struct chat_options options, struct encoded_row *row)
{
    size_t range = options.mask_history && rendering->n_supervised ? rendering->n_supervised - 1 : 0;
    row->n_supervised = 0;
    for (size_t i = 0; i < row->tokens.length; i++) {
        size_t start = row->tokens.start[i], end = row->tokens.end[i];
        while (range < rendering->n_supervised && rendering->supervised[range].end <= start) range++;
        bool inside = i >= rendering->prefix && range < rendering->n_supervised &&
                      start >= rendering->supervised[range].begin && end <= rendering->supervised[range].end;
        row->weights[i] = inside                    ? rendering->supervised[range].weight
                          : options.train_on_prompt ? 1.0f
                                                    : 0.0f;
        row->n_supervised += row->weights[i] > 0;
    }
}

static void clear(struct encoded_row *row)
{
    row->tokens.length = 0;
    row->tokens.want_spans = true;
    row->n_supervised = 0;
}

static enum status grow_weights(struct encoded_row *row)
{
    return memory_grow((void **)&row->weights, &row->capacity, row->tokens.length, sizeof *row->weights);
}

enum status chat_template_encode(const struct chat_template *chat, const struct message *messages, size_t n,
                                 struct chat_options options, struct encoded_row *row)
{
    struct rendering rendering = {0};
    clear(row);
    enum status status = chat_render(chat, messages, n, false, &rendering);
    if (status == LORAD_OK)
        status = encode_rendering(chat, &rendering, options.split_special_tokens, &row->tokens);
    if (status == LORAD_OK) status = grow_weights(row);
    if (status == LORAD_OK) mark(&rendering, options, row);
    rendering_free(&rendering);
    return status;
}

enum status chat_template_encode_text(const struct chat_template *chat, const char *text, size_t length,
                                      struct encoded_row *row)
{
    int32_t eos = tokenizer_eos(chat->tokenizer);
    if (eos < 0)
        return FAIL(LORAD_CONFIG,
                    "text needs an eos_token behind it, which tokenizer_config.json does not name");
    clear(row);
    TRY(tokenizer_encode(chat->tokenizer, text, length, (struct encode_options){.add_special_tokens = true},
                         &row->tokens));
    size_t n = row->tokens.length; /* the tokenizer may have put one there itself */
    bool ended = n && row->tokens.ids[n - 1] == eos && row->tokens.start[n - 1] == length;
    if (!ended) TRY(add_token(chat, eos, length, &row->tokens));
    TRY(grow_weights(row));
    for (size_t i = 0; i < row->tokens.length; i++) row->weights[i] = 1;
    row->n_supervised = (int32_t)row->tokens.length;
    return LORAD_OK;
}

enum status chat_template_prompt(const struct chat_template *chat, const struct message *messages, size_t n,
                                 struct token_list *out)
{
    struct rendering rendering = {0};
    enum status status = chat_render(chat, messages, n, true, &rendering);
    if (status == LORAD_OK) status = encode_rendering(chat, &rendering, true, out);
    rendering_free(&rendering);
    return status;
}

enum status chat_template_render(const struct chat_template *chat, const struct message *messages, size_t n,
                                 bool prompt, struct strbuf *out)
{
    struct rendering rendering = {0};
    enum status status = chat_render(chat, messages, n, prompt, &rendering);
    if (status == LORAD_OK) strbuf_add(out, strbuf_text(&rendering.text), rendering.text.length);
    rendering_free(&rendering);
    return status == LORAD_OK ? strbuf_status(out) : status;
}
