/*
 * prepare.c: the cache of prepared data: cache_dir/<key>/ with tokens-*.bin, dataset.json, report.json and
 * problems.jsonl.
 *
 * Invariants:
 * (1) the key is a hash of everything that decides the bytes, so a folder with that name is never changed, only
 *     replaced.
 * (2) a folder gets its name by rename(2) when all of it is on the disk; until then it is
 *     <key>.tmp-<host>-<pid>, which nobody reads and the next process that prepares the key removes.
 * (3) whoever prepares holds <key>.lock (flock). Where the file system has no locks, the rename still lets one
 *     win.
 */
#include "dataloader/prepare.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/random.h"

enum { PREPARE_VERSION = 1 }; /* changes when the same inputs give other bytes */
static const int64_t default_shard_bytes = (int64_t)256 << 20;
static const size_t most_report_bytes = (size_t)16 << 20;

/* ---- the report ---- */

void prepare_report_text(const struct prepare_report *report, struct strbuf *out)
{
    strbuf_printf(out, "%lld rows kept of %lld", (long long)report->rows_kept, (long long)report->rows_read);
    const char *before = " (";
    for (int problem = 0; problem < ROW_PROBLEMS; problem++) {
        int64_t count = report->problem_count[problem];
        if (count == 0) continue;
        strbuf_printf(out, "%s%lld %s: ", before, (long long)count,
                      row_problem_name((enum row_problem)problem));
        for (int i = 0; i < 3 && i < count; i++) {
            const struct row_place *place = &report->place[problem][i];
            strbuf_printf(out, "%s%s:%lld", i > 0 ? ", " : "", place->file, (long long)place->line);
        }
        if (count > 3) strbuf_puts(out, ", ...");
        before = "; ";
    }
    if (*before == ';') strbuf_putc(out, ')');
    strbuf_printf(out, "; %lld tokens, %lld supervised, longest row %d", (long long)report->tokens,
                  (long long)report->supervised_tokens, report->longest_row);
}

static enum status write_report(const char *folder, const struct prepare_report *report)
{
    struct strbuf text = STRBUF_EMPTY;
    strbuf_printf(
        &text,
        "{\"version\": %d, \"files\": %d, \"rows_read\": %lld, \"rows_kept\": %lld, \"rows_dropped\": %lld, "
        "\"tokens\": %lld, \"supervised_tokens\": %lld, \"longest_row\": %d, \"seconds\": ",
        PREPARE_VERSION, report->files, (long long)report->rows_read, (long long)report->rows_kept,
        (long long)report->rows_dropped, (long long)report->tokens, (long long)report->supervised_tokens,
        report->longest_row);
    js_write_double(&text, report->seconds);
    strbuf_puts(&text, ", \"problems\": {");
    const char *comma = "";
    for (int problem = 0; problem < ROW_PROBLEMS; problem++) {
        int64_t count = report->problem_count[problem];
        if (count == 0) continue;
        strbuf_printf(&text, "%s\n \"%s\": {\"count\": %lld, \"places\": [", comma,
                      row_problem_name((enum row_problem)problem), (long long)count);
        for (int i = 0; i < PREPARE_PLACES && i < count; i++) {
            const struct row_place *place = &report->place[problem][i];
            strbuf_puts(&text, i > 0 ? ", {\"file\": " : "{\"file\": ");
            js_write_string(&text, place->file, strlen(place->file));
            strbuf_printf(&text, ", \"source\": %d, \"line\": %lld}", place->source, (long long)place->line);
        }
        strbuf_puts(&text, "]}");
        comma = ",";
    }
    strbuf_puts(&text, "}}\n");
    enum status status = strbuf_status(&text);
    if (status == LORAD_OK) status = shard_write_file(folder, "report.json", text.data, text.length);
    strbuf_free(&text);
    return status;
}

