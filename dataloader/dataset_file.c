/*
 * dataset_file.c: see dataset_file.h.
 *
 * The fingerprint is a sum over the rows that were kept, so neither the order in which they were prepared nor
 * the shards they are in change it. The content hash covers every byte of the shards and of places.bin.
 */
#include "dataloader/dataset_file.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "dataloader/shard_file.h"

static const size_t most_json_bytes = (size_t)64 << 20;
static const int64_t most_rows = (int64_t)1 << 40;

/* ---- what it holds ---- */

void dataset_about_free(struct dataset_about *about)
{
    for (int32_t i = 0; i < about->n_sources; i++) free(about->source[i]);
    free(about->source);
    free(about->group);
    *about = (struct dataset_about){0};
}

static void write_hash(struct strbuf *text, const char *key, struct hash128 hash)
{
    char hex[33];
    hash128_hex(hash, hex);
    strbuf_printf(text, ",\n \"%s\": \"%s\"", key, hex);
}

enum status dataset_about_write(const struct dataset_about *about, const char *folder, const char *name)
{
    struct strbuf text = STRBUF_EMPTY;
    strbuf_printf(&text, "{\"version\": %d, \"raw_rows\": %lld, \"vocab_size\": %d, \"cutoff_len\": %d,\n",
                  SHARD_VERSION, (long long)about->raw_rows, about->vocab_size, about->cutoff_len);
    strbuf_puts(&text, " \"sources\": [");
    for (int32_t i = 0; i < about->n_sources; i++) {
        if (i > 0) strbuf_puts(&text, ", ");
        js_write_string(&text, about->source[i], strlen(about->source[i]));
    }
    strbuf_puts(&text, "],\n \"groups\": [");
    for (int32_t i = 0; i < about->n_groups; i++)
        strbuf_printf(&text, "%s[%lld, %lld]", i > 0 ? ", " : "", (long long)about->group[i].first,
                      (long long)about->group[i].n);
    strbuf_puts(&text, "]");
    if (strcmp(name, DATASET_COMPLETE) == 0) {
        strbuf_printf(&text, ",\n \"shards\": %d, \"kept_rows\": %lld, \"tokens\": %lld", about->n_shards,
                      (long long)about->kept_rows, (long long)about->tokens);
        write_hash(&text, "fingerprint", about->fingerprint);
        write_hash(&text, "content", about->content);
    }
    strbuf_puts(&text, "}\n");
    enum status status = strbuf_status(&text);
    if (status == LORAD_OK) status = shard_write_file(folder, name, text.data, text.length);
    strbuf_free(&text);
    return status;
}

static enum status read_sources(struct dataset_about *about, const struct json *document, const char *path)
{
    const struct json *sources;
    TRY(js_need(&sources, document, "sources", JS_ARRAY, path));
    size_t n = js_length(sources);
    if (n < 1 || n > INT32_MAX) return FAIL(LORAD_DATA, "%s names no sources", path);
    if (!(about->source = memory_new(n, sizeof *about->source))) return LORAD_NOMEM;
    for (size_t i = 0; i < n; i++) {
        const char *name = js_string(js_at(sources, i), NULL);
        if (!name) return FAIL(LORAD_DATA, "%s: source %zu is no string", path, i);
        if (!(about->source[i] = memory_string(name))) return LORAD_NOMEM;
        about->n_sources++;
    }
    return LORAD_OK;
}

static enum status read_groups(struct dataset_about *about, const struct json *document, const char *path)
{
    const struct json *groups;
    TRY(js_need(&groups, document, "groups", JS_ARRAY, path));
    size_t n = js_length(groups);
    int64_t at = 0;
    if (n < 1 || n > INT32_MAX) return FAIL(LORAD_DATA, "%s names no groups", path);
    if (!(about->group = memory_new(n, sizeof *about->group))) return LORAD_NOMEM;
    for (size_t i = 0; i < n; i++) {
        struct row_range range = {js_int(js_at(js_at(groups, i), 0), -1),
                                  js_int(js_at(js_at(groups, i), 1), -1)};
        if (range.first != at || range.n < 0 || range.n > about->raw_rows - at)
            return FAIL(LORAD_DATA, "%s: group %zu does not follow the one before", path, i);
        about->group[about->n_groups++] = range;
        at += range.n;
    }
    return at == about->raw_rows ? LORAD_OK
                                 : FAIL(LORAD_DATA, "%s: the groups hold %lld of %lld rows", path,
                                        (long long)at, (long long)about->raw_rows);
}

