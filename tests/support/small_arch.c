#include "support/small_arch.h"

const struct arch small_arch = {.family = "qwen2",
                                .hidden = 64,
                                .layers = 3,
                                .heads = 8,
                                .kv_heads = 2,
                                .head_dim = 16,
                                .intermediate = 128,
                                .vocab = 1000,
                                .max_positions = 512,
                                .norm_eps = 1e-6f,
                                .rope = {.theta = 10000}};
