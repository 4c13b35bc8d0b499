/* checkpoints.c: which checkpoints an output_dir holds, pinning them, and removing what is not needed. */
#include "trainer/checkpoints_impl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "comm/coord.h"

enum { MOST_CONFIG_BYTES = 1 << 20 };

const char *size_text(char text[SIZE_TEXT_BYTES], int64_t bytes)
{
    static const char *const units[] = {"bytes", "kB", "MB", "GB", "TB"};
    double value = (double)bytes;
    int unit = 0;
    for (; value >= 1000 && unit < 4; unit++) value /= 1000;
    snprintf(text, SIZE_TEXT_BYTES, unit ? "%.1f %s" : "%.0f %s", value, units[unit]);
    return text;
}

enum status checkpoints_config_value(char **out, const char *dir, const char *key)
{
    char *path = file_join(dir, "lorad.yaml"), *text = NULL;
    size_t length, n = strlen(key);
    *out = NULL;
    if (!path) return LORAD_NOMEM;
    enum status status = file_exists(path) ? file_read(&text, &length, path, MOST_CONFIG_BYTES) : LORAD_OK;
    for (const char *line = text; line && *line; line += strcspn(line, "\n"), line += *line == '\n') {
        if (strncmp(line, key, n) != 0 || strncmp(line + n, ": ", 2) != 0) continue;
        const char *value = line + n + 2;
        if (!(*out = memory_string_n(value, strcspn(value, "\n")))) status = LORAD_NOMEM;
        break;
    }
    free(text);
    free(path);
    return status;
}

static enum status is_void(bool *out, void *output_dir, struct checkpoint_id id)
{
    return coord_is_fenced(out, output_dir, id.step, id.epoch);
}

/* An output_dir is a folder; one without checkpoints is no error. */
static enum status list(struct checkpoint_entry **entries, size_t *n, const char *output_dir)
{
    if (!file_is_dir(output_dir)) return FAIL(LORAD_NOT_FOUND, "there is no folder %s", output_dir);
    return checkpoint_list(entries, n, output_dir);
}

static char *folder_of(const char *output_dir, const char *name)
{
    char *parent = file_join(output_dir, "ckpt"), *dir = parent ? file_join(parent, name) : NULL;
    free(parent);
    return dir;
}

static enum status try_open(const char *output_dir, const char *name, bool verify)
{
    struct checkpoint *checkpoint;
    char *dir = folder_of(output_dir, name);
    enum status status = dir ? checkpoint_open(&checkpoint, dir, verify) : LORAD_NOMEM;
    if (status == LORAD_OK) checkpoint_close(checkpoint);
    free(dir);
    return status;
}

enum status checkpoints_newest(char name[CHECKPOINT_NAME_BYTES], int *damaged, const char *output_dir,
                               bool verify)
{
    struct checkpoint_entry *entries;
    size_t n;
    bool found = false;
    *damaged = 0;
    TRY(list(&entries, &n, output_dir));
    enum status status = LORAD_OK;
    for (size_t i = 0; i < n && status == LORAD_OK && !found; i++) {
        bool fenced = false;
        if (!entries[i].committed) continue;
        status = coord_is_fenced(&fenced, output_dir, entries[i].id.step, entries[i].id.epoch);
        if (status != LORAD_OK || fenced) continue;
        status = try_open(output_dir, entries[i].name, verify);
        found = status == LORAD_OK;
        if (found) memcpy(name, entries[i].name, CHECKPOINT_NAME_BYTES);
        if (status == LORAD_DATA || status == LORAD_NOT_FOUND) ++*damaged, status = LORAD_OK;
    }
    free(entries);
    if (status == LORAD_OK && !found)
        return *damaged ? FAIL(LORAD_DATA, "all %d checkpoints in %s are damaged", *damaged, output_dir)
                        : FAIL(LORAD_NOT_FOUND, "%s holds no checkpoint", output_dir);
    return status;
}

/* ---- the table ---- */

struct row {
    struct checkpoint_entry entry;
    bool is_void, is_best, opened, damaged;
    char created[24], problem[400];
    int64_t bytes;
    double epoch; /* passes over the data */
};

