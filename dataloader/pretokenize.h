/*
 * pretokenize.h: the `pre_tokenizer` of tokenizer.json: cuts text into the words that merges never cross
 * (inside the dataloader folder only).
 *
 * A pre-tokenizer is a list of steps. Most cut words into finer ones; some rewrite the words first
 * (Metaspace, the space that ByteLevel puts in front).
 */
#ifndef LORAD_DATALOADER_PRETOKENIZE_H
#define LORAD_DATALOADER_PRETOKENIZE_H

#include "base/json.h"
#include "base/pattern.h"
#include "dataloader/textbuf.h"

enum pretokenize_kind {
    PRETOKENIZE_GPT2,         /* the pattern built into ByteLevel */
    PRETOKENIZE_CL100K,       /* the pattern of Qwen2 (one digit) and Llama 3 (up to three digits) */
    PRETOKENIZE_DIGITS,       /* runs of numbers apart, or each number apart */
    PRETOKENIZE_MARK,         /* a cut before each `text` */
    PRETOKENIZE_WHITESPACE,   /* \w+|[^\w\s]+ */
    PRETOKENIZE_MATCHES,      /* what `matcher` finds, treated as `behavior` says */
    PRETOKENIZE_METASPACE,    /* rewrites: spaces become `text`, one may be put in front */
    PRETOKENIZE_PREFIX_SPACE, /* rewrites: a space in front of each word that has none */
};

enum prepend_scheme { PREPEND_NEVER, PREPEND_FIRST, PREPEND_ALWAYS };
enum match_kind { MATCH_PATTERN, MATCH_TEXT, MATCH_SPACE, MATCH_PUNCTUATION };
enum split_behavior { SPLIT_REMOVED, SPLIT_ISOLATED, SPLIT_WITH_PREVIOUS, SPLIT_WITH_NEXT, SPLIT_CONTIGUOUS };

enum { PRETOKENIZE_STEPS = 16 };

struct pretokenizer {
    struct pretokenize_step {
        enum pretokenize_kind kind;
        size_t max_digits; /* CL100K: numbers in a run; DIGITS: 1, or SIZE_MAX for any */
        enum match_kind matcher;
        enum split_behavior behavior;
        bool invert; /* matches and what lies between change places */
        enum prepend_scheme prepend;
        char *text;              /* owned; MARK, METASPACE, MATCH_TEXT */
        struct pattern *pattern; /* owned; MATCH_PATTERN */
    } step[PRETOKENIZE_STEPS];
    int n_steps;
    bool only_byte_level;
    bool byte_level; /* the words are bytes in GPT-2's alphabet */
};

/* value: the JSON of `pre_tokenizer` (NULL or null: text is one word). LORAD_DATA names what is not
 * supported. */
enum status pretokenizer_read(struct pretokenizer *out, const struct json *value, const char *where) LORAD_WARN_UNUSED;
/* Appends the steps of these pre-tokenizers. */
enum status pretokenizer_add_pattern(struct pretokenizer *out, const char *pattern, const char *where) LORAD_WARN_UNUSED;
enum status pretokenizer_add_byte_level(struct pretokenizer *out, bool prefix_space, bool use_regex,
                                        const char *where) LORAD_WARN_UNUSED;
enum status pretokenizer_add_metaspace(struct pretokenizer *out, const char *replacement, enum prepend_scheme prepend,
                                       bool split, const char *where) LORAD_WARN_UNUSED;
/* Turns the space that ByteLevel puts in front on or off where the whole pre-tokenizer is a ByteLevel. */
void pretokenizer_set_prefix_space(struct pretokenizer *pretokenizer, bool prefix_space);
void pretokenizer_free(struct pretokenizer *pretokenizer);

extern const char pretokenizer_qwen2_pattern[];

struct word_list {
    struct word_range {
        uint32_t begin, end;
    } * range;
    size_t length, capacity;
};

/* Working memory of one thread. Start with {0}. */
struct pretokenize_work {
    struct word_list words; /* the result */
    struct word_list spare, matches;
    struct textbuf text[2]; /* rewriting, to and fro */
    struct pattern_memory *memory;
};
void pretokenize_work_free(struct pretokenize_work *work);

/* Cuts `in`, which must be valid UTF-8, into work->words, which are ranges of *out: `in` itself unless a step
 * rewrites. at_start: `in` is the beginning of the input. */
enum status pretokenizer_run(const struct pretokenizer *pretokenizer, struct pretokenize_work *work,
                             const struct textbuf *in, bool at_start, const struct textbuf **out) LORAD_WARN_UNUSED;

#endif
