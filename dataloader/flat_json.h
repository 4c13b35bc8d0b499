/*
 * flat_json.h: the two large parts of a tokenizer's JSON, a vocabulary and its merges, read without building
 * a tree of values: ten times as fast (inside the dataloader folder only).
 */
#ifndef LORAD_DATALOADER_FLAT_JSON_H
#define LORAD_DATALOADER_FLAT_JSON_H

#include <stdbool.h>
#include <stddef.h>

#include "base/status.h"
#include "dataloader/bpe.h"

struct json_span {
    const char *begin, *end;
};

/* The value of a member of the object that `in` begins with; false when it is not found or the text is not as
 * JSON should be (the caller then reads everything the ordinary way, which names the mistake). */
bool flat_json_member(struct json_span in, const char *key, struct json_span *value);

/* {"text": number, ...}: added to the vocabulary, which is then indexed. The text must be valid UTF-8. */
enum status flat_json_vocab(struct vocab *vocab, struct json_span text, const char *where) LORAD_WARN_UNUSED;
/* ["left right", ...] or [["left", "right"], ...] */
enum status flat_json_merges(struct bpe *bpe, struct json_span text, const char *where) LORAD_WARN_UNUSED;

#endif