static enum status read_complete(struct dataset_about *about, const struct json *document, const char *path)
{
    int64_t shards;
    const char *fingerprint, *content;
    TRY(js_need_int(&shards, document, "shards", path));
    TRY(js_need_int(&about->kept_rows, document, "kept_rows", path));
    TRY(js_need_int(&about->tokens, document, "tokens", path));
    TRY(js_need_string(&fingerprint, document, "fingerprint", path));
    TRY(js_need_string(&content, document, "content", path));
    TRY(hash128_parse(&about->fingerprint, fingerprint));
    TRY(hash128_parse(&about->content, content));
    if (shards < 1 || shards > DATASET_MOST_SHARDS || about->kept_rows < 0 ||
        about->kept_rows > about->raw_rows || about->tokens < 0)
        return FAIL(LORAD_DATA, "%s: its numbers make no sense", path);
    about->n_shards = (int32_t)shards;
    return LORAD_OK;
}

static enum status read_about(struct dataset_about *about, const struct json *document, const char *path,
                              bool complete)
{
    int64_t version, vocab_size, cutoff_len;
    TRY(js_need_int(&version, document, "version", path));
    if (version != SHARD_VERSION)
        return FAIL(LORAD_DATA, "%s: version %lld; this program reads version %d: prepare the data again",
                    path, (long long)version, SHARD_VERSION);
    TRY(js_need_int(&about->raw_rows, document, "raw_rows", path));
    TRY(js_need_int(&vocab_size, document, "vocab_size", path));
    TRY(js_need_int(&cutoff_len, document, "cutoff_len", path));
    if (about->raw_rows < 1 || about->raw_rows > most_rows || vocab_size < 1 || vocab_size > INT32_MAX ||
        cutoff_len < 1 || cutoff_len > INT32_MAX)
        return FAIL(LORAD_DATA, "%s: its numbers make no sense", path);
    about->vocab_size = (int32_t)vocab_size;
    about->cutoff_len = (int32_t)cutoff_len;
    TRY(read_sources(about, document, path));
    TRY(read_groups(about, document, path));
    return complete ? read_complete(about, document, path) : LORAD_OK;
}

enum status dataset_about_read(struct dataset_about *out, const char *folder, const char *name)
{
    struct dataset_about about = {0};
    struct json *document = NULL;
    char *path = file_join(folder, name);
    enum status status = path ? js_read_file(&document, path, most_json_bytes) : LORAD_NOMEM;
    if (status == LORAD_OK) status = read_about(&about, document, path, strcmp(name, DATASET_COMPLETE) == 0);
    js_destroy(document);
    free(path);
    if (status == LORAD_OK)
        *out = about;
    else
        dataset_about_free(&about);
    return status;
}

/* ---- where every row is ---- */

_Static_assert(sizeof(struct row_place_entry) == 16, "an entry has no holes");
static const struct table_kind places_kind = {.name = DATASET_PLACES,
                                              .magic = "LORADPLC",
                                              .version = SHARD_VERSION,
                                              .entry_bytes = sizeof(struct row_place_entry)};
static const int64_t small_table = 1 << 16; /* rows; smaller tables are ordinary memory */

enum status place_table_create(struct place_table *out, int64_t n, const char *folder)
{
    struct place_table table = {.n = n};
    if (n > small_table && table_file_create_hidden(&table.file, &places_kind, folder, n) == LORAD_OK) {
        table.entry = table.file.entry;
        *out = table;
        return LORAD_OK;
    }
    status_clear(); /* no files without a name here, or none that large: in memory then */
    if (!(table.entry = memory_new((size_t)n, sizeof *table.entry))) return LORAD_NOMEM;
    *out = table;
    return LORAD_OK;
}

