/*
 * tokenizer_json.c: the files of a model folder -> the parts of a tokenizer.
 *
 * Invariants
 *  1. The files are untrusted. Whatever is not understood is refused with the name of the file and the
 *     component.
 *  2. An added token has the number Hugging Face gives it: that of the vocabulary entry with its text,
 *     otherwise the next free one. A file that says another number is refused, since HF and this program
 *     would then disagree.
 */
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/utf8.h"
#include "dataloader/flat_json.h"
#include "dataloader/sentencepiece.h"
#include "dataloader/tokenizer_parts.h"

enum { FILE_MAX = 256 << 20 };

/* ---- the model ---- */

static enum status refuse_text(const struct json *model, const char *key, const char *where)
{
    const char *text = js_string(js_get(model, key), NULL);
    if (text && *text) return FAIL(LORAD_DATA, "%s: model.%s is not supported (\"%s\")", where, key, text);
    return LORAD_OK;
}

/* Where the vocabulary and the merges stand in the text of tokenizer.json; begin NULL: they were not found.
 */
struct model_text {
    struct json_span vocab, merges;
};

static struct model_text find_model_text(const char *text, size_t length)
{
    struct json_span model;
    struct model_text found = {{NULL, NULL}, {NULL, NULL}};
    if (!utf8_valid(text, length, NULL) ||
        !flat_json_member((struct json_span){text, text + length}, "model", &model) ||
        !flat_json_member(model, "vocab", &found.vocab) ||
        !flat_json_member(model, "merges", &found.merges) || *found.vocab.begin != '{' ||
        *found.merges.begin != '[')
        return (struct model_text){{NULL, NULL}, {NULL, NULL}};
    return found;
}

/* The text without what is read by flat_json.c. */
static enum status parse_rest(struct json **out, const char *text, size_t length,
                              const struct model_text *model, const char *where)
{
    if (!model->vocab.begin) return js_parse(out, text, length, where);
    bool vocab_first = model->vocab.begin < model->merges.begin;
    struct json_span first = vocab_first ? model->vocab : model->merges;
    struct json_span second = vocab_first ? model->merges : model->vocab;
    struct strbuf rest = STRBUF_EMPTY;
    strbuf_add(&rest, text, (size_t)(first.begin - text));
    strbuf_puts(&rest, vocab_first ? "{}" : "[]");
    strbuf_add(&rest, first.end, (size_t)(second.begin - first.end));
    strbuf_puts(&rest, vocab_first ? "[]" : "{}");
    strbuf_add(&rest, second.end, (size_t)(text + length - second.end));
    enum status status = strbuf_status(&rest);
    if (status == LORAD_OK) status = js_parse(out, strbuf_text(&rest), rest.length, where);
    strbuf_free(&rest);
    return status;
}

static enum status read_model(struct tokenizer *out, const struct json *model, const struct model_text *text,
                              const char *where)
{
    struct bpe *bpe = &out->bpe;
    const char *type = js_string(js_get(model, "type"), NULL);
    if (type && strcmp(type, "Unigram") == 0) {
        bpe->unk = -1;
        return unigram_read(&out->unigram, &bpe->vocab, model, where);
    }
    if (type && strcmp(type, "BPE") != 0)
        return FAIL(LORAD_DATA, "%s: model type \"%s\" is not supported (supported: BPE, Unigram)", where,
                    type);
    if (js_real(js_get(model, "dropout"), 0) != 0)
        return FAIL(LORAD_DATA, "%s: model.dropout is not supported", where);
    TRY(refuse_text(model, "continuing_subword_prefix", where));
    TRY(refuse_text(model, "end_of_word_suffix", where));
    const struct json *vocab, *merges;
    TRY(js_need(&vocab, model, "vocab", JS_OBJECT, where));
    TRY(js_need(&merges, model, "merges", JS_ARRAY, where));
    bpe->fuse_unk = js_bool(js_get(model, "fuse_unk"), false);
    bpe->byte_fallback = js_bool(js_get(model, "byte_fallback"), false);
    bpe->ignore_merges = js_bool(js_get(model, "ignore_merges"), false);
    if (!text->vocab.begin)
        return FAIL(LORAD_DATA, "%s: model.vocab and model.merges are not written as usual", where);
    TRY(flat_json_vocab(&bpe->vocab, text->vocab, where));
    size_t length;
    const char *unk = js_string(js_get(model, "unk_token"), &length);
    bpe->unk = unk ? vocab_find(&bpe->vocab, unk, length) : -1;
    if (unk && bpe->unk < 0)
        return FAIL(LORAD_DATA, "%s: model.unk_token \"%s\" is not in the vocabulary", where, unk);
    return flat_json_merges(bpe, text->merges, where);
}

