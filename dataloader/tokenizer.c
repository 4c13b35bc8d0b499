/*
 * tokenizer.c: encoding and decoding with the parts that tokenizer_json.c read.
 *
 * Encoding goes as in Hugging Face: added tokens are cut out of the text; what lies between is normalised;
 * added tokens that match normalised text are cut out of that; the rest is cut into words, and each word is
 * merged.
 */
#include "dataloader/tokenizer.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/utf8.h"
#include "dataloader/tokenizer_parts.h"
#include "dataloader/unicode.h"

enum { TEXT_MAX = 1 << 30 }; /* bytes; spans are 32 bits */

struct token_scratch {
    struct bpe_scratch *bpe;
    struct unigram_scratch *unigram;
    struct pretokenize_work work;
    struct textbuf text[2]; /* normalising, to and fro */
    struct textbuf stretch;
};

enum status tokenizer_open(struct tokenizer **out, const char *model_dir)
{
    struct tokenizer *tokenizer = memory_new(1, sizeof *tokenizer);
    if (!tokenizer) return LORAD_NOMEM;
    enum status status = tokenizer_read(tokenizer, model_dir);
    if (status != LORAD_OK) {
        tokenizer_close(tokenizer);
        return status;
    }
    *out = tokenizer;
    return LORAD_OK;
}

void tokenizer_close(struct tokenizer *tokenizer)
{
    if (!tokenizer) return;
    normalizer_free(&tokenizer->normalizer);
    pretokenizer_free(&tokenizer->pretokenizer);
    added_tokens_free(&tokenizer->added);
    bpe_free(&tokenizer->bpe);
    unigram_destroy(tokenizer->unigram);
    decoder_free(&tokenizer->decoder);
    free(tokenizer->added_of);
    free(tokenizer->chat_template);
    free(tokenizer);
}

int32_t tokenizer_size(const struct tokenizer *tokenizer)
{
    return tokenizer->size;
}

int32_t tokenizer_token(const struct tokenizer *tokenizer, const char *text)
{
    const struct added_token *added = added_tokens_find(&tokenizer->added, text, strlen(text));
    return added ? added->number : vocab_find(&tokenizer->bpe.vocab, text, strlen(text));
}

int32_t tokenizer_special(const struct tokenizer *tokenizer, const char *text)
{
    const struct added_token *added = added_tokens_find(&tokenizer->added, text, strlen(text));
    return added && added->special ? added->number : -1;
}

const char *tokenizer_text(const struct tokenizer *tokenizer, int32_t number, size_t *length)
{
    int32_t index = number >= 0 && number < tokenizer->size ? tokenizer->added_of[number] : -1;
    if (index < 0) return vocab_text(&tokenizer->bpe.vocab, number, length);
    *length = tokenizer->added.token[index].length;
    return tokenizer->added.token[index].text;
}

const int32_t *tokenizer_prefix(const struct tokenizer *tokenizer, size_t *n)
{
    *n = (size_t)tokenizer->n_prefix;
    return tokenizer->prefix;
}

int32_t tokenizer_bos(const struct tokenizer *tokenizer)
{
    return tokenizer->bos;
}

int32_t tokenizer_eos(const struct tokenizer *tokenizer)
{
    return tokenizer->eos;
}

const char *tokenizer_chat_template(const struct tokenizer *tokenizer)
{
    return tokenizer->chat_template;
}

struct hash128 tokenizer_hash(const struct tokenizer *tokenizer)
{
    return tokenizer->hash;
}

/* ---- token lists ---- */

static void scratch_destroy(struct token_scratch *scratch)
{
    if (!scratch) return;
    bpe_scratch_destroy(scratch->bpe);
    unigram_scratch_destroy(scratch->unigram);
    pretokenize_work_free(&scratch->work);
    for (int i = 0; i < 2; i++) textbuf_free(&scratch->text[i]);
    textbuf_free(&scratch->stretch);
    free(scratch);
}

void token_list_free(struct token_list *list)
{
    free(list->ids);
    free(list->start);
    free(list->end);
    scratch_destroy(list->scratch);
    *list = (struct token_list){.want_spans = list->want_spans};
}

static enum status need_scratch(struct token_list *list)
{
    if (list->scratch) return LORAD_OK;
    struct token_scratch *scratch = memory_new(1, sizeof *scratch);
    if (!scratch) return LORAD_NOMEM;
    enum status status = bpe_scratch_create(&scratch->bpe);
    if (status == LORAD_OK) status = unigram_scratch_create(&scratch->unigram);
    if (status != LORAD_OK) {
        bpe_scratch_destroy(scratch->bpe);
        free(scratch);
        return status;
    }
    list->scratch = scratch;
    return LORAD_OK;
}

