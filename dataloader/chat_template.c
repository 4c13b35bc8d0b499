/*
 * chat_template.c: rendering conversations.
 *
 * Invariants
 *  1. A rendering is text, the places of its special tokens in order, and the supervised byte ranges in
 * order.
 *  2. A model's own template is never run: its text, brought into a canonical form, is looked up among the
 * known ones. What is not known is refused, since a near miss would train the wrong text.
 *  3. The rendered text and the token numbers are those of transformers' apply_chat_template, except that
 * special tokens written in a message stay text.
 */
#include "dataloader/chat_template.h"

#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/memory.h"
#include "base/utf8.h"
#include "dataloader/unicode.h"

enum family { FAMILY_PLAIN, FAMILY_CHATML, FAMILY_LLAMA2, FAMILY_LLAMA3, FAMILY_MISTRAL };

static const char qwen_system[] = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.";

static const struct {
    const char *name;
    enum family family;
} names[] = {
    {"chatml", FAMILY_CHATML}, {"qwen", FAMILY_CHATML},     {"llama2", FAMILY_LLAMA2},
    {"llama3", FAMILY_LLAMA3}, {"mistral", FAMILY_MISTRAL}, {"plain", FAMILY_PLAIN},
};
#define KNOWN_NAMES "chatml, qwen, llama2, llama3, mistral, plain"

/* Canonical texts of model templates by their hash64 (canonical_template). */
static const struct {
    uint64_t hash;
    const char *name;
    bool default_system; /* the text has a default system message, which is cut out before hashing */
} known[] = {
    {0xb9f464b71ea04208, "chatml", false},  /* the minimal one */
    {0x92cdeb71063b2d0e, "qwen", true},     /* Qwen1.5 and Qwen2 */
    {0x21842325616788b3, "qwen", true},     /* Qwen2.5 */
    {0x2c02bf80edf30bbb, "llama3", false},  /* Llama 3 Instruct */
    {0xe3ed96ae4623a7f9, "llama3", false},  /* the same, first edition: always opens an assistant turn */
    {0xcfa62c88cf116885, "llama2", false},  /* Llama 2 Chat */
    {0xbba2967e02cbfe70, "mistral", false}, /* Mistral Instruct 0.2 */
};

struct chat_template {
    const struct tokenizer *tokenizer;
    enum family family;
    const char *name;
    char *default_system;                /* put first when there is no system message; NULL: none */
    int32_t bos, start, header_end, end; /* -1: not used by the family */
};

struct rendering {
    struct strbuf text;
    struct placed_token *placed;
    size_t n_placed, placed_capacity;
    struct byte_range {
        size_t begin, end;
        float weight;
    } * supervised;
    size_t n_supervised, supervised_capacity;
};

/* ---- recognising ---- */

static bool is_blank(char c)
{
    return c == ' ' || c == '\n' || c == '\t' || c == '\r';
}

/* Copies a tag that starts at `at`, without white space outside strings and with line feeds inside strings
 * written \n. Returns what follows it. */
static const char *add_canonical_tag(struct strbuf *out, const char *at)
{
    strbuf_add(out, at, 2);
    for (at += 2; *at; at++) {
        if ((*at == '}' || *at == '%') && at[1] == '}') {
            strbuf_add(out, at, 2);
            return at + 2;
        }
        if (is_blank(*at)) continue;
        strbuf_putc(out, *at);
        if (*at != '\'' && *at != '"') continue;
        char quote = *at;
        for (at++; *at && *at != quote; at++) {
            if (*at == '\n') {
                strbuf_puts(out, "\\n");
                continue;
            }
            strbuf_putc(out, *at);
            if (*at == '\\' && at[1]) strbuf_putc(out, *++at);
        }
        if (!*at) break;
        strbuf_putc(out, quote);
    }
    return at;
}

/* Appends the template without what Jinja ignores: white space inside tags, white space beside a tag's minus
 * sign, and a line feed at the end. */
