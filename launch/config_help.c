/* config_help.c: the table as words: `lorad help`, `lorad help KEY`, docs/config.md. */
#include "launch/config_impl.h"

#include <string.h>

#include "base/strbuf.h"

/* "[0,1)" -> "from 0, below 1"; "a|b" -> "a, b"; as it is for keys of their own type. */
static void write_allowed(struct strbuf *out, const struct config_key *key)
{
    if (!key->allowed) return;
    if (key->type == TYPE_OWN) {
        strbuf_puts(out, key->allowed);
    } else if (key->type == TYPE_WORD || key->type == TYPE_CHOICE) {
        for (const char *at = key->allowed; *at;) {
            size_t n = strcspn(at, "|");
            strbuf_printf(out, "%s%.*s", at == key->allowed ? "" : ", ", (int)n, at);
            at += n + (at[n] == '|');
        }
    } else {
        const char *comma = strchr(key->allowed, ','), *end = key->allowed + strlen(key->allowed) - 1;
        strbuf_printf(out, "%s %.*s, %s %.*s", key->allowed[0] == '[' ? "from" : "above",
                      (int)(comma - key->allowed - 1), key->allowed + 1, *end == ']' ? "to" : "below",
                      (int)(end - comma - 1), comma + 1);
    }
}

static void write_type(struct strbuf *out, const struct config_key *key)
{
    const char *title = config_type_title(key);
    strbuf_puts(out, title);
    if (title[0] && key->allowed)
        strbuf_puts(out, key->type == TYPE_WORD || key->type == TYPE_CHOICE ? " " : ", ");
    write_allowed(out, key);
}

static void write_aliases(struct strbuf *out, const struct config_key *key, const char *quote)
{
    for (const char *at = key->aliases; *at;) {
        size_t n = strcspn(at, " ");
        strbuf_printf(out, "%s%s%.*s%s", at == key->aliases ? "" : ", ", quote, (int)n, at, quote);
        at += n + (at[n] == ' ');
    }
}

/* Words wrapped at `width` columns, every line behind `indent` spaces. */
static void write_wrapped(struct strbuf *out, const char *text, int indent, int width)
{
    int column = 0;
    for (const char *at = text; *at;) {
        size_t n = strcspn(at, " ");
        if (column > 0 && column + 1 + (int)n > width) {
            strbuf_putc(out, '\n');
            column = 0;
        }
        if (column == 0) {
            strbuf_printf(out, "%*s", indent, "");
            column = indent;
        } else {
            strbuf_putc(out, ' ');
            column++;
        }
        strbuf_add(out, at, n);
        column += (int)n;
        at += n + (at[n] == ' ');
    }
    strbuf_putc(out, '\n');
}

enum status config_help_key(struct strbuf *out, const char *name)
{
    int index = config_key_find(name);
    if (index >= 0) {
        const struct config_key *key = &config_keys[index];
        strbuf_printf(out, "%s\n", key->name);
        write_wrapped(out, key->help, 2, 100);
        strbuf_puts(out, "  value:   ");
        write_type(out, key);
        strbuf_printf(out, "\n  default: %s\n",
                      key->required   ? "none, must be given"
                      : key->fallback ? key->fallback
                                      : "none, or see above");
        if (key->aliases[0]) {
            strbuf_puts(out, "  also:    ");
            write_aliases(out, key, "");
            strbuf_putc(out, '\n');
        }
        return strbuf_status(out);
    }
    for (size_t i = 0; i < config_n_others; i++)
        if (strcmp(config_others[i].name, name) == 0) {
            const char *agrees = config_others[i].agrees;
            strbuf_printf(out, "%s\n  A key of other trainers that changes nothing here. ", name);
            if (strcmp(agrees, "*") == 0)
                strbuf_puts(out, "Any value is accepted.\n");
            else
                strbuf_printf(out, "Accepted: %s%s%s. Otherwise: %s\n", agrees + (agrees[0] == '!'),
                              agrees[0] && agrees[0] != '!' ? ", or " : "",
                              agrees[0] == '!' ? "" : "empty or off", config_others[i].advice);
            return strbuf_status(out);
        }
    const char *near = config_key_nearest(name);
    if (near) return FAIL(LORAD_USAGE, "%s is not a configuration key; did you mean %s?", name, near);
    return FAIL(LORAD_USAGE, "%s is not a configuration key; `lorad help` lists all keys", name);
}

