/*
 * sentencepiece_llama.c: the pieces of tokenizer.model -> the parts of a tokenizer, as transformers'
 * LlamaConverter and LlamaTokenizerFast build them.
 *
 * Invariants
 *  1. Token numbers are those of Hugging Face's fast tokenizer, which are not always SentencePiece's own: the
 *     model's normalizer_spec is not used (spaces are neither removed nor is text normalised), unknown bytes
 *     become <0xHH> pieces whether byte_fallback is set or not, control pieces written in the text are
 *     special tokens, and of equal-scored BPE merges the one that joins longer pieces goes first.
 *  2. A merge is every cut of a piece into two pieces. Merges are ranked by score, then by the length of the
 *     left part, then of the right part (longer first), then by the number of the piece.
 *  3. Of an added token that is said twice: being special stays; where it is matched (in the text as it is,
 *     or in the normalised text) was decided by the first special saying; its other flags are those of the
 *     last one.
 */
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "base/utf8.h"
#include "dataloader/sentencepiece.h"
#include "dataloader/tokenizer_parts.h"
#include "dataloader/unigram.h"

enum { MODEL_MAX = 64 << 20, JSON_MAX = 64 << 20 }; /* bytes */

static const char mark[] = "\xE2\x96\x81"; /* U+2581, which stands for a space */

/* ---- the model ---- */

static enum status add_pieces(struct vocab *vocab, const struct sentencepiece *model, const char *where)
{
    for (size_t i = 0; i < model->n; i++)
        TRY(vocab_add(vocab, model->piece[i].text, model->piece[i].length, (int64_t)i, where));
    return vocab_index(vocab, where);
}

struct cut {
    float score;
    uint32_t left_characters, right_characters;
    uint32_t piece, at; /* the left part is the first `at` bytes of the piece */
};

struct cut_list {
    struct cut *cut;
    size_t length, capacity;
};

static int by_rank(const void *a, const void *b)
{
    const struct cut *x = a, *y = b;
    if (x->score != y->score) return x->score > y->score ? -1 : 1;
    if (x->left_characters != y->left_characters) return x->left_characters > y->left_characters ? -1 : 1;
    if (x->right_characters != y->right_characters) return x->right_characters > y->right_characters ? -1 : 1;
    return x->piece < y->piece ? -1 : x->piece > y->piece;
}

static uint32_t count_characters(const char *text, size_t length)
{
    uint32_t n = 0;
    for (size_t i = 0; i < length; i += utf8_length(text[i])) n++;
    return n;
}

static enum status find_cuts(struct cut_list *cuts, const struct vocab *vocab, const struct piece *piece,
                             uint32_t number, float score)
{
    uint32_t characters = count_characters(piece->text, piece->length), left = 1;
    for (size_t at = utf8_length(piece->text[0]); at < piece->length;
         at += utf8_length(piece->text[at]), left++) {
        if (vocab_find(vocab, piece->text, at) < 0 ||
            vocab_find(vocab, piece->text + at, piece->length - at) < 0)
            continue;
        TRY(memory_grow((void **)&cuts->cut, &cuts->capacity, cuts->length + 1, sizeof *cuts->cut));
        cuts->cut[cuts->length++] = (struct cut){score, left, characters - left, number, (uint32_t)at};
    }
    return LORAD_OK;
}

static enum status add_merges(struct bpe *bpe, const struct sentencepiece *model, struct cut_list *cuts,
                              const char *where)
{
    for (size_t i = 0; i < model->n; i++) /* the scores of the first three do not count, as in HF */
        TRY(find_cuts(cuts, &bpe->vocab, &model->piece[i], (uint32_t)i, i < 3 ? 0 : model->piece[i].score));
    if (cuts->length) qsort(cuts->cut, cuts->length, sizeof *cuts->cut, by_rank);
    for (size_t i = 0; i < cuts->length; i++) {
        const struct piece *piece = &model->piece[cuts->cut[i].piece];
        size_t at = cuts->cut[i].at;
        TRY(bpe_add_merge(bpe, piece->text, at, piece->text + at, piece->length - at, where));
    }
    return LORAD_OK;
}

