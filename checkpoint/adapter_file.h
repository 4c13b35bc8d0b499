/*
 * adapter_file.h: adapters as PEFT keeps them: adapter_config.json and adapter_model.safetensors with tensors
 * named base_model.model.<module path>.lora_A.weight [r, in] and .lora_B.weight [out, r].
 */
#ifndef LORAD_CHECKPOINT_ADAPTER_FILE_H
#define LORAD_CHECKPOINT_ADAPTER_FILE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "base/fs.h"
#include "checkpoint/safetensors.h"

struct adapter_config {
    int32_t r;
    double lora_alpha;
    double lora_dropout;
    bool use_rslora;
    char **target_modules; /* short names: "q_proj", ...; or one pattern when target_is_pattern */
    int32_t n_target_modules;
    bool target_is_pattern;
    char *base_model_name_or_path; /* may be NULL */
};
/* Frees what it owns and empties it; an empty one is fine. */
void adapter_config_free(struct adapter_config *config);

/* Reads adapter_config.json; refuses by name what lorad does not train or continue (use_dora, bias != none,
 * modules_to_save, rank_pattern, alpha_pattern, layers_to_transform, fan_in_fan_out, other peft_type, an
 * initialisation that changed the base weights, ...). A key that lorad does not know is accepted only when it
 * is off: null, false or empty. LORAD_NOT_FOUND, LORAD_DATA. Owns: *out, emptied with adapter_config_free. */
enum status adapter_config_read(struct adapter_config *out, const char *dir) LORAD_WARN_UNUSED;

/* Opens adapter_model.safetensors of a PEFT folder. The tensors are F32, F16 or BF16, and each lora_A [r, in]
 * has its lora_B [out, r]. LORAD_NOT_FOUND, LORAD_DATA. Owns: *out, freed with st_close. */
enum status adapter_open(struct st_set **out, const char *dir) LORAD_WARN_UNUSED;

/* Hash and length of the weights file as it was written. */
#define ADAPTER_WEIGHTS_NAME "adapter_model.safetensors"
struct adapter_written {
    struct hash128 hash;
    int64_t bytes;
};
/* Writes both files into `dir` (created when its parent exists), durable; existing ones are replaced. Tensors
 * dense on the host, named as above. The same arguments give the same bytes. written: NULL ok. */
enum status adapter_write(struct adapter_written *written, struct fs *fs, const char *dir,
                          const struct adapter_config *config, const struct st_item *items,
                          size_t n) LORAD_WARN_UNUSED;

#endif
