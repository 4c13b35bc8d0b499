/*
 * manifest.c: writing and reading MANIFEST.json.
 *
 * The text is JSON whose last member is the XXH3-128 of all bytes before it, so that any change of any byte
 * is seen: before the member by the hash, within it by its fixed form.
 */
#include "checkpoint/manifest.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/memory.h"

enum { FORMAT_VERSION = 1, HASH_DIGITS = 32 };

static const char hash_start[] = "\"hash\":\"", hash_end[] = "\"}\n";
enum { HASH_TEXT_BYTES = sizeof hash_start - 1 + HASH_DIGITS + sizeof hash_end - 1 };

void manifest_free(struct manifest *manifest)
{
    free(manifest->shards);
    free(manifest->files);
    js_destroy(manifest->document);
    *manifest = (struct manifest){0};
}

void manifest_shard_name(int rank, int world, char text[CHECKPOINT_NAME_BYTES])
{
    snprintf(text, CHECKPOINT_NAME_BYTES, "shard-%05d-of-%05d.zst", rank, world);
}

/* ---- writing ---- */

static void put_hash(struct strbuf *text, const char *key, struct hash128 hash)
{
    char hex[33];
    hash128_hex(hash, hex);
    strbuf_printf(text, ",\"%s\":\"%s\"", key, hex);
}

static void put_shard(struct strbuf *text, const struct checkpoint_receipt *shard, int world)
{
    char name[CHECKPOINT_NAME_BYTES];
    manifest_shard_name(shard->rank, world, name);
    strbuf_printf(text, "{\"name\":\"%s\",\"bytes\":%lld,\"raw_bytes\":%lld", name,
                  (long long)shard->file_bytes, (long long)shard->raw_bytes);
    put_hash(text, "hash", shard->file_hash);
    put_hash(text, "raw_hash", shard->raw_hash);
    put_hash(text, "index_hash", shard->index_hash);
    strbuf_putc(text, '}');
}

enum status manifest_write(struct strbuf *text, const struct manifest *manifest, const char *state_json)
{
    struct json *state;
    char utc[21], hex[33];
    TRY(js_parse(&state, state_json, strlen(state_json), "checkpoint state"));
    bool is_object = js_type(state) == JS_OBJECT;
    js_destroy(state);
    if (!is_object) return FAIL(LORAD_BUG, "the state of a checkpoint is not a JSON object");

    clock_utc(utc);
    strbuf_printf(text, "{\"format\":\"lorad-checkpoint\",\n\"version\":%d,\n\"created_utc\":\"%s\",\n",
                  FORMAT_VERSION, utc);
    strbuf_printf(text, "\"step\":%lld,\n\"epoch\":%lld,\n\"attempt\":%d,\n\"world\":%d,\n\"shards\":[",
                  (long long)manifest->id.step, (long long)manifest->id.epoch, manifest->id.attempt,
                  manifest->world);
    for (int i = 0; i < manifest->world; i++) {
        strbuf_puts(text, i ? ",\n" : "\n");
        put_shard(text, &manifest->shards[i], manifest->world);
    }
    strbuf_puts(text, "],\n\"files\":[");
    for (size_t i = 0; i < manifest->n_files; i++) {
        strbuf_puts(text, i ? ",\n{\"name\":" : "\n{\"name\":");
        js_write_string(text, manifest->files[i].name, strlen(manifest->files[i].name));
        strbuf_printf(text, ",\"bytes\":%lld", (long long)manifest->files[i].bytes);
        put_hash(text, "hash", manifest->files[i].hash);
        strbuf_putc(text, '}');
    }
    strbuf_puts(text, "],\n\"state\":");
    strbuf_puts(text, state_json);
    strbuf_puts(text, ",\n");
    TRY(strbuf_status(text));
    hash128_hex(hash128(text->data, text->length), hex);
    strbuf_printf(text, "%s%s%s", hash_start, hex, hash_end);
    return strbuf_status(text);
}

/* ---- reading ---- */

static enum status check_own_hash(struct hash128 *out, const char *text, size_t length, const char *where)
{
    char hex[HASH_DIGITS + 1];
    if (length < HASH_TEXT_BYTES) return FAIL(LORAD_DATA, "%s is damaged: it is too short", where);
    const char *at = text + length - HASH_TEXT_BYTES;
    struct hash128 stored;
    memcpy(hex, at + sizeof hash_start - 1, HASH_DIGITS);
    hex[HASH_DIGITS] = '\0';
    if (memcmp(at, hash_start, sizeof hash_start - 1) != 0 ||
        memcmp(text + length - (sizeof hash_end - 1), hash_end, sizeof hash_end - 1) != 0 ||
        hash128_parse(&stored, hex) != LORAD_OK)
        return FAIL(LORAD_DATA, "%s is damaged: it does not end with its hash", where);
    if (!hash128_equal(stored, hash128(text, (size_t)(at - text))))
        return FAIL(LORAD_DATA, "%s is damaged: its hash is wrong", where);
    *out = stored;
    return LORAD_OK;
}

static enum status need_count(int64_t *out, const struct json *object, const char *key, int64_t max,
                              const char *where)
{
    TRY(js_need_int(out, object, key, where));
    if (*out < 0 || *out > max)
        return FAIL(LORAD_DATA, "%s: \"%s\" is %lld, which is out of range", where, key, (long long)*out);
    return LORAD_OK;
}