/* ---- added tokens ---- */

static int64_t next_number(const struct tokenizer *tokenizer)
{
    int64_t next = tokenizer->bpe.vocab.count;
    for (size_t i = 0; i < tokenizer->added.count; i++)
        if (tokenizer->added.token[i].number >= next) next = tokenizer->added.token[i].number + 1;
    return next;
}

static enum status add_token(struct tokenizer *out, const struct json *value, int64_t number,
                             const char *where)
{
    size_t length;
    const char *text = js_string(js_get(value, "content"), &length);
    if (!text || !length)
        return FAIL(LORAD_DATA, "%s: added token %lld has no content", where, (long long)number);
    if (added_tokens_find(&out->added, text, length))
        return LORAD_OK; /* said twice: the first one counts, as in HF */
    int64_t expected = vocab_find(&out->bpe.vocab, text, length);
    if (expected < 0) expected = next_number(out);
    if (number != expected)
        return FAIL(LORAD_DATA, "%s: added token \"%s\" has the number %lld, expected %lld", where, text,
                    (long long)number, (long long)expected);
    bool special = js_bool(js_get(value, "special"), false);
    return added_tokens_add(&out->added, (struct added_token){
                                             .text = (char *)text,
                                             .length = length,
                                             .number = (int32_t)number,
                                             .special = special,
                                             .single_word = js_bool(js_get(value, "single_word"), false),
                                             .lstrip = js_bool(js_get(value, "lstrip"), false),
                                             .rstrip = js_bool(js_get(value, "rstrip"), false),
                                             .normalized = js_bool(js_get(value, "normalized"), !special),
                                         });
}

static enum status read_added(struct tokenizer *out, const struct json *list, const char *where)
{
    for (size_t i = 0; i < js_length(list); i++) {
        int64_t number;
        TRY(js_need_int(&number, js_at(list, i), "id", where));
        TRY(add_token(out, js_at(list, i), number, where));
    }
    return LORAD_OK;
}

/* added_tokens_decoder of tokenizer_config.json: an object from numbers to tokens, added in order of the
 * numbers. */
static enum status read_added_decoder(struct tokenizer *out, const struct json *object, const char *where)
{
    for (int64_t done = -1;;) {
        int64_t lowest = INT64_MAX;
        const struct json *token = NULL;
        for (void *it = js_first(object); it; it = js_next(object, it)) {
            char *end;
            long long number = strtoll(js_key(it), &end, 10);
            if (*end || end == js_key(it) || number < 0)
                return FAIL(LORAD_DATA, "%s: added_tokens_decoder: \"%s\" is not a token number", where,
                            js_key(it));
            if (number > done && number < lowest) {
                lowest = number;
                token = js_member(it);
            }
        }
        if (!token) return LORAD_OK;
        TRY(add_token(out, token, lowest, where));
        done = lowest;
    }
}

/* ---- the post-processor ---- */

static enum status add_affix(struct tokenizer *out, const struct json *special_tokens, const char *name,
                             bool behind, const char *where)
{
    const struct json *ids = js_get(js_get(special_tokens, name), "ids");
    if (!js_length(ids)) return FAIL(LORAD_DATA, "%s: TemplateProcessing: no ids for \"%s\"", where, name);
    for (size_t i = 0; i < js_length(ids); i++) {
        int64_t number = js_int(js_at(ids, i), -1);
        int *n = behind ? &out->n_suffix : &out->n_prefix;
        if (number < 0 || number >= VOCAB_MAX || *n == TOKENIZER_AFFIXES)
            return FAIL(LORAD_DATA, "%s: TemplateProcessing: bad or too many ids for \"%s\"", where, name);
        (behind ? out->suffix : out->prefix)[(*n)++] = (int32_t)number;
    }
    return LORAD_OK;
}

static enum status read_template(struct tokenizer *out, const struct json *value, const char *where)
{
    const struct json *single;
    TRY(js_need(&single, value, "single", JS_ARRAY, where));
    bool behind = false;
    for (size_t i = 0; i < js_length(single); i++) {
        const struct json *item = js_at(single, i), *special = js_get(item, "SpecialToken");
        if (special) {
            const char *name;
            TRY(js_need_string(&name, special, "id", where));
            TRY(add_affix(out, js_get(value, "special_tokens"), name, behind, where));
        } else if (js_get(item, "Sequence") && !behind) {
            behind = true;
        } else {
            return FAIL(LORAD_DATA, "%s: TemplateProcessing: part %zu of \"single\" is not supported", where,
                        i);
        }
    }
    if (!behind) return FAIL(LORAD_DATA, "%s: TemplateProcessing: \"single\" has no Sequence", where);
    return LORAD_OK;
}