static enum status add_token(struct token_list *out, int32_t number, size_t start, size_t end)
{
    size_t need = out->length + 1;
    TRY(memory_grow((void **)&out->ids, &out->capacity, need, sizeof *out->ids));
    if (out->want_spans) {
        TRY(memory_grow((void **)&out->start, &out->start_capacity, need, sizeof *out->start));
        TRY(memory_grow((void **)&out->end, &out->end_capacity, need, sizeof *out->end));
        out->start[out->length] = (uint32_t)start;
        out->end[out->length] = (uint32_t)end;
    }
    out->ids[out->length++] = number;
    return LORAD_OK;
}

/* ---- encoding ---- */

/* Cuts `text` into words and encodes them. With a map, spans are taken back to the input; without, they are
 * offsets of the text + base. */
static enum status encode_words(const struct tokenizer *tokenizer, const struct textbuf *text, uint32_t base,
                                bool at_start, struct token_list *out)
{
    struct token_scratch *scratch = out->scratch;
    const struct textbuf *final;
    size_t old = out->length;
    TRY(pretokenizer_run(&tokenizer->pretokenizer, &scratch->work, text, at_start, &final));
    const struct word_list *words = &scratch->work.words;
    for (size_t i = 0; i < words->length; i++) {
        struct word_range word = words->range[i];
        if (tokenizer->unigram) {
            TRY(unigram_encode(tokenizer->unigram, scratch->unigram, final->data + word.begin,
                               word.end - word.begin, base + word.begin, out));
            continue;
        }
        TRY(bpe_encode(&tokenizer->bpe, scratch->bpe, final->data + word.begin, word.end - word.begin,
                       base + word.begin, out));
    }
    for (size_t i = old; final->want_map && i < out->length; i++) {
        uint32_t begin = out->start[i], end = out->end[i];
        out->start[i] = final->from[begin];
        out->end[i] = end > begin ? final->to[end - 1] : final->from[begin];
    }
    return LORAD_OK;
}

/* A part of the input between added tokens. */
static enum status encode_part(const struct tokenizer *tokenizer, const char *text, size_t begin, size_t end,
                               bool match_special, struct token_list *out)
{
    const struct token_trie *trie = &tokenizer->added.normalized;
    if (trie->empty && !(out->want_spans && tokenizer->rewrites) &&
        normalizer_leaves(&tokenizer->normalizer, text + begin, end - begin)) {
        struct textbuf part = {.data = (char *)text + begin, .length = end - begin};
        return encode_words(tokenizer, &part, (uint32_t)begin, begin == 0, out);
    }
    struct token_scratch *scratch = out->scratch;
    int current = 0;
    scratch->text[0].length = 0;
    scratch->text[0].want_map = out->want_spans;
    TRY(textbuf_add(&scratch->text[0], text + begin, end - begin, (uint32_t)begin, 0, 1));
    TRY(normalizer_run(&tokenizer->normalizer, scratch->text, &current));
    const struct textbuf *normal = &scratch->text[current];
    for (size_t at = 0; at < normal->length;) {
        struct added_match match =
            added_tokens_next(&tokenizer->added, trie, normal->data, normal->length, at, at, match_special);
        if (match.begin > at) {
            struct textbuf *stretch = &scratch->stretch;
            stretch->length = 0;
            stretch->want_map = normal->want_map;
            TRY(textbuf_append(stretch, normal, at, match.begin));
            TRY(encode_words(tokenizer, stretch, 0, begin == 0 && at == 0, out));
        }
        if (match.token)
            TRY(add_token(out, match.token->number, normal->want_map ? normal->from[match.begin] : 0,
                          normal->want_map ? normal->to[match.end - 1] : 0));
        at = match.end;
    }
    return LORAD_OK;
}

/* Cuts added tokens out of [begin, end) and encodes what lies between. */
static enum status encode_range(const struct tokenizer *tokenizer, const char *text, size_t begin, size_t end,
                                bool match_special, struct token_list *out)
{
    for (size_t at = begin; at < end;) {
        struct added_match match =
            added_tokens_next(&tokenizer->added, &tokenizer->added.plain, text, end, at, at, match_special);
        if (match.begin > at) TRY(encode_part(tokenizer, text, at, match.begin, match_special, out));
        if (match.token) TRY(add_token(out, match.token->number, match.begin, match.end));
        at = match.end;
    }
    return LORAD_OK;
}

