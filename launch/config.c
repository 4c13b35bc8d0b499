/*
 * config.c: from texts to a finished config: read, choose one node per key, set values, apply the rules,
 * write the resolved text and its hash.
 *
 * 1. Every key is set exactly once, from the last override, else the file, else the table's default; all
 *    three go through the same parser.
 * 2. A key whose value is refused gets its default, so the options are always complete enough to look at.
 * 3. The resolved text is itself a configuration that resolves to the same text and hash.
 */
#include "launch/config_impl.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "comm/redis_url.h"

/* ---- problems ---- */

void problems_add(struct config_problems *problems, enum status code, const char *format, ...)
{
    char words[2048];
    va_list args;
    va_start(args, format);
    vsnprintf(words, sizeof words, format, args);
    va_end(args);
    char *text = memory_string(words);
    if (!text || memory_grow((void **)&problems->items, &problems->capacity, problems->n + 1,
                             sizeof *problems->items) != LORAD_OK) {
        free(text);
        return; /* out of memory: the allocation that failed is the error that will be reported */
    }
    problems->items[problems->n++] = (struct config_problem_item){code, text};
}

void problems_unique(struct config_problems *problems)
{
    size_t kept = 0;
    for (size_t i = 0; i < problems->n; i++) {
        size_t k = 0;
        while (k < kept && strcmp(problems->items[k].text, problems->items[i].text) != 0) k++;
        if (k == kept)
            problems->items[kept++] = problems->items[i];
        else
            free(problems->items[i].text);
    }
    problems->n = kept;
}

void problems_free(struct config_problems *problems)
{
    for (size_t i = 0; i < problems->n; i++) free(problems->items[i].text);
    free(problems->items);
}

size_t config_problem_count(const struct config *config)
{
    return config->problems.n;
}

const char *config_problem(const struct config *config, size_t i)
{
    return config->problems.items[i].text;
}

enum status config_status(const struct config *config)
{
    const struct config_problems *problems = &config->problems;
    if (problems->n == 0) return LORAD_OK;
    if (problems->n == 1) return FAIL(problems->items[0].code, "%s", problems->items[0].text);
    return FAIL(problems->items[0].code, "%s (and %zu more)", problems->items[0].text, problems->n - 1);
}

/* ---- small parts ---- */

void *config_own(struct config *config, void *block)
{
    if (block && memory_grow((void **)&config->owned, &config->owned_capacity, config->n_owned + 1,
                             sizeof *config->owned) == LORAD_OK) {
        config->owned[config->n_owned++] = block;
        return block;
    }
    free(block);
    problems_add(&config->problems, LORAD_NOMEM, "out of memory while reading %s", config->name);
    return NULL;
}

bool config_given(const struct config *config, const char *name)
{
    int key = config_key_find(name);
    return key >= 0 && config->chosen[key] && !config_node_is_null(config->chosen[key]);
}

const char *config_where(char buffer[600], const struct config *config, const char *name)
{
    char place[512];
    int key = config_key_find(name);
    const struct config_node *node = key >= 0 ? config->chosen[key] : NULL;
    if (node)
        snprintf(buffer, 600, "%s: %s", config_place(place, node), node->key ? node->key : name);
    else
        snprintf(buffer, 600, "%s: %s", config->name, name);
    return buffer;
}

const struct run_options *config_run(const struct config *config)
{
    return &config->values.run;
}

const char *config_noted(const struct config *config)
{
    return strbuf_text(&config->noted);
}

enum status config_value_of(const char **out, const struct config *config, const char *name)
{
    int key = config_key_find(name);
    const struct config_node *node = key >= 0 ? config->chosen[key] : NULL;
    if (key < 0) return FAIL(LORAD_USAGE, "%s is not a configuration key; `lorad help` lists all keys", name);
    if (node && node->kind != NODE_SCALAR) return FAIL(LORAD_USAGE, "%s is not a single value", name);
    const char *fallback = config_keys[key].fallback;
    *out = node && !config_node_is_null(node) ? node->text : fallback ? fallback : "";
    return LORAD_OK;
}