static enum status read_post_part(struct tokenizer *out, const struct json *value, const char *where)
{
    const char *type;
    TRY(js_need_string(&type, value, "type", where));
    if (strcmp(type, "ByteLevel") == 0) return LORAD_OK; /* moves offsets only */
    if (strcmp(type, "RobertaProcessing") == 0 || strcmp(type, "BertProcessing") == 0) {
        int64_t first = js_int(js_at(js_get(value, "cls"), 1), -1),
                last = js_int(js_at(js_get(value, "sep"), 1), -1);
        if (first < 0 || last < 0 || first >= VOCAB_MAX || last >= VOCAB_MAX || out->n_prefix ||
            out->n_suffix)
            return FAIL(LORAD_DATA, "%s: %s: bad \"cls\" or \"sep\"", where, type);
        out->prefix[out->n_prefix++] = (int32_t)first;
        out->suffix[out->n_suffix++] = (int32_t)last;
        return LORAD_OK;
    }
    if (strcmp(type, "TemplateProcessing") == 0 && !out->n_prefix && !out->n_suffix)
        return read_template(out, value, where);
    return FAIL(LORAD_DATA,
                "%s: post_processor \"%s\" is not supported (supported: one TemplateProcessing, ByteLevel)",
                where, type);
}

static enum status read_post_processor(struct tokenizer *out, const struct json *value, const char *where)
{
    if (!value || js_type(value) == JS_NULL) return LORAD_OK;
    const char *type;
    TRY(js_need_string(&type, value, "type", where));
    if (strcmp(type, "Sequence") != 0) return read_post_part(out, value, where);
    const struct json *list;
    TRY(js_need(&list, value, "processors", JS_ARRAY, where));
    for (size_t i = 0; i < js_length(list); i++) TRY(read_post_part(out, js_at(list, i), where));
    return LORAD_OK;
}

/* ---- whole files ---- */

static enum status read_parts(struct tokenizer *out, const struct json *root, const struct model_text *text,
                              const char *where)
{
    const struct json *model;
    TRY(js_need(&model, root, "model", JS_OBJECT, where));
    TRY(normalizer_read(&out->normalizer, js_get(root, "normalizer"), where));
    TRY(pretokenizer_read(&out->pretokenizer, js_get(root, "pre_tokenizer"), where));
    TRY(decoder_read(&out->decoder, js_get(root, "decoder"), where));
    TRY(read_model(out, model, text, where));
    TRY(read_added(out, js_get(root, "added_tokens"), where));
    return read_post_processor(out, js_get(root, "post_processor"), where);
}

enum status tokenizer_read_json(struct tokenizer *out, const char *text, size_t length, const char *where)
{
    struct model_text model = find_model_text(text, length);
    struct json *root;
    TRY(parse_rest(&root, text, length, &model, where));
    enum status status = read_parts(out, root, &model, where);
    js_destroy(root);
    return status;
}

enum status tokenizer_seal(struct tokenizer *out, const char *where)
{
    out->bpe.byte_mode = out->pretokenizer.byte_level;
    for (int i = 0; i < out->pretokenizer.n_steps; i++)
        if (out->pretokenizer.step[i].kind == PRETOKENIZE_METASPACE ||
            out->pretokenizer.step[i].kind == PRETOKENIZE_PREFIX_SPACE)
            out->rewrites = true;
    TRY(bpe_seal(&out->bpe, where));
    TRY(added_tokens_seal(&out->added, &out->normalizer));
    out->size = out->bpe.vocab.size;
    for (size_t i = 0; i < out->added.count; i++)
        if (out->added.token[i].number >= out->size) out->size = out->added.token[i].number + 1;
    out->added_of = memory_new((size_t)out->size, sizeof *out->added_of);
    if (!out->added_of) return LORAD_NOMEM;
    memset(out->added_of, 0xFF, (size_t)out->size * sizeof *out->added_of);
    for (size_t i = 0; i < out->added.count; i++) out->added_of[out->added.token[i].number] = (int32_t)i;
    for (int i = 0; i < out->n_prefix + out->n_suffix; i++) {
        int32_t number = i < out->n_prefix ? out->prefix[i] : out->suffix[i - out->n_prefix];
        if (number >= out->size)
            return FAIL(LORAD_DATA, "%s: TemplateProcessing: no token %d", where, number);
    }
    return LORAD_OK;
}

