/*
 * adapter_file.c: PEFT's adapter folders.
 *
 * Reading accepts exactly the adapters that compute y = W x + s B A x on plain linear layers; every key of
 * adapter_config.json that would make PEFT compute something else is refused by its name.
 */
#include "checkpoint/adapter_file.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"

enum { CONFIG_MAX_BYTES = 4 << 20, MAX_RANK = 65536, MAX_TARGETS = 100000 };

static const char config_name[] = "adapter_config.json";
static const char weights_name[] = ADAPTER_WEIGHTS_NAME;

void adapter_config_free(struct adapter_config *config)
{
    for (int32_t i = 0; i < config->n_target_modules; i++) free(config->target_modules[i]);
    free(config->target_modules);
    free(config->base_model_name_or_path);
    *config = (struct adapter_config){0};
}

/* ---- reading the configuration ---- */

/* Keys that are read, or that say nothing about the arithmetic. All others must be off. */
static const char *const free_keys[] = {
    "r",
    "lora_alpha",
    "lora_dropout",
    "use_rslora",
    "target_modules",
    "base_model_name_or_path",
    "peft_type",
    "task_type",
    "bias",
    "revision",
    "inference_mode",
    "init_lora_weights",
    "auto_mapping",
    "qalora_group_size",
    "peft_version",
    "megatron_core",
};

static bool is_off(const struct json *value)
{
    switch (js_type(value)) {
    case JS_NULL:
        return true;
    case JS_BOOL:
        return !js_bool(value, true);
    case JS_ARRAY:
    case JS_OBJECT:
        return js_length(value) == 0;
    case JS_INT:
    case JS_REAL:
    case JS_STRING:
        break;
    }
    return false;
}

static enum status check_keys(const struct json *root, const char *where)
{
    for (void *it = js_first(root); it; it = js_next(root, it)) {
        bool known = false;
        for (size_t i = 0; i < sizeof free_keys / sizeof *free_keys; i++)
            known |= !strcmp(js_key(it), free_keys[i]);
        if (!known && !is_off(js_member(it)))
            return FAIL(LORAD_DATA, "%s: \"%.100s\" is used by this adapter, but lorad does not support it",
                        where, js_key(it));
    }
    return LORAD_OK;
}

/* A string key that must have one value; `optional`: absent and null will do. */
static enum status need_word(const struct json *root, const char *key, const char *word, bool optional,
                             const char *where)
{
    const struct json *value = js_get(root, key);
    if (optional && js_type(value) == JS_NULL) return LORAD_OK;
    const char *text = js_string(value, NULL);
    if (text && !strcmp(text, word)) return LORAD_OK;
    return FAIL(LORAD_DATA, "%s: \"%s\" is %s%.60s; lorad supports only \"%s\"", where, key,
                text ? "" : "not a string", text ? text : "", word);
}

/* PiSSA, OLoRA, CorDA and LoftQ keep their adapters relative to changed base weights. */
static enum status check_initialisation(const struct json *root, const char *where)
{
    const struct json *value = js_get(root, "init_lora_weights");
    const char *text = js_string(value, NULL);
    if (js_type(value) == JS_NULL || js_type(value) == JS_BOOL) return LORAD_OK;
    if (text && (!strcmp(text, "gaussian") || !strcmp(text, "orthogonal") || !strcmp(text, "eva")))
        return LORAD_OK;
    return FAIL(
        LORAD_DATA,
        "%s: \"init_lora_weights\" is %.60s, which may change the base weights; convert the adapter to "
        "plain LoRA with PEFT first",
        where, text ? text : "of a wrong type");
}

static enum status read_numbers(struct adapter_config *config, const struct json *root, const char *where)
{
    int64_t r = 0;
    TRY(js_need_int(&r, root, "r", where));
    if (r < 1 || r > MAX_RANK)
        return FAIL(LORAD_DATA, "%s: \"r\" is %lld; 1 to %d are accepted", where, (long long)r, MAX_RANK);
    config->r = (int32_t)r;
    TRY(js_need_real(&config->lora_alpha, root, "lora_alpha", where));
    config->lora_dropout = js_real(js_get(root, "lora_dropout"), 0.0);
    if (!(config->lora_dropout >= 0.0 && config->lora_dropout < 1.0))
        return FAIL(LORAD_DATA, "%s: \"lora_dropout\" is %g; a number from 0 to below 1 is expected", where,
                    config->lora_dropout);
    const struct json *rslora = js_get(root, "use_rslora");
    if (rslora && js_type(rslora) != JS_BOOL)
        return FAIL(LORAD_DATA, "%s: \"use_rslora\" should be true or false", where);
    config->use_rslora = js_bool(rslora, false);
    return LORAD_OK;
}