static enum status build_bpe(struct bpe *bpe, const struct sentencepiece *model, const char *where)
{
    bpe->fuse_unk = bpe->byte_fallback = true;
    bpe->unk = vocab_find(&bpe->vocab, model->unk, model->unk_length);
    if (bpe->unk < 0)
        return FAIL(LORAD_DATA, "%s: the unknown piece \"%.*s\" is not among the pieces", where,
                    (int)(model->unk_length < 40 ? model->unk_length : 40), model->unk);
    struct cut_list cuts = {0};
    enum status status = add_merges(bpe, model, &cuts, where);
    free(cuts.cut);
    return status;
}

static enum status build_unigram(struct tokenizer *out, const struct sentencepiece *model, const char *where)
{
    double *score = memory_new(model->n, sizeof *score);
    if (!score) return LORAD_NOMEM;
    for (size_t i = 3; i < model->n; i++) score[i] = (double)model->piece[i].score;
    enum status status = unigram_create(&out->unigram, &out->bpe.vocab, score, 0, true, where);
    free(score);
    return status;
}

/* ---- what surrounds the model ---- */

/* A flag that Python reads: null is false, a missing one `otherwise`. */
static bool flag(const struct json *config, const char *key, bool otherwise)
{
    const struct json *value = js_get(config, key);
    return value ? js_bool(value, false) : otherwise;
}

static enum status surround(struct tokenizer *out, const struct json *config)
{
    const struct json *value = js_get(config, "legacy");
    bool legacy = js_bool(value, true), prefix = flag(config, "add_prefix_space", true);
    if (legacy) {
        if (prefix) TRY(normalizer_add(&out->normalizer, NORMALIZE_PREPEND, "", mark));
        TRY(normalizer_add(&out->normalizer, NORMALIZE_REPLACE, " ", mark));
    } else {
        TRY(pretokenizer_add_metaspace(&out->pretokenizer, mark, prefix ? PREPEND_FIRST : PREPEND_NEVER,
                                       false, "tokenizer.model"));
    }
    TRY(decoder_add(&out->decoder, DECODE_REPLACE, mark, " ", 0, 0));
    TRY(decoder_add(&out->decoder, DECODE_BYTE_FALLBACK, "", "", 0, 0));
    TRY(decoder_add(&out->decoder, DECODE_FUSE, "", "", 0, 0));
    return prefix ? decoder_add(&out->decoder, DECODE_STRIP, " ", "", 1, 0) : LORAD_OK;
}

/* ---- added tokens ---- */

enum { SPECIALS = 7 };
static const char *const special_name[SPECIALS] = {"bos_token", "eos_token", "unk_token", "sep_token",
                                                   "pad_token", "cls_token", "mask_token"};
static const char *const special_default[SPECIALS] = {"<s>", "</s>", "<unk>"};
static const char more_specials[] = "additional_special_tokens";

static bool is_object(const struct json *value)
{
    return js_type(value) == JS_OBJECT;
}

/* Where the values of special tokens come from: special_tokens_map.json counts only for files of the older
 * kind, without added_tokens_decoder, and then before tokenizer_config.json. */
static const struct json *special_value(const struct sentencepiece_config *files, const char *key)
{
    const struct json *value =
        js_get(files->config, "added_tokens_decoder") ? NULL : js_get(files->special, key);
    return value ? value : js_get(files->config, key);
}

/* additional_special_tokens: those of tokenizer_config.json, then those of special_tokens_map.json where it
 * counts. */
