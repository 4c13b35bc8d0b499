/*
 * random.h: counter-based random numbers (Philox4x32-10; Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3",
 * SC 2011). A value is a pure function of a 64-bit key and a 128-bit counter, so any rank computes any element without
 * state: shuffles, adapter initialisation and dropout masks do not depend on how the work is split.
 */
#ifndef LORAD_BASE_RANDOM_H
#define LORAD_BASE_RANDOM_H

#include <stdint.h>

/* Kernels call these functions too. */
#ifdef __CUDACC__
#define RANDOM_INLINE static inline __host__ __device__
#else
#define RANDOM_INLINE static inline
#endif

struct random_block {
    uint32_t word[4];
};

RANDOM_INLINE struct random_block random_philox(uint64_t key, uint64_t counter_high, uint64_t counter_low)
{
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
    uint32_t c0 = (uint32_t)counter_low, c1 = (uint32_t)(counter_low >> 32);
    uint32_t c2 = (uint32_t)counter_high, c3 = (uint32_t)(counter_high >> 32);
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
        uint32_t n0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0, n2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)p1;
        c3 = (uint32_t)p0;
        c0 = n0;
        c2 = n2;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return (struct random_block){{c0, c1, c2, c3}};
}

/* A key for a purpose: mixes a user's seed with a stream number and up to three coordinates (splitmix64 finaliser). */
RANDOM_INLINE uint64_t random_key(uint64_t seed, uint64_t stream, uint64_t a, uint64_t b, uint64_t c)
{
    uint64_t parts[5] = {seed, stream, a, b, c}, h = 0x9E3779B97F4A7C15u;
    for (int i = 0; i < 5; i++) {
        h ^= parts[i] + 0x9E3779B97F4A7C15u + (h << 6) + (h >> 2);
        h ^= h >> 30;
        h *= 0xBF58476D1CE4E5B9u;
        h ^= h >> 27;
        h *= 0x94D049BB133111EBu;
        h ^= h >> 31;
    }
    return h;
}

/* The streams in use: one number per purpose, never reused. */
enum random_stream {
    RANDOM_LORA_INIT = 1,
    RANDOM_LORA_DROPOUT = 2,
    RANDOM_ROW_ORDER = 3,
    RANDOM_PACK_ORDER = 4,
    RANDOM_SPLIT = 5,
    RANDOM_MIX = 6,
    RANDOM_TEST = 7,
};

/* Uniform in [0, 1), 24 bits, exactly representable in f32. */
RANDOM_INLINE float random_unit_f32(uint32_t word)
{
    return (float)(word >> 8) * 0x1p-24f;
}

/* Uniform in [0, 1), 53 bits. */
RANDOM_INLINE double random_unit_f64(uint32_t high, uint32_t low)
{
    return (double)(((uint64_t)high << 32 | low) >> 11) * 0x1p-53;
}

#endif