/* ---- choosing a node per key ---- */

static bool same_value(const struct config_node *a, const struct config_node *b)
{
    struct strbuf left = STRBUF_EMPTY, right = STRBUF_EMPTY;
    config_node_write(&left, a);
    config_node_write(&right, b);
    bool same = strcmp(strbuf_text(&left), strbuf_text(&right)) == 0;
    strbuf_free(&left);
    strbuf_free(&right);
    return same;
}

static bool means_off(const struct config_node *node)
{
    if (node->kind != NODE_SCALAR) return !node->first;
    if (config_node_is_null(node) || !node->text[0]) return true;
    return config_word_index("false|no|off|none|0|0.0", node->text) >= 0;
}

/* A key of another trainer: noted when it asks for what lorad does, else a problem. */
static void take_other(struct config *config, const struct config_other *other,
                       const struct config_node *node)
{
    bool strict = other->agrees[0] == '!';
    const char *agrees = other->agrees + strict;
    bool fine = strcmp(agrees, "*") == 0 || config_node_is_null(node) || (!strict && means_off(node)) ||
                (node->kind == NODE_SCALAR && config_word_index(agrees, node->text) >= 0);
    if (fine) {
        strbuf_printf(&config->noted, "%s%s", config->noted.length ? ", " : "", other->name);
        return;
    }
    char place[512];
    struct strbuf value = STRBUF_EMPTY;
    config_node_write(&value, node);
    problems_add(&config->problems, LORAD_CONFIG, "%s: %s: %.100s is not supported: %s",
                 config_place(place, node), other->name, strbuf_text(&value), other->advice);
    strbuf_free(&value);
}

static const struct config_other *other_find(const char *name)
{
    for (size_t i = 0; i < config_n_others; i++)
        if (strcmp(config_others[i].name, name) == 0) return &config_others[i];
    return NULL;
}

/* `node` with the key `name` from the file (override false) or from --set. */
static void take_node(struct config *config, const char *name, const struct config_node *node, bool override)
{
    char place[512];
    int key = config_key_find(name);
    if (key >= 0) {
        const struct config_node *earlier = config->chosen[key];
        if (earlier && !override && !same_value(earlier, node)) {
            problems_add(&config->problems, LORAD_CONFIG,
                         "%s: %s: contradicts %s in line %d, another name of the same key: keep one of them",
                         config_place(place, node), name, earlier->key, earlier->key_line);
            return;
        }
        config->chosen[key] = node;
        return;
    }
    const struct config_other *other = other_find(name);
    if (other) {
        take_other(config, other, node);
        return;
    }
    const char *near = config_key_nearest(name);
    struct config_node at = *node;
    if (at.key_line > 0) at.line = at.key_line;
    if (near)
        problems_add(&config->problems, LORAD_CONFIG, "%s: %.100s: unknown key; did you mean %s?",
                     config_place(place, &at), name, near);
    else
        problems_add(&config->problems, LORAD_CONFIG, "%s: %.100s: unknown key; `lorad help` lists all keys",
                     config_place(place, &at), name);
}

static void take_file(struct config *config)
{
    const struct config_node *tree = config->tree;
    if (tree && tree->kind == NODE_MAP) {
        for (const struct config_node *node = tree->first; node; node = node->next)
            take_node(config, node->key, node, false);
    } else if (tree && !config_node_is_null(tree)) {
        problems_add(&config->problems, LORAD_CONFIG, "%s:%d: lines of the form `key: value` are wanted",
                     config->name, tree->line);
    } else if (config->problems.n == 0 && config->n_sets == 0) {
        problems_add(&config->problems, LORAD_CONFIG,
                     "%s: is empty; it needs at least model_name_or_path, dataset and "
                     "output_dir",
                     config->name);
    }
}