static const struct json *additional_special(const struct sentencepiece_config *files, size_t i)
{
    const struct json *first = js_get(files->config, more_specials),
                      *second = special_value(files, more_specials);
    if (i < js_length(first)) return js_at(first, i);
    return first == second ? NULL : js_at(second, i - js_length(first));
}

/* The text of a special token, of which the first SPECIALS have names and the others are the additional ones;
 * NULL: this one has none. */
static const char *special_text(const struct sentencepiece_config *files, size_t which, size_t *length)
{
    const struct json *value = which < SPECIALS ? special_value(files, special_name[which])
                                                : additional_special(files, which - SPECIALS);
    if (value) return js_string(is_object(value) ? js_get(value, "content") : value, length);
    const char *text = which < SPECIALS ? special_default[which] : NULL;
    if (text) *length = strlen(text);
    return text;
}

/* Whether one of the first n special tokens has this text. */
static bool is_special_text(const struct sentencepiece_config *files, size_t n, const char *text,
                            size_t length)
{
    for (size_t i = 0; i < n; i++) {
        size_t special_length = 0;
        const char *special = special_text(files, i, &special_length);
        if (special && special_length == length && memcmp(special, text, length) == 0) return true;
        if (i >= SPECIALS && !additional_special(files, i - SPECIALS)) break;
    }
    return false;
}

static int64_t next_number(const struct tokenizer *out)
{
    int64_t next = out->bpe.vocab.count;
    for (size_t i = 0; i < out->added.count; i++)
        if (out->added.token[i].number >= next) next = out->added.token[i].number + 1;
    return next;
}

/* Adds a token, or says one again: invariant 3. */
static enum status put(struct tokenizer *out, struct added_token token, const char *where)
{
    struct added_token *old = NULL;
    for (size_t i = 0; i < out->added.count && !old; i++)
        if (out->added.token[i].length == token.length &&
            memcmp(out->added.token[i].text, token.text, token.length) == 0)
            old = &out->added.token[i];
    if (old) {
        if (!old->special) old->normalized = old->normalized && token.normalized;
        old->special = old->special || token.special;
        old->single_word = token.single_word;
        old->lstrip = token.lstrip;
        old->rstrip = token.rstrip;
        return LORAD_OK;
    }
    token.number = vocab_find(&out->bpe.vocab, token.text, token.length);
    int64_t number = token.number >= 0 ? token.number : next_number(out);
    if (number >= VOCAB_MAX) return FAIL(LORAD_DATA, "%s: more than %d tokens", where, VOCAB_MAX);
    token.number = (int32_t)number;
    return added_tokens_add(&out->added, token);
}

/* The number that a file says for a token must be the one it gets. */
static enum status put_numbered(struct tokenizer *out, struct added_token token, int64_t number,
                                const char *where)
{
    TRY(put(out, token, where));
    int32_t given = added_tokens_find(&out->added, token.text, token.length)->number;
    if (given == number) return LORAD_OK;
    return FAIL(LORAD_DATA, "%s: the token \"%s\" has the number %lld, expected %d", where, token.text,
                (long long)number, given);
}

/* otherwise: what "special" is when the object does not say it. */
static struct added_token from_object(const struct json *value, const char *text, size_t length,
                                      bool otherwise)
{
    bool special = js_bool(js_get(value, "special"), otherwise);
    return (struct added_token){
        .text = (char *)text,
        .length = length,
        .special = special,
        .single_word = js_bool(js_get(value, "single_word"), false),
        .lstrip = js_bool(js_get(value, "lstrip"), false),
        .rstrip = js_bool(js_get(value, "rstrip"), false),
        .normalized = js_bool(js_get(value, "normalized"), !special),
    };
}

static enum status add_model_tokens(struct tokenizer *out, const struct sentencepiece *model,
                                    const char *where)
{
    for (size_t i = 0; i < model->n; i++) {
        const struct piece *piece = &model->piece[i];
        if (piece->type != PIECE_CONTROL && piece->type != PIECE_USER_DEFINED) continue;
        struct added_token token = {
            .text = (char *)piece->text, .length = piece->length, .special = piece->type == PIECE_CONTROL};
        TRY(put(out, token, where));
    }
    return LORAD_OK;
}