static enum status need_hash(struct hash128 *out, const struct json *object, const char *key,
                             const char *where)
{
    const char *text = NULL;
    TRY(js_need_string(&text, object, key, where));
    enum status status = hash128_parse(out, text);
    return status == LORAD_OK ? status : status_context(status, "%s", where);
}

static enum status parse_shards(struct manifest *manifest, const char *where)
{
    const struct json *list = NULL;
    TRY(js_need(&list, manifest->document, "shards", JS_ARRAY, where));
    if (js_length(list) != (size_t)manifest->world)
        return FAIL(LORAD_DATA, "%s: %zu shards are listed for a world of %d", where, js_length(list),
                    manifest->world);
    if (!(manifest->shards = memory_new((size_t)manifest->world, sizeof *manifest->shards)))
        return LORAD_NOMEM;
    for (int i = 0; i < manifest->world; i++) {
        struct checkpoint_receipt *shard = &manifest->shards[i];
        const struct json *entry = js_at(list, (size_t)i);
        const char *name = NULL;
        char expected[CHECKPOINT_NAME_BYTES];
        manifest_shard_name(i, manifest->world, expected);
        TRY(js_need_string(&name, entry, "name", where));
        if (strcmp(name, expected) != 0)
            return FAIL(LORAD_DATA, "%s: shard %d is called %.60s instead of %s", where, i, name, expected);
        shard->rank = i;
        shard->ok = 1;
        TRY(need_count(&shard->file_bytes, entry, "bytes", INT64_MAX, where));
        TRY(need_count(&shard->raw_bytes, entry, "raw_bytes", INT64_MAX, where));
        TRY(need_hash(&shard->file_hash, entry, "hash", where));
        TRY(need_hash(&shard->raw_hash, entry, "raw_hash", where));
        TRY(need_hash(&shard->index_hash, entry, "index_hash", where));
    }
    return LORAD_OK;
}

/* A plain file name: no path, nothing hidden. */
static bool is_plain(const char *name)
{
    return *name && *name != '.' && strlen(name) < 256 && !strchr(name, '/');
}

static enum status parse_files(struct manifest *manifest, const char *where)
{
    const struct json *list = NULL;
    TRY(js_need(&list, manifest->document, "files", JS_ARRAY, where));
    size_t n = js_length(list);
    if (n > MANIFEST_MAX_FILES)
        return FAIL(LORAD_DATA, "%s: %zu files are listed, which is too many", where, n);
    if (!(manifest->files = memory_new(n, sizeof *manifest->files))) return LORAD_NOMEM;
    for (size_t i = 0; i < n; i++) {
        struct manifest_file *file = &manifest->files[i];
        const struct json *entry = js_at(list, i);
        TRY(js_need_string(&file->name, entry, "name", where));
        if (!is_plain(file->name))
            return FAIL(LORAD_DATA, "%s: \"%.60s\" is not a plain file name", where, file->name);
        TRY(need_count(&file->bytes, entry, "bytes", INT64_MAX, where));
        TRY(need_hash(&file->hash, entry, "hash", where));
        manifest->n_files++;
    }
    return LORAD_OK;
}

static enum status parse_document(struct manifest *manifest, const char *where)
{
    const struct json *root = manifest->document;
    const char *format = NULL;
    int64_t version = 0, attempt = 0, world = 0;
    if (js_type(root) != JS_OBJECT) return FAIL(LORAD_DATA, "%s: an object is expected", where);
    TRY(js_need_string(&format, root, "format", where));
    if (strcmp(format, "lorad-checkpoint") != 0)
        return FAIL(LORAD_CONFIG, "%s is of the format \"%.40s\", not a checkpoint that this lorad reads",
                    where, format);
    TRY(js_need_int(&version, root, "version", where));
    if (version != FORMAT_VERSION)
        return FAIL(LORAD_CONFIG,
                    "%s was written by another version of lorad (checkpoint format %lld; this one reads %d): "
                    "use that "
                    "version, or start fresh with another output_dir",
                    where, (long long)version, FORMAT_VERSION);
    TRY(need_count(&manifest->id.step, root, "step", INT64_MAX, where));
    TRY(need_count(&manifest->id.epoch, root, "epoch", INT64_MAX, where));
    TRY(need_count(&attempt, root, "attempt", INT32_MAX, where));
    TRY(need_count(&world, root, "world", MANIFEST_MAX_WORLD, where));
    if (world == 0) return FAIL(LORAD_DATA, "%s: \"world\" is 0", where);
    manifest->id.attempt = (int32_t)attempt;
    manifest->world = (int)world;
    const char *created = js_string(js_get(root, "created_utc"), NULL);
    manifest->created_utc = created ? created : "";
    TRY(parse_shards(manifest, where));
    TRY(parse_files(manifest, where));
    return js_need(&manifest->state, root, "state", JS_OBJECT, where);
}

enum status manifest_parse(struct manifest *out, const char *text, size_t length, const char *where)
{
    struct manifest manifest = {0};
    if (length > MANIFEST_MAX_BYTES) return FAIL(LORAD_DATA, "%s is too long", where);
    TRY(check_own_hash(&manifest.hash, text, length, where));
    TRY(js_parse(&manifest.document, text, length, where));
    manifest.bytes = (int64_t)length;
    enum status status = parse_document(&manifest, where);
    if (status == LORAD_OK)
        *out = manifest;
    else
        manifest_free(&manifest);
    return status;
}
