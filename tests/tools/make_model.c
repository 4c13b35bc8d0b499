/*
 * make_model SHAPE OUT [--rows N] [--row-tokens N] [--threads N]: what a measurement needs: a model folder of
 * random weights, an initial PEFT adapter, and chat rows of one length.
 *
 * OUT/model       config.json, bf16 weights in files of about a GiB, and the tokenizer of
 * tests/data/models/fin-zh-tiny, whose 6,400 ids are the first of the model's vocabulary OUT/adapter     LoRA
 * r 16, alpha 32, all seven linears, B = 0: both programs of a comparison start from it OUT/rows.jsonl
 * finance rows with a prompt as long as it takes for exactly --row-tokens tokens (default: no rows): however
 * rows are ordered and packed, a step over all of them sees the same tokens in equally full packs
 *
 * The same arguments make the same files. A model that is there stays; rows are written again.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/fs.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/random.h"
#include "checkpoint/adapter_file.h"
#include "dataloader/chat_template.h"
#include "kernels/tensor.h"
#include "support/test.h"
#include "trainer/arch.h"
#include "trainer/lora.h"

#define TOKENIZER_DIR "models/fin-zh-tiny"
#define ROWS_FILE     "finance-zh/fin_stage1_general.jsonl"

enum { PATH_BYTES = 1024, MOST_TENSORS = 2048, MOST_FILES = 256, CHUNK = 1 << 20, RANK = 16, ALPHA = 32 };
static const int64_t FILE_BYTES = INT64_C(1) << 30;

static const struct shape {
    const char *name;
    bool llama; /* else Qwen2, with biases of q, k and v */
    int32_t hidden, layers, heads, kv_heads, intermediate, vocab;
    bool tied;
    double rope_theta, norm_eps;
} shapes[] = {
    {"qwen2-0.5b", false, 896, 24, 14, 2, 4864, 151936, true, 1e6, 1e-6},
    {"100m", false, 640, 12, 10, 2, 2816, 32000, true, 1e6, 1e-6},
    {"tiny", false, 128, 2, 2, 2, 384, 8000, true, 1e6, 1e-6},
    {"llama-2-7b", true, 4096, 32, 32, 32, 11008, 32000, false, 1e4, 1e-5},
    {"llama-3-8b", true, 4096, 32, 32, 8, 14336, 128256, false, 5e5, 1e-5},
    {"qwen2-7b", false, 3584, 28, 28, 4, 18944, 152064, false, 1e6, 1e-6},
};

struct tensor {
    char name[96];
    int64_t rows, cols; /* rows 0: a vector */
    enum { RANDOM, ONES, ZEROS } fill;
};

struct maker {
    const struct shape *shape;
    struct arch arch;
    char out[PATH_BYTES];
    int64_t rows, row_tokens;
    int threads;
    struct tensor *tensors;
    int n_tensors;
    int file_first[MOST_FILES + 1]; /* tensor number; behind the last file: n_tensors */
    int n_files;
};

static void check(enum status status)
{
    if (status == LORAD_OK) return;
    fprintf(stderr, "make_model: %s\n", status_message());
    exit(status_exit_code(status));
}

static const char *path_of(const struct maker *m, const char *name)
{
    static char path[2 * PATH_BYTES];
    snprintf(path, sizeof path, "%s/%s", m->out, name);
    return path;
}

static void write_text(const struct maker *m, const char *name, struct strbuf *text)
{
    check(strbuf_status(text));
    check(fs_write_file(fs_posix(), path_of(m, name), text->data, text->length));
    strbuf_free(text);
}

/* ---- the model ---- */

static void write_config(const struct maker *m)
{
    const struct shape *s = m->shape;
    struct strbuf text = STRBUF_EMPTY;
    strbuf_printf(
        &text,
        "{\"architectures\": [\"%sForCausalLM\"], \"model_type\": \"%s\", \"hidden_act\": \"silu\", "
        "\"hidden_size\": %d, \"num_hidden_layers\": %d, \"num_attention_heads\": %d, "
        "\"num_key_value_heads\": %d, \"intermediate_size\": %d, \"vocab_size\": %d, "
        "\"tie_word_embeddings\": %s, \"rope_theta\": %.1f, \"rms_norm_eps\": %g, "
        "\"max_position_embeddings\": 8192, \"initializer_range\": 0.02, \"torch_dtype\": \"bfloat16\", "
        "\"bos_token_id\": 1, \"eos_token_id\": 2, \"pad_token_id\": 0, \"use_cache\": false}\n",
        s->llama ? "Llama" : "Qwen2", s->llama ? "llama" : "qwen2", s->hidden, s->layers, s->heads,
        s->kv_heads, s->intermediate, s->vocab, s->tied ? "true" : "false", s->rope_theta, s->norm_eps);
    write_text(m, "model/config.json", &text);
}

