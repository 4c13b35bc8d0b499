/*
 * safetensors.h: the tensor file format of Hugging Face, read by slices and written whole.
 * Format: https://huggingface.co/docs/safetensors (8 bytes little-endian header length, JSON header,
 * contiguous data).
 *
 * Reading treats the file as untrusted: header at most 100 MB and 100,000 tensors, no holes, no overlaps,
 * sizes that match shape x dtype without overflow, nothing behind the last tensor. Every message names the
 * file and the tensor. Thread: after opening, reads are safe from several threads (pread).
 */
#ifndef LORAD_CHECKPOINT_SAFETENSORS_H
#define LORAD_CHECKPOINT_SAFETENSORS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/hash.h"
#include "base/status.h"

enum st_dtype {
    ST_F64,
    ST_F32,
    ST_F16,
    ST_BF16,
    ST_I64,
    ST_I32,
    ST_I16,
    ST_I8,
    ST_U64,
    ST_U32,
    ST_U16,
    ST_U8,
    ST_BOOL,
    ST_F8_E4M3,
    ST_F8_E5M2,
    ST_DTYPES
};
size_t st_dtype_bytes(enum st_dtype dtype);
const char *st_dtype_name(enum st_dtype dtype); /* "F32" */
bool st_dtype_find(enum st_dtype *out, const char *name);

enum { ST_MAX_DIMS = 8 };

struct st_tensor {
    const char *name; /* borrowed from the set */
    enum st_dtype dtype;
    int32_t n_dims;
    int64_t shape[ST_MAX_DIMS];
    int64_t offset_bytes; /* in its file, from the file's start */
    int64_t size_bytes;
    int32_t file; /* index of the file in the set */
};

/* A model folder: model.safetensors.index.json and the files its weight_map names (names of
 * [A-Za-z0-9._-]+.safetensors only, no path separator), else model.safetensors; or a single file. A folder's
 * files may be links only to a file of the same folder or, as in the Hugging Face cache, to
 * ../../blobs/<hash>. The index and its files must agree: every tensor of the index is in the file that it
 * names, and every tensor of a file is in the index. LORAD_NOT_FOUND, LORAD_DATA, LORAD_IO. Owns: *out, freed
 * with st_close (NULL ok). */
struct st_set;
enum status st_open_dir(struct st_set **out, const char *dir) LORAD_WARN_UNUSED;
enum status st_open_file(struct st_set **out, const char *path) LORAD_WARN_UNUSED;
void st_close(struct st_set *set);

size_t st_count(const struct st_set *set);
/* In the order of the files and, within a file, of the data. */
const struct st_tensor *st_at(const struct st_set *set, size_t index);
const struct st_tensor *st_find(const struct st_set *set, const char *name); /* NULL: absent */
const char *st_file_path(const struct st_set *set, int32_t file);
int32_t st_files(const struct st_set *set);
/* "__metadata__" value by key, NULL when absent. */
const char *st_metadata(const struct st_set *set, int32_t file, const char *key);

/* Rows [row, row + rows) and columns [col, col + cols) of a 2-D tensor (a 1-D tensor is one row of shape[0]
 * columns) into `to`, dense, in the file's dtype. Whole rows are read directly, a column slice row by row,
 * or, where the gaps between its rows are small, by blocks of rows that are then cut. LORAD_IO; LORAD_BUG for
 * a slice outside of the tensor. */
enum status st_read_part(const struct st_set *set, const struct st_tensor *tensor, int64_t row, int64_t rows,
                         int64_t col, int64_t cols, void *to) LORAD_WARN_UNUSED;
/* The whole tensor, of any number of dimensions. */
enum status st_read(const struct st_set *set, const struct st_tensor *tensor, void *to) LORAD_WARN_UNUSED;

/* A cheap identity of the files for resume checks: names, sizes and the hash of every header and of the first
 * and last MiB of every file. */
enum status st_fingerprint(struct hash128 *out, const struct st_set *set) LORAD_WARN_UNUSED;

/* Writing: a list of dense host tensors in any order, written with metadata {"format": "pt"} as PEFT does,
 * wide dtypes first and then by name, so that data stays aligned. The same items give the same bytes. Durable
 * (temporary file, fsync, rename, fsync of the folder) when it returns. */
struct st_item {
    const char *name;
    enum st_dtype dtype;
    int32_t n_dims;
    int64_t shape[ST_MAX_DIMS];
    const void *data;
};
struct fs;
enum status st_write_file(struct fs *fs, const char *path, const struct st_item *items,
                          size_t n) LORAD_WARN_UNUSED;
/* The same, and XXH3-128 and length of the file. */
enum status st_write_hashed(struct hash128 *hash, int64_t *bytes, struct fs *fs, const char *path,
                            const struct st_item *items, size_t n) LORAD_WARN_UNUSED;

#endif
