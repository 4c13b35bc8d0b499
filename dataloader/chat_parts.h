/*
 * chat_parts.h: what a chat template is made of, shared by the files that recognise it and render it (inside
 * the dataloader folder and its tests only).
 */
#ifndef LORAD_DATALOADER_CHAT_PARTS_H
#define LORAD_DATALOADER_CHAT_PARTS_H

#include "dataloader/chat_template.h"

enum chat_family { FAMILY_PLAIN, FAMILY_CHATML, FAMILY_LLAMA2, FAMILY_LLAMA3, FAMILY_MISTRAL, FAMILY_ALPACA };

enum system_place {
    SYSTEM_REFUSED,
    SYSTEM_FIRST, /* before the first question */
    SYSTEM_LAST,  /* before the last question */
    SYSTEM_MARKED /* [SYSTEM_PROMPT]...[/SYSTEM_PROMPT] */
};

/* One way to write a conversation. What a family does not use is zero. */
struct chat_dialect {
    const char *name;
    enum chat_family family;
    const char *default_system; /* stands for a missing system message; NULL: none */
    const char *tail;           /* ChatML: what a prompt has behind the opening of an assistant turn */
    bool thinks;                /* ChatML: Qwen3's rules for <think> blocks */
    bool bos;                   /* ChatML, Alpaca: begins with BOS */
    bool dated;                 /* Llama 3: the system turn always stands and begins with two dates */
    bool untrimmed;             /* Llama 3: messages as they are, the system message apart */
    /* Mistral: white space before [INST], behind it, before [/INST], before an answer, behind its end token
     */
    const char *before, *opened, *closing, *answering, *after;
    enum system_place system;
    bool trims;       /* Mistral: an answer loses its white space at both ends */
    bool skips_empty; /* Mistral, Alpaca: an empty system message is left out, and no default takes its place
                       */
    /* Alpaca: behind the system message, before a question, before an answer, between turns */
    const char *separator, *question, *answer, *between;
};

struct chat_template {
    const struct tokenizer *tokenizer;
    const struct chat_dialect *dialect;
    char *default_system;                /* NULL: none */
    int32_t bos, start, header_end, end; /* -1: not used by the family */
};

/* ---- recognising ---- */

/* By the text of the model's chat template, which there has to be. *dialect: borrowed, static; *system: the
 * template's default system message (Owns; NULL: none). LORAD_CONFIG, with the hash and what to do, when it
 * is not known. */
enum status chat_recognise(const struct chat_dialect **dialect, char **system,
                           const struct tokenizer *tokenizer) LORAD_WARN_UNUSED;
/* Hash of the template's text without what Jinja ignores and without its default system message (*system:
 * Owns). */
enum status chat_hash(uint64_t *hash, char **system, const char *template) LORAD_WARN_UNUSED;
/* LORAD_CONFIG: no such name. */
enum status chat_dialect_find(const struct chat_dialect **dialect, const char *name) LORAD_WARN_UNUSED;

/* ---- rendering ---- */

/* A conversation as text: where the template put its special tokens, and what is supervised, both in order.
 */
struct rendering {
    struct strbuf text;
    size_t prefix; /* tokens of the tokenizer's own prefix (BOS) that stand before the text */
    struct placed_token *placed;
    size_t n_placed, placed_capacity;
    struct byte_range {
        size_t begin, end;
        float weight;
    } * supervised;
    size_t n_supervised, supervised_capacity;
};

enum status chat_render(const struct chat_template *chat, const struct message *messages, size_t n,
                        bool prompt, struct rendering *out) LORAD_WARN_UNUSED;
void rendering_free(struct rendering *rendering);

#endif
