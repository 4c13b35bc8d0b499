/*
 * pretokenize.c: cutting text into words.
 *
 * Invariants
 *  1. Words do not overlap, stand in order and are not empty. A step makes them finer, leaves out what it
 *     removes, or rewrites them into another text.
 *  2. The two regular expressions of the byte-level families are followed by hand, alternative by
 *     alternative, with the character classes of unicode.h; any other goes through PCRE2 (regex_syntax.h).
 *  3. A step sees each word by itself, as if nothing stood around it. The steps by hand take linear time.
 */
#include "dataloader/pretokenize.h"

#include "base/utf8.h"
#include "dataloader/normalize.h"
#include "dataloader/unicode.h"

void pretokenize_work_free(struct pretokenize_work *work)
{
    free(work->words.range);
    free(work->spare.range);
    free(work->matches.range);
    for (int i = 0; i < 2; i++) textbuf_free(&work->text[i]);
    pattern_memory_destroy(work->memory);
    *work = (struct pretokenize_work){0};
}

/* ---- cutting by hand ---- */

static inline enum status add_word(struct word_list *words, size_t begin, size_t end)
{
    if (words->length == words->capacity)
        TRY(memory_grow((void **)&words->range, &words->capacity, words->length + 1, sizeof *words->range));
    words->range[words->length++] = (struct word_range){(uint32_t)begin, (uint32_t)end};
    return LORAD_OK;
}

static inline enum unicode_class class_at(const char *text, size_t i, size_t n, size_t *length)
{
    unsigned char byte = (unsigned char)text[i];
    if (byte < 0x80) {
        *length = 1;
        return (enum unicode_class)unicode_ascii_class[byte];
    }
    if (byte >= 0xE5 && byte <= 0xE9) { /* U+5000..U+9FFF: letters */
        *length = 3;
        return UNICODE_LETTER;
    }
    uint32_t character = 0;
    *length = utf8_read(&character, text + i, n - i);
    return unicode_class(character);
}

/* End of the run of `wanted` that begins at i, at most `most` characters long. */
static inline size_t run_end(const char *text, size_t i, size_t n, enum unicode_class wanted, size_t most)
{
    for (size_t length; i < n && most && class_at(text, i, n, &length) == wanted; i += length) most--;
    return i;
}

/* \s+(?!\S)|\s+ at i, where a run of spaces ends at `end`: the run, but for its last character when a word
 * follows. */
static size_t spaces_end(const char *text, size_t i, size_t end, size_t n)
{
    if (end == n) return end;
    size_t last = end - 1;
    while (last > i && ((unsigned char)text[last] & 0xC0) == 0x80) last--;
    return last > i ? last : end;
}

/* Length of 's 't 'm 'd 're 've 'll behind an apostrophe at text[0], with it; 0: none. any_case: as (?i:...),
 * where the long s (U+017F) is an s too. */
static size_t contraction(const char *text, size_t n, bool any_case)
{
    if (n < 2) return 0;
    int fold = any_case ? 0x20 : 0;
    int a = text[1] | fold;
    if (a == 's' || a == 't' || a == 'm' || a == 'd') return 2;
    if (n < 3) return 0;
    if (any_case && text[1] == '\xC5' && text[2] == '\xBF') return 3;
    int b = text[2] | fold;
    return ((a == 'r' || a == 'v') && b == 'e') || (a == 'l' && b == 'l') ? 3 : 0;
}

static enum status cut_gpt2(const char *text, size_t i, size_t n, struct word_list *out)
{
    while (i < n) {
        size_t begin = i, length = 0;
        size_t short_word = text[i] == '\'' ? contraction(text + i, n - i, false) : 0;
        if (short_word) {
            i += short_word;
        } else {
            size_t word = text[i] == ' ' ? i + 1 : i; /* " ?" before each kind of run */
            enum unicode_class kind = word < n ? class_at(text, word, n, &length) : UNICODE_SPACE;
            if (kind != UNICODE_SPACE)
                i = run_end(text, word + length, n, kind, SIZE_MAX);
            else
                i = spaces_end(text, i, run_end(text, i, n, UNICODE_SPACE, SIZE_MAX), n);
        }
        TRY(add_word(out, begin, i));
    }
    return LORAD_OK;
}

/* The alternatives behind the contractions, at i. */
static size_t cl100k_end(const char *text, size_t i, size_t n, size_t max_digits)
{
    size_t length, next_length = 0;
    enum unicode_class kind = class_at(text, i, n, &length);
    if (kind == UNICODE_LETTER) return run_end(text, i + length, n, UNICODE_LETTER, SIZE_MAX);
    if (kind == UNICODE_NUMBER) return run_end(text, i, n, UNICODE_NUMBER, max_digits);
    size_t next = i + length;
    enum unicode_class next_kind = next < n ? class_at(text, next, n, &next_length) : UNICODE_SPACE;
    if (next_kind == UNICODE_LETTER && text[i] != '\r' && text[i] != '\n')
        return run_end(text, next + next_length, n, UNICODE_LETTER, SIZE_MAX);
    if (kind == UNICODE_OTHER || (text[i] == ' ' && next_kind == UNICODE_OTHER)) {
        size_t end = run_end(text, kind == UNICODE_OTHER ? i : next, n, UNICODE_OTHER, SIZE_MAX);
        while (end < n && (text[end] == '\r' || text[end] == '\n')) end++;
        return end;
    }
    size_t end = run_end(text, i, n, UNICODE_SPACE, SIZE_MAX);
    for (size_t k = end; k > i; k--)
        if (text[k - 1] == '\r' || text[k - 1] == '\n') return k;
    return spaces_end(text, i, end, n);
}