static bool entry_makes_sense(const struct row_place_entry *entry, const struct dataset_about *about)
{
    if (entry->shard < 1 || entry->shard > (uint32_t)about->n_shards || entry->n_supervised < 0) return false;
    return entry->n_tokens == 0 ? entry->n_supervised == 0 : entry->n_tokens > entry->n_supervised;
}

enum status place_table_open(struct place_table *out, const struct dataset_about *about, const char *folder)
{
    struct place_table table = {.n = about->raw_rows};
    enum status status = table_file_open(&table.file, &places_kind, folder, about->raw_rows);
    if (status == LORAD_NOT_FOUND) status = FAIL(LORAD_DATA, "%s", status_message());
    table.entry = table.file.entry;
    for (int64_t i = 0; status == LORAD_OK && i < table.n; i++)
        if (!entry_makes_sense(&table.entry[i], about))
            status = FAIL(LORAD_DATA, "%s/" DATASET_PLACES ": the entry of row %lld makes no sense", folder,
                          (long long)i);
    if (status == LORAD_OK)
        *out = table;
    else
        table_file_close(&table.file);
    return status;
}

void place_table_close(struct place_table *table)
{
    if (table->file.map)
        table_file_close(&table->file);
    else
        free(table->entry);
    *table = (struct place_table){0};
}

/* ---- sums over all shards ---- */

struct survey {
    struct place_table *places; /* filled in */
    unsigned __int128 sum;      /* of the hashes of the rows that were kept */
    int64_t rows, kept, tokens;
    struct hash_stream *content;
};

static enum status survey_row(struct survey *survey, const struct shard_row *row, int32_t shard, int64_t i,
                              const char *path)
{
    if (row->raw_row >= survey->places->n)
        return FAIL(LORAD_DATA, "%s: row %lld says it is raw row %lld of %lld", path, (long long)i,
                    (long long)row->raw_row, (long long)survey->places->n);
    struct row_place_entry *entry = &survey->places->entry[row->raw_row];
    if (entry->shard != 0)
        return FAIL(LORAD_DATA, "%s: raw row %lld was prepared twice: delete the folder and start again",
                    path, (long long)row->raw_row);
    *entry = (struct row_place_entry){(uint32_t)shard + 1, (uint32_t)i, row->n_tokens, row->n_supervised};
    survey->rows++;
    if (row->n_tokens == 0) return LORAD_OK;
    survey->kept++;
    survey->tokens += row->n_tokens;
    uint64_t parts[3] = {(uint64_t)row->raw_row, row->hash, (uint64_t)row->n_tokens};
    struct hash128 hash = hash128(parts, sizeof parts);
    survey->sum += (unsigned __int128)hash.high << 64 | hash.low;
    return LORAD_OK;
}

static enum status survey_shard(struct survey *survey, const char *folder, int32_t number,
                                const struct dataset_about *about, bool everything)
{
    struct shard_map shard;
    TRY(shard_map_open(&shard, folder, number));
    const struct shard_header *header = shard.view.header;
    enum status status =
        everything ? shard_check_all(&shard.view, shard.path) : shard_check_rows(&shard.view, shard.path);
    if (status == LORAD_OK &&
        (header->vocab_size != (uint32_t)about->vocab_size || header->rows_before != (uint64_t)survey->rows))
        status = FAIL(LORAD_DATA, "%s does not belong to the shards before it", shard.path);
    for (int64_t i = 0; status == LORAD_OK && i < shard.view.n_rows; i++) {
        const struct shard_row *row = &shard.view.rows[i];
        status = row->source < about->n_sources
                     ? survey_row(survey, row, number, i, shard.path)
                     : FAIL(LORAD_DATA, "%s: row %lld comes from source %d of %d", shard.path, (long long)i,
                            row->source, about->n_sources);
    }
    if (status == LORAD_OK) {
        uint64_t parts[2] = {header->hash_high, header->hash_low};
        hash_stream_add(survey->content, parts, sizeof parts);
    }
    shard_map_close(&shard);
    return status;
}

