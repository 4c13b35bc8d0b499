/* sources_files.c: the files that the sources name: paths, folders, shell patterns. */
#include <dirent.h>
#include <errno.h>
#include <glob.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/memory.h"
#include "base/utf8.h"
#include "dataloader/sources_impl.h"

/* One of the dataset_sources as its files are added. */
struct adding {
    struct source_list *list;
    size_t capacity;
    const struct dataset_source *source;
    const struct source_format *format;
    int32_t number;
};

void source_list_free(struct source_list *list)
{
    for (int32_t i = 0; i < list->n; i++) {
        free(list->file[i].path);
        free(list->file[i].name);
    }
    free(list->file);
    *list = (struct source_list){0};
}

void source_list_scratch(struct source_list *list, const char *folder)
{
    for (int32_t i = 0; i < list->n; i++) list->file[i].scratch_dir = folder;
}

/* As people and JSON can have it: folders may hold names in GBK, or with line ends in them. */
static char *printable(const char *name)
{
    struct strbuf text = STRBUF_EMPTY;
    utf8_add_lossy(&text, name, strlen(name));
    for (size_t i = 0; i < text.length; i++)
        if ((unsigned char)text.data[i] < 0x20 || text.data[i] == 0x7F) text.data[i] = '?';
    char *copy = text.failed ? NULL : memory_string(strbuf_text(&text));
    strbuf_free(&text);
    return copy;
}

static enum status add_file(struct adding *adding, const char *path, const char *name)
{
    struct source_file file = {.format = adding->format, .source = adding->number, .origin = adding->source};
    struct source_list *list = adding->list;
    TRY(file_stat(&file.size_bytes, &file.mtime_ns, path));
    void *block = list->file;
    TRY(memory_grow(&block, &adding->capacity, (size_t)list->n + 1, sizeof *list->file));
    list->file = block;
    file.path = memory_string(path);
    file.name = printable(name);
    list->file[list->n++] = file;
    return file.path && file.name ? LORAD_OK : LORAD_NOMEM;
}

/* The name in reports: "NAME/file" when the source has a name. */
static enum status add_member(struct adding *adding, const char *path, const char *base)
{
    char *name = adding->source->name ? file_join(adding->source->name, base) : NULL;
    if (adding->source->name && !name) return LORAD_NOMEM;
    enum status status = add_file(adding, path, name ? name : path);
    free(name);
    return status;
}

/* ---- folders ---- */

static bool is_data_file(const char *name, bool text)
{
    static const char *const endings[] = {".jsonl", ".json", ".ndjson", ".csv", ".tsv", ".txt"};
    if (name[0] == '.') return false;
    for (size_t i = 0; i < sizeof endings / sizeof *endings; i++)
        if (source_path_ends(name, endings[i])) return true;
    return text && source_path_ends(name, ".md");
}

static bool same_file(const char *a, const char *b)
{
    struct stat first, second;
    return b && stat(a, &first) == 0 && stat(b, &second) == 0 && first.st_dev == second.st_dev &&
           first.st_ino == second.st_ino;
}