static void read_problem(struct prepare_report *report, enum row_problem problem, const struct json *value)
{
    report->problem_count[problem] = js_int(js_get(value, "count"), 0);
    const struct json *places = js_get(value, "places");
    for (size_t i = 0; i < PREPARE_PLACES && i < js_length(places); i++) {
        const struct json *entry = js_at(places, i);
        const char *file = js_string(js_get(entry, "file"), NULL);
        struct row_place *place = &report->place[problem][i];
        place->problem = problem;
        place->source = (int32_t)js_int(js_get(entry, "source"), 0);
        place->line = js_int(js_get(entry, "line"), 0);
        snprintf(place->file, sizeof place->file, "%s", file ? file : "?");
    }
}

static enum status read_report(struct prepare_report *report, const char *folder)
{
    char *path = file_join(folder, "report.json");
    if (!path) return LORAD_NOMEM;
    struct json *document = NULL;
    enum status status = js_read_file(&document, path, most_report_bytes);
    if (status == LORAD_OK && js_int(js_get(document, "version"), 0) != PREPARE_VERSION)
        status = FAIL(LORAD_DATA, "%s: another version", path);
    free(path);
    if (status != LORAD_OK) {
        js_destroy(document);
        return status;
    }
    memset(report, 0, sizeof *report);
    report->files = (int32_t)js_int(js_get(document, "files"), 0);
    report->rows_read = js_int(js_get(document, "rows_read"), 0);
    report->rows_kept = js_int(js_get(document, "rows_kept"), 0);
    report->rows_dropped = js_int(js_get(document, "rows_dropped"), 0);
    report->tokens = js_int(js_get(document, "tokens"), 0);
    report->supervised_tokens = js_int(js_get(document, "supervised_tokens"), 0);
    report->longest_row = (int32_t)js_int(js_get(document, "longest_row"), 0);
    report->seconds = js_real(js_get(document, "seconds"), 0);
    const struct json *problems = js_get(document, "problems");
    for (int problem = 0; problem < ROW_PROBLEMS; problem++) {
        const struct json *value = js_get(problems, row_problem_name((enum row_problem)problem));
        if (value) read_problem(report, (enum row_problem)problem, value);
    }
    report->from_cache = true;
    js_destroy(document);
    return LORAD_OK;
}

/* ---- folders ---- */

/* Removes a folder of plain files; what cannot be removed stays. */
static void remove_folder(const char *path)
{
    DIR *folder = opendir(path);
    if (!folder) return;
    for (struct dirent *entry; (entry = readdir(folder)) != NULL;) unlinkat(dirfd(folder), entry->d_name, 0);
    closedir(folder);
    rmdir(path);
}

/* The names that one key has in the cache. */
struct cache_place {
    char *folder, *temporary, *replaced, *lock, *problems;
    int lock_fd; /* -1: not held */
};

static void place_free(struct cache_place *place)
{
    free(place->folder);
    free(place->temporary);
    free(place->replaced);
    free(place->lock);
    free(place->problems);
    if (place->lock_fd >= 0) close(place->lock_fd);
}

static enum status find_place(struct cache_place *place, const char *cache_dir, struct hash128 key)
{
    char hex[33], host[64] = "", name[160];
    hash128_hex(key, hex);
    gethostname(host, sizeof host - 1);
    place->folder = file_join(cache_dir, hex);
    snprintf(name, sizeof name, "%s.tmp-%s-%ld", hex, host, (long)getpid());
    place->temporary = file_join(cache_dir, name);
    snprintf(name, sizeof name, "%s.old-%s-%ld", hex, host, (long)getpid());
    place->replaced = file_join(cache_dir, name);
    snprintf(name, sizeof name, "%s.lock", hex);
    place->lock = file_join(cache_dir, name);
    place->problems = place->temporary ? file_join(place->temporary, "problems.jsonl") : NULL;
    return place->folder && place->temporary && place->replaced && place->lock && place->problems
               ? LORAD_OK
               : LORAD_NOMEM;
}