static enum status read_targets(struct adapter_config *config, const struct json *root, const char *where)
{
    const struct json *value = js_get(root, "target_modules");
    const char *pattern = js_string(value, NULL);
    size_t n = pattern ? 1 : js_type(value) == JS_ARRAY ? js_length(value) : 0;
    if (n == 0 || n > MAX_TARGETS)
        return FAIL(LORAD_DATA, "%s: \"target_modules\" should be a list of names or one pattern", where);
    if (!(config->target_modules = memory_new(n, sizeof *config->target_modules))) return LORAD_NOMEM;
    config->target_is_pattern = pattern != NULL;
    for (size_t i = 0; i < n; i++) {
        const char *text = pattern ? pattern : js_string(js_at(value, i), NULL);
        if (!text || !*text)
            return FAIL(LORAD_DATA, "%s: entry %zu of \"target_modules\" is not a name", where, i + 1);
        if (!(config->target_modules[i] = memory_string(text))) return LORAD_NOMEM;
        config->n_target_modules++;
    }
    return LORAD_OK;
}

static enum status read_config(struct adapter_config *config, const struct json *root, const char *where)
{
    if (js_type(root) != JS_OBJECT) return FAIL(LORAD_DATA, "%s: an object is expected", where);
    TRY(need_word(root, "peft_type", "LORA", false, where));
    TRY(need_word(root, "task_type", "CAUSAL_LM", true, where));
    TRY(need_word(root, "bias", "none", true, where));
    TRY(check_keys(root, where));
    TRY(check_initialisation(root, where));
    TRY(read_numbers(config, root, where));
    TRY(read_targets(config, root, where));
    const char *base = js_string(js_get(root, "base_model_name_or_path"), NULL);
    if (base && !(config->base_model_name_or_path = memory_string(base))) return LORAD_NOMEM;
    return LORAD_OK;
}

enum status adapter_config_read(struct adapter_config *out, const char *dir)
{
    struct adapter_config config = {0};
    struct json *root = NULL;
    char *path = file_join(dir, config_name);
    if (!path) return LORAD_NOMEM;
    enum status status = js_read_file(&root, path, CONFIG_MAX_BYTES);
    if (status == LORAD_OK) {
        status = read_config(&config, root, path);
        js_destroy(root);
    }
    free(path);
    if (status == LORAD_OK)
        *out = config;
    else
        adapter_config_free(&config);
    return status;
}

/* ---- reading the weights ---- */

static bool ends_with(const char *text, const char *end)
{
    size_t n = strlen(text), m = strlen(end);
    return n >= m && !strcmp(text + n - m, end);
}

/* The other factor of a pair: "...lora_A.weight" <-> "...lora_B.weight". */
static const struct st_tensor *partner_of(const struct st_set *set, const struct st_tensor *tensor)
{
    size_t n = strlen(tensor->name);
    char *name = memory_string(tensor->name);
    if (!name) return NULL;
    name[n - strlen("A.weight")] ^= 'A' ^ 'B';
    const struct st_tensor *partner = st_find(set, name);
    free(name);
    return partner;
}

static enum status check_weights(const struct st_set *set, const char *path)
{
    if (st_count(set) == 0) return FAIL(LORAD_DATA, "%s has no tensors", path);
    for (size_t i = 0; i < st_count(set); i++) {
        const struct st_tensor *tensor = st_at(set, i);
        bool is_a = ends_with(tensor->name, ".lora_A.weight"),
             is_b = ends_with(tensor->name, ".lora_B.weight");
        if (!is_a && !is_b)
            return FAIL(LORAD_DATA,
                        "%s: tensor %.200s is neither lora_A.weight nor lora_B.weight; lorad does not "
                        "support it",
                        path, tensor->name);
        if (tensor->dtype != ST_F32 && tensor->dtype != ST_F16 && tensor->dtype != ST_BF16)
            return FAIL(LORAD_DATA, "%s: tensor %.200s is %s; F32, F16 or BF16 is expected", path,
                        tensor->name, st_dtype_name(tensor->dtype));
        if (tensor->n_dims != 2)
            return FAIL(LORAD_DATA, "%s: tensor %.200s has %d dimensions; 2 are expected", path, tensor->name,
                        tensor->n_dims);
        const struct st_tensor *partner = partner_of(set, tensor);
        if (!partner)
            return FAIL(LORAD_DATA, "%s: tensor %.200s has no lora_%c beside it", path, tensor->name,
                        is_a ? 'B' : 'A');
        if (is_a && partner->n_dims == 2 && tensor->shape[0] != partner->shape[1])
            return FAIL(LORAD_DATA, "%s: tensor %.200s has rank %lld, but its lora_B has %lld", path,
                        tensor->name, (long long)tensor->shape[0], (long long)partner->shape[1]);
    }
    return LORAD_OK;
}

