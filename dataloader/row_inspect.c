/* row_inspect.c: one row's findings, and its messages with placeholders. */
#include "dataloader/row_inspect.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/utf8.h"
#include "dataloader/personal_data.h"
#include "dataloader/unicode.h"

static const struct {
    const char *key, *name, *names, *placeholder;
} kinds[FINDINGS] = {
    [FINDING_ID] = {"id_number", "resident ID number", "resident ID numbers", "[ID]"},
    [FINDING_MOBILE] = {"mobile", "mobile phone number", "mobile phone numbers", "[PHONE]"},
    [FINDING_LANDLINE] = {"landline", "landline number", "landline numbers", "[PHONE]"},
    [FINDING_CARD] = {"card", "bank card number", "bank card numbers", "[CARD]"},
    [FINDING_EMAIL] = {"email", "e-mail address", "e-mail addresses", "[EMAIL]"},
    [FINDING_SHORT_ANSWER] = {"short_answer", "short answer", "short answers", NULL},
    [FINDING_WORD] = {"word", "listed word", "listed words", NULL},
};

const char *finding_name(enum finding_kind kind)
{
    return kinds[kind].name;
}

const char *finding_names(enum finding_kind kind)
{
    return kinds[kind].names;
}

const char *finding_key(enum finding_kind kind)
{
    return kinds[kind].key;
}

const char *finding_placeholder(enum finding_kind kind)
{
    return kinds[kind].placeholder;
}

void finding_list_free(struct finding_list *list)
{
    free(list->at);
    *list = (struct finding_list){0};
}

/* Which finding of the row each word has; an entry counts when its row is the present one. */
struct word_counter {
    uint64_t row;
    int32_t n;
    struct {
        uint64_t row;
        size_t finding;
    } word[];
};

void inspection_free(struct inspection *inspection)
{
    strbuf_free(&inspection->masked);
    free(inspection->counter);
    free(inspection->change);
    *inspection = (struct inspection){0};
}

static enum status append(struct finding_list *list, const struct finding *finding)
{
    void *block = list->at;
    TRY(memory_grow(&block, &list->capacity, list->n + 1, sizeof *list->at));
    list->at = block;
    list->at[list->n++] = *finding;
    return LORAD_OK;
}

/* ---- personal data ---- */

static enum status note_change(struct inspection *inspection, size_t message, size_t start)
{
    void *block = inspection->change;
    TRY(memory_grow(&block, &inspection->change_capacity, inspection->n_changes + 1,
                    sizeof *inspection->change));
    inspection->change = block;
    inspection->change[inspection->n_changes++] =
        (struct message_change){message, start, inspection->masked.length - start};
    return LORAD_OK;
}

/* Counts the pieces in one message into found[]; with `mask` writes the message with placeholders. */
static enum status inspect_message(struct inspection *inspection, const struct message *message,
                                   size_t number, bool mask, struct finding found[FINDING_PII])
{
    struct personal_data piece;
    size_t from = 0, start = inspection->masked.length;
    while (personal_data_find(&piece, message->content, message->length, from)) {
        struct finding *finding = &found[piece.kind];
        if (finding->count++ == 0)
            *finding = (struct finding){piece.kind, 0, 1, (int32_t)number, piece.offset, piece.length};
        if (mask) {
            strbuf_add(&inspection->masked, message->content + from, piece.offset - from);
            strbuf_puts(&inspection->masked, kinds[piece.kind].placeholder);
        }
        from = piece.offset + piece.length;
    }
    if (!mask || from == 0) return LORAD_OK;
    strbuf_add(&inspection->masked, message->content + from, message->length - from);
    return note_change(inspection, number, start);
}

static enum status inspect_personal_data(enum pii_policy pii, struct inspection *inspection,
                                         struct message *messages, size_t n, struct finding_list *list,
                                         enum inspect_verdict *verdict)
{
    struct finding found[FINDING_PII] = {0};
    bool any = false;
    strbuf_clear(&inspection->masked);
    inspection->n_changes = 0;
    for (size_t i = 0; i < n; i++) TRY(inspect_message(inspection, &messages[i], i, pii == PII_MASK, found));
    TRY(strbuf_status(&inspection->masked));
    for (int kind = 0; kind < FINDING_PII; kind++) {
        if (found[kind].count == 0) continue;
        any = true;
        TRY(append(list, &found[kind]));
    }
    for (size_t i = 0; i < inspection->n_changes; i++) {
        const struct message_change *change = &inspection->change[i];
        messages[change->message].content = inspection->masked.data + change->start;
        messages[change->message].length = change->length;
    }
    if (any) *verdict = pii == PII_MASK ? INSPECT_MASKED : pii == PII_DROP ? INSPECT_DROP : INSPECT_KEEP;
    return LORAD_OK;
}