static enum status take_lock(struct cache_place *place)
{
    place->lock_fd = open(place->lock, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (place->lock_fd < 0)
        return FAIL(LORAD_CANNOT_CREATE, "cannot create %s: %s", place->lock, strerror(errno));
    if (flock(place->lock_fd, LOCK_EX | LOCK_NB) == 0) return LORAD_OK;
    if (errno == EWOULDBLOCK) {
        log_info("another process is preparing the same data; waiting for it");
        int result;
        while ((result = flock(place->lock_fd, LOCK_EX)) != 0 && errno == EINTR) continue;
        if (result == 0) return LORAD_OK;
    }
    log_debug("%s: no file locks here (%s)", place->lock, strerror(errno));
    close(place->lock_fd);
    place->lock_fd = -1;
    return LORAD_OK;
}

/* What interrupted processes of this host left of this key. Only the holder of the lock may do it. */
static void remove_leftovers(const struct cache_place *place, const char *cache_dir)
{
    if (place->lock_fd < 0) return;
    const char *names[] = {strrchr(place->temporary, '/') + 1, strrchr(place->replaced, '/') + 1};
    DIR *folder = opendir(cache_dir);
    if (!folder) return;
    for (struct dirent *entry; (entry = readdir(folder)) != NULL;)
        for (int i = 0; i < 2; i++) {
            size_t prefix = (size_t)(strrchr(names[i], '-') + 1 - names[i]); /* up to the process number */
            if (strncmp(entry->d_name, names[i], prefix) != 0) continue;
            char *path = file_join(cache_dir, entry->d_name);
            if (path) remove_folder(path);
            free(path);
        }
    closedir(folder);
}

/* Gives the finished folder its name. */
static enum status publish(const struct cache_place *place, const char *cache_dir, bool replace)
{
    if (replace && rename(place->folder, place->replaced) != 0 && errno != ENOENT)
        return FAIL(LORAD_IO, "cannot replace %s: %s", place->folder, strerror(errno));
    if (rename(place->temporary, place->folder) != 0) {
        if (errno != EEXIST && errno != ENOTEMPTY)
            return FAIL(LORAD_IO, "cannot rename %s to %s: %s", place->temporary, place->folder,
                        strerror(errno));
        remove_folder(place->temporary); /* another process was first; what it made is the same */
    }
    remove_folder(place->replaced);
    return shard_sync_folder(cache_dir);
}

/* ---- the key ---- */

static void key_text(struct strbuf *text, const struct prepare_options *o, const struct source_list *list)
{
    char hex[33];
    const char *template = tokenizer_chat_template(o->tokenizer);
    hash128_hex(tokenizer_hash(o->tokenizer), hex);
    strbuf_printf(text, "prepare %d shard %d tokenizer %s template %s %016llx\n", PREPARE_VERSION,
                  SHARD_VERSION, hex, chat_template_name(o->chat),
                  template ? (unsigned long long)hash64(template, strlen(template)) : 0ULL);
    strbuf_printf(
        text, "prompt %d history %d cutoff %d excess %d shard_bytes %lld val %a seed %llu eval %d\n",
        o->chat_options.train_on_prompt, o->chat_options.mask_history, o->cutoff_len, (int)o->excess,
        (long long)o->shard_bytes, o->val_size, (unsigned long long)o->split_seed, o->want_eval_part);
    strbuf_printf(text, "split_special_tokens %d\n", o->chat_options.split_special_tokens);
    for (int32_t i = 0; i < list->n; i++) {
        const struct source_file *file = &list->file[i];
        char *real = realpath(file->path, NULL);
        strbuf_printf(text, "%lld %lld %s\n%s\n", (long long)file->size_bytes, (long long)file->mtime_ns,
                      file->name, real ? real : file->path);
        source_file_key(text, file);
        strbuf_putc(text, '\n');
        free(real);
    }
}

static enum status find_key(struct hash128 *key, const struct prepare_options *options,
                            const struct source_list *list)
{
    struct strbuf text = STRBUF_EMPTY;
    key_text(&text, options, list);
    enum status status = strbuf_status(&text);
    if (status == LORAD_OK) *key = hash128(text.data, text.length);
    strbuf_free(&text);
    return status;
}

/* ---- preparing ---- */

/* Whether the cache has it; a folder that is there but cannot be used is reported and prepared again. */
static bool use_cached(const struct cache_place *place, struct prepare_report *report)
{
    if (!file_is_dir(place->folder)) return false;
    struct dataset *dataset = NULL;
    enum status status = dataset_open(&dataset, place->folder);
    dataset_close(dataset);
    if (status == LORAD_OK) status = read_report(report, place->folder);
    if (status != LORAD_OK) {
        log_warn("prepared data cannot be used and is made again: %s", status_message());
        status_clear();
    }
    return status == LORAD_OK;
}

static enum status find_split(struct prepare_job *job)
{
    const struct prepare_options *o = job->options;
    if (!(o->val_size >= 0)) return FAIL(LORAD_CONFIG, "val_size is %g; it cannot be negative", o->val_size);
    job->split.want_kept_back = o->want_eval_part;
    if (o->val_size == 0)
        return o->want_eval_part ? FAIL(LORAD_CONFIG, "val_size is 0: no rows are kept back for evaluation")
                                 : LORAD_OK;
    int64_t rows = 0;
    struct raw_row row;
    for (int32_t i = 0; i < job->list->n; i++) {
        while (source_reader_next(job->reader[i], &row)) rows++;
        source_reader_rewind(job->reader[i]);
    }
    double wanted = o->val_size < 1 ? ceil(o->val_size * (double)rows) : floor(o->val_size);
    if (wanted >= (double)rows)
        return FAIL(LORAD_DATA, "val_size %g would keep back all of the %lld rows for evaluation",
                    o->val_size, (long long)rows);
    job->split.kept_back = (int64_t)wanted;
    permutation_init(&job->split.permutation, (uint64_t)rows,
                     random_key(o->split_seed, RANDOM_SPLIT, 0, 0, 0));
    return LORAD_OK;
}

static enum status check_unchanged(const struct source_list *list)
{
    for (int32_t i = 0; i < list->n; i++) {
        int64_t size_bytes, mtime_ns;
        TRY(file_stat(&size_bytes, &mtime_ns, list->file[i].path));
        if (size_bytes != list->file[i].size_bytes || mtime_ns != list->file[i].mtime_ns)
            return FAIL(LORAD_DATA, "%s changed while it was read: start again when it is complete",
                        list->file[i].path);
    }
    return LORAD_OK;
}

static enum status check_some_kept(const struct prepare_job *job)
{
    const struct prepare_report *report = job->report;
    if (report->rows_kept > 0) return LORAD_OK;
    const struct source_list *list = job->list;
    struct strbuf text = STRBUF_EMPTY;
    for (int32_t i = 0; i < list->n && i < 5; i++)
        strbuf_printf(&text, "%s%s (%lld bytes, read as %s)", i > 0 ? ", " : "", list->file[i].path,
                      (long long)list->file[i].size_bytes, source_reader_format(job->reader[i]));
    if (list->n > 5) strbuf_printf(&text, " and %d more files", list->n - 5);
    strbuf_puts(&text, ": ");
    if (report->rows_read > 0)
        prepare_report_text(report, &text);
    else
        strbuf_puts(&text, "no rows in it");
    enum status status = FAIL(LORAD_DATA, "no row is left to train on: %s", strbuf_text(&text));
    strbuf_free(&text);
    return status;
}

/* Fills place->temporary. */
static enum status prepare_folder(struct prepare_job *job, const struct cache_place *place)
{
    const struct prepare_options *o = job->options;
    const struct source_list *list = job->list;
    int64_t start = clock_monotonic_ns();
    if (mkdir(place->temporary, 0777) != 0)
        return FAIL(LORAD_CANNOT_CREATE, "cannot create folder %s: %s", place->temporary, strerror(errno));
    for (int32_t i = 0; i < list->n; i++) {
        TRY(source_reader_open(&job->reader[i], &list->file[i]));
        if (!list->file[i].format)
            log_info("%s: read as %s, by its contents", list->file[i].name,
                     source_reader_format(job->reader[i]));
    }
    TRY(find_split(job));
    TRY(shard_writer_create(&job->writer, place->temporary, tokenizer_size(o->tokenizer),
                            o->shard_bytes > 0 ? o->shard_bytes : default_shard_bytes));
    job->problems_file = place->problems;
    job->report->files = list->n;
    TRY(prepare_rows(job));
    TRY(check_unchanged(list));
    TRY(check_some_kept(job));
    job->report->seconds = clock_seconds_since(start);
    TRY(write_report(place->temporary, job->report));
    const char **names = memory_new((size_t)list->n, sizeof *names);
    if (!names) return LORAD_NOMEM;
    for (int32_t i = 0; i < list->n; i++) names[i] = list->file[i].name;
    enum status status = shard_writer_finish(job->writer, names, list->n);
    free(names);
    return status;
}

static enum status make(const struct prepare_options *options, const struct source_list *list,
                        const struct cache_place *place, struct prepare_report *report)
{
    struct prepare_job job = {.options = options, .list = list, .report = report};
    bool replace = file_is_dir(place->folder);
    memset(report, 0, sizeof *report);
    remove_leftovers(place, options->cache_dir);
    if (!(job.reader = memory_new((size_t)list->n, sizeof *job.reader))) return LORAD_NOMEM;
    enum status status = prepare_folder(&job, place);
    shard_writer_destroy(job.writer);
    for (int32_t i = 0; i < list->n; i++) source_reader_close(job.reader[i]);
    free(job.reader);
    if (status == LORAD_OK) status = publish(place, options->cache_dir, replace);
    if (status != LORAD_OK) remove_folder(place->temporary);
    return status;
}

static enum status prepare_in(char **shard_dir, const struct prepare_options *options,
                              const struct source_list *list, struct cache_place *place,
                              struct prepare_report *report)
{
    struct hash128 key;
    TRY(file_make_dirs(options->cache_dir));
    TRY(find_key(&key, options, list));
    TRY(find_place(place, options->cache_dir, key));
    bool cached = !options->overwrite_cache && use_cached(place, report);
    if (!cached) {
        TRY(take_lock(place));
        /* Another process may have finished it meanwhile. */
        cached = !options->overwrite_cache && use_cached(place, report);
    }
    if (!cached) TRY(make(options, list, place, report));
    char *problems = file_join(place->folder, "problems.jsonl");
    if (!problems) return LORAD_NOMEM;
    if (file_exists(problems)) snprintf(report->problems_path, sizeof report->problems_path, "%s", problems);
    free(problems);
    *shard_dir = place->folder;
    place->folder = NULL;
    return LORAD_OK;
}

enum status dataset_prepare(char **shard_dir, const struct prepare_options *options,
                            struct prepare_report *report)
{
    if (options->cutoff_len < 2)
        return FAIL(LORAD_CONFIG, "cutoff_len is %d; it must be at least 2", options->cutoff_len);
    struct source_list list;
    TRY(source_list_open(&list, options->sources, options->n_sources));
    source_list_scratch(&list, options->cache_dir);
    struct cache_place place = {.lock_fd = -1};
    /* Filled aside: outputs are set only on success, and the report is large for a stack. */
    struct prepare_report *made = memory_new(1, sizeof *made);
    char *folder = NULL;
    enum status status = made ? prepare_in(&folder, options, &list, &place, made) : LORAD_NOMEM;
    if (status == LORAD_OK) {
        *shard_dir = folder;
        *report = *made;
    }
    free(made);
    place_free(&place);
    source_list_free(&list);
    return status;
}
