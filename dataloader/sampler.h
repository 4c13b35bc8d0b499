/*
 * sampler.h: a keyed permutation of [0, n): position -> number, in constant time and without memory.
 *
 * A Feistel network over the smallest power of two that holds n (at least 256), followed until the value lies
 * below n
 * ("cycle walking": Black and Rogaway, "Ciphers with Arbitrary Finite Domains", CT-RSA 2002). At most 2
 * rounds of walking are expected for n >= 128. Round keys come from random_key. Good for shuffling, not for
 * secrets.
 */
#ifndef LORAD_DATALOADER_SAMPLER_H
#define LORAD_DATALOADER_SAMPLER_H

#include <stdint.h>

enum { PERMUTATION_ROUNDS = 8 };

struct permutation {
    uint64_t n;
    uint64_t round_key[PERMUTATION_ROUNDS];
    int high_bits, low_bits; /* of the domain; low_bits is high_bits or one more */
};

/* n: 1 .. 2^62. */
void permutation_init(struct permutation *permutation, uint64_t n, uint64_t key);

/* position < n. A bijection of [0, n). */
uint64_t permutation_at(const struct permutation *permutation, uint64_t position);

#endif