static enum status take_set(struct config *config, size_t i, const char *set)
{
    const char *equals = strchr(set, '=');
    if (!equals || equals == set) {
        problems_add(&config->problems, LORAD_USAGE, "--set %.100s: must have the form key=value", set);
        return LORAD_OK;
    }
    char name[128];
    snprintf(name, sizeof name, "%.*s", (int)(equals - set), set);
    struct strbuf source = STRBUF_EMPTY;
    char masked[256];
    bool url = strncmp(name, "redis_url", sizeof "redis_url") == 0;
    if (url) redis_url_mask(masked, sizeof masked, set);
    strbuf_printf(&source, "--set %.200s", url ? masked : set);
    config->set_names[i] = source.data;
    TRY(strbuf_status(&source));
    struct config_node *node = NULL;
    bool whole;
    TRY(config_yaml_parse(&node, equals + 1, strlen(equals + 1), config->set_names[i], &config->problems,
                          &whole));
    if (!node) { /* "--set key=": an empty value takes the file's back */
        node = memory_new(1, sizeof *node);
        if (!node) return LORAD_NOMEM;
        node->source = config->set_names[i];
        node->text = memory_string("");
        if (!node->text) {
            config_node_free(node);
            return LORAD_NOMEM;
        }
    }
    node->line = 0;
    config->set_trees[i] = node;
    take_node(config, name, node, true);
    return LORAD_OK;
}

/* ---- setting ---- */

static void set_default(struct config *config, const struct config_key *key)
{
    if (!key->fallback) return;
    struct config_node node = {.kind = NODE_SCALAR, .source = "default", .text = (char *)key->fallback};
    size_t problems = config->problems.n;
    config_set_value(config, key, &node);
    ASSERT(config->problems.n == problems || config->problems.items[problems].code == LORAD_NOMEM);
}

/* A key without a default and without a value; < 0 is "not given" for real numbers. */
static void set_blank(struct config_values *values, const struct config_key *key)
{
    void *field = (char *)values + key->offset;
    if (key->type == TYPE_TEXT || key->type == TYPE_WORD) *(const char **)field = NULL;
    if (key->type == TYPE_INT64) *(int64_t *)field = 0;
    if (key->type == TYPE_REAL) *(double *)field = -1;
    if (field == &values->min_lr_rate) values->min_lr_rate = -1;
    if (field == &values->run.train_sources) values->run.n_train_sources = 0;
    if (field == &values->run.eval_sources) values->run.n_eval_sources = 0;
    if (field == &values->interleave_probs) values->n_interleave_probs = 0;
}

void config_set_chosen(struct config *config, size_t i)
{
    const struct config_key *key = &config_keys[i];
    const struct config_node *node = config->chosen[i];
    if (!key->fallback) set_blank(&config->values, key);
    set_default(config, key);
    if (node && !config_node_is_null(node)) config_set_value(config, key, node);
}

static void check_required(struct config *config)
{
    for (size_t i = 0; i < config_n_keys; i++)
        if (config_keys[i].required && !config_given(config, config_keys[i].name))
            problems_add(&config->problems, LORAD_CONFIG, "%s: %s is missing (`lorad help %s`)", config->name,
                         config_keys[i].name, config_keys[i].name);
}

static void set_values(struct config *config)
{
    for (size_t i = 0; i < config_n_keys; i++) config_set_chosen(config, i);
}

/* ---- the resolved text ---- */

/* A URL may hold a password, which is kept nowhere. */
static void write_masked(struct strbuf *out, const struct config_node *node)
{
    char masked[2048];
    redis_url_mask(masked, sizeof masked, node->kind == NODE_SCALAR ? node->text : "");
    config_node_write(out, &(struct config_node){.kind = NODE_SCALAR, .text = masked, .quoted = true});
}

