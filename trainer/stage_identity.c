#include "trainer/stage_identity.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/hash.h"

static const char *const strategies[] = {"concat", "interleave_under", "interleave_over"};

static const char *group_name(const struct stage_identity *stage, int32_t group)
{
    const struct dataset_source *source = &stage->sources[group];
    return source->name ? source->name : source->path;
}

static void write_group(struct strbuf *out, const struct stage_identity *stage, int32_t group)
{
    struct row_range range = dataset_group(stage->rows, group);
    const char *name = group_name(stage, group);
    strbuf_puts(out, group ? ",{\"name\":" : "{\"name\":");
    js_write_string(out, name, strlen(name));
    strbuf_printf(out, ",\"rows\":%lld,\"weight\":", (long long)range.n);
    js_write_double(out, stage->weights[group]);
    strbuf_puts(out, ",\"epochs\":");
    js_write_double(out, stage->max_epochs[group]);
    if (stage->hashes) {
        char hash[33];
        hash128_hex(stage->hashes[group], hash);
        strbuf_printf(out, ",\"hash\":\"%s\"", hash);
    }
    strbuf_putc(out, '}');
}

void stage_identity_write(struct strbuf *out, const struct stage_identity *stage, int32_t number)
{
    char hash[33];
    hash128_hex(dataset_fingerprint(stage->rows), hash);
    strbuf_puts(out, number ? ",{\"name\":" : "{\"name\":");
    js_write_string(out, stage->name, strlen(stage->name));
    strbuf_printf(out, ",\"dataset\":\"%s\",\"mix_strategy\":\"%s\",\"groups\":[", hash,
                  strategies[stage->mix_strategy]);
    for (int32_t g = 0; g < stage->n_groups; g++) write_group(out, stage, g);
    strbuf_puts(out, "]}");
}

void difference_add(struct strbuf *out, const char *format, ...)
{
    char text[512];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    strbuf_printf(out, "%s%s", out->length ? ", " : "", text);
}

int32_t stage_identity_rows(int64_t *rows, int32_t most, const struct json *was)
{
    const struct json *groups = js_get(was, "groups");
    int32_t n = (int32_t)js_length(groups);
    for (int32_t g = 0; g < n && g < most; g++) rows[g] = js_int(js_get(js_at(groups, (size_t)g), "rows"), 0);
    return n;
}

/* Whether the first rows of a group are the checkpoint's. */
static bool begins_as(const struct stage_identity *stage, int32_t group, const struct json *was)
{
    struct row_range range = dataset_group(stage->rows, group);
    int64_t rows = js_int(js_get(was, "rows"), -1);
    const char *hash = js_string(js_get(was, "hash"), NULL);
    char mine[33];
    if (!hash || rows < 0 || rows > range.n || !dataset_complete(stage->rows)) return false;
    hash128_hex(dataset_rows_fingerprint(stage->rows, range.first, rows), mine);
    return strcmp(hash, mine) == 0;
}

/* What became of a group, in words; false: nothing, or it only grew and may. */
static bool compare_rows(struct strbuf *out, const struct stage_identity *stage, int32_t group,
                         const struct json *was)
{
    int64_t now = dataset_group(stage->rows, group).n, before = js_int(js_get(was, "rows"), 0);
    const char *name = group_name(stage, group);
    bool front = begins_as(stage, group, was);
    if (front && now == before) return false;
    if (front && stage->may_grow) return false;
    if (front)
        difference_add(out, "%s has %lld rows more behind the old %lld; data_policy: append trains them",
                       name, (long long)(now - before), (long long)before);
    else if (!js_get(was, "hash"))
        difference_add(out, "%s has %lld rows, had %lld", name, (long long)now, (long long)before);
    else if (now < before)
        difference_add(out, "%s has %lld rows less", name, (long long)(before - now));
    else if (now > before)
        difference_add(out, "%s has %lld rows more, and the old ones changed too", name,
                       (long long)(now - before));
    else
        difference_add(out, "rows of %s changed", name);
    return true;
}

static bool same_shares(const struct stage_identity *stage, const struct json *was)
{
    const struct json *groups = js_get(was, "groups");
    const char *strategy = js_string(js_get(was, "mix_strategy"), NULL);
    if (!strategy || strcmp(strategy, strategies[stage->mix_strategy]) != 0) return false;
    for (int32_t g = 0; g < stage->n_groups && g < (int32_t)js_length(groups); g++) {
        const struct json *group = js_at(groups, (size_t)g);
        if (js_real(js_get(group, "weight"), -1) != stage->weights[g] ||
            js_real(js_get(group, "epochs"), -1) != stage->max_epochs[g])
            return false;
    }
    return true;
}

static void compare_groups(struct strbuf *out, const struct stage_identity *stage, const struct json *was)
{
    const struct json *groups = js_get(was, "groups");
    int32_t before = (int32_t)js_length(groups), both = before < stage->n_groups ? before : stage->n_groups;
    for (int32_t g = 0; g < both; g++) compare_rows(out, stage, g, js_at(groups, (size_t)g));
    for (int32_t g = both; g < before; g++) {
        const char *name = js_string(js_get(js_at(groups, (size_t)g), "name"), NULL);
        difference_add(out, "%s is missing", name ? name : "a dataset");
    }
    for (int32_t g = both; g < stage->n_groups && !stage->may_grow; g++)
        difference_add(out, "%s is new; data_policy: append trains it", group_name(stage, g));
}

/* `only`: the run is this one stage, and is not told about stages. */
static void compare_stage(struct strbuf *out, const struct stage_identity *stage, const struct json *was,
                          int32_t number, bool only)
{
    char of[128] = "", hash[33], key[33]; /* key: of rows that were being prepared then */
    struct strbuf rows = STRBUF_EMPTY;
    const char *old = js_string(js_get(was, "dataset"), NULL);
    if (!only) snprintf(of, sizeof of, " of stage %d, %s,", number + 1, stage->name);
    hash128_hex(dataset_fingerprint(stage->rows), hash);
    hash128_hex(dataset_key(stage->rows), key);
    if (!old || (strcmp(old, hash) != 0 && strcmp(old, key) != 0)) {
        bool grew = old && stage->may_grow;
        compare_groups(&rows, stage, was);
        if (rows.length || !grew)
            difference_add(out, "dataset%s (its contents changed%s%s)", of, rows.length ? ": " : "",
                           strbuf_text(&rows));
    }
    if (!same_shares(stage, was))
        difference_add(out, "mix_strategy, weights or epochs of dataset%s (changed)", of);
    strbuf_free(&rows);
}

void stage_identity_compare(struct strbuf *differences, const struct json *was,
                            const struct stage_identity *stages, int32_t n, struct stage_span span)
{
    bool only = n == 1 && !*stages[0].name && js_length(was) == 1;
    for (int32_t i = span.first; i < span.end; i++) {
        const struct json *old = js_at(was, (size_t)i);
        const char *name = js_string(js_get(old, "name"), NULL);
        struct stage_identity stage = stages[i < n ? i : 0];
        stage.may_grow = stage.may_grow && i == span.growing;
        if (i < n && old)
            compare_stage(differences, &stage, old, i, only);
        else if (i < n)
            difference_add(differences, "stage %d, %s (it is new)", i + 1, stages[i].name);
        else if (old)
            difference_add(differences, "stage %d, %s (it is missing)", i + 1, name ? name : "");
    }
}