static enum status cut_cl100k(const char *text, size_t i, size_t n, size_t max_digits, struct word_list *out)
{
    while (i < n) {
        size_t short_word = text[i] == '\'' ? contraction(text + i, n - i, true) : 0;
        size_t end = short_word ? i + short_word : cl100k_end(text, i, n, max_digits);
        TRY(add_word(out, i, end));
        i = end;
    }
    return LORAD_OK;
}

static enum status cut_digits(const char *text, size_t i, size_t n, size_t most, struct word_list *out)
{
    while (i < n) {
        size_t begin = i, length;
        if (class_at(text, i, n, &length) == UNICODE_NUMBER) {
            i = run_end(text, i, n, UNICODE_NUMBER, most);
        } else {
            while (i < n && class_at(text, i, n, &length) != UNICODE_NUMBER) i += length;
        }
        TRY(add_word(out, begin, i));
    }
    return LORAD_OK;
}

static enum status cut_mark(const char *text, size_t i, size_t n, const char *mark, struct word_list *out)
{
    size_t length = strlen(mark);
    while (i < n) {
        const char *found = i + 1 < n ? memmem(text + i + 1, n - i - 1, mark, length) : NULL;
        size_t end = found ? (size_t)(found - text) : n;
        TRY(add_word(out, i, end));
        i = end;
    }
    return LORAD_OK;
}

/* \w+|[^\w\s]+, and nothing of what lies between. */
static enum status cut_whitespace(const char *text, size_t i, size_t n, struct word_list *out)
{
    enum { SPACE, WORD, OTHER } last = SPACE;
    size_t begin = i;
    while (i < n) {
        uint32_t character = 0;
        size_t length = utf8_read(&character, text + i, n - i);
        int kind = unicode_class(character) == UNICODE_SPACE ? SPACE
                   : unicode_is_word(character)              ? WORD
                                                             : OTHER;
        if (kind != (int)last) {
            if (last != SPACE) TRY(add_word(out, begin, i));
            begin = i;
            last = kind;
        }
        i += length;
    }
    return last == SPACE ? LORAD_OK : add_word(out, begin, n);
}

/* ---- cutting at matches ---- */

/* The next match of the step in [at, n): *begin == SIZE_MAX when there is none. */
static enum status next_match(const struct pretokenize_step *step, struct pretokenize_work *work,
                              const char *text, size_t n, size_t at, size_t *begin, size_t *end)
{
    *begin = SIZE_MAX;
    if (step->matcher == MATCH_PATTERN) {
        if (!work->memory) TRY(pattern_memory_create(&work->memory));
        return pattern_find(step->pattern, work->memory, text, n, at, begin, end);
    }
    if (step->matcher == MATCH_TEXT) {
        size_t length = strlen(step->text);
        const char *found = memmem(text + at, n - at, step->text, length);
        if (!found) return LORAD_OK;
        *begin = (size_t)(found - text);
        *end = *begin + length;
        return LORAD_OK;
    }
    for (size_t length; at < n; at += length) {
        uint32_t character = 0;
        length = utf8_read(&character, text + at, n - at);
        if (step->matcher == MATCH_SPACE ? unicode_class(character) != UNICODE_SPACE
                                         : !unicode_is_punctuation(character))
            continue;
        *begin = at;
        *end = at + length;
        break;
    }
    return LORAD_OK;
}

/* All matches in the n > 0 bytes at `text` and what lies between them; which of them are matches is told by
 * their place in `matches`: bit 31 of the end. An empty match directly behind another one is none. */
enum { MATCH_BIT = 31 };

static enum status find_matches(const struct pretokenize_step *step, struct pretokenize_work *work,
                                const char *text, size_t n)
{
    size_t kept = 0, last = SIZE_MAX;
    uint32_t bit = step->invert ? 0 : 1u << MATCH_BIT, other = bit ^ 1u << MATCH_BIT;
    work->matches.length = 0;
    for (size_t at = 0; at <= n;) {
        size_t begin = SIZE_MAX, end = 0;
        TRY(next_match(step, work, text, n, at, &begin, &end));
        if (begin == SIZE_MAX) break;
        if (end == begin) {
            at = end < n ? end + utf8_length(text[end]) : n + 1;
            if (begin == last) continue;
        } else {
            at = end;
        }
        last = end;
        if (kept != begin) TRY(add_word(&work->matches, kept, begin | other));
        TRY(add_word(&work->matches, begin, end | bit));
        kept = end;
    }
    return kept != n ? add_word(&work->matches, kept, n | other) : LORAD_OK;
}