/* ---- listed words ---- */

struct word_search {
    struct word_counter *counter;
    struct finding_list *list;
    size_t message;
    enum status status;
};

static void count_word(void *context, int32_t word, size_t offset, size_t length)
{
    struct word_search *search = context;
    struct word_counter *counter = search->counter;
    if (search->status != LORAD_OK) return;
    if (counter->word[word].row == counter->row) {
        search->list->at[counter->word[word].finding].count++;
        return;
    }
    counter->word[word].row = counter->row;
    counter->word[word].finding = search->list->n;
    const struct finding finding = {FINDING_WORD, word, 1, (int32_t)search->message, offset, length};
    search->status = append(search->list, &finding);
}

static enum status inspect_words(const struct word_list *words, struct inspection *inspection,
                                 const struct message *messages, size_t n, struct finding_list *list)
{
    int32_t size = word_list_size(words);
    if (inspection->counter && inspection->counter->n != size) {
        free(inspection->counter);
        inspection->counter = NULL;
    }
    if (!inspection->counter) {
        struct word_counter *counter =
            memory_new(1, sizeof *counter + (size_t)size * sizeof counter->word[0]);
        if (!counter) return LORAD_NOMEM;
        counter->n = size;
        inspection->counter = counter;
    }
    inspection->counter->row++;
    struct word_search search = {inspection->counter, list, 0, LORAD_OK};
    for (; search.message < n; search.message++)
        word_list_find(words, messages[search.message].content, messages[search.message].length, count_word,
                       &search);
    return search.status;
}

/* ---- short answers ---- */

static bool is_space(const char *text, size_t n, size_t *length)
{
    uint32_t character;
    *length = utf8_read(&character, text, n);
    return *length > 0 && unicode_class(character) == UNICODE_SPACE;
}

/* Characters without the white space around them; counting stops at `enough`. */
static int32_t count_characters(const char *text, size_t length, int32_t enough)
{
    size_t step;
    int32_t n = 0, kept = 0; /* kept: up to the last one that is no space */
    for (size_t i = 0; i < length && kept < enough; i += step) {
        bool space = is_space(text + i, length - i, &step);
        if (step == 0) step = 1;
        if (space && n == 0) continue;
        n++;
        if (!space) kept = n;
    }
    return kept;
}

static enum status inspect_answers(int32_t least, const struct message *messages, size_t n,
                                   struct finding_list *list)
{
    struct finding finding = {.kind = FINDING_SHORT_ANSWER};
    for (size_t i = 0; i < n; i++) {
        const struct message *message = &messages[i];
        if (message->role != ROLE_ASSISTANT || !(message->weight > 0)) continue;
        if (count_characters(message->content, message->length, least) >= least) continue;
        if (finding.count++ > 0) continue;
        finding.message = (int32_t)i;
        finding.length = message->length;
    }
    return finding.count > 0 ? append(list, &finding) : LORAD_OK;
}

/* ---- together ---- */

enum status row_inspect(const struct inspect_options *options, struct inspection *inspection,
                        struct message *messages, size_t n, struct finding_list *list,
                        enum inspect_verdict *verdict)
{
    enum inspect_verdict found = INSPECT_KEEP;
    if (options->min_answer_chars > 0) TRY(inspect_answers(options->min_answer_chars, messages, n, list));
    if (options->words) TRY(inspect_words(options->words, inspection, messages, n, list));
    if (options->pii != PII_OFF)
        TRY(inspect_personal_data(options->pii, inspection, messages, n, list, &found));
    *verdict = found;
    return LORAD_OK;
}

void finding_text(struct strbuf *out, const struct finding *findings, size_t n, const struct word_list *words)
{
    for (size_t i = 0; i < n; i++) {
        const struct finding *finding = &findings[i];
        if (i > 0) strbuf_puts(out, ", ");
        if (finding->kind == FINDING_WORD && words) {
            strbuf_printf(out, "\"%s\"", word_list_word(words, finding->word));
            if (finding->count > 1) strbuf_printf(out, " %d times", finding->count);
        } else {
            strbuf_printf(out, "%d %s", finding->count,
                          finding->count == 1 ? kinds[finding->kind].name : kinds[finding->kind].names);
        }
    }
}
