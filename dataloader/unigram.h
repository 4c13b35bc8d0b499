/*
 * unigram.h: one word -> the token numbers of its most likely segmentation (Kudo, "Subword Regularization:
 * Improving Neural Network Translation Models with Multiple Subword Candidates", ACL 2018), as Hugging Face's
 * Unigram model finds it (inside the dataloader folder only).
 */
#ifndef LORAD_DATALOADER_UNIGRAM_H
#define LORAD_DATALOADER_UNIGRAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/json.h"
#include "base/status.h"
#include "dataloader/tokenizer.h"
#include "dataloader/vocab.h"

struct unigram;

/* score: [vocab->size], one for each entry of an indexed vocabulary without holes. unk: -1 when there is
 * none. Owns: *out. Borrows: vocab. */
enum status unigram_create(struct unigram **out, const struct vocab *vocab, const double *score, int32_t unk,
                           bool byte_fallback, const char *where) LORAD_WARN_UNUSED;
void unigram_destroy(struct unigram *unigram);
/* Reads the JSON of `model` of type Unigram: fills the empty vocabulary and creates the rest. */
enum status unigram_read(struct unigram **out, struct vocab *vocab, const struct json *model,
                         const char *where) LORAD_WARN_UNUSED;

/* Working memory of one thread. */
struct unigram_scratch;
enum status unigram_scratch_create(struct unigram_scratch **out) LORAD_WARN_UNUSED;
void unigram_scratch_destroy(struct unigram_scratch *scratch);

/* Appends the tokens of a word (valid UTF-8). Spans are offsets in the word + base. LORAD_DATA when a
 * character has no token and the model has no unknown one. */
enum status unigram_encode(const struct unigram *unigram, struct unigram_scratch *scratch, const char *word,
                           size_t length, uint32_t base, struct token_list *out) LORAD_WARN_UNUSED;

#endif