static enum status encode_all(const struct tokenizer *tokenizer, const char *text, size_t length,
                              struct encode_options options, struct token_list *out)
{
    for (int i = 0; i < tokenizer->n_prefix && options.add_special_tokens; i++)
        TRY(add_token(out, tokenizer->prefix[i], 0, 0));
    TRY(encode_range(tokenizer, text, 0, length, options.match_special, out));
    for (int i = 0; i < tokenizer->n_suffix && options.add_special_tokens; i++)
        TRY(add_token(out, tokenizer->suffix[i], length, length));
    return LORAD_OK;
}

static enum status encode_placed(const struct tokenizer *tokenizer, const char *text, size_t length,
                                 const struct placed_token *placed, size_t n, bool match_special,
                                 struct token_list *out)
{
    size_t at = 0;
    for (size_t i = 0; i < n; i++) {
        size_t begin = placed[i].begin, end = placed[i].end;
        int32_t index = tokenizer->added_of[placed[i].number];
        if (index >= 0 && tokenizer->added.token[index].lstrip) begin = skip_spaces_back(text, begin);
        if (index >= 0 && tokenizer->added.token[index].rstrip) end = skip_spaces(text, end, length);
        if (begin < at) begin = at;
        TRY(encode_range(tokenizer, text, at, begin, match_special, out));
        TRY(add_token(out, placed[i].number, begin, end));
        at = end;
    }
    return encode_range(tokenizer, text, at, length, match_special, out);
}

static enum status check_text(const char *text, size_t length)
{
    size_t bad;
    if (length > TEXT_MAX) return FAIL(LORAD_DATA, "text of %zu bytes is longer than %d", length, TEXT_MAX);
    if (!utf8_valid(text, length, &bad))
        return FAIL(LORAD_DATA, "invalid UTF-8 at byte %zu of the text", bad);
    return LORAD_OK;
}

enum status tokenizer_encode_placed(const struct tokenizer *tokenizer, const char *text, size_t length,
                                    const struct placed_token *placed, size_t n, bool match_special,
                                    struct token_list *out)
{
    size_t old = out->length;
    TRY(check_text(text, length));
    TRY(need_scratch(out));
    enum status status = encode_placed(tokenizer, text, length, placed, n, match_special, out);
    if (status != LORAD_OK) out->length = old;
    return status;
}

enum status tokenizer_encode(const struct tokenizer *tokenizer, const char *text, size_t length,
                             struct encode_options options, struct token_list *out)
{
    size_t old = out->length;
    TRY(check_text(text, length));
    TRY(need_scratch(out));
    enum status status = encode_all(tokenizer, text, length, options, out);
    if (status != LORAD_OK) out->length = old;
    return status;
}

/* ---- decoding ---- */

struct token_stream {
    const struct tokenizer *tokenizer;
    struct decoding *decoding;
    bool skip_special;
};

enum status token_stream_create(struct token_stream **out, const struct tokenizer *tokenizer,
                                bool skip_special)
{
    struct token_stream *stream = memory_new(1, sizeof *stream);
    if (!stream) return LORAD_NOMEM;
    *stream = (struct token_stream){.tokenizer = tokenizer, .skip_special = skip_special};
    enum status status =
        decoding_create(&stream->decoding, &tokenizer->decoder, tokenizer->bpe.character_byte);
    if (status != LORAD_OK) {
        free(stream);
        return status;
    }
    *out = stream;
    return LORAD_OK;
}

void token_stream_destroy(struct token_stream *stream)
{
    if (!stream) return;
    decoding_destroy(stream->decoding);
    free(stream);
}

enum status token_stream_add(struct token_stream *stream, int32_t number, struct strbuf *out)
{
    const struct tokenizer *tokenizer = stream->tokenizer;
    size_t length;
    const char *text = tokenizer_text(tokenizer, number, &length);
    if (!text) return LORAD_OK; /* numbers without a token say nothing, as in HF */
    int32_t index = tokenizer->added_of[number];
    if (index >= 0 && tokenizer->added.token[index].special && stream->skip_special) return LORAD_OK;
    return decoding_add(stream->decoding, text, length, out);
}

enum status token_stream_finish(struct token_stream *stream, struct strbuf *out)
{
    return decoding_finish(stream->decoding, out);
}

enum status tokenizer_decode(const struct tokenizer *tokenizer, const int32_t *ids, size_t n,
                             bool skip_special, struct strbuf *out)
{
    struct token_stream *stream;
    size_t old = out->length;
    TRY(token_stream_create(&stream, tokenizer, skip_special));
    enum status status = LORAD_OK;
    for (size_t i = 0; i < n && status == LORAD_OK; i++) status = token_stream_add(stream, ids[i], out);
    if (status == LORAD_OK) status = token_stream_finish(stream, out);
    if (status != LORAD_OK) out->length = old;
    token_stream_destroy(stream);
    return status;
}
