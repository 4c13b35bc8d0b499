/*
 * normalize.h: the `normalizer` of tokenizer.json: a list of rewriting steps (inside the dataloader folder
 * only). Implemented: NFC, NFD, NFKC, NFKD, Lowercase, Strip, Prepend, Replace, Precompiled,
 * Sequence of those.
 */
#ifndef LORAD_DATALOADER_NORMALIZE_H
#define LORAD_DATALOADER_NORMALIZE_H

#include "base/json.h"
#include "base/pattern.h"
#include "dataloader/charsmap.h"
#include "dataloader/textbuf.h"

enum normalize_kind {
    NORMALIZE_NFC,
    NORMALIZE_NFD,
    NORMALIZE_NFKC,
    NORMALIZE_NFKD,
    NORMALIZE_LOWERCASE,
    NORMALIZE_STRIP, /* white space off the start, the end or both */
    NORMALIZE_PREPEND,
    NORMALIZE_REPLACE,
    NORMALIZE_REPLACE_PATTERN,
    NORMALIZE_CHARSMAP,
};

enum { NORMALIZE_STEPS = 8 };

struct normalizer {
    struct normalize_step {
        enum normalize_kind kind;
        char *pattern, *content; /* owned */
        size_t pattern_length, content_length;
        struct pattern *compiled;  /* owned; REPLACE_PATTERN */
        bool left, right;          /* STRIP */
        struct charsmap *charsmap; /* owned; CHARSMAP */
    } step[NORMALIZE_STEPS];
    int n_steps;
};

/* value: the JSON of `normalizer` (NULL or null: no steps). LORAD_DATA names what is not supported. */
enum status normalizer_read(struct normalizer *out, const struct json *value,
                            const char *where) LORAD_WARN_UNUSED;
enum status normalizer_add(struct normalizer *normalizer, enum normalize_kind kind, const char *pattern,
                           const char *content) LORAD_WARN_UNUSED;
void normalizer_free(struct normalizer *normalizer);

/* Whether the text comes out as it is; false may be said of any text. Takes a fraction of normalizer_run's
 * time. */
bool normalizer_leaves(const struct normalizer *normalizer, const char *text, size_t length);

/* Rewrites buffer[*current] (a or b of a pair) step by step; *current is the one that holds the result. */
enum status normalizer_run(const struct normalizer *normalizer, struct textbuf buffer[2],
                           int *current) LORAD_WARN_UNUSED;

/* Appends [begin, end) of `in` to `out` with every `pattern` replaced. */
enum status textbuf_replace_in(struct textbuf *out, const struct textbuf *in, size_t begin, size_t end,
                               const char *pattern, size_t pattern_length, const char *content,
                               size_t content_length) LORAD_WARN_UNUSED;

/* Appends `in` to `out`, keeping where it came from. */
enum status textbuf_append(struct textbuf *out, const struct textbuf *in, size_t begin,
                           size_t end) LORAD_WARN_UNUSED;

#endif
