/*
 * pretokenize.h: the `pre_tokenizer` of tokenizer.json: cuts text into the words that merges never cross
 * (inside the dataloader folder only).
 */
#ifndef LORAD_DATALOADER_PRETOKENIZE_H
#define LORAD_DATALOADER_PRETOKENIZE_H

#include "base/json.h"
#include "dataloader/textbuf.h"

enum pretokenize_kind {
    PRETOKENIZE_GPT2,      /* the pattern built into ByteLevel */
    PRETOKENIZE_CL100K,    /* the pattern of Qwen2 (one digit) and Llama 3 (up to three digits) */
    PRETOKENIZE_DIGITS,    /* runs of numbers apart, or each number apart */
    PRETOKENIZE_METASPACE, /* a cut before each replacement character */
};

enum prepend_scheme { PREPEND_NEVER, PREPEND_FIRST, PREPEND_ALWAYS };

enum { PRETOKENIZE_STEPS = 8 };

struct pretokenizer {
    struct pretokenize_step {
        enum pretokenize_kind kind;
        size_t max_digits; /* CL100K: numbers in a run; DIGITS: 1, or SIZE_MAX for any */
    } step[PRETOKENIZE_STEPS];
    int n_steps;
    bool byte_level;   /* the words are bytes in GPT-2's alphabet */
    bool prefix_space; /* ByteLevel's add_prefix_space */
    char metaspace[5]; /* replacement of spaces; "": none */
    enum prepend_scheme prepend;
};

/* value: the JSON of `pre_tokenizer` (NULL or null: text is one word). LORAD_DATA names what is not
 * supported. */
enum status pretokenizer_read(struct pretokenizer *out, const struct json *value,
                              const char *where) LORAD_WARN_UNUSED;
/* Appends the step that this pattern stands for. LORAD_DATA when it is none of the known ones. */
enum status pretokenizer_add_pattern(struct pretokenizer *out, const char *pattern,
                                     const char *where) LORAD_WARN_UNUSED;

extern const char pretokenizer_qwen2_pattern[];

/* Whether the text is rewritten before it is cut (pretokenizer_rewrite). */
bool pretokenizer_rewrites(const struct pretokenizer *pretokenizer);
/* Appends the rewritten `in` to `out`. at_start: the text is the beginning of the input. */
enum status pretokenizer_rewrite(const struct pretokenizer *pretokenizer, struct textbuf *out,
                                 const struct textbuf *in, bool at_start) LORAD_WARN_UNUSED;

struct word_list {
    struct word_range {
        uint32_t begin, end;
    } * range;
    size_t length, capacity;
};

/* Replaces `words` by the words of the text, which must be valid UTF-8; `spare` is working memory. */
enum status pretokenizer_cut(const struct pretokenizer *pretokenizer, const char *text, size_t length,
                             struct word_list *words, struct word_list *spare) LORAD_WARN_UNUSED;

#endif