static enum status add_if_any(struct word_list *out, size_t begin, size_t end)
{
    return end > begin ? add_word(out, begin, end) : LORAD_OK;
}

/* Words of [base, base + n) of a text, of which text[0] is byte `base`. */
static enum status cut_at_matches(const struct pretokenize_step *step, struct pretokenize_work *work,
                                  const char *text, size_t base, size_t n)
{
    TRY(find_matches(step, work, text, n));
    struct word_list *out = &work->spare;
    const struct word_range *range = work->matches.range;
    size_t count = work->matches.length, begin = 0, end = 0;
    bool previous = false, open = false;
    for (size_t i = 0; i < count; i++) {
        bool is_match = range[i].end >> MATCH_BIT, join = false;
        size_t from = range[i].begin, to = range[i].end & ~(1u << MATCH_BIT);
        if (step->behavior == SPLIT_REMOVED && is_match) continue;
        if (step->behavior == SPLIT_CONTIGUOUS) join = open && is_match == previous;
        if (step->behavior == SPLIT_WITH_PREVIOUS) join = open && is_match && !previous;
        /* From the end of the text back: a match joins what follows it unless that is a match too. */
        if (step->behavior == SPLIT_WITH_NEXT) join = open && previous && !is_match;
        if (open && !join) TRY(add_if_any(out, base + begin, base + end));
        if (!join) begin = from;
        end = to;
        open = true;
        previous = is_match;
    }
    return open ? add_if_any(out, base + begin, base + end) : LORAD_OK;
}

/* ---- rewriting ---- */

static enum status rewrite_word(const struct pretokenize_step *step, struct textbuf *out,
                                const struct textbuf *in, struct word_range word, bool at_start)
{
    const char *text = in->data + word.begin;
    size_t n = word.end - word.begin;
    uint32_t start = in->want_map ? in->from[word.begin] : 0;
    if (step->kind == PRETOKENIZE_PREFIX_SPACE) {
        if (text[0] != ' ') TRY(textbuf_add(out, " ", 1, start, start, 0));
        return textbuf_append(out, in, word.begin, word.end);
    }
    const char *mark = step->text;
    size_t length = strlen(mark);
    bool marked = text[0] == ' ' || (n >= length && memcmp(text, mark, length) == 0);
    if (!marked && (step->prepend == PREPEND_ALWAYS || (step->prepend == PREPEND_FIRST && at_start)))
        TRY(textbuf_add(out, mark, length, start, start, 0));
    return textbuf_replace_in(out, in, word.begin, word.end, " ", 1, mark, length);
}

static enum status rewrite(const struct pretokenize_step *step, struct pretokenize_work *work,
                           struct textbuf *out, const struct textbuf *in, bool at_start)
{
    out->length = 0;
    out->want_map = in->want_map;
    for (size_t i = 0; i < work->words.length; i++) {
        size_t begin = out->length;
        TRY(rewrite_word(step, out, in, work->words.range[i], at_start && work->words.range[i].begin == 0));
        TRY(add_word(&work->spare, begin, out->length));
    }
    return LORAD_OK;
}

/* ---- all steps ---- */

static enum status cut_words(const struct pretokenize_step *step, struct pretokenize_work *work,
                             const char *text)
{
    struct word_list *out = &work->spare;
    for (size_t i = 0; i < work->words.length; i++) {
        /* Offsets stay those of the text; a word ends where its range does. */
        size_t begin = work->words.range[i].begin, end = work->words.range[i].end;
        switch (step->kind) {
        case PRETOKENIZE_GPT2:
            TRY(cut_gpt2(text, begin, end, out));
            break;
        case PRETOKENIZE_CL100K:
            TRY(cut_cl100k(text, begin, end, step->max_digits, out));
            break;
        case PRETOKENIZE_DIGITS:
            TRY(cut_digits(text, begin, end, step->max_digits, out));
            break;
        case PRETOKENIZE_MARK:
            TRY(cut_mark(text, begin, end, step->text, out));
            break;
        case PRETOKENIZE_WHITESPACE:
            TRY(cut_whitespace(text, begin, end, out));
            break;
        default:
            TRY(cut_at_matches(step, work, text + begin, begin, end - begin));
        }
    }
    return LORAD_OK;
}

enum status pretokenizer_run(const struct pretokenizer *pretokenizer, struct pretokenize_work *work,
                             const struct textbuf *in, bool at_start, const struct textbuf **out)
{
    const struct textbuf *text = in;
    int next = 0;
    work->words.length = 0;
    if (in->length) TRY(add_word(&work->words, 0, in->length));
    for (int i = 0; i < pretokenizer->n_steps; i++) {
        const struct pretokenize_step *step = &pretokenizer->step[i];
        work->spare.length = 0;
        if (step->kind == PRETOKENIZE_METASPACE || step->kind == PRETOKENIZE_PREFIX_SPACE) {
            TRY(rewrite(step, work, &work->text[next], text, at_start));
            text = &work->text[next];
            next = 1 - next;
        } else {
            TRY(cut_words(step, work, text->data));
        }
        struct word_list cut = work->spare;
        work->spare = work->words;
        work->words = cut;
    }
    *out = text;
    return LORAD_OK;
}