static enum status look(struct row *row, int64_t *best_step, const char *output_dir, bool verify)
{
    struct checkpoint *checkpoint;
    struct checkpoint_contents contents;
    struct strbuf problems = STRBUF_EMPTY;
    TRY(coord_is_fenced(&row->is_void, output_dir, row->entry.id.step, row->entry.id.epoch));
    char *dir = folder_of(output_dir, row->entry.name);
    if (!dir) return LORAD_NOMEM;
    enum status status = checkpoint_open(&checkpoint, dir, false);
    if (status == LORAD_OK) {
        const struct json *state = checkpoint_state(checkpoint);
        checkpoint_describe(checkpoint, &contents);
        memcpy(row->created, contents.created_utc, sizeof row->created);
        row->bytes = contents.total_bytes;
        row->epoch = js_real(js_get(state, "epoch"), 0);
        row->opened = true;
        if (*best_step < 0 && !row->is_void && js_get(state, "best_metric"))
            *best_step = js_int(js_get(state, "best_step"), -1);
        checkpoint_close(checkpoint);
        if (verify) status = checkpoint_examine(&problems, dir);
    }
    if (status == LORAD_DATA || status == LORAD_CONFIG || status == LORAD_NOT_FOUND) {
        row->damaged = true;
        const char *why = problems.length ? strbuf_text(&problems) : status_message();
        snprintf(row->problem, sizeof row->problem, "%.*s", (int)strcspn(why, "\n"), why);
        status = LORAD_OK;
    }
    strbuf_free(&problems);
    free(dir);
    return status;
}

static void put_word(struct strbuf *out, size_t start, const char *word)
{
    if (out->length > start) strbuf_puts(out, ", ");
    strbuf_puts(out, word);
}

static void put_state(struct strbuf *out, const struct row *row, bool verified)
{
    size_t start = out->length;
    if (!row->entry.committed)
        put_word(out, start, "not committed: being written, or its save did not end");
    else if (!row->damaged)
        put_word(out, start, verified ? "verified" : "committed");
    if (row->is_void) put_word(out, start, "void (a later start went on from before it)");
    if (row->is_best) put_word(out, start, "best");
    if (row->entry.pinned) put_word(out, start, "pinned");
    if (row->damaged) {
        put_word(out, start, "DAMAGED: ");
        strbuf_puts(out, row->problem);
    }
}

static void put_row(struct strbuf *out, const struct row *row, bool verified)
{
    char size[SIZE_TEXT_BYTES];
    strbuf_printf(out, "%9lld", (long long)row->entry.id.step);
    if (row->opened)
        strbuf_printf(out, "  %6.2f  %5lld  %-20s  %9s  ", row->epoch, (long long)row->entry.id.epoch,
                      row->created, size_text(size, row->bytes));
    else
        strbuf_printf(out, "  %6s  %5lld  %-20s  %9s  ", "", (long long)row->entry.id.epoch, "", "");
    put_state(out, row, verified);
    strbuf_putc(out, '\n');
}

static void put_flag(struct strbuf *out, const char *key, bool value)
{
    strbuf_printf(out, ",\"%s\":%s", key, value ? "true" : "false");
}

static void put_text(struct strbuf *out, const char *key, const char *value)
{
    strbuf_printf(out, ",\"%s\":", key);
    js_write_string(out, value, strlen(value));
}

static void put_row_json(struct strbuf *out, const struct row *row, bool verified)
{
    strbuf_printf(out, "{\"step\":%lld,\"start\":%lld,\"attempt\":%d", (long long)row->entry.id.step,
                  (long long)row->entry.id.epoch, row->entry.id.attempt);
    put_text(out, "name", row->entry.name);
    put_flag(out, "committed", row->entry.committed);
    if (row->opened) {
        put_text(out, "created_utc", row->created);
        strbuf_printf(out, ",\"bytes\":%lld,\"epoch\":", (long long)row->bytes);
        js_write_double(out, row->epoch);
    }
    if (row->damaged)
        put_text(out, "damaged", row->problem);
    else if (verified && row->entry.committed)
        put_flag(out, "verified", true);
    put_flag(out, "void", row->is_void);
    put_flag(out, "best", row->is_best);
    put_flag(out, "pinned", row->entry.pinned);
    strbuf_putc(out, '}');
}

static void put_leftovers(struct strbuf *out, const struct checkpoint_leftover *leftovers, size_t n,
                          bool json)
{
    char size[SIZE_TEXT_BYTES];
    if (json) strbuf_puts(out, ",\"leftovers\":[");
    for (size_t i = 0; i < n; i++) {
        const struct checkpoint_leftover *one = &leftovers[i];
        if (json) {
            strbuf_printf(out, "%s{\"bytes\":%lld", i ? "," : "", (long long)one->bytes);
            put_text(out, "path", one->path);
            put_text(out, "why", one->why);
            strbuf_putc(out, '}');
        } else {
            strbuf_printf(out, "%s (%s): %s\n", one->path, size_text(size, one->bytes), one->why);
        }
    }
    if (json) strbuf_putc(out, ']');
}