enum status adapter_open(struct st_set **out, const char *dir)
{
    struct st_set *set = NULL;
    char *path = file_join(dir, weights_name), *pickle = file_join(dir, "adapter_model.bin");
    enum status status = path && pickle ? LORAD_OK : LORAD_NOMEM;
    if (status == LORAD_OK && !file_exists(path) && file_exists(pickle))
        status = FAIL(LORAD_NOT_FOUND,
                      "%s has only adapter_model.bin, a pickle file, which is not read; save the adapter "
                      "again with PEFT as safetensors",
                      dir);
    if (status == LORAD_OK) status = st_open_file(&set, path);
    if (status == LORAD_OK) status = check_weights(set, path);
    if (status == LORAD_OK)
        *out = set;
    else
        st_close(set);
    free(path);
    free(pickle);
    return status;
}

/* ---- writing ---- */

static void put_text(struct strbuf *text, const char *value)
{
    if (value)
        js_write_string(text, value, strlen(value));
    else
        strbuf_puts(text, "null");
}

static void put_targets(struct strbuf *text, const struct adapter_config *config)
{
    if (config->target_is_pattern) {
        put_text(text, config->target_modules[0]);
        return;
    }
    strbuf_putc(text, '[');
    for (int32_t i = 0; i < config->n_target_modules; i++) {
        strbuf_puts(text, i ? ",\n    " : "\n    ");
        put_text(text, config->target_modules[i]);
    }
    strbuf_puts(text, "\n  ]");
}

/* The keys that PEFT 0.17 writes, sorted and indented as it does. Older versions refuse keys that they do not
 * know, so those that came late and are off are left out. */
static void put_config(struct strbuf *text, const struct adapter_config *config)
{
    strbuf_puts(text,
                "{\n  \"alpha_pattern\": {},\n  \"auto_mapping\": null,\n  \"base_model_name_or_path\": ");
    put_text(text, config->base_model_name_or_path);
    strbuf_puts(
        text,
        ",\n  \"bias\": \"none\",\n  \"fan_in_fan_out\": false,\n  \"inference_mode\": true,\n"
        "  \"init_lora_weights\": true,\n  \"layers_pattern\": null,\n  \"layers_to_transform\": null,\n"
        "  \"lora_alpha\": ");
    js_write_double(text, config->lora_alpha);
    strbuf_puts(text, ",\n  \"lora_dropout\": ");
    js_write_double(text, config->lora_dropout);
    strbuf_puts(text, ",\n  \"modules_to_save\": null,\n  \"peft_type\": \"LORA\",\n");
    strbuf_printf(
        text,
        "  \"r\": %d,\n  \"rank_pattern\": {},\n  \"revision\": null,\n  \"target_modules\": ", config->r);
    put_targets(text, config);
    strbuf_printf(text, ",\n  \"task_type\": \"CAUSAL_LM\",\n  \"use_rslora\": %s\n}\n",
                  config->use_rslora ? "true" : "false");
}

static enum status write_config(struct fs *fs, const char *path, const struct adapter_config *config)
{
    struct strbuf text = STRBUF_EMPTY;
    put_config(&text, config);
    enum status status = strbuf_status(&text);
    if (status == LORAD_OK) status = fs_write_file(fs, path, text.data, text.length);
    strbuf_free(&text);
    return status;
}

enum status adapter_write(struct adapter_written *written, struct fs *fs, const char *dir,
                          const struct adapter_config *config, const struct st_item *items, size_t n)
{
    struct adapter_written weights_written = {0};
    char *weights = file_join(dir, weights_name), *config_path = file_join(dir, config_name);
    enum status status = weights && config_path ? LORAD_OK : LORAD_NOMEM;
    if (status == LORAD_OK && !file_is_dir(dir)) {
        status = fs_mkdir(fs, dir);
        if (status == LORAD_OK) status = fs_sync_parent(fs, dir);
    }
    if (status == LORAD_OK)
        status = st_write_hashed(&weights_written.hash, &weights_written.bytes, fs, weights, items, n);
    if (status == LORAD_OK) status = write_config(fs, config_path, config);
    if (status == LORAD_OK && written) *written = weights_written;
    free(weights);
    free(config_path);
    return status;
}
