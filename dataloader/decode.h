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

/* Texts one after another; text i ends at end[i]. */
struct piece_list {
    struct strbuf text;
    size_t *end;
    size_t length, capacity;
};
void piece_list_free(struct piece_list *list);
enum status piece_list_add(struct piece_list *list, const char *text, size_t length) LORAD_WARN_UNUSED;

/* Appends the text of the pieces. character_byte: GPT-2's alphabet (bpe.h). `pieces` is used up. */
enum status decoder_run(const struct decoder *decoder, const int16_t *character_byte,
                        struct piece_list *pieces, struct strbuf *out) LORAD_WARN_UNUSED;

#endif
