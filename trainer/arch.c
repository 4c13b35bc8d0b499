#include "trainer/arch.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"

enum { CONFIG_BYTES = 4 << 20, MAX_HEAD_DIM = 256 };

static enum status read_size(int32_t *out, const struct json *config, const char *key, int64_t otherwise,
                             const char *path)
{
    const struct json *value = js_get(config, key);
    int64_t number = otherwise;
    if (value && js_type(value) != JS_NULL) {
        if (js_type(value) != JS_INT) return js_need_int(&number, config, key, path);
        number = js_int(value, 0);
    } else if (otherwise < 0) {
        return js_need_int(&number, config, key, path);
    }
    if (number < 1 || number > 1 << 24)
        return FAIL(LORAD_DATA, "%s: \"%s\" is %lld, which no model has", path, key, (long long)number);
    *out = (int32_t)number;
    return LORAD_OK;
}

static enum status read_family(struct arch *arch, const struct json *config, const char *path)
{
    const char *type;
    TRY(js_need_string(&type, config, "model_type", path));
    static const char *const known[] = {"llama", "mistral", "qwen2", "qwen3"};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (strcmp(type, known[i]) == 0) {
            snprintf(arch->family, sizeof arch->family, "%s", type);
            return LORAD_OK;
        }
    }
    return FAIL(LORAD_CONFIG,
                "%s: model_type \"%s\" is not supported; lorad trains llama, mistral, qwen2 and qwen3", path,
                type);
}

/* Everything that would change the arithmetic and is not implemented. */
static enum status refuse_unsupported(const struct json *config, const char *path)
{
    const char *activation = js_string(js_get(config, "hidden_act"), NULL);
    if (activation && strcmp(activation, "silu") != 0)
        return FAIL(LORAD_CONFIG, "%s: hidden_act \"%s\" is not supported, only \"silu\"", path, activation);
    if (js_get(config, "quantization_config") && js_type(js_get(config, "quantization_config")) != JS_NULL)
        return FAIL(LORAD_CONFIG,
                    "%s: the weights are quantised (quantization_config); use the F32, F16 or BF16 model",
                    path);
    if (js_bool(js_get(config, "mlp_bias"), false))
        return FAIL(LORAD_CONFIG, "%s: mlp_bias true is not supported", path);
    if (js_real(js_get(config, "partial_rotary_factor"), 1.0) != 1.0)
        return FAIL(LORAD_CONFIG, "%s: partial_rotary_factor other than 1 is not supported", path);
    if (js_real(js_get(config, "attention_dropout"), 0.0) != 0.0)
        return FAIL(LORAD_CONFIG, "%s: attention_dropout is not supported; set it to 0.0", path);
    return LORAD_OK;
}

static enum status read_rope(struct arch *arch, const struct json *config, const char *path)
{
    struct rope *rope = &arch->rope;
    const struct json *scaling = js_get(config, "rope_scaling");
    if (!scaling || js_type(scaling) == JS_NULL) scaling = js_get(config, "rope_parameters");
    rope->theta = js_real(js_get(scaling, "rope_theta"), js_real(js_get(config, "rope_theta"), 10000.0));
    rope->kind = ROPE_DEFAULT;
    rope->factor = 1.0;
    if (rope->theta <= 1.0) return FAIL(LORAD_DATA, "%s: rope_theta is %g", path, rope->theta);
    if (!scaling || js_type(scaling) != JS_OBJECT) return LORAD_OK;

    const char *type = js_string(js_get(scaling, "rope_type"), NULL);
    if (!type) type = js_string(js_get(scaling, "type"), NULL);
    if (!type || strcmp(type, "default") == 0) return LORAD_OK;
    if (strcmp(type, "linear") == 0) {
        rope->kind = ROPE_LINEAR;
        TRY(js_need_real(&rope->factor, scaling, "factor", path));
    } else if (strcmp(type, "llama3") == 0) {
        rope->kind = ROPE_LLAMA3;
        TRY(js_need_real(&rope->factor, scaling, "factor", path));
        TRY(js_need_real(&rope->low_freq_factor, scaling, "low_freq_factor", path));
        TRY(js_need_real(&rope->high_freq_factor, scaling, "high_freq_factor", path));
        TRY(js_need_real(&rope->original_max_positions, scaling, "original_max_position_embeddings", path));
        if (!(rope->high_freq_factor > rope->low_freq_factor && rope->low_freq_factor > 0))
            return FAIL(LORAD_DATA, "%s: rope_scaling has low_freq_factor %g and high_freq_factor %g", path,
                        rope->low_freq_factor, rope->high_freq_factor);
    } else {
        return FAIL(LORAD_CONFIG, "%s: rope_scaling type \"%s\" is not supported, only linear and llama3",
                    path, type);
    }
    if (!(rope->factor >= 1.0)) return FAIL(LORAD_DATA, "%s: rope_scaling factor is %g", path, rope->factor);
    return LORAD_OK;
}

static enum status read_window(struct arch *arch, const struct json *config, const char *path)
{
    const struct json *window = js_get(config, "sliding_window");
    bool used = window && js_type(window) == JS_INT;
    if (strncmp(arch->family, "qwen", 4) == 0)
        used = used && js_bool(js_get(config, "use_sliding_window"), false);
    if (strcmp(arch->family, "llama") == 0) used = false;
    if (!used) return LORAD_OK;
    TRY(read_size(&arch->window, config, "sliding_window", -1, path));
    if (strncmp(arch->family, "qwen", 4) == 0)
        arch->first_window_layer = (int32_t)js_int(js_get(config, "max_window_layers"), arch->layers);
    return LORAD_OK;
}

