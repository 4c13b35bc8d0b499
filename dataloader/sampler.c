/* sampler.c: see sampler.h. */
#include "dataloader/sampler.h"

#include "base/random.h"
#include "base/status.h"

void permutation_init(struct permutation *permutation, uint64_t n, uint64_t key)
{
    ASSERT(n >= 1 && n <= (uint64_t)1 << 62);
    /* Halves of less than 4 bits give too few different permutations, so tiny n walk in a domain of 256. */
    int bits = 8;
    while ((uint64_t)1 << bits < n) bits++;
    permutation->n = n;
    permutation->high_bits = bits / 2;
    permutation->low_bits = bits - bits / 2;
    for (uint64_t round = 0; round < PERMUTATION_ROUNDS; round++)
        permutation->round_key[round] = random_key(key, RANDOM_ROW_ORDER, round, 0, 0);
}

static uint64_t mix(uint64_t x)
{
    x ^= x >> 30;
    x *= 0xBF58476D1CE4E5B9u;
    x ^= x >> 27;
    x *= 0x94D049BB133111EBu;
    return x ^ x >> 31;
}

/* One pass through the network: even rounds change the high part by the low one, odd rounds the other way
 * round. */
static uint64_t encipher(const struct permutation *p, uint64_t value)
{
    uint64_t high_mask = ((uint64_t)1 << p->high_bits) - 1, low_mask = ((uint64_t)1 << p->low_bits) - 1;
    uint64_t high = value >> p->low_bits, low = value & low_mask;
    for (int round = 0; round < PERMUTATION_ROUNDS; round += 2) {
        high ^= mix(low + p->round_key[round]) & high_mask;
        low ^= mix(high + p->round_key[round + 1]) & low_mask;
    }
    return high << p->low_bits | low;
}

uint64_t permutation_at(const struct permutation *permutation, uint64_t position)
{
    ASSERT(position < permutation->n);
    do {
        position = encipher(permutation, position);
    } while (position >= permutation->n);
    return position;
}