/* merges.txt. GPT-2's class drops the first line whatever it says and what stands behind the last line end.
 */
static enum status read_merges_file(struct bpe *bpe, const char *path, bool gpt2)
{
    char *merges;
    size_t length;
    TRY(file_read(&merges, &length, path, FILE_MAX));
    enum status status = bpe_add_merge_lines(bpe, merges, length, gpt2, path);
    free(merges);
    return status;
}

static bool is_class(const struct json *config, const char *name)
{
    const char *class = js_string(js_get(config, "tokenizer_class"), NULL);
    size_t length = strlen(name);
    return class && strncmp(class, name, length) == 0 &&
           (!class[length] || strcmp(class + length, "Fast") == 0);
}

/* vocab.json and merges.txt, the older way: what surrounds the model is what transformers' converter makes
 * for the class of the tokenizer. */
static enum status read_vocab_and_merges(struct tokenizer *out, const struct json *config,
                                         const char *vocab_path, const char *merges_path)
{
    const char *class = js_string(js_get(config, "tokenizer_class"), NULL);
    bool qwen2 = is_class(config, "Qwen2Tokenizer"), gpt2 = is_class(config, "GPT2Tokenizer");
    if (!qwen2 && !gpt2)
        return FAIL(
            LORAD_DATA,
            "%s: without tokenizer.json only the tokenizer_class Qwen2Tokenizer and GPT2Tokenizer are known, "
            "not \"%s\"; save tokenizer.json with save_pretrained of the fast tokenizer",
            vocab_path, class ? class : "");
    if (qwen2) {
        TRY(normalizer_add(&out->normalizer, NORMALIZE_NFC, "", ""));
        TRY(pretokenizer_add_pattern(&out->pretokenizer, pretokenizer_qwen2_pattern, vocab_path));
    }
    /* Qwen2's slow class has no add_prefix_space. */
    bool prefix_space = gpt2 && js_bool(js_get(config, "add_prefix_space"), false);
    TRY(pretokenizer_add_byte_level(&out->pretokenizer, prefix_space, gpt2, vocab_path));
    TRY(decoder_add(&out->decoder, DECODE_BYTE_LEVEL, "", "", 0, 0));
    out->bpe.unk = -1;

    char *vocab;
    size_t length, bad;
    TRY(file_read(&vocab, &length, vocab_path, FILE_MAX));
    enum status status =
        utf8_valid(vocab, length, &bad)
            ? flat_json_vocab(&out->bpe.vocab, (struct json_span){vocab, vocab + length}, vocab_path)
            : FAIL(LORAD_DATA, "%s: invalid UTF-8 at byte %zu", vocab_path, bad);
    free(vocab);
    return status == LORAD_OK ? read_merges_file(&out->bpe, merges_path, gpt2) : status;
}

/* ---- tokenizer_config.json ---- */

static bool is_llama(const struct json *config)
{
    return is_class(config, "LlamaTokenizer") || is_class(config, "CodeLlamaTokenizer") ||
           is_class(config, "GemmaTokenizer");
}

/* The text of a special token: of the configuration, else the default of the class; NULL: none. */
static const char *special_text(const struct json *config, const char *key)
{
    static const struct {
        const char *class, *key, *text;
    } defaults[] = {
        {"Qwen2Tokenizer", "eos_token", "<|endoftext|>"}, {"Qwen2Tokenizer", "unk_token", "<|endoftext|>"},
        {"Qwen2Tokenizer", "pad_token", "<|endoftext|>"}, {"GPT2Tokenizer", "bos_token", "<|endoftext|>"},
        {"GPT2Tokenizer", "eos_token", "<|endoftext|>"},  {"GPT2Tokenizer", "unk_token", "<|endoftext|>"},
        {"LlamaTokenizer", "bos_token", "<s>"},           {"LlamaTokenizer", "eos_token", "</s>"},
        {"LlamaTokenizer", "unk_token", "<unk>"},
    };
    const struct json *value = js_get(config, key);
    if (value) return js_string(js_type(value) == JS_OBJECT ? js_get(value, "content") : value, NULL);
    for (size_t i = 0; i < sizeof defaults / sizeof *defaults; i++)
        if (strcmp(defaults[i].key, key) == 0 && is_class(config, defaults[i].class)) return defaults[i].text;
    return NULL;
}