static void add(struct maker *m, const char *name, int64_t rows, int64_t cols, int fill)
{
    struct tensor *tensor = &m->tensors[m->n_tensors++];
    snprintf(tensor->name, sizeof tensor->name, "%s", name);
    tensor->rows = rows;
    tensor->cols = cols;
    tensor->fill = fill;
}

static int64_t tensor_bytes(const struct tensor *tensor)
{
    return (tensor->rows ? tensor->rows : 1) * tensor->cols * 2;
}

static void list_layer(struct maker *m, int32_t layer)
{
    char name[96];
    for (int i = 0; i < MODULES; i++) {
        int64_t out = module_out(&m->arch, (enum module)i);
        snprintf(name, sizeof name, "model.layers.%d.%s.weight", layer, module_path((enum module)i));
        add(m, name, out, module_in(&m->arch, (enum module)i), RANDOM);
        snprintf(name, sizeof name, "model.layers.%d.%s.bias", layer, module_path((enum module)i));
        if (m->arch.qkv_bias && i <= MODULE_V) add(m, name, 0, out, ZEROS);
    }
    snprintf(name, sizeof name, "model.layers.%d.input_layernorm.weight", layer);
    add(m, name, 0, m->arch.hidden, ONES);
    snprintf(name, sizeof name, "model.layers.%d.post_attention_layernorm.weight", layer);
    add(m, name, 0, m->arch.hidden, ONES);
}

static void list_tensors(struct maker *m)
{
    m->tensors = memory_new(MOST_TENSORS, sizeof *m->tensors);
    check(m->tensors ? LORAD_OK : LORAD_NOMEM);
    add(m, "model.embed_tokens.weight", m->arch.vocab, m->arch.hidden, RANDOM);
    if (!m->arch.tied) add(m, "lm_head.weight", m->arch.vocab, m->arch.hidden, RANDOM);
    add(m, "model.norm.weight", 0, m->arch.hidden, ONES);
    for (int32_t i = 0; i < m->arch.layers; i++) list_layer(m, i);
    int64_t bytes = 0;
    for (int i = 0; i < m->n_tensors; bytes += tensor_bytes(&m->tensors[i++]))
        if (i == 0 || bytes >= FILE_BYTES) {
            m->file_first[m->n_files++] = i;
            bytes = 0;
        }
    m->file_first[m->n_files] = m->n_tensors;
}

static void file_name(char name[64], const struct maker *m, int file)
{
    if (m->n_files == 1)
        snprintf(name, 64, "model.safetensors");
    else
        snprintf(name, 64, "model-%05d-of-%05d.safetensors", file + 1, m->n_files);
}

/* n values from `at` on, n and `at` multiples of 8 unless the tensor ends: uniform, of the standard deviation
 * 0.02 that initial weights have. */
static void fill_random(uint16_t *to, uint64_t key, int64_t at, int64_t n)
{
    const float scale = 0.02f * sqrtf(3) * 0x1p-15f;
    for (int64_t i = 0; i < n; i += 8) {
        struct random_block block = random_philox(key, 0, (uint64_t)(at + i) / 8);
        for (int64_t j = 0; j < 8 && i + j < n; j++) {
            int16_t bits = (int16_t)(block.word[j / 2] >> (j % 2 * 16));
            to[i + j] = f32_to_bf16(scale * ((float)bits + 0.5f));
        }
    }
}

static void write_tensor(FILE *file, const struct tensor *tensor, int number, uint16_t *values)
{
    int64_t n = tensor_bytes(tensor) / 2;
    uint64_t key = random_key(1, RANDOM_TEST, (uint64_t)number, 0, 0);
    for (int64_t done = 0; done < n; done += CHUNK) {
        int64_t some = n - done < CHUNK ? n - done : CHUNK;
        if (tensor->fill == RANDOM)
            fill_random(values, key, done, some);
        else
            for (int64_t i = 0; i < some; i++) values[i] = tensor->fill == ONES ? f32_to_bf16(1) : 0;
        fwrite(values, 2, (size_t)some, file);
    }
}