static struct hash128 fingerprint_of(const struct survey *survey, const struct dataset_about *about)
{
    struct hash128 sum = {(uint64_t)(survey->sum >> 64), (uint64_t)survey->sum};
    uint64_t parts[4] = {sum.high, sum.low, (uint64_t)about->raw_rows,
                         hash64(about->group, (size_t)about->n_groups * sizeof *about->group)};
    return hash128(parts, sizeof parts);
}

/* Fills `places` and sets the sums in `about`. */
static enum status survey_shards(struct place_table *places, struct dataset_about *about, const char *folder,
                                 bool everything)
{
    struct survey survey = {.places = places};
    TRY(hash_stream_create(&survey.content));
    enum status status = LORAD_OK;
    for (int32_t i = 0; status == LORAD_OK && i < about->n_shards; i++)
        status = survey_shard(&survey, folder, i, about, everything);
    if (status == LORAD_OK && survey.rows != about->raw_rows)
        status =
            FAIL(LORAD_DATA, "%s: the shards hold %lld rows, not %lld: delete the folder and start again",
                 folder, (long long)survey.rows, (long long)about->raw_rows);
    if (status == LORAD_OK) {
        struct hash128 entries = hash128(places->entry, (size_t)places->n * sizeof *places->entry);
        uint64_t parts[2] = {entries.high, entries.low};
        hash_stream_add(survey.content, parts, sizeof parts);
        about->kept_rows = survey.kept;
        about->tokens = survey.tokens;
        about->fingerprint = fingerprint_of(&survey, about);
        about->content = hash_stream_value(survey.content);
    }
    hash_stream_destroy(survey.content);
    return status;
}

enum status dataset_seal(struct dataset_about *about, const char *folder)
{
    struct place_table places = {.n = about->raw_rows};
    TRY(table_file_create(&places.file, &places_kind, folder, about->raw_rows));
    places.entry = places.file.entry;
    enum status status = survey_shards(&places, about, folder, false);
    if (status == LORAD_OK) status = table_file_seal(&places.file, &places_kind);
    place_table_close(&places);
    TRY(status);
    TRY(shard_sync_folder(folder));
    TRY(dataset_about_write(about, folder, DATASET_COMPLETE));
    return shard_sync_folder(folder);
}

/* ---- all of it again ---- */

static enum status compare(const struct dataset_about *said, const struct dataset_about *found,
                           const struct place_table *places_said, const struct place_table *places_found,
                           const char *folder)
{
    if (memcmp(places_said->entry, places_found->entry,
               (size_t)said->raw_rows * sizeof *places_said->entry) != 0)
        return FAIL(LORAD_DATA, "%s/" DATASET_PLACES " does not tell where the rows are", folder);
    if (!hash128_equal(said->content, found->content) ||
        !hash128_equal(said->fingerprint, found->fingerprint) || said->kept_rows != found->kept_rows ||
        said->tokens != found->tokens)
        return FAIL(LORAD_DATA,
                    "%s: the shards are whole but not those that " DATASET_COMPLETE " was written for",
                    folder);
    return LORAD_OK;
}

enum status dataset_verify(const char *folder)
{
    struct dataset_about said, found;
    struct place_table places_said = {0}, places_found = {0};
    TRY(dataset_about_read(&said, folder, DATASET_COMPLETE));
    found = said;
    enum status status = place_table_open(&places_said, &said, folder);
    if (status == LORAD_OK) status = place_table_create(&places_found, said.raw_rows, folder);
    if (status == LORAD_OK) status = survey_shards(&places_found, &found, folder, true);
    if (status == LORAD_OK) status = compare(&said, &found, &places_said, &places_found, folder);
    place_table_close(&places_said);
    place_table_close(&places_found);
    dataset_about_free(&said);
    return status;
}