static enum status read_config(struct arch *out, const struct json *config, const char *path)
{
    struct arch arch = {0};
    if (js_type(config) != JS_OBJECT) return FAIL(LORAD_DATA, "%s: expected an object", path);
    TRY(read_family(&arch, config, path));
    TRY(refuse_unsupported(config, path));
    TRY(read_size(&arch.hidden, config, "hidden_size", -1, path));
    TRY(read_size(&arch.layers, config, "num_hidden_layers", -1, path));
    TRY(read_size(&arch.heads, config, "num_attention_heads", -1, path));
    TRY(read_size(&arch.kv_heads, config, "num_key_value_heads", arch.heads, path));
    TRY(read_size(&arch.head_dim, config, "head_dim", arch.hidden / arch.heads, path));
    TRY(read_size(&arch.intermediate, config, "intermediate_size", -1, path));
    TRY(read_size(&arch.vocab, config, "vocab_size", -1, path));
    TRY(read_size(&arch.max_positions, config, "max_position_embeddings", 1 << 20, path));
    if (arch.heads % arch.kv_heads != 0)
        return FAIL(LORAD_DATA, "%s: %d query heads cannot share %d key/value heads", path, arch.heads,
                    arch.kv_heads);
    if (arch.head_dim % 8 != 0 || arch.head_dim > MAX_HEAD_DIM)
        return FAIL(LORAD_CONFIG, "%s: head_dim %d is not supported; it must be a multiple of 8, at most %d",
                    path, arch.head_dim, MAX_HEAD_DIM);
    if (arch.hidden % 8 != 0 || arch.intermediate % 8 != 0)
        return FAIL(LORAD_CONFIG, "%s: hidden_size %d and intermediate_size %d must be multiples of 8", path,
                    arch.hidden, arch.intermediate);
    arch.norm_eps = (float)js_real(js_get(config, "rms_norm_eps"), 1e-6);
    arch.tied = js_bool(js_get(config, "tie_word_embeddings"), false);
    arch.qk_norm = strcmp(arch.family, "qwen3") == 0;
    bool bias = js_bool(js_get(config, "attention_bias"), false);
    arch.qkv_bias = strcmp(arch.family, "qwen2") == 0 || bias;
    arch.o_bias = bias && strcmp(arch.family, "qwen2") != 0;
    TRY(read_rope(&arch, config, path));
    TRY(read_window(&arch, config, path));
    *out = arch;
    return LORAD_OK;
}

enum status arch_read(struct arch *out, const char *model_dir)
{
    if (!file_is_dir(model_dir))
        return FAIL(LORAD_NOT_FOUND, "model_name_or_path: %s is not a folder; give the model's local folder",
                    model_dir);
    char *path = file_join(model_dir, "config.json");
    if (!path) return LORAD_NOMEM;
    struct json *config = NULL;
    enum status status = js_read_file(&config, path, CONFIG_BYTES);
    if (status == LORAD_OK) status = read_config(out, config, path);
    js_destroy(config);
    free(path);
    return status;
}

struct hash128 arch_hash(const struct arch *a)
{
    char text[512];
    const struct rope *r = &a->rope;
    int n = snprintf(text, sizeof text, "%s %d %d %d %d %d %d %d %d %d %a %d %d %d %d rope %d %a %a %a %a %a",
                     a->family, a->hidden, a->layers, a->heads, a->kv_heads, a->head_dim, a->intermediate,
                     a->vocab, a->window, a->first_window_layer, (double)a->norm_eps, a->qkv_bias, a->o_bias,
                     a->qk_norm, a->tied, (int)r->kind, r->theta, r->factor, r->low_freq_factor,
                     r->high_freq_factor, r->original_max_positions);
    return hash128(text, (size_t)n);
}

int32_t arch_window(const struct arch *arch, int32_t layer)
{
    return layer >= arch->first_window_layer ? arch->window : 0;
}

int64_t arch_parameters(const struct arch *arch)
{
    int64_t d = arch->hidden, q = (int64_t)arch->heads * arch->head_dim,
            kv = (int64_t)arch->kv_heads * arch->head_dim;
    int64_t layer = d * (q + 2 * kv) + q * d + 3 * d * arch->intermediate + 2 * d;
    if (arch->qkv_bias) layer += q + 2 * kv;
    if (arch->o_bias) layer += d;
    if (arch->qk_norm) layer += 2 * arch->head_dim;
    return layer * arch->layers + d + d * (int64_t)arch->vocab * (arch->tied ? 1 : 2);
}

/* Inverse frequency of pair j, scaled. */
static float inverse_frequency(const struct arch *arch, int32_t j)
{
    const struct rope *rope = &arch->rope;
    float base = (float)(1.0 / pow(rope->theta, 2.0 * j / arch->head_dim));
    if (rope->kind == ROPE_LINEAR) return (float)(base / rope->factor);
    if (rope->kind != ROPE_LLAMA3) return base;

    double wavelength = 2.0 * M_PI / base, original = rope->original_max_positions;
    if (wavelength < original / rope->high_freq_factor) return base;
    if (wavelength > original / rope->low_freq_factor) return (float)(base / rope->factor);
    double smooth =
        (original / wavelength - rope->low_freq_factor) / (rope->high_freq_factor - rope->low_freq_factor);
    return (float)((1.0 - smooth) * base / rope->factor + smooth * base);
}

void arch_rope_table(const struct arch *arch, int32_t positions, float *table)
{
    int32_t half = arch->head_dim / 2;
    for (int32_t j = 0; j < half; j++) {
        float frequency = inverse_frequency(arch, j);
        for (int32_t p = 0; p < positions; p++) {
            float angle = (float)p * frequency;
            table[(int64_t)p * arch->head_dim + j] = (float)cos((double)angle);
            table[(int64_t)p * arch->head_dim + half + j] = (float)sin((double)angle);
        }
    }
}