static void put_rows(struct strbuf *out, const struct row *rows, size_t n, bool verified, bool json)
{
    if (json)
        strbuf_puts(out, "{\"checkpoints\":[");
    else if (n)
        strbuf_printf(out, "%9s  %6s  %5s  %-20s  %9s  %s\n", "step", "epoch", "start", "created (UTC)",
                      "size", "state");
    else
        strbuf_puts(out, "no checkpoints\n");
    for (size_t i = 0; i < n; i++) {
        if (json && i) strbuf_putc(out, ',');
        if (json)
            put_row_json(out, &rows[i], verified);
        else
            put_row(out, &rows[i], verified);
    }
    if (json) strbuf_putc(out, ']');
}

enum status checkpoints_table(struct strbuf *out, const char *output_dir, bool verify, bool json)
{
    struct checkpoint_entry *entries;
    struct checkpoint_leftover *leftovers = NULL;
    size_t n, n_leftovers = 0, damaged = 0;
    int64_t best_step = -1;
    TRY(list(&entries, &n, output_dir));
    struct row *rows = memory_new(n, sizeof *rows);
    enum status status = rows ? LORAD_OK : LORAD_NOMEM;
    for (size_t i = 0; i < n && status == LORAD_OK; i++) {
        rows[i].entry = entries[i];
        if (entries[i].committed) status = look(&rows[i], &best_step, output_dir, verify);
        damaged += rows[i].damaged;
    }
    for (size_t i = 0; i < n && status == LORAD_OK; i++)
        rows[i].is_best =
            best_step >= 0 && rows[i].entry.id.step == best_step && rows[i].opened && !rows[i].is_void;
    if (status == LORAD_OK) status = checkpoint_leftovers(&leftovers, &n_leftovers, output_dir);
    if (status == LORAD_OK) {
        put_rows(out, rows, n, verify, json);
        put_leftovers(out, leftovers, n_leftovers, json);
        if (json) strbuf_puts(out, "}\n");
        status = strbuf_status(out);
    }
    checkpoint_leftovers_free(leftovers, n_leftovers);
    free(rows);
    free(entries);
    if (status == LORAD_OK && damaged > 0)
        return FAIL(LORAD_DATA, "%zu of %zu checkpoints in %s cannot be used", damaged, n, output_dir);
    return status;
}

/* ---- pins ---- */

enum status checkpoints_pin(struct strbuf *out, const char *output_dir, int64_t step, bool pinned)
{
    struct checkpoint_entry *entries;
    size_t n, chosen;
    TRY(list(&entries, &n, output_dir));
    enum status status = LORAD_OK;
    chosen = n;
    for (size_t i = 0; i < n && status == LORAD_OK && chosen == n; i++) {
        bool fenced = false;
        if (!entries[i].committed || entries[i].id.step != step) continue;
        status = coord_is_fenced(&fenced, output_dir, step, entries[i].id.epoch);
        if (!fenced || entries[i].pinned) chosen = i;
    }
    if (status == LORAD_OK && chosen == n)
        status = FAIL(LORAD_NOT_FOUND, "%s holds no checkpoint of step %lld; lorad checkpoints %s lists them",
                      output_dir, (long long)step, output_dir);
    if (status == LORAD_OK) status = checkpoint_pin(fs_posix(), output_dir, entries[chosen].name, pinned);
    if (status == LORAD_OK)
        strbuf_printf(out, "%s is %s\n", entries[chosen].name,
                      pinned ? "pinned: no run and no lorad gc removes it" : "not pinned any more");
    free(entries);
    return status;
}

/* ---- removing ---- */

/* What `lorad set` has made of it; the last word counts. */
static void read_override(int32_t *keep, const struct json *overrides)
{
    for (size_t i = 0; i < js_length(overrides); i++) {
        const struct json *one = js_at(overrides, i);
        const char *key = js_string(js_get(one, "key"), NULL);
        if (key && strcmp(key, "save_total_limit") == 0)
            *keep = (int32_t)js_real(js_get(one, "value"), *keep);
    }
}

/* What the newest checkpoint says of its run: how many it keeps (0: all), and its best step. */
static enum status read_wishes(int32_t *keep, int64_t *best_step, const char *output_dir)
{
    char name[CHECKPOINT_NAME_BYTES], *limit;
    int damaged;
    struct checkpoint *checkpoint;
    *keep = 0;
    *best_step = -1;
    enum status status = checkpoints_newest(name, &damaged, output_dir, false);
    if (status == LORAD_NOT_FOUND || status == LORAD_DATA) return LORAD_OK; /* nothing goes for its age */
    TRY(status);
    char *dir = folder_of(output_dir, name);
    if (!dir) return LORAD_NOMEM;
    status = checkpoint_open(&checkpoint, dir, false);
    if (status == LORAD_OK) {
        const struct json *state = checkpoint_state(checkpoint);
        if (js_get(state, "best_metric")) *best_step = js_int(js_get(state, "best_step"), -1);
        status = checkpoints_config_value(&limit, dir, "save_total_limit");
        if (status == LORAD_OK && limit) *keep = atoi(limit);
        free(limit);
        read_override(keep, js_get(state, "overrides"));
        checkpoint_close(checkpoint);
    }
    free(dir);
    return status;
}

