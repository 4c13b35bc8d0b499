/*
 * gemm_cache.h: which algorithm multiplies which shape, in memory and in a file between runs. It knows
 * nothing of the library whose algorithms these are. Thread: one.
 */
#ifndef LORAD_KERNELS_CUDA_GEMM_CACHE_H
#define LORAD_KERNELS_CUDA_GEMM_CACHE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

/* What a choice depends on. All bytes count, so there is no padding. */
struct gemm_key {
    int64_t m, n, k; /* as the caller groups them */
    int64_t a_stride, b_stride, d_stride;
    uint16_t a_align, b_align, d_align;                 /* of the pointers, bytes */
    uint8_t dtype, d_dtype, turn_a, turn_b, bias, adds; /* enum dtype; flags */
    uint32_t exact;                                     /* flag: m and k are not grouped */
};

struct gemm_algorithm {
    unsigned char bytes[64]; /* the library's own */
    uint64_t workspace_bytes;
};

struct gemm_entry {
    struct gemm_key key;
    struct gemm_algorithm algorithm;
    bool kept;                /* goes into the file */
    int64_t checked[2];       /* m and k that the algorithm was last found fit for; the caller's */
    struct gemm_entry *chain; /* of gemm_cache.c */
};

/* Whose choices these are: a file of another library, GPU or number of multiprocessors is not read. */
struct gemm_machine {
    uint64_t cublaslt_version;
    int64_t multiprocessors;
    char gpu[256];
};

struct gemm_cache;

enum status gemm_cache_create(struct gemm_cache **out, const struct gemm_machine *machine) LORAD_WARN_UNUSED;
void gemm_cache_destroy(struct gemm_cache *cache); /* NULL ok */

/* Borrowed until the next put. NULL: none. */
struct gemm_entry *gemm_cache_find(struct gemm_cache *cache, const struct gemm_key *key);
/* Adds an entry, in the place of one with this key. When the cache is full it starts anew. */
enum status gemm_cache_put(struct gemm_entry **out, struct gemm_cache *cache, const struct gemm_key *key,
                           const struct gemm_algorithm *algorithm, bool kept) LORAD_WARN_UNUSED;

/* Adds what a file has and the cache has not. LORAD_NOT_FOUND; LORAD_DATA for a file that is damaged or of
 * another machine, and then nothing is added. */
enum status gemm_cache_load(struct gemm_cache *cache, const char *path) LORAD_WARN_UNUSED;
/* Writes the kept entries, and those that another process has put into the file meanwhile. Does nothing when
 * nothing was put since the last load or save. */
enum status gemm_cache_save(struct gemm_cache *cache, const char *path) LORAD_WARN_UNUSED;

/* The file of this machine: in LORAD_CACHE_DIR, or XDG_CACHE_HOME/lorad, or HOME/.cache/lorad. Owns: *out
 * (free). LORAD_NOT_FOUND: none of them is set. */
enum status gemm_cache_path(char **out, const struct gemm_machine *machine) LORAD_WARN_UNUSED;

#endif