static void add_canonical(struct strbuf *out, const char *text)
{
    const char *stop = text + strlen(text);
    if (stop > text && stop[-1] == '\n') stop--;
    size_t literal = 0; /* where the text since the last tag starts */
    for (const char *at = text; at < stop;) {
        if (at[0] != '{' || (at[1] != '{' && at[1] != '%')) {
            strbuf_putc(out, *at++);
            continue;
        }
        if (at[2] == '-')
            while (out->length > literal && is_blank(out->data[out->length - 1]))
                out->data[--out->length] = 0;
        at = add_canonical_tag(out, at);
        literal = out->length;
        if (at - text >= 3 && at[-3] == '-')
            while (at < stop && is_blank(*at)) at++;
    }
}

/* The default system message of a Qwen template: what stands between these words. */
static const char *find_default_system(const char *text, size_t *length)
{
    static const char *const openings[] = {"{%-else%}{{-'<|im_start|>system\\n", "{{'<|im_start|>system\\n"};
    for (size_t i = 0; i < sizeof openings / sizeof openings[0]; i++) {
        const char *at = strstr(text, openings[i]);
        if (!at) continue;
        at += strlen(openings[i]);
        const char *end = strstr(at, "<|im_end|>\\n'}}");
        if (!end || end == at || memchr(at, '\'', (size_t)(end - at)) || memchr(at, '\\', (size_t)(end - at)))
            continue;
        *length = (size_t)(end - at);
        return at;
    }
    return NULL;
}

/* Hash of the canonical text; *system: its default system message, cut out of it wherever it stands (Owns;
 * NULL: none). */
static enum status canonical_hash(uint64_t *hash, char **system, const char *template)
{
    struct strbuf canonical = STRBUF_EMPTY, rest = STRBUF_EMPTY;
    add_canonical(&canonical, template);
    enum status status = strbuf_status(&canonical);
    const char *text = strbuf_text(&canonical);
    size_t length = 0;
    const char *found = find_default_system(text, &length);
    char *message = found ? memory_string_n(found, length) : NULL;
    if (found && !message) status = LORAD_NOMEM;
    for (const char *next; message && (next = strstr(text, message)); text = next + length)
        strbuf_add(&rest, text, (size_t)(next - text));
    strbuf_puts(&rest, text);
    if (status == LORAD_OK) status = strbuf_status(&rest);
    if (status == LORAD_OK) {
        *hash = hash64(strbuf_text(&rest), rest.length);
        *system = message;
    } else {
        free(message);
    }
    strbuf_free(&canonical);
    strbuf_free(&rest);
    return status;
}

static enum status recognise(const char **name, char **system, const char *template)
{
    uint64_t hash;
    char *found = NULL;
    TRY(canonical_hash(&hash, &found, template));
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        if (known[i].hash != hash || known[i].default_system != (found != NULL)) continue;
        *name = known[i].name;
        *system = found;
        return LORAD_OK;
    }
    free(found);
    return FAIL(LORAD_CONFIG,
                "the model's chat template is none that lorad knows (its hash: %016llx); set template: to "
                "the format it "
                "writes (one of " KNOWN_NAMES ")",
                (unsigned long long)hash);
}

/* ---- opening ---- */

static enum status need_token(int32_t *out, const struct chat_template *chat, const char *text)
{
    *out = tokenizer_token(chat->tokenizer, text);
    if (*out < 0)
        return FAIL(LORAD_CONFIG, "template: %s needs the token %s, which the tokenizer does not have",
                    chat->name, text);
    return LORAD_OK;
}

static enum status need_named(int32_t *out, const struct chat_template *chat, int32_t number, const char *key)
{
    *out = number;
    if (number < 0)
        return FAIL(LORAD_CONFIG, "template: %s needs %s, which tokenizer_config.json does not name",
                    chat->name, key);
    return LORAD_OK;
}

static enum status find_tokens(struct chat_template *chat)
{
    int32_t bos = tokenizer_bos(chat->tokenizer), eos = tokenizer_eos(chat->tokenizer);
    chat->bos = chat->start = chat->header_end = chat->end = -1;
    switch (chat->family) {
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
    case FAMILY_PLAIN:
        return need_named(&chat->end, chat, eos, "eos_token");
    }
    return LORAD_OK;
}

