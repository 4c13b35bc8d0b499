/* decode.h: the `decoder` of tokenizer.json: token texts -> text (inside the dataloader folder only). */
#ifndef LORAD_DATALOADER_DECODE_H
#define LORAD_DATALOADER_DECODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/json.h"
#include "base/strbuf.h"

enum decode_kind {
    DECODE_BYTE_LEVEL,    /* GPT-2's alphabet back to bytes, all joined */
    DECODE_BYTE_FALLBACK, /* runs of <0xHH> become characters, or U+FFFD each when they are none */
    DECODE_FUSE,          /* all joined */
    DECODE_STRIP,         /* up to `start` and `stop` characters `pattern` off each end */
    DECODE_REPLACE,
    DECODE_METASPACE, /* `pattern` becomes a space, or nothing in the first token when `start` is 1 */
};

enum { DECODE_STEPS = 8 };

struct decoder {
    struct decode_step {
        enum decode_kind kind;
        char *pattern, *content; /* owned */
        int64_t start, stop;
    } step[DECODE_STEPS];
    int n_steps;
    bool none; /* no decoder: texts joined with spaces */
};

enum status decoder_read(struct decoder *out, const struct json *value, const char *where) LORAD_WARN_UNUSED;
enum status decoder_add(struct decoder *decoder, enum decode_kind kind, const char *pattern,
                        const char *content, int64_t start, int64_t stop) LORAD_WARN_UNUSED;
void decoder_free(struct decoder *decoder);

/* Decoding of one text, token by token. character_byte: GPT-2's alphabet (bpe.h). Borrows both arguments. */
struct decoding;
enum status decoding_create(struct decoding **out, const struct decoder *decoder,
                            const int16_t *character_byte) LORAD_WARN_UNUSED;
void decoding_destroy(struct decoding *decoding); /* NULL ok */
/* Appends what the text of one more token makes certain: whole characters. */
enum status decoding_add(struct decoding *decoding, const char *text, size_t length,
                         struct strbuf *out) LORAD_WARN_UNUSED;
/* Appends the rest and starts anew. */
enum status decoding_finish(struct decoding *decoding, struct strbuf *out) LORAD_WARN_UNUSED;

#endif
