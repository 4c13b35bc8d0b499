/*
 * config_value.c: one node -> one field. Strict: a wrong type is a problem, never a guess. Numbers are read
 * in full and in the C locale; text in quotes is text.
 */
#include "launch/config_impl.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "comm/redis_url.h"
#include "base/pattern.h"
#include "launch/nearest.h"

#define PROBLEM(config, key, node, ...) problem_at((config), (key)->name, (node), __VA_ARGS__)

static void problem_at(struct config *config, const char *name, const struct config_node *node,
                       const char *format, ...) __attribute__((format(printf, 4, 5)));

static void problem_at(struct config *config, const char *name, const struct config_node *node,
                       const char *format, ...)
{
    char place[512], words[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(words, sizeof words, format, args);
    va_end(args);
    problems_add(&config->problems, LORAD_CONFIG, "%s: %s: %s", config_place(place, node),
                 node->key ? node->key : name, words);
}

static const char *kind_name(const struct config_node *node)
{
    return node->kind == NODE_LIST ? "a list" : node->kind == NODE_MAP ? "a map" : "text";
}

bool config_in_interval(const char *interval, double value)
{
    char *end;
    double low = strtod(interval + 1, &end), high = strtod(end + 1, &end);
    bool above = interval[0] == '[' ? value >= low : value > low;
    bool below = *end == ']' ? value <= high : value < high;
    return above && below;
}

int config_word_index(const char *words, const char *word)
{
    int index = 0;
    for (const char *at = words; *at; index++) {
        size_t n = strcspn(at, "|");
        if (n == strlen(word) && strncasecmp(at, word, n) == 0) return index;
        at += n + (at[n] == '|');
    }
    return -1;
}

static void refuse_word(struct config *config, const struct config_key *key, const struct config_node *node,
                        const char *words)
{
    struct nearest nearest = {.word = node->text};
    struct strbuf list = STRBUF_EMPTY;
    for (const char *at = words; *at;) {
        size_t n = strcspn(at, "|");
        nearest_consider(&nearest, at, n);
        strbuf_printf(&list, "%s%.*s", list.length ? ", " : "", (int)n, at);
        at += n + (at[n] == '|');
    }
    if (nearest.best)
        PROBLEM(config, key, node, "\"%.100s\" is not known; did you mean %.*s? (%s)", node->text,
                (int)strcspn(nearest.best, "|"), nearest.best, strbuf_text(&list));
    else
        PROBLEM(config, key, node, "\"%.100s\" is not known; use one of: %s", node->text, strbuf_text(&list));
    strbuf_free(&list);
}

/* A plain (for numbers) or any (for text) scalar. */
static bool need_scalar(struct config *config, const struct config_key *key, const struct config_node *node,
                        const char *wanted)
{
    if (node->kind == NODE_SCALAR) return true;
    PROBLEM(config, key, node, "%s is wanted, not %s", wanted, kind_name(node));
    return false;
}

static bool read_bool(const struct config_node *node, bool *out)
{
    if (node->kind != NODE_SCALAR || node->quoted) return false;
    if (config_word_index("true|yes|on", node->text) >= 0)
        *out = true;
    else if (config_word_index("false|no|off", node->text) >= 0)
        *out = false;
    else
        return false;
    return true;
}

bool config_read_real(const struct config_node *node, double *out)
{
    if (node->kind != NODE_SCALAR || node->quoted || !node->text[0]) return false;
    if (strspn(node->text, "+-0123456789.eE") != strlen(node->text))
        return false; /* no hex, inf, nan, blanks */
    char *end;
    double value = strtod(node->text, &end);
    if (*end || !isfinite(value)) return false;
    *out = value;
    return true;
}

static bool check_interval(struct config *config, const struct config_key *key,
                           const struct config_node *node, double value)
{
    if (!key->allowed || config_in_interval(key->allowed, value)) return true;
    char low[32], high[32];
    const char *comma = strchr(key->allowed, ',');
    snprintf(low, sizeof low, "%.*s", (int)(comma - key->allowed - 1), key->allowed + 1);
    snprintf(high, sizeof high, "%.*s", (int)strlen(comma + 1) - 1, comma + 1);
    PROBLEM(config, key, node, "%s is out of range; it must be %s %s and %s %s", node->text,
            key->allowed[0] == '[' ? "at least" : "above", low,
            comma[strlen(comma) - 1] == ']' ? "at most" : "below", high);
    return false;
}

static void set_integer(struct config *config, const struct config_key *key, const struct config_node *node,
                        void *field)
{
    if (!need_scalar(config, key, node, "a whole number")) return;
    const char *text = node->text;
    bool is_unsigned = key->type == TYPE_UINT64;
    char *end = NULL;
    errno = 0;
    long long value = 0;
    unsigned long long large = 0;
    bool digits = text[0] && strspn(text + (text[0] == '-' || text[0] == '+'), "0123456789") ==
                                 strlen(text + (text[0] == '-' || text[0] == '+'));
    if (digits && is_unsigned && text[0] != '-')
        large = strtoull(text, &end, 10);
    else if (digits && !is_unsigned)
        value = strtoll(text, &end, 10);
    if (node->quoted) {
        PROBLEM(config, key, node, "\"%.100s\" is text; a whole number is written without quotes", text);
        return;
    }
    if (!end || end == text || *end || errno == ERANGE) {
        PROBLEM(config, key, node, "a whole number%s is wanted, not \"%.100s\"",
                is_unsigned ? " from 0 up" : "", text);
        return;
    }
    if (!is_unsigned && !check_interval(config, key, node, (double)value)) return;
    if (key->type == TYPE_INT32)
        *(int32_t *)field = (int32_t)value; /* the interval keeps it inside */
    else if (key->type == TYPE_INT64)
        *(int64_t *)field = value;
    else
        *(uint64_t *)field = large;
}

static void set_real(struct config *config, const struct config_key *key, const struct config_node *node,
                     void *field)
{
    double value;
    if (!need_scalar(config, key, node, "a number")) return;
    if (node->quoted)
        PROBLEM(config, key, node, "\"%.100s\" is text; a number is written without quotes", node->text);
    else if (!config_read_real(node, &value))
        PROBLEM(config, key, node, "a number is wanted, not \"%.100s\"", node->text);
    else if (check_interval(config, key, node, value))
        *(double *)field = value;
}

static const char *own_text(struct config *config, const char *text)
{
    return config_own(config, memory_string(text));
}

static void set_text(struct config *config, const struct config_key *key, const struct config_node *node,
                     void *field)
{
    if (!need_scalar(config, key, node, "text")) return;
    if (!node->text[0]) {
        PROBLEM(config, key, node, "empty; write a value or remove the line");
        return;
    }
    const char *text = own_text(config, node->text);
    if (text) *(const char **)field = text;
}

static void set_word(struct config *config, const struct config_key *key, const struct config_node *node,
                     void *field)
{
    if (!need_scalar(config, key, node, "one word")) return;
    int index = config_word_index(key->allowed, node->text);
    if (index < 0) {
        refuse_word(config, key, node, key->allowed);
        return;
    }
    if (key->type == TYPE_CHOICE) {
        memcpy(field, &index, sizeof index);
        return;
    }
    const char *at = key->allowed; /* the table's own spelling */
    for (; index > 0; index--) at += strcspn(at, "|") + 1;
    const char *text = config_own(config, memory_string_n(at, strcspn(at, "|")));
    if (text) *(const char **)field = text;
}

void config_set_value(struct config *config, const struct config_key *key, const struct config_node *node)
{
    void *field = (char *)&config->values + key->offset;
    switch (key->type) {
    case TYPE_BOOL:
        if (!read_bool(node, field)) {
            if (node->kind == NODE_SCALAR)
                PROBLEM(config, key, node, "true or false is wanted, not \"%.100s\"%s", node->text,
                        node->quoted ? " in quotes" : "");
            else
                PROBLEM(config, key, node, "true or false is wanted, not %s", kind_name(node));
        }
        return;
    case TYPE_INT32:
    case TYPE_INT64:
    case TYPE_UINT64:
        set_integer(config, key, node, field);
        return;
    case TYPE_REAL:
        set_real(config, key, node, field);
        return;
    case TYPE_TEXT:
        set_text(config, key, node, field);
        return;
    case TYPE_WORD:
    case TYPE_CHOICE:
        set_word(config, key, node, field);
        return;
    case TYPE_OWN:
        key->set(config, key, node, field);
        return;
    }
}

/* ---- keys with a shape of their own ---- */

static size_t child_count(const struct config_node *node)
{
    size_t n = 0;
    for (const struct config_node *child = node->first; child; child = child->next) n++;
    return n;
}

static const char target_words[] = "q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj";

struct target_list {
    const char *name[16];
    int32_t n;
};

static void add_target(struct config *config, const struct config_key *key, const struct config_node *node,
                       const char *name, struct target_list *list)
{
    int index = config_word_index(target_words, name);
    if (index < 0) {
        struct config_node word = *node;
        word.text = (char *)name;
        refuse_word(config, key, &word, target_words);
        return;
    }
    for (int32_t i = 0; i < list->n; i++)
        if (strcasecmp(list->name[i], name) == 0) return;
    const char *text = own_text(config, name);
    if (text) list->name[list->n++] = text; /* at most the seven known words */
}

static bool is_word_list(const char *text)
{
    return strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_, ") == strlen(text);
}

void config_set_target(struct config *config, const struct config_key *key, const struct config_node *node,
                       void *field)
{
    (void)field;
    struct lora_options *lora = &config->values.run.lora;
    struct target_list list = {.n = 0};
    size_t problems = config->problems.n;
    bool pattern = false;
    if (node->kind == NODE_MAP) {
        PROBLEM(config, key, node, "names or a pattern are wanted, not a map");
    } else if (node->kind == NODE_LIST) {
        for (const struct config_node *item = node->first; item; item = item->next) {
            if (item->kind == NODE_SCALAR)
                add_target(config, key, item, item->text, &list);
            else
                PROBLEM(config, key, item, "a list of names is wanted");
        }
    } else if (config_word_index("all|all-linear", node->text) >= 0) {
        list.name[list.n++] = "all";
    } else if (!is_word_list(node->text)) {
        const char *text = own_text(config, node->text);
        struct pattern *compiled = NULL;
        if (pattern_create(&compiled, node->text) != LORAD_OK)
            PROBLEM(config, key, node, "%s", status_message());
        pattern_destroy(compiled);
        if (text) list.name[list.n++] = text;
        pattern = true;
    } else {
        char word[128];
        for (const char *at = node->text; *at;) {
            at += strspn(at, ", ");
            size_t n = strcspn(at, ", ");
            if (n == 0) break;
            snprintf(word, sizeof word, "%.*s", (int)n, at);
            add_target(config, key, node, word, &list);
            at += n;
        }
    }
    if (config->problems.n != problems) return;
    if (list.n == 0) {
        PROBLEM(config, key, node, "names no layer; use all, or names such as q_proj, v_proj");
        return;
    }
    const char **names = config_own(config, memory_new((size_t)list.n, sizeof *names));
    if (!names) return;
    memcpy(names, list.name, (size_t)list.n * sizeof *names);
    lora->targets = names;
    lora->n_targets = list.n;
    lora->targets_are_pattern = pattern;
}

/* How much of a dataset is drawn; false: the member says something else. */
static bool set_source_share(struct config *config, const struct config_key *key,
                             const struct config_node *node, struct dataset_source *source)
{
    double value;
    bool real = config_read_real(node, &value);
    switch (config_word_index("weight|max_samples|num_samples|epochs", node->key)) {
    case 0:
        if (!real || value <= 0 || value > 1e6)
            PROBLEM(config, key, node, "a number above 0, up to 1e6, is wanted");
        else
            source->weight = value;
        return true;
    case 1:
    case 2:
        if (!real || value < 1 || value > 1e15 || value != floor(value))
            PROBLEM(config, key, node, "a whole number of rows from 1 up is wanted");
        else
            source->max_samples = (int64_t)value;
        return true;
    case 3:
        if (!real || value <= 0 || value > 1e6)
            PROBLEM(config, key, node, "a number above 0 is wanted: passes over these rows, at most");
        else
            source->max_epochs = value;
        return true;
    default:
        return false;
    }
}

struct name_field {
    const char *name;
    size_t offset; /* of a const char * in struct dataset_source; IGNORED */
};
#define COLUMN(member)                                                                                       \
    {                                                                                                        \
#member, offsetof(struct dataset_source, columns.member)                                             \
    }
#define TAG(member)                                                                                          \
    {                                                                                                        \
#member, offsetof(struct dataset_source, tags.member)                                                \
    }
enum { IGNORED = -1 };

/* columns: {...} or tags: {...}: names of other people's members and columns. */
static void set_names(struct config *config, const struct config_key *key, const struct config_node *node,
                      struct dataset_source *source, const struct name_field *fields)
{
    if (node->kind != NODE_MAP) {
        PROBLEM(config, key, node, "a map such as {%s: NAME} is wanted, not %s", fields->name,
                kind_name(node));
        return;
    }
    for (const struct config_node *member = node->first; member; member = member->next) {
        const struct name_field *field = fields;
        struct strbuf known = STRBUF_EMPTY;
        for (; field->name && strcasecmp(field->name, member->key) != 0; field++)
            strbuf_printf(&known, "%s%s", known.length ? ", " : "", field->name);
        if (!field->name)
            PROBLEM(config, key, member, "unknown in %s; known are %s", node->key, strbuf_text(&known));
        else if (field->offset != (size_t)IGNORED && !config_node_is_null(member))
            set_text(config, key, member, (char *)source + field->offset);
        strbuf_free(&known);
    }
}

/* What is said about the rows of a dataset; false: the member is none of these. */
static bool set_source_rows(struct config *config, const struct config_key *key,
                            const struct config_node *node, struct dataset_source *source)
{
    static const struct name_field columns[] = {COLUMN(prompt), COLUMN(query),   COLUMN(response),
                                                COLUMN(system), COLUMN(history), COLUMN(messages),
                                                COLUMN(text),   {NULL, 0}};
    /* Rows with calls of tools are refused, whatever their roles are called. */
    static const struct name_field tags[] = {TAG(role_tag),
                                             TAG(content_tag),
                                             TAG(user_tag),
                                             TAG(assistant_tag),
                                             TAG(system_tag),
                                             {"observation_tag", IGNORED},
                                             {"function_tag", IGNORED},
                                             {NULL, 0}};
    switch (config_word_index("columns|tags|system|metadata_path", node->key)) {
    case 0:
        set_names(config, key, node, source, columns);
        return true;
    case 1:
        set_names(config, key, node, source, tags);
        return true;
    case 2:
        set_text(config, key, node, &source->system);
        return true;
    case 3:
        set_text(config, key, node, &source->metadata_path);
        return true;
    default:
        return false;
    }
}

static void set_source_field(struct config *config, const struct config_key *key,
                             const struct config_node *node, struct dataset_source *source)
{
    static const char words[] =
        "path|format|type|name|formatting|weight|max_samples|epochs|columns|tags|system|metadata_path";
    static const char formats[] = "auto|messages|sharegpt|alpaca|csv|tsv|qa_text|text";
    if (set_source_rows(config, key, node, source) || set_source_share(config, key, node, source)) return;
    switch (config_word_index(words, node->key)) {
    case 0:
        set_text(config, key, node, &source->path);
        break;
    case 1:
    case 2:
    case 4:
        if (!need_scalar(config, key, node, "a format")) break;
        if (config_word_index(formats, node->text) < 0)
            refuse_word(config, key, node, formats);
        else
            source->format = own_text(config, node->text);
        break;
    case 3:
        set_text(config, key, node, &source->name);
        break;
    default: {
        struct nearest nearest = {.word = node->key};
        for (const char *at = words; *at; at += strcspn(at, "|"), at += *at == '|')
            nearest_consider(&nearest, at, strcspn(at, "|"));
        if (nearest.best)
            PROBLEM(config, key, node, "unknown in a dataset; did you mean %.*s?",
                    (int)strcspn(nearest.best, "|"), nearest.best);
        else
            PROBLEM(
                config, key, node,
                "unknown in a dataset; known are path, format, weight, name, max_samples, epochs, columns, "
                "tags, system, metadata_path");
    }
    }
}

static void set_source(struct config *config, const struct config_key *key, const struct config_node *node,
                       struct dataset_source *source)
{
    *source = (struct dataset_source){.format = "auto", .weight = 1};
    if (node->kind == NODE_SCALAR) {
        set_text(config, key, node, &source->path);
    } else if (node->kind == NODE_LIST) {
        PROBLEM(config, key, node, "a path or {path, format, weight, ...} is wanted, not a list in a list");
    } else {
        for (const struct config_node *member = node->first; member; member = member->next)
            if (!config_node_is_null(member)) set_source_field(config, key, member, source);
        if (!source->path) PROBLEM(config, key, node, "a dataset needs a path");
    }
}

void config_set_dataset(struct config *config, const struct config_key *key, const struct config_node *node,
                        void *field)
{
    size_t n = node->kind == NODE_LIST ? child_count(node) : 1;
    if (n == 0) return; /* [] is as good as nothing; the rules ask for what is required */
    struct dataset_source *sources = config_own(config, memory_new(n, sizeof *sources));
    if (!sources) return;
    size_t problems = config->problems.n;
    if (node->kind == NODE_LIST) {
        size_t i = 0;
        for (const struct config_node *item = node->first; item; item = item->next)
            set_source(config, key, item, &sources[i++]);
    } else {
        set_source(config, key, node, sources);
    }
    if (config->problems.n != problems) return;
    struct run_options *run = &config->values.run;
    if (field == &run->train_sources) {
        run->train_sources = sources;
        run->n_train_sources = (int32_t)n;
    } else {
        run->eval_sources = sources;
        run->n_eval_sources = (int32_t)n;
    }
}

/* A list of numbers, or LLaMA-Factory's text "0.7,0.3". */
void config_set_probs(struct config *config, const struct config_key *key, const struct config_node *node,
                      void *field)
{
    size_t n = node->kind == NODE_LIST ? child_count(node) : 1, problems = config->problems.n;
    if (node->kind == NODE_SCALAR)
        for (const char *at = node->text; *at; at++) n += *at == ',';
    double *probs = config_own(config, memory_new(n + 1, sizeof *probs));
    if (!probs) return;
    const struct config_node *item = node->first;
    const char *at = node->kind == NODE_SCALAR ? node->text : "";
    for (size_t i = 0; i < n && node->kind != NODE_MAP; i++) {
        char word[64];
        struct config_node part = {
            .kind = NODE_SCALAR, .source = node->source, .line = node->line, .text = word};
        size_t length = strcspn(at, ",");
        snprintf(word, sizeof word, "%.*s", (int)length, at + strspn(at, " "));
        word[strcspn(word, " ,")] = '\0';
        at += length + (at[length] == ',');
        const struct config_node *from = item ? item : &part;
        if (!config_read_real(from, &probs[i]) || probs[i] <= 0 || probs[i] > 1e6)
            PROBLEM(config, key, node, "probabilities above 0 are wanted, one for each dataset: 0.7,0.3");
        if (item) item = item->next;
    }
    if (node->kind == NODE_MAP) PROBLEM(config, key, node, "a list of probabilities is wanted, not a map");
    if (config->problems.n != problems) return;
    *(const double **)field = probs;
    config->values.n_interleave_probs = (int32_t)n;
}

/* Learning rate of a group; < 0 with a problem recorded. */
static double group_rate(struct config *config, const struct config_key *key, const struct config_node *node)
{
    double rate;
    if (config_read_real(node, &rate) && rate >= 0 && rate <= 10) return rate;
    PROBLEM(config, key, node, "a learning rate from 0 to 10 is wanted");
    return -1;
}

struct group_list {
    struct lr_group *groups; /* as many as there are nodes below lr_groups */
    int32_t n;
};

static void add_group(struct config *config, struct group_list *list, const char *pattern, double rate)
{
    const char *text = own_text(config, pattern);
    if (!text || rate < 0) return;
    list->groups[list->n++] = (struct lr_group){.pattern = text, .learning_rate = rate};
}

/* {pattern | modules, lr | learning_rate, name} */
static void read_group(struct config *config, const struct config_key *key, const struct config_node *node,
                       struct group_list *list)
{
    const struct config_node *patterns = NULL, *rate_node = NULL;
    if (node->kind != NODE_MAP) {
        PROBLEM(config, key, node, "{pattern: ..., learning_rate: ...} is wanted");
        return;
    }
    for (const struct config_node *member = node->first; member; member = member->next) {
        int word = config_word_index("pattern|modules|lr|learning_rate|name", member->key);
        if (word < 0)
            PROBLEM(config, key, member, "unknown in lr_groups; known are pattern and learning_rate");
        else if (word <= 1)
            patterns = member;
        else if (word <= 3)
            rate_node = member;
    }
    if (!patterns || !rate_node) {
        PROBLEM(config, key, node, "a group needs a pattern and a learning_rate");
        return;
    }
    double rate = group_rate(config, key, rate_node);
    if (patterns->kind == NODE_SCALAR) add_group(config, list, patterns->text, rate);
    for (const struct config_node *item = patterns->first; item; item = item->next) {
        if (item->kind == NODE_SCALAR)
            add_group(config, list, item->text, rate);
        else
            PROBLEM(config, key, item, "a pattern is wanted");
    }
}

static size_t scalar_count(const struct config_node *node)
{
    size_t n = node->kind == NODE_SCALAR;
    for (const struct config_node *child = node->first; child; child = child->next) n += scalar_count(child);
    return n;
}

void config_set_lr_groups(struct config *config, const struct config_key *key, const struct config_node *node,
                          void *field)
{
    (void)field;
    size_t problems = config->problems.n, most = scalar_count(node);
    if (node->kind == NODE_SCALAR) {
        PROBLEM(config, key, node, "a list of {pattern, learning_rate} is wanted, not text");
        return;
    }
    if (most == 0) return;
    struct group_list list = {.groups = config_own(config, memory_new(most, sizeof *list.groups))};
    if (!list.groups) return;
    for (const struct config_node *item = node->first; item; item = item->next) {
        if (node->kind == NODE_LIST)
            read_group(config, key, item, &list);
        else
            add_group(config, &list, item->key, group_rate(config, key, item));
    }
    if (config->problems.n != problems) return;
    config->values.run.optimizer.lr_groups = list.groups;
    config->values.run.optimizer.n_lr_groups = list.n;
}

void config_set_report_to(struct config *config, const struct config_key *key, const struct config_node *node,
                          void *field)
{
    bool tensorboard = false;
    const struct config_node *item = node->kind == NODE_LIST ? node->first : node;
    for (; item; item = node->kind == NODE_LIST ? item->next : NULL) {
        if (item->kind != NODE_SCALAR) {
            PROBLEM(config, key, item, "tensorboard or none is wanted, not %s", kind_name(item));
            return;
        }
        int word = config_word_index("none|tensorboard|all", item->text);
        if (word < 0) {
            PROBLEM(config, key, item,
                    "\"%.100s\" is not supported; use tensorboard or none (metrics.jsonl is always "
                    "written)",
                    item->text);
            return;
        }
        tensorboard |= word > 0;
    }
    *(bool *)field = tensorboard;
}

void config_set_resume(struct config *config, const struct config_key *key, const struct config_node *node,
                       void *field)
{
    bool on;
    if (read_bool(node, &on))
        *(const char **)field = on ? "auto" : NULL;
    else
        set_text(config, key, node, field);
}

void config_set_checkpointing(struct config *config, const struct config_key *key,
                              const struct config_node *node, void *field)
{
    bool on;
    enum checkpointing value;
    if (read_bool(node, &on)) {
        value = on ? CHECKPOINTING_LAYER : CHECKPOINTING_NONE;
    } else {
        static const char words[] = "auto|none|mlp|layer"; /* in the order of enum checkpointing */
        if (!need_scalar(config, key, node, "true, false or one of auto, none, mlp, layer")) return;
        int word = config_word_index(words, node->text);
        if (word < 0) {
            refuse_word(config, key, node, words);
            return;
        }
        value = (enum checkpointing)word;
    }
    memcpy(field, &value, sizeof value);
}

/* Fields whose enum is off, on and a third way, in this order. */
static void set_bool_or(struct config *config, const struct config_key *key, const struct config_node *node,
                        const char *third, void *field)
{
    bool on;
    int value = 2;
    char words[64];
    if (read_bool(node, &on)) {
        value = on;
    } else {
        snprintf(words, sizeof words, "true, false or %s", third);
        if (!need_scalar(config, key, node, words)) return;
        snprintf(words, sizeof words, "true|false|%s", third);
        if (config_word_index(third, node->text) < 0) {
            refuse_word(config, key, node, words);
            return;
        }
    }
    memcpy(field, &value, sizeof value);
}

_Static_assert(DETERMINISM_ON == 1 && DETERMINISM_ELASTIC == 2 && CUDA_GRAPHS_ON == 1 &&
                   CUDA_GRAPHS_AUTO == 2,
               "off, on, a third way");

void config_set_deterministic(struct config *config, const struct config_key *key,
                              const struct config_node *node, void *field)
{
    set_bool_or(config, key, node, "elastic", field);
}

void config_set_cuda_graphs(struct config *config, const struct config_key *key,
                            const struct config_node *node, void *field)
{
    set_bool_or(config, key, node, "auto", field);
}

void config_set_scheduler_kwargs(struct config *config, const struct config_key *key,
                                 const struct config_node *node, void *field)
{
    (void)field;
    if (node->kind != NODE_MAP) {
        PROBLEM(config, key, node, "a map such as {min_lr: 1e-6} is wanted");
        return;
    }
    for (const struct config_node *member = node->first; member; member = member->next) {
        double value;
        int word = config_word_index("min_lr|min_lr_rate", member->key);
        if (word < 0)
            PROBLEM(config, key, member, "not supported here; known are min_lr and min_lr_rate");
        else if (!config_read_real(member, &value) || value < 0 || value > (word ? 1 : 10))
            PROBLEM(config, key, member, "a number from 0 to %d is wanted", word ? 1 : 10);
        else if (word)
            config->values.min_lr_rate = value;
        else
            config->values.min_lr = value;
    }
}

void config_set_redis_url(struct config *config, const struct config_key *key, const struct config_node *node,
                          void *field)
{
    struct redis_address address;
    if (!need_scalar(config, key, node, "a URL")) return;
    if (redis_url_parse(&address, node->text) != LORAD_OK)
        PROBLEM(config, key, node, "%s", status_message());
    else
        *(const char **)field = own_text(config, node->text);
}

void config_set_redis_prefix(struct config *config, const struct config_key *key,
                             const struct config_node *node, void *field)
{
    if (!need_scalar(config, key, node, "text")) return;
    if (redis_prefix_check(node->text) != LORAD_OK)
        PROBLEM(config, key, node, "%s", status_message());
    else
        *(const char **)field = own_text(config, node->text);
}