static enum status choose(struct chat_template *chat, const char *name)
{
    const char *template = tokenizer_chat_template(chat->tokenizer);
    bool automatic = !name || strcmp(name, "auto") == 0;
    if (automatic && template) {
        TRY(recognise(&name, &chat->default_system, template));
    } else if (automatic) {
        name = "plain";
    } else if (strcmp(name, "qwen") == 0) {
        chat->default_system = memory_string(qwen_system);
        if (!chat->default_system) return LORAD_NOMEM;
    }
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (strcmp(names[i].name, name) != 0) continue;
        chat->name = names[i].name;
        chat->family = names[i].family;
        return find_tokens(chat);
    }
    return FAIL(LORAD_CONFIG, "template: \"%s\" is not known (known: auto, " KNOWN_NAMES ")", name);
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
    return chat->name;
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

/* ---- rendering ---- */

static void rendering_free(struct rendering *rendering)
{
    strbuf_free(&rendering->text);
    free(rendering->placed);
    free(rendering->supervised);
}

static enum status put_token(const struct chat_template *chat, struct rendering *out, int32_t number)
{
    size_t length, begin = out->text.length;
    const char *text = tokenizer_text(chat->tokenizer, number, &length);
    strbuf_add(&out->text, text, length);
    TRY(memory_grow((void **)&out->placed, &out->placed_capacity, out->n_placed + 1, sizeof *out->placed));
    out->placed[out->n_placed++] = (struct placed_token){begin, out->text.length, number};
    return LORAD_OK;
}

/* [INST] and [/INST] are plain text in some tokenizers and special tokens in others. */
static enum status put_mark(const struct chat_template *chat, struct rendering *out, const char *mark)
{
    int32_t number = tokenizer_special(chat->tokenizer, mark);
    if (number >= 0) return put_token(chat, out, number);
    strbuf_puts(&out->text, mark);
    return LORAD_OK;
}

static enum status put_supervised(struct rendering *out, size_t begin, float weight)
{
    TRY(memory_grow((void **)&out->supervised, &out->supervised_capacity, out->n_supervised + 1,
                    sizeof *out->supervised));
    out->supervised[out->n_supervised++] = (struct byte_range){begin, out->text.length, weight};
    return LORAD_OK;
}

static bool is_python_space(uint32_t character)
{
    return unicode_class(character) == UNICODE_SPACE || (character >= 0x1C && character <= 0x1F);
}

/* As Python's strip(). Invalid UTF-8 is left for the tokenizer to refuse. */
static void put_trimmed(struct strbuf *out, const char *text, size_t length)
{
    size_t begin = 0, end = length;
    uint32_t character;
    for (size_t step; begin < end && (step = utf8_read(&character, text + begin, end - begin)) != 0;
         begin += step)
        if (!is_python_space(character)) break;
    while (end > begin) {
        size_t last = end - 1;
        while (last > begin && ((unsigned char)text[last] & 0xC0) == 0x80) last--;
        if (utf8_read(&character, text + last, end - last) != end - last || !is_python_space(character))
            break;
        end = last;
    }
    strbuf_add(out, text + begin, end - begin);
}

static const char *role_name(enum message_role role)
{
    return role == ROLE_SYSTEM ? "system" : role == ROLE_USER ? "user" : "assistant";
}

static enum status chatml_open(const struct chat_template *chat, struct rendering *out, const char *role)
{
    TRY(put_token(chat, out, chat->start));
    strbuf_printf(&out->text, "%s\n", role);
    return LORAD_OK;
}

static enum status render_chatml(const struct chat_template *chat, const struct message *messages, size_t n,
                                 bool prompt, struct rendering *out)
{
    bool own_system = n && messages[0].role == ROLE_SYSTEM;
    for (size_t i = 0; i < n + 1; i++) {
        struct message message = {.role = ROLE_SYSTEM, .content = chat->default_system};
        if (i == 0 && (own_system || !chat->default_system)) continue;
        if (i == 0)
            message.length = strlen(chat->default_system);
        else
            message = messages[i - 1];
        TRY(chatml_open(chat, out, role_name(message.role)));
        size_t begin = out->text.length;
        strbuf_add(&out->text, message.content, message.length);
        TRY(put_token(chat, out, chat->end));
        if (message.role == ROLE_ASSISTANT) TRY(put_supervised(out, begin, message.weight));
        strbuf_putc(&out->text, '\n');
    }
    return prompt ? chatml_open(chat, out, "assistant") : LORAD_OK;
}

