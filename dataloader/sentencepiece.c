/*
 * sentencepiece.c: the bytes of tokenizer.model -> its pieces. The owner of protobuf-c and of the code that
 * protoc-c generates from sentencepiece.proto.
 *
 * Invariants
 *  1. The file is untrusted. What protobuf-c may allocate for it is bounded, and every piece is checked
 *     before it is used: valid UTF-8, not empty, a finite score.
 */
#include "dataloader/sentencepiece.h"

#include <math.h>
#include <stdlib.h>

#include <sentencepiece.pb-c.h>

#include "base/memory.h"
#include "base/utf8.h"
#include "dataloader/vocab.h"

enum {
    MEMORY_MAX = 512 << 20
}; /* bytes that unpacking may take; a model of 256,000 pieces takes 40 million */

static void *allocate(void *left, size_t size)
{
    size_t *bytes = left;
    if (size > *bytes) return NULL;
    *bytes -= size;
    return malloc(size);
}

static void release(void *left, void *block)
{
    (void)left;
    free(block);
}

static enum status unpack(Sentencepiece__Model **out, const char *bytes, size_t length, const char *where)
{
    size_t left = MEMORY_MAX;
    ProtobufCAllocator allocator = {allocate, release, &left};
    *out = sentencepiece__model__unpack(&allocator, length, (const uint8_t *)bytes);
    if (*out) return LORAD_OK;
    return FAIL(LORAD_DATA,
                "%s: this is no SentencePiece model, or it is damaged; copy it again from where it came from",
                where);
}

static enum status read_piece(struct piece *out, const Sentencepiece__Piece *in, size_t number,
                              const char *where)
{
    *out = (struct piece){(const char *)in->piece.data, in->piece.len, in->score, in->type};
    if (!in->has_piece || !out->length) return FAIL(LORAD_DATA, "%s: piece %zu has no text", where, number);
    if (!utf8_valid(out->text, out->length, NULL))
        return FAIL(LORAD_DATA, "%s: the text of piece %zu is not valid UTF-8", where, number);
    if (!isfinite(out->score))
        return FAIL(LORAD_DATA, "%s: the score of piece %zu is not finite", where, number);
    return LORAD_OK;
}

static enum status read_trainer(struct sentencepiece *out, const Sentencepiece__Trainer *trainer,
                                const char *where)
{
    int kind = trainer ? trainer->model_type : SENTENCEPIECE_UNIGRAM;
    if (kind != SENTENCEPIECE_UNIGRAM && kind != SENTENCEPIECE_BPE)
        return FAIL(LORAD_DATA, "%s: model_type %d is not supported (supported: 1, unigram, and 2, BPE)",
                    where, kind);
    out->kind = kind;
    out->unk = trainer && trainer->has_unk_piece ? (const char *)trainer->unk_piece.data : "<unk>";
    out->unk_length = trainer && trainer->has_unk_piece ? trainer->unk_piece.len : 5;
    return LORAD_OK;
}

enum status sentencepiece_parse(struct sentencepiece *out, const char *bytes, size_t length,
                                const char *where)
{
    *out = (struct sentencepiece){0};
    Sentencepiece__Model *message;
    TRY(unpack(&message, bytes, length, where));
    struct sentencepiece model = {.n = message->n_pieces, .message = message};
    enum status status = LORAD_OK;
    if (model.n == 0 || model.n > VOCAB_MAX)
        status = FAIL(LORAD_DATA, "%s: %zu pieces, expected 1 to %d: this is no SentencePiece model", where,
                      model.n, VOCAB_MAX);
    if (status == LORAD_OK && !(model.piece = memory_new(model.n, sizeof *model.piece))) status = LORAD_NOMEM;
    for (size_t i = 0; i < model.n && status == LORAD_OK; i++)
        status = read_piece(&model.piece[i], message->pieces[i], i, where);
    if (status == LORAD_OK) status = read_trainer(&model, message->trainer_spec, where);
    if (status != LORAD_OK) {
        sentencepiece_free(&model);
        return status;
    }
    *out = model;
    return LORAD_OK;
}

void sentencepiece_free(struct sentencepiece *model)
{
    size_t left = 0;
    ProtobufCAllocator allocator = {allocate, release, &left};
    free(model->piece);
    if (model->message) sentencepiece__model__free_unpacked(model->message, &allocator);
    *model = (struct sentencepiece){0};
}
