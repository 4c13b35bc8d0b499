/*
 * word_list.c: the list file and its automaton.
 *
 * Invariants:
 * (1) a step is a character. State 0 is the root; its edges to the characters below 0x10000 stand in root[],
 *     all other edges in one open-addressing table of 64-bit words: state (21 bits), character (21), the
 *     state that it leads to (22, never 0, so that no word is 0).
 * (2) fail of s is the state of the longest proper suffix of s's text that is a prefix of a word; it is less
 *     deep than s.
 * (3) ends of s is the first of s, its fail, the fail of that, ... whose text is a word; 0: none. So all
 *     words that end at a position are found in as many steps as there are words.
 */
#include "dataloader/word_list.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "base/utf8.h"

enum { ROOT_CHARACTERS = 1 << 16, TO_BITS = 22, CHARACTER_BITS = 21 };

struct state {
    uint64_t next; /* a bit for each edge, by character_bit: where it is not set there is no edge */
    uint32_t fail, ends;
};

struct word_list {
    char *text; /* the words, each with a NUL */
    size_t text_length, text_capacity;
    uint32_t *start;   /* [n] into text */
    uint32_t *n_bytes; /* [n] bytes of the word */
    size_t n, start_capacity, length_capacity;

    uint32_t *root; /* [ROOT_CHARACTERS]; 0: no edge */
    uint64_t *edge;
    int edge_shift; /* the table has 2^(64 - edge_shift) places */
    struct state *state;
    int32_t *word; /* that ends in the state; -1: none */
    uint32_t *parent;
    uint32_t *character;
    uint32_t n_states;
    size_t word_capacity, parent_capacity, character_capacity;
    struct hash128 hash;
};

