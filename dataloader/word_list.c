/*
 * word_list.c: the list file and its automaton.
 *
 * Invariants:
 * (1) state 0 is the root; its edges stand in root[256], all others in one open-addressing table keyed by
 *     state << 8 | byte, which is never 0.
 * (2) fail[s] is the state of the longest proper suffix of s's text that is a prefix of a word; it is less
 * deep than s. (3) ends[s] is the first of s, fail[s], fail[fail[s]], ... whose text is a word; 0: none. So
 * all words that end at a position are found in as many steps as there are words.
 */
#include "dataloader/word_list.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "base/utf8.h"

struct edge {
    uint32_t key, to; /* key 0: free */
};

struct word_list {
    char *text; /* the words, each with a NUL */
    size_t text_length, text_capacity;
    uint32_t *start;   /* [n] into text */
    uint32_t *n_bytes; /* [n] bytes of the word */
    size_t n, start_capacity, length_capacity;

    uint32_t root[256];
    struct edge *edge;
    uint32_t edge_shift; /* the table has 2^(32 - edge_shift) places */
    uint32_t *fail, *ends;
    int32_t *word; /* that ends in the state; -1: none */
    uint32_t *parent;
    uint8_t *byte;
    uint32_t n_states;
    size_t word_capacity, parent_capacity, byte_capacity;
    struct hash128 hash;
};

static inline uint8_t fold(char c)
{
    return c >= 'A' && c <= 'Z' ? (uint8_t)(c + 32) : (uint8_t)c;
}

static inline bool is_alnum(char c)
{
    uint8_t low = fold(c);
    return (low >= 'a' && low <= 'z') || (c >= '0' && c <= '9');
}

/* ---- edges ---- */

static inline uint32_t edge_slot(const struct word_list *list, uint32_t key)
{
    return (key * 0x9E3779B1u) >> list->edge_shift;
}

/* 0: no such edge. */
static inline uint32_t edge_find(const struct word_list *list, uint32_t state, uint8_t byte)
{
    if (state == 0) return list->root[byte];
    uint32_t key = state << 8 | byte, mask = UINT32_MAX >> list->edge_shift;
    for (uint32_t i = edge_slot(list, key);; i = (i + 1) & mask) {
        if (list->edge[i].key == key) return list->edge[i].to;
        if (list->edge[i].key == 0) return 0;
    }
}

static void edge_put(struct word_list *list, uint32_t key, uint32_t to)
{
    uint32_t mask = UINT32_MAX >> list->edge_shift, i = edge_slot(list, key);
    while (list->edge[i].key != 0) i = (i + 1) & mask;
    list->edge[i] = (struct edge){key, to};
}

/* Room for one more state: at most two thirds of the table are used. */
static enum status edges_grow(struct word_list *list)
{
    uint64_t places = list->edge ? (uint64_t)1 << (32 - list->edge_shift) : 0;
    if ((uint64_t)list->n_states * 3 < places * 2) return LORAD_OK;
    struct edge *old = list->edge;
    uint32_t bits = old ? 33 - list->edge_shift : 10;
    struct edge *wider = memory_new((size_t)1 << bits, sizeof *wider);
    if (!wider) return LORAD_NOMEM;
    list->edge = wider;
    list->edge_shift = 32 - bits;
    for (uint64_t i = 0; i < places; i++)
        if (old[i].key != 0) edge_put(list, old[i].key, old[i].to);
    free(old);
    return LORAD_OK;
}

/* ---- building ---- */