/* Not durable, since nothing depends on it: a sync of 16 GB takes longer than a measurement. Thread: one a
 * file. */
static bool write_file(const struct maker *m, int number)
{
    char name[64], path[2 * PATH_BYTES];
    struct strbuf header = STRBUF_EMPTY;
    int64_t at = 0;
    file_name(name, m, number);
    snprintf(path, sizeof path, "%s/model/%s", m->out, name);
    FILE *file = fopen(path, "wb");
    uint16_t *values = memory_new(CHUNK, sizeof *values);
    strbuf_puts(&header, "{\"__metadata__\":{\"format\":\"pt\"}");
    for (int i = m->file_first[number]; i < m->file_first[number + 1]; i++) {
        const struct tensor *t = &m->tensors[i];
        int64_t bytes = tensor_bytes(t);
        strbuf_printf(&header, ",\"%s\":{\"dtype\":\"BF16\",\"shape\":[", t->name);
        if (t->rows) strbuf_printf(&header, "%lld,", (long long)t->rows);
        strbuf_printf(&header, "%lld],\"data_offsets\":[%lld,%lld]}", (long long)t->cols, (long long)at,
                      (long long)(at + bytes));
        at += bytes;
    }
    strbuf_puts(&header, "}");
    while (header.length % 8) strbuf_puts(&header, " ");
    bool good = file && values && !header.failed;
    if (good) {
        uint64_t length = header.length;
        fwrite(&length, sizeof length, 1, file);
        fwrite(header.data, 1, header.length, file);
        for (int i = m->file_first[number]; i < m->file_first[number + 1]; i++)
            write_tensor(file, &m->tensors[i], i, values);
        good = !ferror(file);
    }
    if (file && fclose(file) != 0) good = false;
    strbuf_free(&header);
    free(values);
    return good;
}

static void write_index(const struct maker *m)
{
    struct strbuf text = STRBUF_EMPTY;
    int64_t bytes = 0;
    char name[64];
    for (int i = 0; i < m->n_tensors; i++) bytes += tensor_bytes(&m->tensors[i]);
    strbuf_printf(&text, "{\"metadata\": {\"total_size\": %lld}, \"weight_map\": {", (long long)bytes);
    for (int file = 0; file < m->n_files; file++) {
        file_name(name, m, file);
        for (int i = m->file_first[file]; i < m->file_first[file + 1]; i++)
            strbuf_printf(&text, "%s\"%s\": \"%s\"", i ? ", " : "", m->tensors[i].name, name);
    }
    strbuf_puts(&text, "}}\n");
    write_text(m, "model/model.safetensors.index.json", &text);
}

static void copy_tokenizer(const struct maker *m)
{
    static const char *const names[] = {"tokenizer.json", "tokenizer_config.json"};
    for (int i = 0; i < 2; i++) {
        char from[PATH_BYTES], to[64], *text;
        size_t length;
        snprintf(from, sizeof from, "%s/" TOKENIZER_DIR "/%s", test_data(), names[i]);
        snprintf(to, sizeof to, "model/%s", names[i]);
        check(file_read(&text, &length, from, 64 << 20));
        check(fs_write_file(fs_posix(), path_of(m, to), text, length));
        free(text);
    }
}

static void make_weights(struct maker *m)
{
    bool good = true;
    list_tensors(m);
#pragma omp parallel for schedule(dynamic) num_threads(m->threads) reduction(&& : good)
    for (int i = 0; i < m->n_files; i++) good = write_file(m, i) && good;
    if (!good) check(FAIL(LORAD_IO, "%s/model: weights could not be written", m->out));
    if (m->n_files > 1) write_index(m);
    printf("%s/model: %s, %.1f M parameters\n", m->out, m->shape->name,
           1e-6 * (double)arch_parameters(&m->arch));
}

/* ---- the adapter ---- */