static enum status llama3_open(const struct chat_template *chat, struct rendering *out, const char *role)
{
    TRY(put_token(chat, out, chat->start));
    strbuf_puts(&out->text, role);
    TRY(put_token(chat, out, chat->header_end));
    strbuf_puts(&out->text, "\n\n");
    return LORAD_OK;
}

static enum status render_llama3(const struct chat_template *chat, const struct message *messages, size_t n,
                                 bool prompt, struct rendering *out)
{
    if (n) TRY(put_token(chat, out, chat->bos));
    for (size_t i = 0; i < n; i++) {
        TRY(llama3_open(chat, out, role_name(messages[i].role)));
        size_t begin = out->text.length;
        put_trimmed(&out->text, messages[i].content, messages[i].length);
        TRY(put_token(chat, out, chat->end));
        if (messages[i].role == ROLE_ASSISTANT) TRY(put_supervised(out, begin, messages[i].weight));
    }
    return prompt ? llama3_open(chat, out, "assistant") : LORAD_OK;
}

static enum status check_alternation(const struct chat_template *chat, const struct message *messages,
                                     size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (messages[i].role != (i % 2 ? ROLE_ASSISTANT : ROLE_USER))
            return FAIL(LORAD_DATA, "template %s: roles must alternate user, assistant, user, ...",
                        chat->name);
    return LORAD_OK;
}

static enum status render_llama2(const struct chat_template *chat, const struct message *messages, size_t n,
                                 struct rendering *out)
{
    const struct message *system = n && messages[0].role == ROLE_SYSTEM ? messages : NULL;
    if (system) {
        messages++;
        n--;
    }
    TRY(check_alternation(chat, messages, n));
    for (size_t i = 0; i < n; i++) {
        const struct message *message = &messages[i];
        if (message->role == ROLE_USER) {
            TRY(put_token(chat, out, chat->bos));
            TRY(put_mark(chat, out, "[INST]"));
            strbuf_putc(&out->text, ' ');
            struct strbuf content = STRBUF_EMPTY;
            if (i == 0 && system) {
                strbuf_puts(&content, "<<SYS>>\n");
                strbuf_add(&content, system->content, system->length);
                strbuf_puts(&content, "\n<</SYS>>\n\n");
            }
            strbuf_add(&content, message->content, message->length);
            put_trimmed(&out->text, strbuf_text(&content), content.length);
            enum status status = strbuf_status(&content);
            strbuf_free(&content);
            if (status != LORAD_OK) return status;
            strbuf_putc(&out->text, ' ');
            TRY(put_mark(chat, out, "[/INST]"));
        } else {
            size_t begin = out->text.length; /* with the space, which generation writes itself */
            strbuf_putc(&out->text, ' ');
            put_trimmed(&out->text, message->content, message->length);
            strbuf_putc(&out->text, ' ');
            TRY(put_token(chat, out, chat->end));
            TRY(put_supervised(out, begin, message->weight));
        }
    }
    return LORAD_OK;
}

static enum status render_mistral(const struct chat_template *chat, const struct message *messages, size_t n,
                                  struct rendering *out)
{
    TRY(check_alternation(chat, messages, n));
    TRY(put_token(chat, out, chat->bos));
    for (size_t i = 0; i < n; i++) {
        size_t begin = out->text.length;
        bool user = messages[i].role == ROLE_USER;
        if (user) {
            TRY(put_mark(chat, out, "[INST]"));
            strbuf_putc(&out->text, ' ');
        }
        strbuf_add(&out->text, messages[i].content, messages[i].length);
        if (user) {
            strbuf_putc(&out->text, ' ');
            TRY(put_mark(chat, out, "[/INST]"));
            continue;
        }
        TRY(put_token(chat, out, chat->end));
        TRY(put_supervised(out, begin, messages[i].weight));
    }
    return LORAD_OK;
}