/* Up to the first full stop or semicolon that ends a clause. */
static size_t first_clause(const char *help)
{
    for (size_t i = 0; help[i]; i++)
        if ((help[i] == '.' || help[i] == ';') && (help[i + 1] == ' ' || help[i + 1] == 0)) return i;
    return strlen(help);
}

void config_help_all(struct strbuf *out)
{
    for (int section = 0; section < SECTIONS; section++) {
        strbuf_printf(out, "%s%s\n", section ? "\n" : "", config_section_title((enum config_section)section));
        for (size_t i = 0; i < config_n_keys; i++) {
            const struct config_key *key = &config_keys[i];
            if ((int)key->section != section) continue;
            strbuf_printf(out, "  %-28s %.*s\n", key->name, (int)first_clause(key->help), key->help);
        }
    }
    strbuf_puts(out, "\n`lorad help KEY` says more about one key; docs/config.md has all of it.\n");
}

/* Table cells: '|' would end the cell. */
static void write_cell(struct strbuf *out, const char *text)
{
    for (; *text; text++) {
        if (*text == '|') strbuf_putc(out, '\\');
        strbuf_putc(out, *text);
    }
}

static void write_markdown_key(struct strbuf *out, const struct config_key *key)
{
    strbuf_printf(out, "| `%s` | ", key->name);
    struct strbuf cell = STRBUF_EMPTY;
    write_type(&cell, key);
    write_cell(out, strbuf_text(&cell));
    strbuf_free(&cell);
    if (key->required)
        strbuf_puts(out, " | **required** | ");
    else if (key->fallback)
        strbuf_printf(out, " | `%s` | ", key->fallback);
    else
        strbuf_puts(out, " | | ");
    write_cell(out, key->help);
    if (key->aliases[0]) {
        strbuf_puts(out, " Also: ");
        write_aliases(out, key, "`");
        strbuf_putc(out, '.');
    }
    strbuf_puts(out, " |\n");
}

static void write_markdown_others(struct strbuf *out)
{
    strbuf_puts(
        out,
        "\n## Keys of other trainers\n\n"
        "Accepted when they ask for what lorad does anyway, and listed once at the start of a run. An empty "
        "value and \"off\" values\n(`false`, `none`, `null`, `0`, `[]`, `{}`) are accepted unless noted; any "
        "other value is refused by name.\n\n"
        "| key | accepted values | any other value |\n|---|---|---|\n");
    for (size_t i = 0; i < config_n_others; i++) {
        const struct config_other *other = &config_others[i];
        bool strict = other->agrees[0] == '!';
        const char *agrees = other->agrees + strict;
        if (strcmp(agrees, "*") == 0) {
            strbuf_printf(out, "| `%s` | any | |\n", other->name);
            continue;
        }
        strbuf_printf(out, "| `%s` | ", other->name);
        for (const char *at = agrees; *at;) {
            size_t n = strcspn(at, "|");
            strbuf_printf(out, "`%.*s`, ", (int)n, at);
            at += n + (at[n] == '|');
        }
        strbuf_puts(out, strict ? "nothing else" : "off");
        strbuf_printf(out, " | %s |\n", other->advice);
    }
}

void config_help_markdown(struct strbuf *out)
{
    strbuf_puts(
        out,
        "# Configuration\n\n"
        "<!-- Generated by `lorad help --markdown` from launch/config_table.c; a test compares. -->\n\n"
        "`lorad --config FILE [--set key=value ...]`: FILE is YAML with one `key: value` a line. `--set` "
        "overrides it, the last one wins.\n\n"
        "- Paths are relative to the folder in which lorad is started, not to the file.\n"
        "- An empty value (`key:`) means the default.\n"
        "- Unknown keys, keys given twice, wrong types, values out of range and contradictions are refused "
        "with "
        "file and line,\n  all at once, before anything else happens (exit code 78). YAML anchors, aliases, "
        "tags "
        "and files over 1 MiB are refused too.\n"
        "- All ranks must see the same configuration; they compare its hash at the start.\n"
        "- `lorad help KEY` prints a key's row.\n");
    for (int section = 0; section < SECTIONS; section++) {
        strbuf_printf(out, "\n## %s\n\n| key | value | default | meaning |\n|---|---|---|---|\n",
                      config_section_title((enum config_section)section));
        for (size_t i = 0; i < config_n_keys; i++)
            if ((int)config_keys[i].section == section) write_markdown_key(out, &config_keys[i]);
    }
    write_markdown_others(out);
}