static void make_adapter(const struct maker *m)
{
    static const char *const all[] = {"all"};
    char *targets[MODULES];
    for (int i = 0; i < MODULES; i++) targets[i] = (char *)(uintptr_t)module_name((enum module)i);
    const struct adapter_config config = {
        .r = RANK, .lora_alpha = ALPHA, .target_modules = targets, .n_target_modules = MODULES};
    const struct lora_options options = {.rank = RANK, .alpha = ALPHA, .targets = all, .n_targets = 1};
    struct partition whole;
    struct lora *lora;
    check(partition_make(&whole, &m->arch, 1, 1, 0));
    check(lora_create(&lora, &options, &m->arch, &whole));
    struct st_item *items = memory_new((size_t)lora->n_tensors, sizeof *items);
    char(*names)[LORA_NAME_BYTES + 32] = memory_new((size_t)lora->n_tensors, sizeof *names);
    check(items && names ? LORAD_OK : LORAD_NOMEM);
    for (int32_t i = 0; i < lora->n_tensors; i++) {
        const struct lora_tensor *t = &lora->tensors[i];
        float *values = memory_new((size_t)(t->shape[0] * t->shape[1]), sizeof *values);
        check(values ? LORAD_OK : LORAD_NOMEM);
        if (!t->is_b) lora_init_a(t, 2, values);
        snprintf(names[i], sizeof names[i], "base_model.model.%s", t->name);
        items[i] = (struct st_item){names[i], ST_F32, 2, {t->shape[0], t->shape[1]}, values};
    }
    check(adapter_write(NULL, fs_posix(), path_of(m, "adapter"), &config, items, (size_t)lora->n_tensors));
    for (int32_t i = 0; i < lora->n_tensors; i++) free((void *)(uintptr_t)items[i].data);
    free(items);
    free(names);
    lora_destroy(lora);
}

/* ---- the rows ---- */

/* The prompts of all rows as one text without spaces, and the answers. */
struct material {
    struct strbuf prompts;
    size_t *starts; /* of its characters, and its end */
    size_t characters;
    struct json **documents;
    size_t n_documents;
};

static void add_prompt(struct material *material, const struct json *messages)
{
    for (size_t i = 0; i < js_length(messages); i++) {
        const struct json *message = js_at(messages, i);
        const char *role = js_string(js_get(message, "role"), NULL);
        const char *text = js_string(js_get(message, "content"), NULL);
        if (!role || strcmp(role, "user") != 0) continue;
        for (; text && *text; text++)
            if ((unsigned char)*text > ' ') strbuf_putc(&material->prompts, *text);
    }
}

static void read_material(struct material *material)
{
    char path[PATH_BYTES], *text;
    size_t length, capacity = 0, room = 0;
    snprintf(path, sizeof path, "%s/" ROWS_FILE, test_data());
    check(file_read(&text, &length, path, 64 << 20));
    for (char *line = text, *end; (end = strchr(line, '\n')) != NULL; line = end + 1) {
        check(memory_grow((void **)&material->documents, &capacity, material->n_documents + 1,
                          sizeof *material->documents));
        struct json **document = &material->documents[material->n_documents++];
        check(js_parse(document, line, (size_t)(end - line), path));
        add_prompt(material, js_get(*document, "messages"));
    }
    check(strbuf_status(&material->prompts));
    check(memory_grow((void **)&material->starts, &room, material->prompts.length + 1, sizeof(size_t)));
    for (size_t i = 0; i <= material->prompts.length; i++)
        if ((material->prompts.data[i] & 0xc0) != 0x80) material->starts[material->characters++] = i;
    material->characters--; /* the last is the end */
    free(text);
}

struct row {
    struct message message[2];
    struct encoded_row encoded;
};

/* Tokens of the row whose prompt is n characters from `first` on. */
static int64_t row_tokens(struct row *row, const struct chat_template *chat, const struct material *material,
                          size_t first, size_t n)
{
    const size_t *starts = material->starts;
    row->message[0] = (struct message){.role = ROLE_USER,
                                       .content = material->prompts.data + starts[first],
                                       .length = starts[first + n] - starts[first]};
    check(chat_template_encode(chat, row->message, 2, (struct chat_options){.split_special_tokens = true},
                               &row->encoded));
    return (int64_t)row->encoded.tokens.length;
}

/* Whether some prompt from *first on makes the row exactly so long; *first moves behind what was tried. */
static bool fit_row(struct row *row, const struct chat_template *chat, const struct material *material,
                    size_t *first, int64_t length)
{
    size_t low = 1, high = 4 * (size_t)length;
    if (*first + high >= material->characters) *first = 0;
    while (low < high) { /* the longest prompt that does not pass the length */
        size_t middle = (low + high + 1) / 2;
        if (row_tokens(row, chat, material, *first, middle) <= length)
            low = middle;
        else
            high = middle - 1;
    }
    bool fits = row_tokens(row, chat, material, *first, low) == length;
    *first += low;
    return fits;
}