/* The member of `object` with the lowest number behind `done`; NULL at the end. by_key: the keys are the
 * numbers, otherwise the values are. */
static enum status next_numbered(void **out, int64_t *number, const struct json *object, int64_t done,
                                 bool by_key, const char *where)
{
    int64_t lowest = INT64_MAX;
    *out = NULL;
    for (void *it = js_first(object); it; it = js_next(object, it)) {
        char *end = NULL;
        int64_t value = by_key ? strtoll(js_key(it), &end, 10) : js_int(js_member(it), -1);
        if (value < 0 || (by_key && (*end || end == js_key(it))))
            return FAIL(LORAD_DATA, "%s: the token \"%s\" has no number", where, js_key(it));
        if (value > done && value < lowest) {
            lowest = value;
            *out = it;
        }
    }
    *number = lowest;
    return LORAD_OK;
}

/* added_tokens_decoder, or the older added_tokens.json. */
static enum status add_listed_tokens(struct tokenizer *out, const struct sentencepiece_config *files,
                                     const char *where)
{
    const struct json *decoder = js_get(files->config, "added_tokens_decoder");
    const struct json *list = decoder ? decoder : files->added;
    for (int64_t number = -1;;) {
        void *it;
        TRY(next_numbered(&it, &number, list, number, decoder != NULL, where));
        if (!it) return LORAD_OK;
        const char *text = decoder ? js_string(js_get(js_member(it), "content"), NULL) : js_key(it);
        if (!text || !*text)
            return FAIL(LORAD_DATA, "%s: added token %lld has no content", where, (long long)number);
        size_t length = strlen(text);
        bool special = is_special_text(files, SIZE_MAX, text, length);
        struct added_token token = {.text = (char *)text, .length = length, .normalized = !special};
        if (decoder) token = from_object(js_member(it), text, length, false);
        token.special = token.special || special;
        TRY(put_numbered(out, token, number, where));
    }
}

static bool is_listed(const struct json *decoder, const char *text)
{
    for (void *it = js_first(decoder); it; it = js_next(decoder, it)) {
        const char *listed = js_string(js_get(js_member(it), "content"), NULL);
        if (listed && strcmp(listed, text) == 0) return true;
    }
    return false;
}

/* Plain strings are special and matched in the text as it is; objects say how. */
static enum status add_special(struct tokenizer *out, const struct json *value, const char *text,
                               size_t length, bool from_map, const char *where)
{
    struct added_token token = {.text = (char *)text, .length = length};
    if (is_object(value)) token = from_object(value, text, length, from_map);
    token.special = true;
    return put(out, token, where);
}

/* Those that no file lists, and those that are said again with other flags: bos, eos, unk and pad always, the
 * others when they are objects. A text that has a name counts only where it comes first. */
static enum status add_special_tokens(struct tokenizer *out, const struct sentencepiece_config *files,
                                      const char *where)
{
    const struct json *decoder = js_get(files->config, "added_tokens_decoder");
    size_t listed = out->added.count;
    for (size_t i = 0; i < SPECIALS || additional_special(files, i - SPECIALS); i++) {
        size_t length = 0;
        const char *text = special_text(files, i, &length);
        if (!text || !length || is_special_text(files, i < SPECIALS ? i : SPECIALS, text, length)) continue;
        if (i < SPECIALS && is_listed(decoder, text)) continue; /* it is that token */
        const struct json *value =
            i < SPECIALS ? special_value(files, special_name[i]) : additional_special(files, i - SPECIALS);
        bool again = i < 3 || i == 4 || is_object(value);
        const struct added_token *old = added_tokens_find(&out->added, text, length);
        if (!again && old && (size_t)(old - out->added.token) < listed) continue;
        bool from_map =
            !decoder && (i < SPECIALS ? js_get(files->special, special_name[i]) != NULL
                                      : i - SPECIALS >= js_length(js_get(files->config, more_specials)));
        TRY(add_special(out, value, text, length, from_map, where));
    }
    return LORAD_OK;
}

