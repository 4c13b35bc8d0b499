/*
 * tokenizer.h: text <-> token numbers, exactly as the Hugging Face tokenizer in the model's own folder does.
 *
 * Reads tokenizer.json (byte-level BPE; BPE with byte fallback; Unigram) or tokenizer.model, and
 * tokenizer_config.json (special token names, chat template). A component that lorad does not know is refused
 * by name at opening, never approximated. Owns: *out. Thread: after opening, encoding is safe from several
 * threads, each with its own struct token_list.
 */
#ifndef LORAD_DATALOADER_TOKENIZER_H
#define LORAD_DATALOADER_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/hash.h"
#include "base/status.h"
#include "base/strbuf.h"

struct tokenizer;

enum status tokenizer_open(struct tokenizer **out, const char *model_dir) LORAD_WARN_UNUSED;
void tokenizer_close(struct tokenizer *tokenizer);

int32_t tokenizer_size(const struct tokenizer *tokenizer); /* largest token number + 1 */
/* Number of a special token or vocabulary entry by its text; -1 when absent. */
int32_t tokenizer_token(const struct tokenizer *tokenizer, const char *text);
/* Number of a special token by its text; -1 when there is none or the token is not special. */
int32_t tokenizer_special(const struct tokenizer *tokenizer, const char *text);
/* The text of a token as the vocabulary writes it, not NUL-terminated; NULL: no such token. Borrowed. */
const char *tokenizer_text(const struct tokenizer *tokenizer, int32_t number, size_t *length);
int32_t tokenizer_bos(const struct tokenizer *tokenizer); /* -1: none */
int32_t tokenizer_eos(const struct tokenizer *tokenizer); /* -1: none */
/* chat_template of tokenizer_config.json (or chat_template.jinja); NULL when the model has none. Borrowed. */
const char *tokenizer_chat_template(const struct tokenizer *tokenizer);
/* Hash of every file that decides token numbers. */
struct hash128 tokenizer_hash(const struct tokenizer *tokenizer);

/* Start with {0} (set want_spans where wanted); set length to 0 to reuse it: then nothing is allocated once
 * it has grown. One list belongs to one thread at a time. */
struct token_list {
    int32_t *ids;
    /* Byte range [start[i], end[i]) of the input that token i came from; filled when want_spans. */
    uint32_t *start, *end;
    size_t length, capacity;
    bool want_spans;
    size_t start_capacity, end_capacity; /* private */
    struct token_scratch *scratch;       /* private: working memory and word cache, kept from call to call */
};
void token_list_free(struct token_list *list); /* empties it; want_spans stays */

struct encode_options {
    bool add_special_tokens; /* what the post-processor adds: BOS/EOS */
    bool match_special;      /* special tokens written in the text become themselves; false: plain text */
};

/* Appends the tokens of `text`. LORAD_DATA on invalid UTF-8. */
enum status tokenizer_encode(const struct tokenizer *tokenizer, const char *text, size_t length,
                             struct encode_options options, struct token_list *out) LORAD_WARN_UNUSED;

/* A special token that is known to stand at [begin, end) of a text. */
struct placed_token {
    size_t begin, end;
    int32_t number;
};
/* Appends the tokens of `text`, in which special tokens stand where `placed` (in order) says. What lies
 * between is encoded as Hugging Face encodes it inside the whole text; special tokens written there are plain
 * text unless match_special. */
enum status tokenizer_encode_placed(const struct tokenizer *tokenizer, const char *text, size_t length,
                                    const struct placed_token *placed, size_t n, bool match_special,
                                    struct token_list *out) LORAD_WARN_UNUSED;

/* The tokens that the post-processor puts before a text: BOS as a rule. Borrowed; *n of them, 0: none. */
const int32_t *tokenizer_prefix(const struct tokenizer *tokenizer, size_t *n);

/* Appends the text of the tokens; skip_special leaves out special tokens. Invalid sequences become U+FFFD as
 * in HF. */
enum status tokenizer_decode(const struct tokenizer *tokenizer, const int32_t *ids, size_t n,
                             bool skip_special, struct strbuf *out) LORAD_WARN_UNUSED;

/* Decoding token by token: text comes out as soon as no later token can change it, whole UTF-8 characters
 * only; the sum is what tokenizer_decode gives for all tokens at once. One stream belongs to one thread at a
 * time. Borrows the tokenizer. */
struct token_stream;
enum status token_stream_create(struct token_stream **out, const struct tokenizer *tokenizer,
                                bool skip_special) LORAD_WARN_UNUSED;
void token_stream_destroy(struct token_stream *stream); /* NULL ok */
/* Appends what the token adds. */
enum status token_stream_add(struct token_stream *stream, int32_t number,
                             struct strbuf *out) LORAD_WARN_UNUSED;
/* Appends what was held back; the stream is then ready for another text. */
enum status token_stream_finish(struct token_stream *stream, struct strbuf *out) LORAD_WARN_UNUSED;

#endif