static enum status state_add(struct word_list *list, uint32_t parent, uint8_t byte)
{
    size_t need = (size_t)list->n_states + 1;
    void *word = list->word, *parents = list->parent, *bytes = list->byte;
    enum status status = memory_grow(&word, &list->word_capacity, need, sizeof *list->word);
    list->word = word;
    if (status == LORAD_OK)
        status = memory_grow(&parents, &list->parent_capacity, need, sizeof *list->parent);
    list->parent = parents;
    if (status == LORAD_OK) status = memory_grow(&bytes, &list->byte_capacity, need, 1);
    list->byte = bytes;
    if (status == LORAD_OK) status = edges_grow(list);
    if (status != LORAD_OK) return status;
    list->word[list->n_states] = -1;
    list->parent[list->n_states] = parent;
    list->byte[list->n_states] = byte;
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
    for (size_t i = 0; i < length; i++) {
        uint8_t byte = fold(word[i]);
        uint32_t next = edge_find(list, state, byte);
        if (next == 0) {
            next = list->n_states;
            if (next >= WORD_LIST_STATES)
                return FAIL(LORAD_CONFIG,
                            "%s:%lld: the words up to here need more than %d states: use a shorter list",
                            name, (long long)line, WORD_LIST_STATES);
            TRY(state_add(list, state, byte));
            if (state == 0)
                list->root[byte] = next;
            else
                edge_put(list, state << 8 | byte, next);
        }
        state = next;
    }
    if (list->word[state] >= 0) return LORAD_OK; /* it came before */
    list->word[state] = (int32_t)list->n;
    return keep_word(list, word, length);
}

static void find_suffix(struct word_list *list, uint32_t state)
{
    uint32_t parent = list->parent[state], at = list->fail[parent], next = 0;
    uint8_t byte = list->byte[state];
    if (parent != 0) {
        while ((next = edge_find(list, at, byte)) == 0 && at != 0) at = list->fail[at];
    }
    list->fail[state] = next;
    list->ends[state] = list->word[state] >= 0 ? state : list->ends[next];
}

/* Suffixes need those of all states that are less deep, so states are taken by depth. */
static enum status link_states(struct word_list *list)
{
    size_t n = list->n_states;
    uint32_t first[WORD_LIST_LONGEST + 2] = {0};
    list->fail = memory_new(n, sizeof *list->fail);
    list->ends = memory_new(n, sizeof *list->ends);
    uint32_t *depth = memory_new(n, sizeof *depth), *order = memory_new(n, sizeof *order);
    enum status status = list->fail && list->ends && depth && order ? LORAD_OK : LORAD_NOMEM;
    if (status == LORAD_OK) {
        for (size_t s = 1; s < n; s++) first[(depth[s] = depth[list->parent[s]] + 1) + 1]++;
        for (size_t d = 1; d < WORD_LIST_LONGEST + 2; d++) first[d] += first[d - 1];
        for (size_t s = 1; s < n; s++) order[first[depth[s]]++] = (uint32_t)s;
        for (size_t i = 0; i + 1 < n; i++) find_suffix(list, order[i]);
    }
    free(depth);
    free(order);
    free(list->parent);
    free(list->byte);
    list->parent = NULL;
    list->byte = NULL;
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
    enum status status = state_add(list, 0, 0);
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
    free(list->edge);
    free(list->fail);
    free(list->ends);
    free(list->word);
    free(list->parent);
    free(list->byte);
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
    for (state = list->ends[state]; state != 0; state = list->ends[list->fail[state]]) {
        int32_t word = list->word[state];
        size_t n = list->n_bytes[word], start = end - n;
        if (start > 0 && is_alnum(text[start]) && is_alnum(text[start - 1])) continue;
        if (end < length && is_alnum(text[end - 1]) && is_alnum(text[end])) continue;
        found(context, word, start, n);
    }
}

void word_list_find(const struct word_list *list, const char *text, size_t length, word_found *found,
                    void *context)
{
    uint32_t state = 0;
    for (size_t i = 0; i < length; i++) {
        uint8_t byte = fold(text[i]);
        uint32_t next = edge_find(list, state, byte);
        while (next == 0 && state != 0) {
            state = list->fail[state];
            next = edge_find(list, state, byte);
        }
        state = next;
        if (list->ends[state] != 0) report_words(list, state, text, length, i + 1, found, context);
    }
}
