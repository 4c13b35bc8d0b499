/*
 * chat_render.c: conversations as text, one function a family.
 *
 * Invariants
 *  1. Supervised is what generation would have to write: all that stands behind a prompt, up to and with the
 *     end token of the turn. White space behind the end token is not.
 *  2. The text is that of transformers' apply_chat_template for the whole conversation, with two exceptions:
 *     an assistant turn that a template opens unasked behind the last answer is left out, and a system
 *     message that belongs to the last question (Mistral v3) stays there though an answer follows it.
 *  3. Nothing depends on the day: a template that writes today's date gets the date that it falls back to.
 */
#include "dataloader/chat_parts.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/utf8.h"
#include "dataloader/unicode.h"

/* What Llama 3.1 and later write by themselves. 3.1 always gives this date, 3.2 where there is no clock. */
static const char llama_dates[] = "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n";

void rendering_free(struct rendering *rendering)
{
    strbuf_free(&rendering->text);
    free(rendering->placed);
    free(rendering->supervised);
}

/* ---- pieces ---- */

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

/* The end token of an assistant turn that began at `begin`. */
static enum status put_end(const struct chat_template *chat, struct rendering *out, size_t begin,
                           float weight)
{
    TRY(put_token(chat, out, chat->end));
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

static void put_content(struct strbuf *out, const struct message *message, bool trims)
{
    if (trims)
        put_trimmed(out, message->content, message->length);
    else
        strbuf_add(out, message->content, message->length);
}

static const char *role_name(enum message_role role)
{
    return role == ROLE_SYSTEM ? "system" : role == ROLE_USER ? "user" : "assistant";
}

static enum status check_alternation(const struct chat_template *chat, const struct message *messages,
                                     size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (messages[i].role != (i % 2 ? ROLE_ASSISTANT : ROLE_USER))
            return FAIL(LORAD_DATA, "template %s: roles must alternate user, assistant, user, ...",
                        chat->dialect->name);
    return LORAD_OK;
}

/* The conversation's own system message, which is taken off it; NULL: none. */
static const struct message *take_system(const struct message **messages, size_t *n)
{
    if (*n == 0 || (*messages)[0].role != ROLE_SYSTEM) return NULL;
    --*n;
    return (*messages)++;
}

/* ---- ChatML ---- */

struct slice {
    const char *text;
    size_t length;
};

static struct slice strip_feeds(struct slice s, bool left, bool right)
{
    while (left && s.length && s.text[0] == '\n') s = (struct slice){s.text + 1, s.length - 1};
    while (right && s.length && s.text[s.length - 1] == '\n') s.length--;
    return s;
}

/* Where `mark` stands in s, first or last; s.length: nowhere. */
static size_t find_mark(struct slice s, const char *mark, bool last)
{
    size_t length = strlen(mark), found = s.length;
    for (size_t i = 0; i + length <= s.length && (last || found == s.length); i++)
        if (memcmp(s.text + i, mark, length) == 0) found = i;
    return found;
}

/* Takes an answer apart into what its <think> block holds and what follows it, as Qwen3's template does. */
static void split_thought(struct slice whole, struct slice *thought, struct slice *answer)
{
    static const char opening[] = "<think>", closing[] = "</think>";
    size_t first = find_mark(whole, closing, false), last = find_mark(whole, closing, true);
    *thought = (struct slice){"", 0};
    *answer = whole;
    if (first == whole.length) return;
    *thought = strip_feeds((struct slice){whole.text, first}, false, true);
    size_t open = find_mark(*thought, opening, true);
    if (open < thought->length) {
        thought->text += open + sizeof opening - 1;
        thought->length -= open + sizeof opening - 1;
    }
    *thought = strip_feeds(*thought, true, false);
    size_t skip = last + sizeof closing - 1;
    *answer = strip_feeds((struct slice){whole.text + skip, whole.length - skip}, true, false);
}

static bool starts_with(struct slice s, const char *text)
{
    return s.length >= strlen(text) && memcmp(s.text, text, strlen(text)) == 0;
}

static bool is_question(const struct message *message)
{
    static const char closing[] = "</tool_response>";
    size_t n = sizeof closing - 1;
    struct slice s = {message->content, message->length};
    return message->role == ROLE_USER && !(starts_with(s, "<tool_response>") && s.length >= n &&
                                           memcmp(s.text + s.length - n, closing, n) == 0);
}

/* An answer by Qwen3's rules: what was thought about an earlier question is left out; the last message always
 * has a block. *begin: where what was written by the assistant starts: behind an empty block, which a prompt
 * without thinking supplies. */
static void put_thinking(struct rendering *out, const struct message *message, bool current, bool last,
                         size_t *begin)
{
    struct slice thought, answer;
    split_thought((struct slice){message->content, message->length}, &thought, &answer);
    if (current && (last || thought.length)) {
        thought = strip_feeds(thought, true, true);
        answer = strip_feeds(answer, true, false);
        strbuf_puts(&out->text, "<think>\n");
        strbuf_add(&out->text, thought.text, thought.length);
        strbuf_puts(&out->text, "\n</think>\n\n");
        if (!thought.length) *begin = out->text.length;
    }
    strbuf_add(&out->text, answer.text, answer.length);
}

static enum status chatml_open(const struct chat_template *chat, struct rendering *out, const char *role)
{
    TRY(put_token(chat, out, chat->start));
    strbuf_printf(&out->text, "%s\n", role);
    return LORAD_OK;
}

static enum status chatml_default(const struct chat_template *chat, struct rendering *out)
{
    TRY(chatml_open(chat, out, "system"));
    strbuf_puts(&out->text, chat->default_system);
    TRY(put_token(chat, out, chat->end));
    strbuf_putc(&out->text, '\n');
    return LORAD_OK;
}

static enum status render_chatml(const struct chat_template *chat, const struct message *messages, size_t n,
                                 bool prompt, struct rendering *out)
{
    const struct chat_dialect *dialect = chat->dialect;
    size_t question = n; /* the last one */
    while (question > 0 && !is_question(&messages[question - 1])) question--;
    size_t current = question ? question : n;
    if (dialect->bos) TRY(put_token(chat, out, chat->bos));
    if (chat->default_system && !(n && messages[0].role == ROLE_SYSTEM)) TRY(chatml_default(chat, out));
    for (size_t i = 0; i < n; i++) {
        const struct message *message = &messages[i];
        TRY(chatml_open(chat, out, role_name(message->role)));
        size_t begin = out->text.length;
        if (dialect->thinks && message->role == ROLE_ASSISTANT)
            put_thinking(out, message, i >= current, i + 1 == n, &begin);
        else
            put_content(&out->text, message, false);
        if (message->role == ROLE_ASSISTANT)
            TRY(put_end(chat, out, begin, message->weight));
        else
            TRY(put_token(chat, out, chat->end));
        strbuf_putc(&out->text, '\n');
    }
    if (!prompt) return LORAD_OK;
    TRY(chatml_open(chat, out, "assistant"));
    if (dialect->tail) strbuf_puts(&out->text, dialect->tail);
    return LORAD_OK;
}

/* ---- Llama 3 ---- */

static enum status llama3_open(const struct chat_template *chat, struct rendering *out, const char *role)
{
    TRY(put_token(chat, out, chat->start));
    strbuf_puts(&out->text, role);
    TRY(put_token(chat, out, chat->header_end));
    strbuf_puts(&out->text, "\n\n");
    return LORAD_OK;
}

/* The system turn that stands without a system message, too. */
static enum status llama3_system(const struct chat_template *chat, const struct message *system,
                                 struct rendering *out)
{
    TRY(llama3_open(chat, out, "system"));
    if (chat->dialect->dated) strbuf_puts(&out->text, llama_dates);
    if (system)
        put_content(&out->text, system, true);
    else if (chat->default_system)
        put_trimmed(&out->text, chat->default_system, strlen(chat->default_system));
    return put_token(chat, out, chat->end);
}

static enum status render_llama3(const struct chat_template *chat, const struct message *messages, size_t n,
                                 bool prompt, struct rendering *out)
{
    if (n) TRY(put_token(chat, out, chat->bos));
    if (chat->dialect->dated || (n && chat->default_system)) {
        const struct message *system = take_system(&messages, &n);
        TRY(llama3_system(chat, system, out));
    }
    for (size_t i = 0; i < n; i++) {
        TRY(llama3_open(chat, out, role_name(messages[i].role)));
        size_t begin = out->text.length;
        put_content(&out->text, &messages[i], !chat->dialect->untrimmed);
        if (messages[i].role == ROLE_ASSISTANT)
            TRY(put_end(chat, out, begin, messages[i].weight));
        else
            TRY(put_token(chat, out, chat->end));
    }
    return prompt ? llama3_open(chat, out, "assistant") : LORAD_OK;
}

/* ---- Llama 2 ---- */

static enum status llama2_question(const struct chat_template *chat, const struct message *message,
                                   const struct message *system, struct rendering *out)
{
    TRY(put_token(chat, out, chat->bos));
    TRY(put_mark(chat, out, "[INST]"));
    strbuf_putc(&out->text, ' ');
    struct strbuf content = STRBUF_EMPTY;
    if (system) {
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
    return put_mark(chat, out, "[/INST]");
}

static enum status render_llama2(const struct chat_template *chat, const struct message *messages, size_t n,
                                 struct rendering *out)
{
    const struct message *system = take_system(&messages, &n);
    TRY(check_alternation(chat, messages, n));
    for (size_t i = 0; i < n; i++) {
        if (messages[i].role == ROLE_USER) {
            TRY(llama2_question(chat, &messages[i], i == 0 ? system : NULL, out));
            continue;
        }
        size_t begin = out->text.length; /* with the space, which generation writes itself */
        strbuf_putc(&out->text, ' ');
        put_content(&out->text, &messages[i], true);
        strbuf_putc(&out->text, ' ');
        TRY(put_end(chat, out, begin, messages[i].weight));
    }
    return LORAD_OK;
}

/* ---- Mistral ---- */

static enum status mistral_system(const struct chat_template *chat, const struct message *system,
                                  struct rendering *out)
{
    TRY(put_mark(chat, out, "[SYSTEM_PROMPT]"));
    strbuf_puts(&out->text, chat->dialect->opened);
    put_content(&out->text, system, false);
    return put_mark(chat, out, "[/SYSTEM_PROMPT]");
}

static enum status mistral_question(const struct chat_template *chat, const struct message *message,
                                    const struct message *system, struct rendering *out)
{
    strbuf_puts(&out->text, chat->dialect->before);
    TRY(put_mark(chat, out, "[INST]"));
    strbuf_puts(&out->text, chat->dialect->opened);
    if (system) {
        put_content(&out->text, system, false);
        strbuf_puts(&out->text, "\n\n");
    }
    put_content(&out->text, message, false);
    strbuf_puts(&out->text, chat->dialect->closing);
    return put_mark(chat, out, "[/INST]");
}

static enum status render_mistral(const struct chat_template *chat, const struct message *messages, size_t n,
                                  struct rendering *out)
{
    const struct chat_dialect *dialect = chat->dialect;
    const struct message *system = dialect->system == SYSTEM_REFUSED ? NULL : take_system(&messages, &n);
    if (n && messages[0].role == ROLE_SYSTEM)
        return FAIL(LORAD_DATA, "template %s: has no place for a system message", dialect->name);
    TRY(check_alternation(chat, messages, n));
    TRY(put_token(chat, out, chat->bos));
    if (system && dialect->system == SYSTEM_MARKED) TRY(mistral_system(chat, system, out));
    if (system && (dialect->system == SYSTEM_MARKED || (dialect->skips_empty && !system->length)))
        system = NULL;
    size_t holder =
        dialect->system == SYSTEM_LAST && n ? (n - 1) / 2 * 2 : 0; /* the question it stands before */
    for (size_t i = 0; i < n; i++) {
        if (messages[i].role == ROLE_USER) {
            TRY(mistral_question(chat, &messages[i], i == holder ? system : NULL, out));
            continue;
        }
        size_t begin = out->text.length;
        strbuf_puts(&out->text, dialect->answering);
        put_content(&out->text, &messages[i], dialect->trims);
        TRY(put_end(chat, out, begin, messages[i].weight));
        if (dialect->after) strbuf_puts(&out->text, dialect->after);
    }
    return LORAD_OK;
}

/* ---- Alpaca and plain ---- */

static enum status put_own_prefix(const struct chat_template *chat, struct rendering *out)
{
    if (chat->dialect->bos) return put_token(chat, out, chat->bos);
    (void)tokenizer_prefix(chat->tokenizer, &out->prefix);
    return LORAD_OK;
}

static void alpaca_system(const struct chat_template *chat, const struct message *system,
                          struct rendering *out)
{
    if (system)
        put_content(&out->text, system, false);
    else if (chat->default_system)
        strbuf_puts(&out->text, chat->default_system);
    if (system ? system->length > 0 || !chat->dialect->skips_empty : chat->default_system != NULL)
        strbuf_puts(&out->text, chat->dialect->separator);
}

static enum status render_alpaca(const struct chat_template *chat, const struct message *messages, size_t n,
                                 bool prompt, struct rendering *out)
{
    const struct chat_dialect *dialect = chat->dialect;
    const struct message *system = take_system(&messages, &n);
    TRY(check_alternation(chat, messages, n));
    TRY(put_own_prefix(chat, out));
    alpaca_system(chat, system, out);
    for (size_t i = 0; i < n; i++) {
        if (i > 0 && messages[i].role == ROLE_USER) strbuf_puts(&out->text, dialect->between);
        strbuf_puts(&out->text, messages[i].role == ROLE_USER ? dialect->question : dialect->answer);
        size_t begin = out->text.length;
        put_content(&out->text, &messages[i], false);
        if (messages[i].role == ROLE_ASSISTANT) TRY(put_end(chat, out, begin, messages[i].weight));
    }
    if (prompt) strbuf_puts(&out->text, dialect->answer);
    return LORAD_OK;
}

static enum status render_plain(const struct chat_template *chat, const struct message *messages, size_t n,
                                struct rendering *out)
{
    TRY(put_own_prefix(chat, out));
    for (size_t i = 0; i < n; i++) {
        size_t begin = out->text.length;
        put_content(&out->text, &messages[i], false);
        if (messages[i].role == ROLE_ASSISTANT)
            TRY(put_end(chat, out, begin, messages[i].weight));
        else
            strbuf_putc(&out->text, '\n');
    }
    return LORAD_OK;
}

enum status chat_render(const struct chat_template *chat, const struct message *messages, size_t n,
                        bool prompt, struct rendering *out)
{
    switch (chat->dialect->family) {
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
    case FAMILY_ALPACA:
        TRY(render_alpaca(chat, messages, n, prompt, out));
        break;
    case FAMILY_PLAIN:
        TRY(render_plain(chat, messages, n, out));
        break;
    }
    return strbuf_status(&out->text);
}