static enum status render_plain(const struct chat_template *chat, const struct message *messages, size_t n,
                                struct rendering *out)
{
    size_t n_prefix;
    const int32_t *prefix = tokenizer_prefix(chat->tokenizer, &n_prefix);
    for (size_t i = 0; i < n_prefix; i++) TRY(put_token(chat, out, prefix[i]));
    for (size_t i = 0; i < n; i++) {
        size_t begin = out->text.length;
        strbuf_add(&out->text, messages[i].content, messages[i].length);
        if (messages[i].role != ROLE_ASSISTANT) {
            strbuf_putc(&out->text, '\n');
            continue;
        }
        TRY(put_token(chat, out, chat->end));
        TRY(put_supervised(out, begin, messages[i].weight));
    }
    return LORAD_OK;
}

static enum status render(const struct chat_template *chat, const struct message *messages, size_t n,
                          bool prompt, struct rendering *out)
{
    switch (chat->family) {
    case FAMILY_CHATML:
        TRY(render_chatml(chat, messages, n, prompt, out));
        break;
    case FAMILY_LLAMA3:
        TRY(render_llama3(chat, messages, n, prompt, out));
        break;
    case FAMILY_LLAMA2:
        TRY(render_llama2(chat, messages, n, out));
        break;
    case FAMILY_MISTRAL:
        TRY(render_mistral(chat, messages, n, out));
        break;
    case FAMILY_PLAIN:
        TRY(render_plain(chat, messages, n, out));
        break;
    }
    return strbuf_status(&out->text);
}

/* ---- encoding ---- */

static enum status encode_rendering(const struct chat_template *chat, const struct rendering *rendering,
                                    struct token_list *out)
{
    return tokenizer_encode_placed(chat->tokenizer, strbuf_text(&rendering->text), rendering->text.length,
                                   rendering->placed, rendering->n_placed, out);
}

/* A token is a target when it lies inside a supervised range and comes from at least one byte. */
static void mark(const struct rendering *rendering, struct chat_options options, struct encoded_row *row)
{
    size_t range = options.mask_history && rendering->n_supervised ? rendering->n_supervised - 1 : 0;
    row->n_supervised = 0;
    for (size_t i = 0; i < row->tokens.length; i++) {
        size_t start = row->tokens.start[i], end = row->tokens.end[i];
        while (range < rendering->n_supervised && rendering->supervised[range].end <= start) range++;
        bool inside = range < rendering->n_supervised && start >= rendering->supervised[range].begin &&
                      end <= rendering->supervised[range].end && end > start;
        row->weights[i] = options.train_on_prompt ? 1.0f
                          : inside                ? rendering->supervised[range].weight
                                                  : 0.0f;
        row->n_supervised += row->weights[i] > 0;
    }
}

enum status chat_template_encode(const struct chat_template *chat, const struct message *messages, size_t n,
                                 struct chat_options options, struct encoded_row *row)
{
    struct rendering rendering = {0};
    row->tokens.length = 0;
    row->tokens.want_spans = true;
    row->n_supervised = 0;
    enum status status = render(chat, messages, n, false, &rendering);
    if (status == LORAD_OK) status = encode_rendering(chat, &rendering, &row->tokens);
    if (status == LORAD_OK)
        status =
            memory_grow((void **)&row->weights, &row->capacity, row->tokens.length, sizeof *row->weights);
    if (status == LORAD_OK) mark(&rendering, options, row);
    rendering_free(&rendering);
    return status;
}

enum status chat_template_prompt(const struct chat_template *chat, const struct message *messages, size_t n,
                                 struct token_list *out)
{
    struct rendering rendering = {0};
    enum status status = render(chat, messages, n, true, &rendering);
    if (status == LORAD_OK) status = encode_rendering(chat, &rendering, out);
    rendering_free(&rendering);
    return status;
}

enum status chat_template_render(const struct chat_template *chat, const struct message *messages, size_t n,
                                 bool prompt, struct strbuf *out)
{
    struct rendering rendering = {0};
    enum status status = render(chat, messages, n, prompt, &rendering);
    if (status == LORAD_OK) strbuf_add(out, strbuf_text(&rendering.text), rendering.text.length);
    rendering_free(&rendering);
    return status == LORAD_OK ? strbuf_status(out) : status;
}