/* ---- the whole ---- */

static int32_t special_number(const struct tokenizer *out, const struct sentencepiece_config *files,
                              int which)
{
    size_t length = 0;
    const char *text = special_text(files, which, &length);
    return text ? tokenizer_token(out, text) : -1;
}

static enum status add_affixes(struct tokenizer *out, const struct json *config, const char *where)
{
    if (flag(config, "add_bos_token", true)) {
        if (out->bos < 0) return FAIL(LORAD_DATA, "%s: add_bos_token without a bos_token", where);
        out->prefix[out->n_prefix++] = out->bos;
    }
    if (flag(config, "add_eos_token", false)) {
        if (out->eos < 0) return FAIL(LORAD_DATA, "%s: add_eos_token without an eos_token", where);
        out->suffix[out->n_suffix++] = out->eos;
    }
    return LORAD_OK;
}

static enum status check_class(const struct json *config, const char *where)
{
    const char *class = js_string(js_get(config, "tokenizer_class"), NULL);
    if (!class || strcmp(class, "LlamaTokenizer") == 0 || strcmp(class, "LlamaTokenizerFast") == 0)
        return LORAD_OK;
    return FAIL(
        LORAD_DATA,
        "%s: without tokenizer.json only the tokenizer_class LlamaTokenizer is known, not \"%s\"; save "
        "tokenizer.json with save_pretrained of the fast tokenizer",
        where, class);
}

enum status sentencepiece_build(struct tokenizer *out, const struct sentencepiece *model,
                                const struct sentencepiece_config *files, const char *where)
{
    TRY(check_class(files->config, where));
    if (model->n < 3) return FAIL(LORAD_DATA, "%s: %zu pieces, expected 3 at least", where, model->n);
    TRY(add_pieces(&out->bpe.vocab, model, where));
    out->bpe.unk = -1;
    if (model->kind == SENTENCEPIECE_BPE)
        TRY(build_bpe(&out->bpe, model, where));
    else
        TRY(build_unigram(out, model, where));
    TRY(surround(out, files->config));
    TRY(add_model_tokens(out, model, where));
    TRY(add_listed_tokens(out, files, where));
    TRY(add_special_tokens(out, files, where));
    out->bos = special_number(out, files, 0);
    out->eos = special_number(out, files, 1);
    TRY(add_affixes(out, files->config, where));
    return tokenizer_seal(out, where);
}

static enum status read_beside(struct json **out, const char *model_dir, const char *name)
{
    char *path = file_join(model_dir, name);
    if (!path) return LORAD_NOMEM;
    enum status status = file_exists(path) ? js_read_file(out, path, JSON_MAX) : LORAD_OK;
    free(path);
    return status;
}

enum status sentencepiece_read(struct tokenizer *out, const char *path, const char *model_dir,
                               const struct json *config)
{
    char *bytes;
    size_t length;
    TRY(file_read(&bytes, &length, path, MODEL_MAX));
    struct sentencepiece model;
    struct json *special = NULL, *added = NULL;
    enum status status = sentencepiece_parse(&model, bytes, length, path);
    free(bytes);
    if (status != LORAD_OK) return status;
    status = read_beside(&special, model_dir, "special_tokens_map.json");
    if (status == LORAD_OK) status = read_beside(&added, model_dir, "added_tokens.json");
    if (status == LORAD_OK)
        status =
            sentencepiece_build(out, &model, &(struct sentencepiece_config){config, special, added}, path);
    js_destroy(special);
    js_destroy(added);
    sentencepiece_free(&model);
    return status;
}
