/*
 * added_tokens.c
 *
 * Invariants
 *  1. Matches are found as by an Aho-Corasick search for the leftmost longest one: a rejected match (a
 * special token while those do not match, a single word inside a word) still consumes its text.
 *  2. Of two tokens with the same (normalised) text, special ones come first, then the earlier one.
 */
#include "dataloader/added_tokens.h"

#include <stdlib.h>

#include "base/utf8.h"
#include "dataloader/unicode.h"

enum status added_tokens_add(struct added_tokens *added, struct added_token token)
{
    if (token.length == 0) return FAIL(LORAD_DATA, "added token %d has no text", token.number);
    TRY(memory_grow((void **)&added->token, &added->capacity, added->count + 1, sizeof *added->token));
    token.text = memory_string_n(token.text, token.length);
    if (!token.text) return LORAD_NOMEM;
    added->token[added->count++] = token;
    return LORAD_OK;
}

const struct added_token *added_tokens_find(const struct added_tokens *added, const char *text, size_t length)
{
    for (size_t i = 0; i < added->count; i++)
        if (added->token[i].length == length && memcmp(added->token[i].text, text, length) == 0)
            return &added->token[i];
    return NULL;
}

static enum status trie_node(struct token_trie *trie, int32_t *link, unsigned char byte, int32_t *out)
{
    int32_t sibling = *link;
    for (int32_t node = sibling; node >= 0; node = trie->node[node].sibling) {
        if (trie->node[node].byte == byte) {
            *out = node;
            return LORAD_OK;
        }
    }
    *out = (int32_t)trie->length;
    *link = *out; /* before growing: the link may lie in the array that moves */
    TRY(memory_grow((void **)&trie->node, &trie->capacity, trie->length + 1, sizeof *trie->node));
    trie->node[trie->length++] = (struct trie_node){-1, sibling, -1, byte};
    return LORAD_OK;
}

static enum status trie_add(struct token_trie *trie, const char *text, size_t length, int32_t token)
{
    if (length == 0) return LORAD_OK;
    int32_t at;
    TRY(trie_node(trie, &trie->root[(unsigned char)text[0]], (unsigned char)text[0], &at));
    for (size_t i = 1; i < length; i++)
        TRY(trie_node(trie, &trie->node[at].child, (unsigned char)text[i], &at));
    if (trie->node[at].token < 0) trie->node[at].token = token;
    trie->empty = false;
    return LORAD_OK;
}

static enum status add_all(struct added_tokens *added, const struct normalizer *normalizer, bool special,
                           struct textbuf buffer[2])
{
    for (size_t i = 0; i < added->count; i++) {
        const struct added_token *token = &added->token[i];
        if (token->special != special) continue;
        if (!token->normalized) {
            TRY(trie_add(&added->plain, token->text, token->length, (int32_t)i));
            continue;
        }
        int current = 0;
        buffer[0].length = 0;
        TRY(textbuf_add(&buffer[0], token->text, token->length, 0, 0, 0));
        TRY(normalizer_run(normalizer, buffer, &current));
        TRY(trie_add(&added->normalized, buffer[current].data, buffer[current].length, (int32_t)i));
    }
    return LORAD_OK;
}

static void trie_init(struct token_trie *trie)
{
    memset(trie->root, 0xFF, sizeof trie->root);
    trie->empty = true;
    trie->only_first = -1;
}

static void trie_seal(struct token_trie *trie)
{
    int n = 0;
    for (int b = 0; b < 256; b++) {
        if (trie->root[b] < 0) continue;
        trie->only_first = b;
        n++;
    }
    if (n != 1) trie->only_first = -1;
}

enum status added_tokens_seal(struct added_tokens *added, const struct normalizer *normalizer)
{
    struct textbuf buffer[2] = {{0}, {0}};
    trie_init(&added->plain);
    trie_init(&added->normalized);
    enum status status = add_all(added, normalizer, true, buffer);
    if (status == LORAD_OK) status = add_all(added, normalizer, false, buffer);
    trie_seal(&added->plain);
    trie_seal(&added->normalized);
    textbuf_free(&buffer[0]);
    textbuf_free(&buffer[1]);
    return status;
}

void added_tokens_free(struct added_tokens *added)
{
    for (size_t i = 0; i < added->count; i++) free(added->token[i].text);
    free(added->token);
    free(added->plain.node);
    free(added->normalized.node);
    *added = (struct added_tokens){0};
}

/* ---- matching ---- */

/* The longest token that starts at `at`: its index and *end; -1. */
static int32_t longest_at(const struct token_trie *trie, const char *text, size_t length, size_t at,
                          size_t *end)
{
    int32_t found = -1, node = trie->root[(unsigned char)text[at]];
    while (node >= 0) {
        at++;
        if (trie->node[node].token >= 0) {
            found = trie->node[node].token;
            *end = at;
        }
        node = at < length ? trie->node[node].child : -1;
        while (node >= 0 && trie->node[node].byte != (unsigned char)text[at]) node = trie->node[node].sibling;
    }
    return found;
}

static size_t character_before(const char *text, size_t at, uint32_t *character)
{
    size_t begin = at - 1;
    while (begin > 0 && ((unsigned char)text[begin] & 0xC0) == 0x80) begin--;
    (void)utf8_read(character, text + begin, at - begin);
    return begin;
}

static bool word_before(const char *text, size_t at)
{
    uint32_t character = 0;
    if (at == 0) return false;
    character_before(text, at, &character);
    return unicode_is_word(character);
}

static bool word_behind(const char *text, size_t at, size_t length)
{
    uint32_t character = 0;
    return at < length && utf8_read(&character, text + at, length - at) && unicode_is_word(character);
}

size_t skip_spaces_back(const char *text, size_t at)
{
    while (at > 0) {
        uint32_t character = 0;
        size_t begin = character_before(text, at, &character);
        if (unicode_class(character) != UNICODE_SPACE) break;
        at = begin;
    }
    return at;
}

size_t skip_spaces(const char *text, size_t at, size_t length)
{
    while (at < length) {
        uint32_t character = 0;
        size_t step = utf8_read(&character, text + at, length - at);
        if (!step || unicode_class(character) != UNICODE_SPACE) break;
        at += step;
    }
    return at;
}

struct added_match added_tokens_next(const struct added_tokens *added, const struct token_trie *trie,
                                     const char *text, size_t length, size_t at, size_t taken,
                                     bool match_special)
{
    while (at < length && !trie->empty) {
        if (trie->only_first >= 0) {
            const char *first = memchr(text + at, trie->only_first, length - at);
            if (!first) break;
            at = (size_t)(first - text);
        }
        size_t end = 0;
        int32_t index = longest_at(trie, text, length, at, &end);
        if (index < 0) {
            at++;
            continue;
        }
        const struct added_token *token = &added->token[index];
        size_t begin = at;
        at = end;
        if (token->special && !match_special) continue;
        if (token->single_word && (word_before(text, begin) || word_behind(text, end, length))) continue;
        if (token->lstrip) {
            size_t spaces = skip_spaces_back(text, begin);
            begin = spaces > taken ? spaces : taken;
        }
        if (token->rstrip) end = skip_spaces(text, end, length);
        return (struct added_match){begin, end, token};
    }
    return (struct added_match){length, length, NULL};
}
