/*
 * sentencepiece.h: a SentencePiece tokenizer.model (inside the dataloader folder only). Format: the public
 * sentencepiece_model.proto; what is read of it stands in sentencepiece.proto.
 */
#ifndef LORAD_DATALOADER_SENTENCEPIECE_H
#define LORAD_DATALOADER_SENTENCEPIECE_H

#include <stddef.h>
#include <stdint.h>

#include "base/json.h"
#include "base/status.h"

struct tokenizer;

enum piece_type {
    PIECE_NORMAL = 1,
    PIECE_UNKNOWN,
    PIECE_CONTROL,
    PIECE_USER_DEFINED,
    PIECE_UNUSED,
    PIECE_BYTE
};

struct sentencepiece {
    struct piece {
        const char *text; /* valid UTF-8, not empty, not NUL-terminated */
        size_t length;
        float score; /* finite */
        int type;    /* enum piece_type */
    } * piece;       /* [n], by number */
    size_t n;
    enum { SENTENCEPIECE_UNIGRAM = 1, SENTENCEPIECE_BPE = 2 } kind;
    const char *unk; /* text of the unknown piece */
    size_t unk_length;
    void *message; /* private: what the texts lie in */
};

/* Reads the bytes of a model file (untrusted). Owns: *out, freed with sentencepiece_free. LORAD_DATA says
 * what is wrong.
 */
enum status sentencepiece_parse(struct sentencepiece *out, const char *bytes, size_t length,
                                const char *where) LORAD_WARN_UNUSED;
void sentencepiece_free(struct sentencepiece *model);

/* What lies beside tokenizer.model; each NULL when the folder has none. */
struct sentencepiece_config {
    const struct json *config;  /* tokenizer_config.json */
    const struct json *special; /* special_tokens_map.json */
    const struct json *added;   /* added_tokens.json */
};
/* Builds a zeroed tokenizer as transformers' LlamaTokenizerFast does from the same files, sealed
 * (tokenizer_seal), with its bos and eos. */
enum status sentencepiece_build(struct tokenizer *out, const struct sentencepiece *model,
                                const struct sentencepiece_config *files,
                                const char *where) LORAD_WARN_UNUSED;
/* The same for the files of a folder, tokenizer.model at `path`. */
enum status sentencepiece_read(struct tokenizer *out, const char *path, const char *model_dir,
                               const struct json *config) LORAD_WARN_UNUSED;

#endif
