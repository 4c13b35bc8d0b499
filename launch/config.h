/*
 * config.h: a YAML file and --set overrides -> struct run_options, by one table of keys.
 *
 * The table (config_table.c) says everything about a key once: names, type, default, allowed values, help,
 * field. It drives parsing, defaults, checks, `lorad help`, docs/config.md and the hash that all ranks
 * compare.
 *
 * Problems are collected, not thrown: a file with five mistakes is told all five, each as
 * "file:line: key: what: what to do". A key with a problem keeps its default, so that `lorad check` can go
 * on and look at the rest.
 */
#ifndef LORAD_LAUNCH_CONFIG_H
#define LORAD_LAUNCH_CONFIG_H

#include <stdbool.h>
#include <stddef.h>

#include "base/hash.h"
#include "base/status.h"
#include "base/strbuf.h"
#include "trainer/trainer.h"

enum { CONFIG_MAX_BYTES = 1 << 20, CONFIG_MAX_DEPTH = 16 };

struct config;

/* Reads `path` and applies the overrides ("key=value", later ones win). Fails only when there is nothing to
 * look at: the file is missing, unreadable, too large (LORAD_NOT_FOUND, LORAD_IO, LORAD_CONFIG). Everything
 * wrong *in* the file is a problem of *out. Owns: *out. */
enum status config_load(struct config **out, const char *path, const char *const *sets,
                        size_t n_sets) LORAD_WARN_UNUSED;
/* The same from memory; `name` stands for the file in messages. LORAD_NOMEM only. */
enum status config_parse(struct config **out, const char *text, size_t length, const char *name,
                         const char *const *sets, size_t n_sets) LORAD_WARN_UNUSED;
void config_destroy(struct config *config);

/* Adds a problem for every input path that does not exist (model, adapter, datasets, resume folder). */
void config_check_paths(struct config *config);

/* What is wrong, in file order. Borrowed. */
size_t config_problem_count(const struct config *config);
const char *config_problem(const struct config *config, size_t i);
/* LORAD_OK without problems; else the code and message of the first one ("... (and 3 more)"). */
enum status config_status(const struct config *config) LORAD_WARN_UNUSED;

/* Borrowed; strings live as long as the config. Meaningful for keys without problems. */
const struct run_options *config_run(const struct config *config);
/* The value of a key that is a single word or number, as given or by default; "" when it has none.
 * LORAD_USAGE: no such key, or a list. */
enum status config_value_of(const char **out, const struct config *config, const char *name) LORAD_WARN_UNUSED;
/* Keys of other trainers that were accepted because they ask for what lorad does anyway: "stage, do_train";
 * "" when none. */
const char *config_noted(const struct config *config);

/* ---- the words about the keys (config_help.c) ---- */

/* One key in full, by name or alias. LORAD_USAGE with the nearest key when there is none. */
enum status config_help_key(struct strbuf *out, const char *name) LORAD_WARN_UNUSED;
/* All keys, one line each, by section. */
void config_help_all(struct strbuf *out);
/* docs/config.md, whole. */
void config_help_markdown(struct strbuf *out);

#endif
