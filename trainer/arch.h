/*
 * arch.h: what a Hugging Face config.json says about the base model, reduced to what the arithmetic needs.
 *
 * Families: llama (2, 3, 3.x), mistral, qwen2 (2, 2.5), qwen3. Anything that would change the arithmetic and
 * is not implemented is refused by name (LORAD_CONFIG); keys that only concern generation or serving are
 * ignored.
 */
#ifndef LORAD_TRAINER_ARCH_H
#define LORAD_TRAINER_ARCH_H

#include <stdbool.h>
#include <stdint.h>

#include "base/hash.h"
#include "base/status.h"

enum rope_kind { ROPE_DEFAULT, ROPE_LINEAR, ROPE_LLAMA3 };

struct rope {
    enum rope_kind kind;
    double theta;
    double factor;                            /* linear, llama3 */
    double low_freq_factor, high_freq_factor; /* llama3 */
    double original_max_positions;            /* llama3 */
};

struct arch {
    char family[16];
    int32_t hidden; /* d */
    int32_t layers;
    int32_t heads; /* query heads */
    int32_t kv_heads;
    int32_t head_dim;
    int32_t intermediate; /* f */
    int32_t vocab;
    int32_t max_positions;
    int32_t window;             /* sliding window in tokens; 0: none */
    int32_t first_window_layer; /* layers before it attend to everything (Qwen2 max_window_layers) */
    float norm_eps;
    struct rope rope;
    bool qkv_bias, o_bias;
    bool qk_norm; /* Qwen3: RMSNorm of every query and key head */
    bool tied;    /* the head is the embedding */
};

/* Reads MODEL_DIR/config.json. LORAD_NOT_FOUND, LORAD_DATA (not a model's configuration), LORAD_CONFIG (not
 * supported). */
enum status arch_read(struct arch *out, const char *model_dir) LORAD_WARN_UNUSED;

/* Of everything above: two models with the same tensors may still compute differently (rope_theta, window).
 */
struct hash128 arch_hash(const struct arch *arch);

int32_t arch_window(const struct arch *arch, int32_t layer);

/* Parameters of the frozen base, embeddings counted once. */
int64_t arch_parameters(const struct arch *arch);

/* Fills table [positions, head_dim]: head_dim/2 cosines, then head_dim/2 sines, with the angle rounded as
 * transformers does it (f32 inverse frequencies times f32 positions). llama3 scaling: Meta's reference as in
 * transformers.modeling_rope_utils. */
void arch_rope_table(const struct arch *arch, int32_t positions, float *table);

#endif