static void write_key(struct strbuf *out, const struct config *config, size_t i)
{
    const struct config_key *key = &config_keys[i];
    const struct config_node *node = config->chosen[i];
    if (node && config_node_is_null(node)) node = NULL;
    if (!node && !key->fallback) return;
    strbuf_printf(out, "%s: ", key->name);
    if (node && key->set == config_set_redis_url)
        write_masked(out, node);
    else if (node)
        config_node_write(out, node);
    else
        strbuf_puts(out, key->fallback);
    strbuf_putc(out, '\n');
}

static enum status finish_text(struct config *config)
{
    struct strbuf shared = STRBUF_EMPTY;
    for (size_t i = 0; i < config_n_keys; i++) {
        write_key(&config->text, config, i);
        if (config_keys[i].shared) write_key(&shared, config, i);
    }
    config->values.run.config_hash = hash128(strbuf_text(&shared), shared.length);
    enum status status = strbuf_status(&shared);
    strbuf_free(&shared);
    if (status == LORAD_OK) status = strbuf_status(&config->text);
    if (status == LORAD_OK) status = strbuf_status(&config->noted);
    config->values.run.config_text = strbuf_text(&config->text);
    return status;
}

/* ---- create, destroy ---- */

static enum status config_fill(struct config *config, const char *text, size_t length,
                               const char *const *sets, size_t n_sets)
{
    config->chosen = memory_new(config_n_keys, sizeof *config->chosen);
    config->set_trees = memory_new(n_sets + 1, sizeof *config->set_trees);
    config->set_names = memory_new(n_sets + 1, sizeof *config->set_names);
    if (!config->chosen || !config->set_trees || !config->set_names) return LORAD_NOMEM;
    config->n_sets = n_sets;
    bool whole;
    TRY(config_yaml_parse(&config->tree, text, length, config->name, &config->problems, &whole));
    take_file(config);
    for (size_t i = 0; i < n_sets; i++) TRY(take_set(config, i, sets[i]));
    set_values(config);
    if (whole) { /* what stands behind a mistake that stopped the reading is neither missing nor contradicted
                  */
        check_required(config);
        config_apply_rules(config);
    }
    problems_unique(&config->problems); /* a line that several stages share is told once */
    TRY(finish_text(config));
    for (size_t i = 0; i < config->problems.n; i++)
        if (config->problems.items[i].code == LORAD_NOMEM)
            return FAIL(LORAD_NOMEM, "%s", config->problems.items[i].text);
    return LORAD_OK;
}

enum status config_parse(struct config **out, const char *text, size_t length, const char *name,
                         const char *const *sets, size_t n_sets)
{
    struct config *config = memory_new(1, sizeof *config);
    if (!config) return LORAD_NOMEM;
    config->name = memory_string(name);
    enum status status = config->name ? config_fill(config, text, length, sets, n_sets) : LORAD_NOMEM;
    if (status != LORAD_OK) {
        config_destroy(config);
        return status;
    }
    *out = config;
    return LORAD_OK;
}

enum status config_load(struct config **out, const char *path, const char *const *sets, size_t n_sets)
{
    char *text = NULL;
    size_t length = 0;
    enum status status = file_read(&text, &length, path, CONFIG_MAX_BYTES);
    if (status == LORAD_DATA) return FAIL(LORAD_CONFIG, "%s", status_message());
    TRY(status);
    status = config_parse(out, text, length, path, sets, n_sets);
    free(text);
    return status;
}

void config_destroy(struct config *config)
{
    if (!config) return;
    config_node_free(config->tree);
    for (size_t i = 0; i < config->n_sets; i++) {
        config_node_free(config->set_trees[i]);
        free(config->set_names[i]);
    }
    for (size_t i = 0; i < config->n_owned; i++) free(config->owned[i]);
    free(config->owned);
    free(config->set_trees);
    free(config->set_names);
    free((void *)config->chosen);
    free(config->name);
    problems_free(&config->problems);
    strbuf_free(&config->noted);
    strbuf_free(&config->text);
    free(config);
}
