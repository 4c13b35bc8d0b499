/*
 * config_impl.h: what the files of the configuration share: the node tree of a YAML text, the table's row,
 * the config being built.
 */
#ifndef LORAD_LAUNCH_CONFIG_IMPL_H
#define LORAD_LAUNCH_CONFIG_IMPL_H

#include "launch/config.h"

/* ---- problems ---- */

struct config_problems {
    struct config_problem_item {
        enum status code;
        char *text;
    } * items;
    size_t n, capacity;
};

void problems_add(struct config_problems *problems, enum status code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
void problems_unique(struct config_problems *problems); /* leaves the first of equal ones */
void problems_free(struct config_problems *problems);

/* ---- nodes (config_yaml.c) ---- */

enum node_kind { NODE_SCALAR, NODE_LIST, NODE_MAP };

struct config_node {
    enum node_kind kind;
    const char *source; /* borrowed: the file, or "--set key=value" */
    int line;           /* 1-based; 0: no line to name */
    char *key;          /* of a map's member; NULL otherwise */
    int key_line;
    char *text;                /* scalar: the value, NUL-terminated; never NULL for a scalar */
    bool quoted;               /* scalar written in quotes or as a block */
    struct config_node *first; /* list, map: children in file order */
    struct config_node *next;  /* the sibling */
};

/* Parses one document. Problems (syntax, anchors, tags, duplicate keys, depth, a NUL) are added to
 * `problems`; *out is what could be read, NULL when that is nothing. `source` is borrowed by the nodes. */
enum status config_yaml_parse(struct config_node **out, const char *text, size_t length, const char *source,
                              struct config_problems *problems, bool *whole) LORAD_WARN_UNUSED;
void config_node_free(struct config_node *node);

/* "file:12" or "--set x=1". */
const char *config_place(char buffer[512], const struct config_node *node);
/* An empty value: `key:`, ~, null. */
bool config_node_is_null(const struct config_node *node);
/* The node as flow YAML that parses back to it. */
void config_node_write(struct strbuf *out, const struct config_node *node);

/* ---- the table (config_table.c) ---- */

enum config_type {
    TYPE_BOOL,
    TYPE_INT32,
    TYPE_INT64,
    TYPE_UINT64,
    TYPE_REAL,
    TYPE_TEXT,
    TYPE_WORD,   /* text, one of `allowed` */
    TYPE_CHOICE, /* an enum: the position in `allowed` */
    TYPE_OWN,    /* read by `set` */
};

enum config_section {
    SECTION_MODEL,
    SECTION_LORA,
    SECTION_DATA,
    SECTION_TRAINING,
    SECTION_EVALUATION,
    SECTION_CHECKPOINT,
    SECTION_LOGGING,
    SECTION_MACHINE,
    SECTIONS
};

/* What the table fills: the trainer's options, and switches that several keys decide together. */
struct config_values {
    struct run_options run; /* first: offsets in the table count from here */
    bool bf16, fp16, fp32;
    double min_lr, min_lr_rate;     /* < 0: not given */
    int64_t max_samples;            /* of a dataset that does not say; 0: all rows */
    const double *interleave_probs; /* [n_interleave_probs] */
    int32_t n_interleave_probs;
    const struct config_node *stages_node; /* the list, not read yet; NULL: none */
    const char *metadata_path;             /* of the one training source */
};

struct config_key;

/* Reads `node` into `field`; adds a problem and leaves the field alone when it cannot. */
typedef void config_set_function(struct config *config, const struct config_key *key,
                                 const struct config_node *node, void *field);

struct config_key {
    const char *name;
    const char *aliases; /* separated by spaces; "" when none */
    enum config_type type;
    const char *fallback; /* the default as YAML; NULL: none, or worked out from other keys (help says how) */
    const char *allowed;  /* numbers: an interval "[0,1)"; words: "a|b|c"; own: words for people, or NULL */
    enum config_section section;
    bool required;
    bool shared;   /* must agree on all ranks: enters the hash */
    size_t offset; /* in struct config_values */
    config_set_function *set;
    const char *help;
};

extern const struct config_key config_keys[];
extern const size_t config_n_keys;

/* Keys of other trainers. `agrees` lists the values, joined by '|', that ask for what lorad does anyway; "*"
 * is any value. An empty value, false, none, null, 0, [] and {} always mean "off" unless `agrees` starts with
 * '!', where only the listed values are accepted. Any other value is refused with `advice`. */
struct config_other {
    const char *name;
    const char *agrees;
    const char *advice;
};
extern const struct config_other config_others[];
extern const size_t config_n_others;

const char *config_section_title(enum config_section section);
const char *config_type_title(const struct config_key *key);

/* Position in config_keys by name or alias; -1. */
int config_key_find(const char *name);
/* The known key nearest to `name`, NULL when none is near. */
const char *config_key_nearest(const char *name);

/* ---- values (config_value.c) ---- */

/* Whether `value` lies in "[0,1)", with "inf" allowed as a bound. */
bool config_in_interval(const char *interval, double value);
/* Whether `word` is one of "a|b|c" (-1: no): its position. */
int config_word_index(const char *words, const char *word);
void config_set_value(struct config *config, const struct config_key *key, const struct config_node *node);

/* A plain decimal number; false: it is none. */
bool config_read_real(const struct config_node *node, double *out);

config_set_function config_set_target, config_set_dataset, config_set_lr_groups, config_set_report_to,
    config_set_resume, config_set_checkpointing, config_set_scheduler_kwargs, config_set_probs,
    config_set_stages, config_set_deterministic, config_set_cuda_graphs, config_set_redis_url,
    config_set_redis_prefix;

/* ---- the config being built (config.c) ---- */

struct config {
    struct config_values values;
    struct config_problems problems;
    const struct config_node **chosen; /* [config_n_keys]: where a value was given; NULL: the default holds */
    struct config_node *tree;          /* of the file */
    struct config_node **set_trees;    /* [n_sets] */
    char **set_names;                  /* [n_sets] "--set key=value", the nodes' source */
    size_t n_sets;
    char *name;   /* of the file */
    void **owned; /* freed with the config */
    size_t n_owned, owned_capacity;
    struct strbuf noted;
    struct strbuf text;
};

/* Hands `block` to the config, which frees it; returns it. NULL stays NULL and records a problem. */
void *config_own(struct config *config, void *block);
/* Whether the file or an override gives this key a value. */
bool config_given(const struct config *config, const char *name);
/* "file:line: name" of a key, for problems about several keys. */
const char *config_where(char buffer[600], const struct config *config, const char *name);

/* Sets key i from its default, then from the node that was chosen for it. */
void config_set_chosen(struct config *config, size_t i);

/* `stages` (config_stages.c): fills run.stages. */
void config_read_stages(struct config *config);
/* The rules between keys that may stand in a stage, with its lines in config->chosen. */
void config_apply_stage_rules(struct config *config);

/* Rules between keys (config_rules.c): fills what depends on several keys and adds problems for
 * contradictions. */
void config_apply_rules(struct config *config);

#endif