static enum status add_special(struct tokenizer *out, const char *text)
{
    size_t length = text ? strlen(text) : 0;
    if (!length || added_tokens_find(&out->added, text, length)) return LORAD_OK;
    int64_t number = vocab_find(&out->bpe.vocab, text, length);
    if (number < 0) number = next_number(out);
    return added_tokens_add(
        &out->added, (struct added_token){
                         .text = (char *)text, .length = length, .number = (int32_t)number, .special = true});
}

/* Special tokens that only the configuration names. */
static enum status add_specials(struct tokenizer *out, const struct json *config)
{
    static const char *const keys[] = {"bos_token", "eos_token", "unk_token", "sep_token",
                                       "pad_token", "cls_token", "mask_token"};
    for (size_t i = 0; config && i < sizeof keys / sizeof *keys; i++)
        TRY(add_special(out, special_text(config, keys[i])));
    const struct json *more = js_get(config, "additional_special_tokens");
    for (size_t i = 0; i < js_length(more); i++) {
        const struct json *value = js_at(more, i);
        TRY(add_special(out,
                        js_string(js_type(value) == JS_OBJECT ? js_get(value, "content") : value, NULL)));
    }
    return LORAD_OK;
}

/* What the class of the tokenizer does to what tokenizer.json says, as transformers has it. */
static enum status apply_class(struct tokenizer *out, const struct json *config, const char *where)
{
    bool llama = is_llama(config), gpt2_bos = is_class(config, "GPT2Tokenizer") && !out->from_json &&
                                              js_bool(js_get(config, "add_bos_token"), false);
    if (config && out->from_json)
        pretokenizer_set_prefix_space(&out->pretokenizer, js_bool(js_get(config, "add_prefix_space"), false));
    if (!llama && !gpt2_bos) return LORAD_OK;
    bool add_bos = js_bool(js_get(config, "add_bos_token"), true);
    bool add_eos = llama && js_bool(js_get(config, "add_eos_token"), false);
    if ((add_bos && out->bos < 0) || (add_eos && out->eos < 0))
        return FAIL(LORAD_DATA, "%s: add_bos_token or add_eos_token without such a token", where);
    out->n_prefix = add_bos;
    out->prefix[0] = out->bos;
    out->n_suffix = add_eos;
    out->suffix[0] = out->eos;
    return LORAD_OK;
}

static int32_t named_token(const struct tokenizer *tokenizer, const struct json *config, const char *key)
{
    const char *text = special_text(config, key);
    return text ? tokenizer_token(tokenizer, text) : -1;
}

/* A string, or a list of named templates of which "default" counts. */
static enum status read_chat_template(struct tokenizer *out, const struct json *value)
{
    const char *text = js_string(value, NULL);
    for (size_t i = 0; !text && i < js_length(value); i++) {
        const char *name = js_string(js_get(js_at(value, i), "name"), NULL);
        if (name && strcmp(name, "default") == 0) text = js_string(js_get(js_at(value, i), "template"), NULL);
    }
    if (!text) return LORAD_OK;
    out->chat_template = memory_string(text);
    return out->chat_template ? LORAD_OK : LORAD_NOMEM;
}

static enum status hash_file(struct hash_stream *stream, const char *path)
{
    if (!file_exists(path)) return LORAD_OK;
    char *text;
    size_t length;
    TRY(file_read(&text, &length, path, FILE_MAX));
    uint64_t size = length; /* so that bytes cannot move from one file to the next */
    hash_stream_add(stream, &size, sizeof size);
    hash_stream_add(stream, text, length);
    free(text);
    return LORAD_OK;
}

/* Python writes model_max_length as an integer of 31 digits, which no JSON integer here can hold. Copies the
 * text with "e0" behind every integer of more than 18 digits outside strings, which makes it a real. */
static void add_with_long_integers(struct strbuf *out, const char *text, size_t length)
{
    bool in_string = false;
    size_t kept = 0;
    for (size_t i = 0; i < length; i++) {
        if (in_string && text[i] == '\\') {
            i++;
        } else if (text[i] == '"') {
            in_string = !in_string;
        } else if (!in_string && text[i] >= '0' && text[i] <= '9') {
            size_t end = i;
            while (end < length && text[end] >= '0' && text[end] <= '9') end++;
            bool whole =
                (i == 0 || !strchr(".eE+", text[i - 1])) && (end == length || !strchr(".eE", text[end]));
            if (end - i > 18 && whole) {
                strbuf_add(out, text + kept, end - kept);
                strbuf_puts(out, "e0");
                kept = end;
            }
            i = end - 1;
        }
    }
    strbuf_add(out, text + kept, length - kept);
}