static void put_row(struct strbuf *text, const struct row *row)
{
    strbuf_puts(text, "{\"messages\": [{\"role\": \"user\", \"content\": ");
    js_write_string(text, row->message[0].content, row->message[0].length);
    strbuf_puts(text, "}, {\"role\": \"assistant\", \"content\": ");
    js_write_string(text, row->message[1].content, row->message[1].length);
    strbuf_puts(text, "}]}\n");
}

static void make_rows(const struct maker *m)
{
    char dir[PATH_BYTES];
    struct tokenizer *tokenizer;
    struct chat_template *chat;
    struct material material = {.prompts = STRBUF_EMPTY};
    struct strbuf text = STRBUF_EMPTY;
    struct row row = {0};
    int64_t made = 0;
    size_t first = 0;
    snprintf(dir, sizeof dir, "%s/" TOKENIZER_DIR, test_data());
    check(tokenizer_open(&tokenizer, dir));
    check(chat_template_open(&chat, tokenizer, NULL));
    read_material(&material);
    if (material.characters <= 4 * (size_t)m->row_tokens)
        check(FAIL(LORAD_USAGE, "rows of %lld tokens are longer than the text there is",
                   (long long)m->row_tokens));
    for (size_t i = 0; made < m->rows && i < 64 * (size_t)m->rows; i++) {
        const struct json *messages = js_get(material.documents[i % material.n_documents], "messages");
        const struct json *last = js_at(messages, js_length(messages) - 1);
        row.message[1] = (struct message){.role = ROLE_ASSISTANT, .weight = 1};
        row.message[1].content = js_string(js_get(last, "content"), &row.message[1].length);
        if (row_tokens(&row, chat, &material, first, 1) > m->row_tokens - 32) continue;
        if (!fit_row(&row, chat, &material, &first, m->row_tokens)) continue;
        put_row(&text, &row);
        made++;
    }
    if (made < m->rows)
        check(FAIL(LORAD_BUG, "only %lld rows of exactly %lld tokens", (long long)made,
                   (long long)m->row_tokens));
    write_text(m, "rows.jsonl", &text);
    printf("%s/rows.jsonl: %lld rows of %lld tokens\n", m->out, (long long)made, (long long)m->row_tokens);
    for (size_t i = 0; i < material.n_documents; i++) js_destroy(material.documents[i]);
    free(material.documents);
    free(material.starts);
    strbuf_free(&material.prompts);
    encoded_row_free(&row.encoded);
    chat_template_close(chat);
    tokenizer_close(tokenizer);
}

static int usage(void)
{
    fprintf(stderr, "usage: make_model SHAPE OUT [--rows N] [--row-tokens N] [--threads N]\nshapes:");
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) fprintf(stderr, " %s", shapes[i].name);
    fprintf(stderr, "\n");
    return 64;
}

int main(int argc, char **argv)
{
    struct maker m = {.rows = 8, .threads = 2};
    if (argc < 3 || argc % 2 == 0 || strlen(argv[2]) >= PATH_BYTES) return usage();
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        if (strcmp(argv[1], shapes[i].name) == 0) m.shape = &shapes[i];
    for (int i = 3; i < argc; i += 2) {
        int value = atoi(argv[i + 1]);
        if (strcmp(argv[i], "--rows") == 0)
            m.rows = value;
        else if (strcmp(argv[i], "--row-tokens") == 0)
            m.row_tokens = value;
        else if (strcmp(argv[i], "--threads") == 0)
            m.threads = value;
        else
            return usage();
    }
    if (!m.shape || m.threads < 1) return usage();
    snprintf(m.out, sizeof m.out, "%s", argv[2]);
    check(file_make_dirs(path_of(&m, "model")));
    if (!file_exists(path_of(&m, "adapter/" ADAPTER_WEIGHTS_NAME))) {
        write_config(&m);
        copy_tokenizer(&m);
        check(arch_read(&m.arch, path_of(&m, "model")));
        make_weights(&m);
        make_adapter(&m);
        free(m.tensors);
    }
    if (m.row_tokens > 0) make_rows(&m);
    return 0;
}