/* One line a checkpoint that goes, from "<name>\t<why>\n". */
static void tell_retired(struct strbuf *out, const char *report, bool dry_run)
{
    for (const char *line = report; *line; line += strcspn(line, "\n") + 1) {
        int name = (int)strcspn(line, "\t"), why = (int)strcspn(line + name + 1, "\n");
        strbuf_printf(out, "%s ckpt/%.*s: %.*s\n", dry_run ? "would remove" : "removed", name, line, why,
                      line + name + 1);
    }
}

/* Temporaries only when no run goes on: they may be its own. */
static enum status remove_leftovers(struct strbuf *out, const char *output_dir, bool alone, bool dry_run)
{
    struct checkpoint_leftover *leftovers;
    size_t n;
    char size[SIZE_TEXT_BYTES];
    TRY(checkpoint_leftovers(&leftovers, &n, output_dir));
    enum status status = LORAD_OK;
    for (size_t i = 0; i < n && status == LORAD_OK; i++) {
        const struct checkpoint_leftover *one = &leftovers[i];
        if (one->kind == LEFTOVER_TEMPORARY && !alone) continue;
        if (one->kind == LEFTOVER_QUARANTINE) {
            strbuf_printf(out, "left alone %s (%s): %s\n", one->path, size_text(size, one->bytes), one->why);
            continue;
        }
        char *path = file_join(output_dir, one->path);
        status = !path ? LORAD_NOMEM : dry_run ? LORAD_OK : fs_remove_tree(fs_posix(), path);
        free(path);
        if (status == LORAD_OK)
            strbuf_printf(out, "%s %s (%s): %s\n", dry_run ? "would remove" : "removed", one->path,
                          size_text(size, one->bytes), one->why);
    }
    checkpoint_leftovers_free(leftovers, n);
    return status;
}

static enum status tidy(struct strbuf *out, const char *output_dir, int32_t keep, bool alone, bool dry_run)
{
    struct strbuf report = STRBUF_EMPTY;
    char *folder = memory_string(output_dir);
    struct checkpoint_retention retention = {.steps = {-1, -1},
                                             .is_void = is_void,
                                             .context = folder,
                                             .alone = alone,
                                             .dry_run = dry_run,
                                             .report = &report};
    enum status status = folder ? read_wishes(&retention.keep, &retention.steps[0], output_dir) : LORAD_NOMEM;
    if (keep > 0) retention.keep = keep;
    /* Before collection, which empties the trash without a word. */
    if (status == LORAD_OK) status = remove_leftovers(out, output_dir, alone, dry_run);
    if (status == LORAD_OK) status = checkpoint_collect(fs_posix(), output_dir, &retention);
    if (status == LORAD_OK) tell_retired(out, strbuf_text(&report), dry_run);
    if (status == LORAD_OK && out->length == 0) strbuf_puts(out, "nothing to remove\n");
    strbuf_free(&report);
    free(folder);
    return status;
}

static enum status check_is_output(const char *output_dir)
{
    char *ckpt = file_join(output_dir, "ckpt"), *epochs = file_join(output_dir, "epoch");
    enum status status = ckpt && epochs ? LORAD_OK : LORAD_NOMEM;
    if (status == LORAD_OK && !file_is_dir(ckpt) && !file_is_dir(epochs))
        status = FAIL(LORAD_NOT_FOUND, "%s is no output_dir of lorad: it has neither ckpt/ nor epoch/",
                      output_dir);
    free(ckpt);
    free(epochs);
    return status;
}

enum status checkpoints_tidy(struct strbuf *out, const char *output_dir, int32_t keep, bool dry_run)
{
    struct coord_hold *hold = NULL;
    TRY(check_is_output(output_dir));
    enum status status = coord_hold(&hold, output_dir, "lorad gc");
    if (status == LORAD_CANNOT_CREATE && dry_run) {
        strbuf_printf(out, "%s: what is being written is not listed\n", status_message());
        status = LORAD_OK;
    }
    if (status == LORAD_OK) status = tidy(out, output_dir, keep, hold != NULL, dry_run);
    coord_release(hold);
    return status;
}
