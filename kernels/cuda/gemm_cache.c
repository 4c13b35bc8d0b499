/*
 * gemm_cache.c: see gemm_cache.h.
 *
 * The file is a header, the kept entries and a hash of all that, in this machine's own layout: it never
 * leaves the machine, and one that does not fit is ignored. It is replaced whole, so that ranks which end
 * together cannot mix theirs.
 */
#include "kernels/cuda/gemm_cache.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/fs.h"
#include "base/hash.h"
#include "base/memory.h"
#include "base/strbuf.h"

enum { BUCKETS = 1024, MOST_ENTRIES = 1 << 14, FORMAT = 1, FILE_BYTES_MOST = 64 << 20 };

struct gemm_cache {
    struct gemm_machine machine;
    struct gemm_entry *bucket[BUCKETS];
    int32_t count;
    bool changed;
};

struct header {
    char magic[8];
    uint32_t format, count;
    struct gemm_machine machine;
};

struct record {
    struct gemm_key key;
    struct gemm_algorithm algorithm;
};

_Static_assert(sizeof(struct gemm_key) == 64, "keys are compared as bytes");
_Static_assert(sizeof(struct record) == 136, "records have no padding");

static const char magic[8] = "LORADMM";

enum status gemm_cache_create(struct gemm_cache **out, const struct gemm_machine *machine)
{
    struct gemm_cache *cache = memory_new(1, sizeof *cache);
    if (!cache) return LORAD_NOMEM;
    cache->machine.cublaslt_version = machine->cublaslt_version;
    cache->machine.multiprocessors = machine->multiprocessors;
    snprintf(cache->machine.gpu, sizeof cache->machine.gpu, "%s", machine->gpu); /* zeros behind it */
    *out = cache;
    return LORAD_OK;
}

static void empty(struct gemm_cache *cache)
{
    for (int i = 0; i < BUCKETS; i++)
        while (cache->bucket[i]) {
            struct gemm_entry *entry = cache->bucket[i];
            cache->bucket[i] = entry->chain;
            free(entry);
        }
    cache->count = 0;
}

void gemm_cache_destroy(struct gemm_cache *cache)
{
    if (!cache) return;
    empty(cache);
    free(cache);
}

static struct gemm_entry **bucket_of(struct gemm_cache *cache, const struct gemm_key *key)
{
    return &cache->bucket[hash64(key, sizeof *key) % BUCKETS];
}

struct gemm_entry *gemm_cache_find(struct gemm_cache *cache, const struct gemm_key *key)
{
    for (struct gemm_entry *entry = *bucket_of(cache, key); entry; entry = entry->chain)
        if (memcmp(&entry->key, key, sizeof *key) == 0) return entry;
    return NULL;
}

enum status gemm_cache_put(struct gemm_entry **out, struct gemm_cache *cache, const struct gemm_key *key,
                           const struct gemm_algorithm *algorithm, bool kept)
{
    struct gemm_entry *entry = gemm_cache_find(cache, key);
    if (!entry) {
        if (cache->count == MOST_ENTRIES) empty(cache);
        entry = memory_new(1, sizeof *entry);
        if (!entry) return LORAD_NOMEM;
        struct gemm_entry **bucket = bucket_of(cache, key);
        entry->key = *key;
        entry->chain = *bucket;
        *bucket = entry;
        cache->count++;
    }
    entry->algorithm = *algorithm;
    entry->kept = kept;
    entry->checked[0] = entry->checked[1] = 0;
    if (kept) cache->changed = true;
    *out = entry;
    return LORAD_OK;
}

/* Whether the bytes are a whole file of this machine; *count: its records. */
static bool fits(const struct gemm_cache *cache, const char *bytes, size_t length, uint32_t *count)
{
    struct header header;
    uint64_t sum;
    if (length < sizeof header + sizeof sum) return false;
    memcpy(&header, bytes, sizeof header);
    if (memcmp(header.magic, magic, sizeof magic) != 0 || header.format != FORMAT ||
        memcmp(&header.machine, &cache->machine, sizeof header.machine) != 0 || header.count > MOST_ENTRIES ||
        length != sizeof header + header.count * sizeof(struct record) + sizeof sum)
        return false;
    memcpy(&sum, bytes + length - sizeof sum, sizeof sum);
    *count = header.count;
    return sum == hash64(bytes, length - sizeof sum);
}

enum status gemm_cache_load(struct gemm_cache *cache, const char *path)
{
    char *bytes;
    size_t length;
    uint32_t count = 0;
    bool changed = cache->changed;
    TRY(file_read(&bytes, &length, path, FILE_BYTES_MOST));
    enum status status = LORAD_OK;
    if (!fits(cache, bytes, length, &count))
        status = FAIL(LORAD_DATA, "%s: damaged, or of another GPU or library", path);
    for (uint32_t i = 0; status == LORAD_OK && i < count; i++) {
        struct record record;
        struct gemm_entry *entry;
        memcpy(&record, bytes + sizeof(struct header) + i * sizeof record, sizeof record);
        if (!gemm_cache_find(cache, &record.key))
            status = gemm_cache_put(&entry, cache, &record.key, &record.algorithm, true);
    }
    free(bytes);
    cache->changed = changed;
    return status;
}

enum status gemm_cache_save(struct gemm_cache *cache, const char *path)
{
    if (!cache->changed) return LORAD_OK;
    if (file_exists(path) && gemm_cache_load(cache, path) == LORAD_NOMEM) return LORAD_NOMEM;
    struct header header = {.format = FORMAT, .machine = cache->machine};
    struct strbuf text = STRBUF_EMPTY;
    memcpy(header.magic, magic, sizeof magic);
    strbuf_add(&text, &header, sizeof header);
    for (int i = 0; i < BUCKETS; i++)
        for (const struct gemm_entry *entry = cache->bucket[i]; entry; entry = entry->chain) {
            if (!entry->kept) continue;
            struct record record = {.key = entry->key, .algorithm = entry->algorithm};
            strbuf_add(&text, &record, sizeof record);
            header.count++;
        }
    enum status status = strbuf_status(&text);
    if (status == LORAD_OK) {
        memcpy(text.data, &header, sizeof header);
        uint64_t sum = hash64(text.data, text.length);
        strbuf_add(&text, &sum, sizeof sum);
        status = strbuf_status(&text);
    }
    if (status == LORAD_OK) status = fs_write_file(fs_posix(), path, text.data, text.length);
    strbuf_free(&text);
    if (status == LORAD_OK) cache->changed = false;
    return status;
}

static char *folder(void)
{
    const char *own = getenv("LORAD_CACHE_DIR"), *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    if (own && *own) return memory_string(own);
    if (cache && *cache) return file_join(cache, "lorad");
    return home && *home ? file_join(home, ".cache/lorad") : NULL;
}

enum status gemm_cache_path(char **out, const struct gemm_machine *machine)
{
    char name[64], hex[33];
    struct strbuf text = STRBUF_EMPTY;
    strbuf_printf(&text, "%llu %lld %s", (unsigned long long)machine->cublaslt_version,
                  (long long)machine->multiprocessors, machine->gpu);
    enum status status = strbuf_status(&text);
    if (status == LORAD_OK) hash128_hex(hash128(text.data, text.length), hex);
    strbuf_free(&text);
    TRY(status);
    snprintf(name, sizeof name, "products-%.16s", hex);
    char *in = folder();
    if (!in) return FAIL(LORAD_NOT_FOUND, "no folder for caches: HOME is not set");
    char *path = file_join(in, name);
    free(in);
    if (!path) return LORAD_NOMEM;
    *out = path;
    return LORAD_OK;
}