static enum status read_config(struct json **out, const char *path)
{
    char *text;
    size_t length;
    TRY(file_read(&text, &length, path, FILE_MAX));
    struct strbuf copy = STRBUF_EMPTY;
    add_with_long_integers(&copy, text, length);
    enum status status = strbuf_status(&copy);
    if (status == LORAD_OK) status = js_parse(out, strbuf_text(&copy), copy.length, path);
    strbuf_free(&copy);
    free(text);
    return status;
}

enum {
    PATH_TOKENIZER,
    PATH_CONFIG,
    PATH_JINJA,
    PATH_VOCAB,
    PATH_MERGES,
    PATH_SENTENCEPIECE,
    PATH_SPECIAL,
    PATH_ADDED,
    PATHS
};

static enum status read_surroundings(struct tokenizer *out, char *const path[PATHS],
                                     const struct json *config)
{
    if (file_exists(path[PATH_JINJA])) {
        size_t length;
        return file_read(&out->chat_template, &length, path[PATH_JINJA], FILE_MAX);
    }
    return read_chat_template(out, js_get(config, "chat_template"));
}

static enum status read_files(struct tokenizer *out, char *const path[PATHS], const struct json *config,
                              const char *model_dir)
{
    if (file_exists(path[PATH_TOKENIZER])) {
        char *text;
        size_t length;
        TRY(file_read(&text, &length, path[PATH_TOKENIZER], FILE_MAX));
        enum status status = tokenizer_read_json(out, text, length, path[PATH_TOKENIZER]);
        free(text);
        if (status != LORAD_OK) return status;
        out->from_json = true;
    } else if (config && file_exists(path[PATH_VOCAB]) && file_exists(path[PATH_MERGES])) {
        TRY(read_vocab_and_merges(out, config, path[PATH_VOCAB], path[PATH_MERGES]));
    } else if (file_exists(path[PATH_SENTENCEPIECE])) {
        TRY(sentencepiece_read(out, path[PATH_SENTENCEPIECE], model_dir, config));
        return read_surroundings(out, path, config);
    } else {
        return FAIL(
            LORAD_NOT_FOUND,
            "%s: no such file (nor tokenizer.model, nor vocab.json, merges.txt and tokenizer_config.json)",
            path[PATH_TOKENIZER]);
    }
    TRY(read_added_decoder(out, js_get(config, "added_tokens_decoder"), path[PATH_CONFIG]));
    TRY(add_specials(out, config));
    out->bos = named_token(out, config, "bos_token");
    out->eos = named_token(out, config, "eos_token");
    TRY(apply_class(out, config, path[PATH_CONFIG]));
    TRY(tokenizer_seal(out, path[PATH_TOKENIZER]));
    return read_surroundings(out, path, config);
}

enum status tokenizer_read(struct tokenizer *out, const char *model_dir)
{
    static const char *const name[PATHS] = {
        "tokenizer.json", "tokenizer_config.json", "chat_template.jinja",     "vocab.json",
        "merges.txt",     "tokenizer.model",       "special_tokens_map.json", "added_tokens.json"};
    char *path[PATHS] = {NULL};
    struct json *config = NULL;
    struct hash_stream *stream = NULL;
    enum status status = LORAD_NOMEM;
    for (int i = 0; i < PATHS; i++)
        if (!(path[i] = file_join(model_dir, name[i]))) goto free_paths;
    if (file_exists(path[PATH_CONFIG])) {
        status = read_config(&config, path[PATH_CONFIG]);
        if (status != LORAD_OK) goto free_paths;
    }
    status = read_files(out, path, config, model_dir);
    if (status != LORAD_OK) goto free_paths;
    status = hash_stream_create(&stream);
    for (int i = 0; i < PATHS && status == LORAD_OK; i++)
        if (i < PATH_VOCAB || !file_exists(path[PATH_TOKENIZER])) status = hash_file(stream, path[i]);
    if (status == LORAD_OK) out->hash = hash_stream_value(stream);
    hash_stream_destroy(stream);
free_paths:
    js_destroy(config);
    for (int i = 0; i < PATHS; i++) free(path[i]);
    return status;
}