static int by_name(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

static enum status add_entry(struct adding *adding, const char *folder, const char *base)
{
    if (!is_data_file(base, adding->format == &source_text)) return LORAD_OK;
    char *path = file_join(folder, base);
    if (!path) return LORAD_NOMEM;
    enum status status = LORAD_OK;
    if (!file_is_dir(path) && !same_file(path, adding->source->metadata_path))
        status = add_member(adding, path, base);
    free(path);
    return status;
}

static enum status add_folder(struct adding *adding, const char *folder)
{
    struct dirent **entries;
    int32_t before = adding->list->n;
    int n = scandir(folder, &entries, NULL, by_name);
    if (n < 0) return FAIL(LORAD_NOT_FOUND, "cannot list folder %s: %s", folder, strerror(errno));
    enum status status = LORAD_OK;
    for (int i = 0; i < n; i++) {
        if (status == LORAD_OK) status = add_entry(adding, folder, entries[i]->d_name);
        free(entries[i]);
    }
    free(entries);
    if (status == LORAD_OK && adding->list->n == before)
        return FAIL(
            LORAD_NOT_FOUND,
            "folder %s holds no .jsonl, .json, .csv, .tsv or .txt file (nor one with .gz or .zst behind); "
            "folders in it are not read: name them with a pattern such as %s/*/*.jsonl",
            folder, folder);
    return status;
}

/* ---- patterns ---- */

static int by_path(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static enum status add_pattern(struct adding *adding, const char *pattern)
{
    glob_t found = {0};
    int result = glob(pattern, GLOB_BRACE | GLOB_NOSORT, NULL, &found);
    if (result != 0) {
        globfree(&found);
        return result == GLOB_NOSPACE
                   ? FAIL(LORAD_NOMEM, "out of memory for the files of %s", pattern)
                   : FAIL(LORAD_NOT_FOUND, "cannot find the training data: no file matches %s", pattern);
    }
    enum status status = LORAD_OK;
    int32_t before = adding->list->n;
    qsort(found.gl_pathv, found.gl_pathc, sizeof *found.gl_pathv, by_path);
    for (size_t i = 0; i < found.gl_pathc && status == LORAD_OK; i++) {
        const char *path = found.gl_pathv[i], *slash = strrchr(path, '/');
        bool again = i > 0 && strcmp(path, found.gl_pathv[i - 1]) == 0;
        if (again || file_is_dir(path) || same_file(path, adding->source->metadata_path)) continue;
        status = add_member(adding, path, slash ? slash + 1 : path);
    }
    globfree(&found);
    if (status == LORAD_OK && adding->list->n == before)
        status = FAIL(LORAD_NOT_FOUND, "cannot find the training data: only folders match %s", pattern);
    return status;
}

/* ---- sources ---- */

static enum status find_format(const struct source_format **out, const struct dataset_source *source)
{
    if (!source->format || strcmp(source->format, "auto") == 0 || (*out = source_format_find(source->format)))
        return LORAD_OK;
    struct strbuf names = STRBUF_EMPTY;
    source_format_names(&names);
    enum status status = FAIL(LORAD_CONFIG, "%s: unknown format \"%s\"; there are auto, %s", source->path,
                              source->format, strbuf_text(&names));
    strbuf_free(&names);
    return status;
}

static enum status add_source(struct adding *adding)
{
    const struct dataset_source *source = adding->source;
    int32_t before = adding->list->n;
    TRY(find_format(&adding->format, source));
    if (source->metadata_path && !file_exists(source->metadata_path))
        return FAIL(LORAD_NOT_FOUND, "cannot find the metadata file %s", source->metadata_path);
    if (file_is_dir(source->path))
        TRY(add_folder(adding, source->path));
    else if (file_exists(source->path))
        TRY(add_file(adding, source->path, source->name ? source->name : source->path));
    else if (strpbrk(source->path, "*?[{"))
        TRY(add_pattern(adding, source->path));
    else
        return FAIL(LORAD_NOT_FOUND, "cannot find the training data %s", source->path);
    if (source->metadata_path && adding->list->n != before + 1)
        return FAIL(
            LORAD_CONFIG,
            "%s: metadata_path belongs to one file, but here are %d; give each file its own dataset entry",
            source->path, adding->list->n - before);
    return LORAD_OK;
}

enum status source_list_open(struct source_list *out, const struct dataset_source *sources, int32_t n)
{
    struct source_list list = {0};
    struct adding adding = {.list = &list};
    if (n < 1) return FAIL(LORAD_CONFIG, "no data is named: set train_file or dataset");
    for (int32_t i = 0; i < n; i++) {
        adding.source = &sources[i];
        adding.number = i;
        adding.format = NULL;
        enum status status = add_source(&adding);
        if (status == LORAD_OK) continue;
        source_list_free(&list);
        return status;
    }
    *out = list;
    return LORAD_OK;
}

/* ---- the key ---- */

static void key_word(struct strbuf *out, const char *name, const char *value)
{
    if (value) strbuf_printf(out, " %s %zu:%s", name, strlen(value), value);
}

void source_file_key(struct strbuf *out, const struct source_file *file)
{
    const struct dataset_source *source = file->origin;
    const struct source_columns *c = &source->columns;
    const struct source_tags *t = &source->tags;
    const struct {
        const char *name, *value;
    } words[] = {
        {"prompt", c->prompt},
        {"query", c->query},
        {"response", c->response},
        {"system_column", c->system},
        {"history", c->history},
        {"messages", c->messages},
        {"text", c->text},
        {"role_tag", t->role_tag},
        {"content_tag", t->content_tag},
        {"user_tag", t->user_tag},
        {"assistant_tag", t->assistant_tag},
        {"system_tag", t->system_tag},
        {"system", source->system},
        {"metadata", source->metadata_path},
    };
    strbuf_puts(out, file->format ? file->format->name : "auto");
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) key_word(out, words[i].name, words[i].value);
    int64_t size_bytes, mtime_ns;
    if (!source->metadata_path) return;
    if (file_stat(&size_bytes, &mtime_ns, source->metadata_path) == LORAD_OK)
        strbuf_printf(out, " %lld %lld", (long long)size_bytes, (long long)mtime_ns);
    else
        status_clear();
}
