/*
 * added_tokens.h: tokens matched in the text before anything else: special tokens and those a user added
 * (inside the dataloader folder only). Matching is leftmost, then longest.
 */
#ifndef LORAD_DATALOADER_ADDED_TOKENS_H
#define LORAD_DATALOADER_ADDED_TOKENS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "dataloader/normalize.h"

struct added_token {
    char *text; /* owned */
    size_t length;
    int32_t number;
    bool special, single_word, lstrip, rstrip;
    bool normalized; /* matched in the normalised text, its own text normalised too */
};

struct token_trie {
    struct trie_node {
        int32_t child, sibling; /* -1: none */
        int32_t token;          /* index of the added token that ends here; -1 */
        unsigned char byte;
    } * node;
    size_t length, capacity;
    int32_t root[256]; /* node of a first byte; -1 */
    int only_first;    /* the one first byte there is; -1: none or several */
    bool empty;
};

struct added_tokens {
    struct added_token *token; /* [count] */
    size_t count, capacity;
    struct token_trie plain, normalized;
};

/* Appends a token. LORAD_DATA when its text is empty. */
enum status added_tokens_add(struct added_tokens *added,
                             struct added_token token) LORAD_WARN_UNUSED; /* text copied */
const struct added_token *added_tokens_find(const struct added_tokens *added, const char *text,
                                            size_t length);
/* Builds the tries once all are in. */
enum status added_tokens_seal(struct added_tokens *added,
                              const struct normalizer *normalizer) LORAD_WARN_UNUSED;
void added_tokens_free(struct added_tokens *added);

struct added_match {
    size_t begin, end;
    const struct added_token *token; /* NULL: no match from here to the end */
};

/* The next match at or behind `at`. `taken`: the end of the previous match, before which lstrip does not
 * reach. Special tokens are passed over unless match_special. */
struct added_match added_tokens_next(const struct added_tokens *added, const struct token_trie *trie,
                                     const char *text, size_t length, size_t at, size_t taken,
                                     bool match_special);

#endif
