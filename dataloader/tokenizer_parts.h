/* tokenizer_parts.h: what a tokenizer is made of, shared by the files that read it and run it. */
#ifndef LORAD_DATALOADER_TOKENIZER_PARTS_H
#define LORAD_DATALOADER_TOKENIZER_PARTS_H

#include "dataloader/added_tokens.h"
#include "dataloader/bpe.h"
#include "dataloader/decode.h"
#include "dataloader/normalize.h"
#include "dataloader/pretokenize.h"
#include "dataloader/tokenizer.h"
#include "dataloader/unigram.h"

enum { TOKENIZER_AFFIXES = 16 };

struct tokenizer {
    struct normalizer normalizer;
    struct added_tokens added;
    struct pretokenizer pretokenizer;
    struct bpe bpe;          /* its vocabulary is the model's, whatever the kind of model */
    struct unigram *unigram; /* NULL: the model is the BPE one */
    struct decoder decoder;
    int32_t prefix[TOKENIZER_AFFIXES], suffix[TOKENIZER_AFFIXES]; /* the post-processor's special tokens */
    int n_prefix, n_suffix;
    int32_t bos, eos; /* -1: none */
    bool from_json;   /* read from tokenizer.json */
    bool rewrites;    /* the pre-tokenizer changes text */
    int32_t size;
    int32_t *added_of;   /* [size]: index of the added token with this number, -1 */
    char *chat_template; /* NULL: none */
    struct hash128 hash;
};

/* Reads the files of a model folder into a zeroed tokenizer; on failure the caller still closes it. */
enum status tokenizer_read(struct tokenizer *out, const char *model_dir) LORAD_WARN_UNUSED;
/* Reads one tokenizer.json text (untrusted) and builds everything it decides. */
enum status tokenizer_read_json(struct tokenizer *out, const char *text, size_t length,
                                const char *where) LORAD_WARN_UNUSED;
/* After all added tokens are in. */
enum status tokenizer_seal(struct tokenizer *out, const char *where) LORAD_WARN_UNUSED;

#endif