static inline bool is_alnum(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

/* The next character with ASCII letters in lower case; a byte that belongs to none is one by itself. */
static inline uint32_t next_character(const char *text, size_t length, size_t *bytes)
{
    uint8_t a = (uint8_t)*text;
    uint32_t character;
    if (a < 0x80) {
        *bytes = 1;
        return a >= 'A' && a <= 'Z' ? a + 32u : a;
    }
    if ((*bytes = utf8_read(&character, text, length)) > 0) return character;
    *bytes = 1;
    return 0xDC00u + a; /* a surrogate: in no word */
}

/* ---- edges ---- */

static inline uint64_t edge_key(uint32_t state, uint32_t character)
{
    return ((uint64_t)state << CHARACTER_BITS | character) << TO_BITS;
}

static inline uint64_t edge_hash(uint32_t state, uint32_t character)
{
    return edge_key(state, character) * 0x9E3779B97F4A7C15u;
}

static inline uint64_t character_bit(uint32_t character)
{
    return (uint64_t)1 << (character * 0x9E3779B1u >> 26);
}

static uint32_t edge_find(const struct word_list *list, uint32_t state, uint32_t character)
{
    if (state == 0 && character < ROOT_CHARACTERS) return list->root[character];
    uint64_t key = edge_key(state, character), mask = UINT64_MAX >> list->edge_shift;
    for (uint64_t i = edge_hash(state, character) >> list->edge_shift;; i = (i + 1) & mask) {
        uint64_t edge = list->edge[i];
        if (edge == 0) return 0;
        if ((edge ^ key) >> TO_BITS == 0) return (uint32_t)edge & ((1u << TO_BITS) - 1);
    }
}

static void edge_put(struct word_list *list, uint64_t edge)
{
    uint64_t mask = UINT64_MAX >> list->edge_shift;
    uint64_t i = ((edge >> TO_BITS << TO_BITS) * 0x9E3779B97F4A7C15u) >> list->edge_shift;
    while (list->edge[i] != 0) i = (i + 1) & mask;
    list->edge[i] = edge;
}

/* Room for one more state: at most two thirds of the table are used. */
static enum status edges_grow(struct word_list *list)
{
    uint64_t places = list->edge ? (uint64_t)1 << (64 - list->edge_shift) : 0;
    if ((uint64_t)list->n_states * 3 < places * 2) return LORAD_OK;
    uint64_t *old = list->edge;
    int bits = old ? 65 - list->edge_shift : 10;
    uint64_t *wider = memory_new((size_t)1 << bits, sizeof *wider);
    if (!wider) return LORAD_NOMEM;
    list->edge = wider;
    list->edge_shift = 64 - bits;
    for (uint64_t i = 0; i < places; i++)
        if (old[i] != 0) edge_put(list, old[i]);
    free(old);
    return LORAD_OK;
}

/* ---- building ---- */

static enum status state_add(struct word_list *list, uint32_t parent, uint32_t character)
{
    size_t need = (size_t)list->n_states + 1;
    void *word = list->word, *parents = list->parent, *characters = list->character;
    enum status status = memory_grow(&word, &list->word_capacity, need, sizeof *list->word);
    list->word = word;
    if (status == LORAD_OK)
        status = memory_grow(&parents, &list->parent_capacity, need, sizeof *list->parent);
    list->parent = parents;
    if (status == LORAD_OK)
        status = memory_grow(&characters, &list->character_capacity, need, sizeof *list->character);
    list->character = characters;
    if (status == LORAD_OK) status = edges_grow(list);
    if (status != LORAD_OK) return status;
    list->word[list->n_states] = -1;
    list->parent[list->n_states] = parent;
    list->character[list->n_states] = character;
    list->n_states++;
    return LORAD_OK;
}

static enum status keep_word(struct word_list *list, const char *word, size_t length)
{
    void *text = list->text, *start = list->start, *bytes = list->n_bytes;
    enum status status = memory_grow(&text, &list->text_capacity, list->text_length + length + 1, 1);
    list->text = text;
    if (status == LORAD_OK)
        status = memory_grow(&start, &list->start_capacity, list->n + 1, sizeof *list->start);
    list->start = start;
    if (status == LORAD_OK)
        status = memory_grow(&bytes, &list->length_capacity, list->n + 1, sizeof *list->n_bytes);
    list->n_bytes = bytes;
    if (status != LORAD_OK) return status;
    memcpy(list->text + list->text_length, word, length);
    list->text[list->text_length + length] = '\0';
    list->start[list->n] = (uint32_t)list->text_length;
    list->n_bytes[list->n++] = (uint32_t)length;
    list->text_length += length + 1;
    return LORAD_OK;
}

static enum status word_add(struct word_list *list, const char *word, size_t length, const char *name,
                            int64_t line)
{
    uint32_t state = 0;
    for (size_t i = 0, bytes; i < length; i += bytes) {
        uint32_t character = next_character(word + i, length - i, &bytes);
        uint32_t next = edge_find(list, state, character);
        if (next == 0) {
            next = list->n_states;
            if (next >= WORD_LIST_STATES)
                return FAIL(LORAD_CONFIG,
                            "%s:%lld: the words up to here need more than %d states: use a shorter list",
                            name, (long long)line, WORD_LIST_STATES);
            TRY(state_add(list, state, character));
            if (state == 0 && character < ROOT_CHARACTERS)
                list->root[character] = next;
            else
                edge_put(list, edge_key(state, character) | next);
        }
        state = next;
    }
    if (list->word[state] >= 0) return LORAD_OK; /* it came before */
    list->word[state] = (int32_t)list->n;
    return keep_word(list, word, length);
}

static void find_suffix(struct word_list *list, uint32_t state)
{
    uint32_t parent = list->parent[state], at = list->state[parent].fail, next = 0;
    uint32_t character = list->character[state];
    if (parent != 0) {
        while ((next = edge_find(list, at, character)) == 0 && at != 0) at = list->state[at].fail;
    }
    list->state[state].fail = next;
    list->state[state].ends = list->word[state] >= 0 ? state : list->state[next].ends;
}

/* Suffixes need those of all states that are less deep, so states are taken by depth. */
static enum status link_states(struct word_list *list)
{
    size_t n = list->n_states;
    uint32_t first[WORD_LIST_LONGEST + 2] = {0};
    list->state = memory_new(n, sizeof *list->state);
    uint32_t *depth = memory_new(n, sizeof *depth), *order = memory_new(n, sizeof *order);
    enum status status = list->state && depth && order ? LORAD_OK : LORAD_NOMEM;
    if (status == LORAD_OK) {
        for (size_t s = 1; s < n; s++) list->state[list->parent[s]].next |= character_bit(list->character[s]);
        for (size_t s = 1; s < n; s++) first[(depth[s] = depth[list->parent[s]] + 1) + 1]++;
        for (size_t d = 1; d < WORD_LIST_LONGEST + 2; d++) first[d] += first[d - 1];
        for (size_t s = 1; s < n; s++) order[first[depth[s]]++] = (uint32_t)s;
        for (size_t i = 0; i + 1 < n; i++) find_suffix(list, order[i]);
    }
    free(depth);
    free(order);
    free(list->parent);
    free(list->character);
    list->parent = NULL;
    list->character = NULL;
    return status;
}

/* ---- reading ---- */

/* Length of the white space that the n bytes begin with: ASCII's and the ideographic space; 0: none. */
static size_t space_at(const char *text, size_t n)
{
    if (n > 0 && (*text == ' ' || (*text >= '\t' && *text <= '\r'))) return 1;
    return n >= 3 && memcmp(text, "\xE3\x80\x80", 3) == 0 ? 3 : 0;
}

static void trim(const char **text, size_t *length)
{
    for (size_t space; (space = space_at(*text, *length)) > 0; *length -= space) *text += space;
    while (*length > 0 &&
           (space_at(*text + *length - 1, 1) == 1 || (*length >= 3 && space_at(*text + *length - 3, 3) == 3)))
        *length -= space_at(*text + *length - 1, 1) == 1 ? 1 : 3;
}

static enum status read_line(struct word_list *list, const char *text, size_t length, const char *name,
                             int64_t line)
{
    trim(&text, &length);
    if (length == 0 || *text == '#') return LORAD_OK;
    size_t bad;
    if (!utf8_valid(text, length, &bad))
        return FAIL(LORAD_CONFIG, "%s:%lld: byte 0x%02x is not UTF-8: save the list as UTF-8", name,
                    (long long)line, (unsigned char)text[bad]);
    if (memchr(text, '\0', length))
        return FAIL(LORAD_CONFIG, "%s:%lld: there is a NUL byte: save the list as UTF-8 text", name,
                    (long long)line);
    if (length > WORD_LIST_LONGEST)
        return FAIL(LORAD_CONFIG, "%s:%lld: a word of %zu bytes; at most %d: one word a line", name,
                    (long long)line, length, WORD_LIST_LONGEST);
    return word_add(list, text, length, name, line);
}

static enum status read_lines(struct word_list *list, const char *text, size_t length, const char *name)
{
    int64_t line = 0;
    if (length >= 3 && memcmp(text, "\xEF\xBB\xBF", 3) == 0) {
        text += 3;
        length -= 3;
    }
    while (length > 0) {
        const char *end = memchr(text, '\n', length);
        size_t n = end ? (size_t)(end - text) : length, step = end ? n + 1 : n;
        TRY(read_line(list, text, n, name, ++line));
        text += step;
        length -= step;
    }
    if (list->n == 0)
        return FAIL(LORAD_CONFIG, "%s: there is no word in it: write one word a line (# starts a comment)",
                    name);
    return LORAD_OK;
}

enum status word_list_parse(struct word_list **out, const char *text, size_t length, const char *name)
{
    if (length > WORD_LIST_BYTES)
        return FAIL(LORAD_CONFIG, "%s: %zu bytes; a list may have %d", name, length, WORD_LIST_BYTES);
    struct word_list *list = memory_new(1, sizeof *list);
    if (!list) return LORAD_NOMEM;
    list->root = memory_new(ROOT_CHARACTERS, sizeof *list->root);
    enum status status = list->root ? state_add(list, 0, 0) : LORAD_NOMEM;
    if (status == LORAD_OK) status = read_lines(list, text, length, name);
    if (status == LORAD_OK) status = link_states(list);
    if (status != LORAD_OK) {
        word_list_free(list);
        return status;
    }
    list->hash = hash128(list->text, list->text_length);
    *out = list;
    return LORAD_OK;
}

enum status word_list_read(struct word_list **out, const char *path)
{
    char *text;
    size_t length;
    TRY(file_read(&text, &length, path, WORD_LIST_BYTES));
    enum status status = word_list_parse(out, text, length, path);
    free(text);
    return status;
}

void word_list_free(struct word_list *list)
{
    if (!list) return;
    free(list->text);
    free(list->start);
    free(list->n_bytes);
    free(list->root);
    free(list->edge);
    free(list->state);
    free(list->word);
    free(list->parent);
    free(list->character);
    free(list);
}

int32_t word_list_size(const struct word_list *list)
{
    return (int32_t)list->n;
}

const char *word_list_word(const struct word_list *list, int32_t word)
{
    return list->text + list->start[word];
}

struct hash128 word_list_hash(const struct word_list *list)
{
    return list->hash;
}

/* ---- finding ---- */

static void report_words(const struct word_list *list, uint32_t state, const char *text, size_t length,
                         size_t end, word_found *found, void *context)
{
    for (state = list->state[state].ends; state != 0; state = list->state[list->state[state].fail].ends) {
        int32_t word = list->word[state];
        size_t n = list->n_bytes[word], start = end - n;
        if (start > 0 && is_alnum(text[start]) && is_alnum(text[start - 1])) continue;
        if (end < length && is_alnum(text[end - 1]) && is_alnum(text[end])) continue;
        found(context, word, start, n);
    }
}

/* The edge, once all of them are there. Most states have few: the bits spare a look into the table. */
static inline uint32_t follow(const struct word_list *list, uint32_t state, uint32_t character)
{
    return state == 0 || (list->state[state].next & character_bit(character))
               ? edge_find(list, state, character)
               : 0;
}

void word_list_find(const struct word_list *list, const char *text, size_t length, word_found *found,
                    void *context)
{
    uint32_t state = 0;
    for (size_t i = 0, bytes; i < length; i += bytes) {
        uint32_t character = next_character(text + i, length - i, &bytes);
        uint32_t next = follow(list, state, character);
        while (next == 0 && state != 0) {
            state = list->state[state].fail;
            next = follow(list, state, character);
        }
        state = next;
        if (list->state[state].ends != 0) report_words(list, state, text, length, i + bytes, found, context);
    }
}
