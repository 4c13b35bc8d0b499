/*
 * regex_syntax.c
 *
 * Invariants
 *  1. One pass; every construct is either copied because both syntaxes give it one meaning, rewritten, or
 *     refused.
 *  2. Character classes are those of Unicode 16, which Hugging Face's regex library knows: a property is
 *     written with the characters that are too young for PCRE2 beside it (regex_unicode.inc); naming one
 *     twice does no harm.
 *  3. In Ruby syntax x{n,m}+ is a repeated repetition, not a possessive one; {,n} starts at 0; \v is one
 *     character; \h is a hexadecimal digit; a bracket inside a class is a class.
 */
#include "dataloader/regex_syntax.h"

#include <ctype.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"

enum { GROUPS_MAX = 64, NAME_MAX_LENGTH = 24, COUNT_MAX = 1000 };

struct young_range {
    uint32_t first, last;
    char category[12]; /* general category, or script */
};
static const struct young_range young_ranges[] = {
#include "dataloader/regex_unicode.inc"
};

static const char *const categories[] = {
    "L",  "Lu", "Ll", "Lt", "Lm", "Lo", "M",  "Me", "N",  "Nd", "Nl", "No", "P",  "Pc", "Pd", "Ps",
    "Pe", "Pi", "Pf", "Po", "S",  "Sm", "Sc", "Sk", "So", "Z",  "Zs", "Zl", "Zp", "Cc", "Cf",
};
static const char *const scripts[] = {"Han",      "Hiragana", "Katakana", "Hangul", "Bopomofo", "Latin",
                                      "Cyrillic", "Greek",    "Arabic",   "Hebrew", "Thai",     "Devanagari"};
#define COUNT(list) (sizeof(list) / sizeof *(list))

#define SPACE_RANGES                                                                                         \
    "\\x09-\\x0d\\x20\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{"     \
    "3000}"
#define NO_SPACE_RANGES                                                                                      \
    "\\x00-\\x08\\x0e-\\x1f\\x21-\\x{84}\\x{86}-\\x{9f}\\x{a1}-\\x{167f}\\x{1681}-\\x{1fff}\\x{200b}-"       \
    "\\x{2027}\\x{202a}-\\x{202e}\\x{2030}-\\x{205e}\\x{2060}-\\x{2fff}\\x{3001}-\\x{10ffff}"

struct translation {
    const char *all, *at, *where;
    struct strbuf *out;
    size_t group[GROUPS_MAX]; /* where the open groups start in the output */
    int n_groups;
    bool caseless[GROUPS_MAX + 1]; /* inside so many groups */
    size_t atom; /* where what a quantifier would repeat starts in the output; SIZE_MAX: nothing */
};

static enum status refuse(const struct translation *t, const char *from, size_t length, const char *what)
{
    return FAIL(LORAD_DATA, "%s: the pattern \"%s\": %s \"%.*s\" is not supported", t->where, t->all, what,
                (int)length, from);
}

/* ---- properties ---- */

static void add_young(struct strbuf *out, const char *name)
{
    size_t length = strlen(name);
    for (size_t i = 0; i < COUNT(young_ranges); i++) {
        const struct young_range *range = &young_ranges[i];
        bool is_category = strlen(range->category) == 2;
        if (is_category && length <= 2 ? strncmp(range->category, name, length)
                                       : strcmp(range->category, name))
            continue;
        strbuf_printf(out, "\\x{%x}-\\x{%x}", (unsigned)range->first, (unsigned)range->last);
    }
}

/* Reads "{Name}" or "{^Name}" behind \p; *name is one of the lists. */
static enum status read_property(struct translation *t, const char **name, bool *negated)
{
    const char *from = t->at - 2, *end = strchr(t->at, '}');
    if (*t->at != '{' || !end || end - t->at > NAME_MAX_LENGTH) return refuse(t, from, 3, "the property");
    const char *text = t->at + 1;
    if (*text == '^') {
        *negated = !*negated;
        text++;
    }
    size_t length = (size_t)(end - text);
    *name = NULL;
    for (size_t i = 0; i < COUNT(categories) + COUNT(scripts); i++) {
        const char *known = i < COUNT(categories) ? categories[i] : scripts[i - COUNT(categories)];
        if (strlen(known) == length && memcmp(known, text, length) == 0) *name = known;
    }
    if (!*name) return refuse(t, from, (size_t)(end + 1 - from), "the property");
    if (t->caseless[t->n_groups]) return refuse(t, from, (size_t)(end + 1 - from), "under (?i) the property");
    t->at = end + 1;
    return LORAD_OK;
}

static void add_property(struct strbuf *out, const char *name)
{
    strbuf_printf(out, "\\p{%s%s}", strlen(name) > 2 ? "sc:" : "", name);
    add_young(out, name);
}

/* What stands inside brackets for an escaped class letter; false: none. */
static bool add_class(struct strbuf *out, char letter, bool in_brackets)
{
    switch (letter) {
    case 's':
        strbuf_puts(out, SPACE_RANGES);
        return true;
    case 'd':
        add_property(out, "Nd");
        return true;
    case 'w':
        strbuf_puts(out, "\\p{Alphabetic}");
        /* Six numbers of Latin-1 count as \w there, unless it stands in brackets. */
        if (!in_brackets) strbuf_puts(out, "\\x{b2}\\x{b3}\\x{b9}\\x{bc}-\\x{be}");
        add_property(out, "L");
        add_property(out, "M");
        add_property(out, "Nd");
        add_property(out, "Pc");
        return true;
    case 'h':
        strbuf_puts(out, "0-9A-Fa-f");
        return true;
    default:
        return false;
    }
}

/* Copies a character. Under (?i) some pairs of letters are also one character of another case for Oniguruma
 * (ss and U+00DF), and characters beyond ASCII fold differently. */
static enum status add_literal(struct translation *t)
{
    static const char *const folded[] = {"ss", "ff", "fi", "fl", "st"};
    size_t length = utf8_length(*t->at);
    for (size_t i = 0; i < COUNT(folded) && t->caseless[t->n_groups]; i++)
        if (length > 1 || (tolower((unsigned char)t->at[0]) == folded[i][0] &&
                           tolower((unsigned char)t->at[1]) == folded[i][1]))
            return refuse(t, t->at, length > 1 ? length : 2, "under (?i) the text");
    strbuf_add(t->out, t->at, length);
    t->at += length;
    return LORAD_OK;
}

/* A character written as an escape: \n \t \x{..} \u.... or punctuation. t->at is behind the letter. */
static enum status add_character_escape(struct translation *t, char letter)
{
    const char *from = t->at - 2;
    static const char plain[] = "rntfae";
    if (strchr(plain, letter)) {
        strbuf_printf(t->out, "\\%c", letter);
    } else if (letter == 'v') {
        strbuf_puts(t->out, "\\x0b");
    } else if (letter == 'x' && *t->at == '{') {
        char *end;
        unsigned long value = strtoul(t->at + 1, &end, 16);
        if (*end != '}' || end == t->at + 1 || value > 0x10FFFF || (value >= 0xD800 && value < 0xE000))
            return refuse(t, from, 3, "the escape");
        strbuf_printf(t->out, "\\x{%lx}", value);
        t->at = end + 1;
    } else if (letter == 'x' || letter == 'u') {
        int n = letter == 'x' ? 2 : 4;
        unsigned value = 0;
        for (int i = 0; i < n; i++) {
            if (!isxdigit((unsigned char)t->at[i])) return refuse(t, from, 2, "the escape");
            char digit[2] = {t->at[i]};
            value = value * 16 + (unsigned)strtoul(digit, NULL, 16);
        }
        if ((letter == 'x' && value > 0x7F) || (value >= 0xD800 && value < 0xE000))
            return refuse(t, from, (size_t)n + 2, "the escape");
        strbuf_printf(t->out, "\\x{%x}", value);
        t->at += n;
    } else if (ispunct((unsigned char)letter) || letter == ' ') {
        strbuf_printf(t->out, "\\%c", letter);
    } else if ((unsigned char)letter >= 0x80) {
        t->at = from + 1;
        return add_literal(t);
    } else {
        return refuse(t, from, letter ? 2 : 1, "the escape");
    }
    return LORAD_OK;
}

/* ---- classes ---- */

static enum status add_class_escape(struct translation *t)
{
    const char *from = t->at;
    char letter = t->at[1];
    if (!letter) return refuse(t, from, 1, "the escape");
    t->at += 2;
    if (letter == 'p' || letter == 'P') {
        const char *name;
        bool negated = letter == 'P';
        TRY(read_property(t, &name, &negated));
        if (negated) return refuse(t, from, (size_t)(t->at - from), "inside a class the property");
        add_property(t->out, name);
        return LORAD_OK;
    }
    if (letter == 'S') {
        strbuf_puts(t->out, NO_SPACE_RANGES);
        return LORAD_OK;
    }
    if (add_class(t->out, letter, true)) return LORAD_OK;
    if (letter == 'b') return refuse(t, from, 2, "inside a class the escape");
    return add_character_escape(t, letter);
}

/* The members of a class up to its closing bracket, which is read. Classes inside it are joined to it. */
static enum status add_members(struct translation *t, int depth)
{
    const char *from = t->at;
    for (bool first = true;; first = false) {
        char c = *t->at;
        if (!c) return refuse(t, from, strlen(from), "the open class");
        if (c == ']') {
            if (first) return refuse(t, from, 1, "the empty class before");
            t->at++;
            return LORAD_OK;
        }
        if (c == '\\') {
            TRY(add_class_escape(t));
        } else if (c == '[') {
            if (t->at[1] == ':' || t->at[1] == '^' || depth == 8)
                return refuse(t, t->at, 2, "inside a class");
            t->at++;
            TRY(add_members(t, depth + 1));
        } else if (c == '&' && t->at[1] == '&') {
            return refuse(t, t->at, 2, "inside a class");
        } else {
            /* A hyphen at an end of an inner class would make a range of its neighbours. */
            if (c == '-' && (first || t->at[1] == ']' || t->at[1] == '[')) strbuf_putc(t->out, '\\');
            TRY(add_literal(t));
        }
    }
}

static enum status add_brackets(struct translation *t)
{
    t->atom = t->out->length;
    strbuf_putc(t->out, *t->at++);
    if (*t->at == '^') strbuf_putc(t->out, *t->at++);
    TRY(add_members(t, 0));
    strbuf_putc(t->out, ']');
    return LORAD_OK;
}

static enum status add_escape(struct translation *t)
{
    const char *from = t->at;
    char letter = t->at[1];
    if (!letter) return refuse(t, from, 1, "the escape");
    t->at += 2;
    t->atom = t->out->length;
    if (letter == 'A' || letter == 'z') {
        strbuf_printf(t->out, "\\%c", letter);
        t->atom = SIZE_MAX;
        return LORAD_OK;
    }
    bool negated = letter == 'P' || letter == 'S' || letter == 'D' || letter == 'W' || letter == 'H';
    if (letter == 'p' || letter == 'P') {
        const char *name;
        TRY(read_property(t, &name, &negated));
        strbuf_puts(t->out, negated ? "[^" : "[");
        add_property(t->out, name);
        strbuf_putc(t->out, ']');
        return LORAD_OK;
    }
    size_t before = t->out->length;
    strbuf_puts(t->out, negated ? "[^" : "[");
    if (add_class(t->out, negated ? (char)tolower(letter) : letter, false)) {
        strbuf_putc(t->out, ']');
        return LORAD_OK;
    }
    t->out->length = before;
    return add_character_escape(t, letter);
}

/* ---- repetition and groups ---- */

/* Puts (?: ) around what the next quantifier repeats. */
static void wrap_atom(struct translation *t)
{
    static const char open[] = "(?:";
    strbuf_puts(t->out, open); /* makes room; the bytes move into place below */
    if (strbuf_status(t->out) != LORAD_OK) return;
    size_t n = sizeof open - 1;
    memmove(t->out->data + t->atom + n, t->out->data + t->atom, t->out->length - n - t->atom);
    memcpy(t->out->data + t->atom, open, n);
    strbuf_putc(t->out, ')');
}

/* Reads {n}, {n,}, {,m} or {n,m} at t->at; false: a brace that stands for itself. */
static bool read_interval(struct translation *t, long *least, long *most, bool *exact)
{
    char *end;
    const char *at = t->at + 1;
    bool comma = false, any = false;
    *least = 0;
    *most = -1;
    if (isdigit((unsigned char)*at)) {
        *least = strtol(at, &end, 10);
        at = end;
        any = true;
    }
    if (*at == ',') {
        comma = true;
        at++;
        if (isdigit((unsigned char)*at)) {
            *most = strtol(at, &end, 10);
            at = end;
            any = true;
        }
    }
    if (*at != '}' || !any) return false;
    if (!comma) *most = *least;
    *exact = !comma;
    t->at = at + 1;
    return true;
}

static bool is_quantifier(const char *at)
{
    return *at == '*' || *at == '+' || *at == '?' ||
           (*at == '{' && (isdigit((unsigned char)at[1]) || at[1] == ','));
}

static enum status add_quantifier(struct translation *t)
{
    const char *from = t->at;
    if (t->atom == SIZE_MAX) return refuse(t, from, 1, "with nothing to repeat the quantifier");
    if (*t->at == '{') {
        long least, most;
        bool exact;
        (void)read_interval(t, &least, &most, &exact);
        size_t length = (size_t)(t->at - from);
        if (least > COUNT_MAX || most > COUNT_MAX || (most >= 0 && most < least))
            return refuse(t, from, length, "the quantifier");
        if (most < 0)
            strbuf_printf(t->out, "{%ld,}", least);
        else
            strbuf_printf(t->out, "{%ld,%ld}", least, most);
        if (*t->at == '?') {
            if (exact) return refuse(t, from, length + 1, "the quantifier");
            strbuf_putc(t->out, *t->at++);
        }
    } else {
        strbuf_putc(t->out, *t->at++);
        if (*t->at == '?' || *t->at == '+') strbuf_putc(t->out, *t->at++);
    }
    if (is_quantifier(t->at)) wrap_atom(t);
    return LORAD_OK;
}

static enum status open_group(struct translation *t)
{
    static const char *const openings[] = {"(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>", "(?i:", "(?-i:"};
    if (t->n_groups == GROUPS_MAX) return refuse(t, t->at, 1, "so deeply nested");
    size_t start = t->out->length, length = 1;
    if (t->at[1] == '?') {
        length = 0;
        for (size_t i = 0; i < COUNT(openings); i++)
            if (strncmp(t->at, openings[i], strlen(openings[i])) == 0) length = strlen(openings[i]);
        if (!length && strncmp(t->at, "(?i)", 4) == 0 && t->at == t->all) {
            strbuf_puts(t->out, "(?i)");
            t->at += 4;
            t->caseless[0] = true;
            return LORAD_OK;
        }
        if (!length) return refuse(t, t->at, 3, "the group");
    }
    bool caseless =
        strncmp(t->at, "(?i:", 4) == 0 || (t->caseless[t->n_groups] && strncmp(t->at, "(?-i:", 5) != 0);
    strbuf_add(t->out, t->at, length);
    t->group[t->n_groups++] = start;
    t->caseless[t->n_groups] = caseless;
    t->at += length;
    t->atom = SIZE_MAX;
    return LORAD_OK;
}

static enum status close_group(struct translation *t)
{
    if (!t->n_groups) return refuse(t, t->at, 1, "with no group to close");
    strbuf_putc(t->out, *t->at++);
    t->atom = t->group[--t->n_groups];
    return LORAD_OK;
}

static enum status add_one(struct translation *t)
{
    switch (*t->at) {
    case '\\':
        return add_escape(t);
    case '[':
        return add_brackets(t);
    case '(':
        return open_group(t);
    case ')':
        return close_group(t);
    case '*':
    case '+':
    case '?':
        return add_quantifier(t);
    case '{': {
        struct translation probe = *t;
        long least, most;
        bool exact;
        if (read_interval(&probe, &least, &most, &exact)) return add_quantifier(t);
        return refuse(t, t->at, 1, "standing for itself");
    }
    case '|':
    case '^':
    case '$':
        t->atom = SIZE_MAX;
        strbuf_putc(t->out, *t->at++);
        return LORAD_OK;
    default:
        t->atom = t->out->length;
        return add_literal(t);
    }
}

enum status regex_translate(struct strbuf *out, const char *expression, const char *where)
{
    struct translation t = {
        .all = expression, .at = expression, .where = where, .out = out, .atom = SIZE_MAX};
    while (*t.at) TRY(add_one(&t));
    if (t.n_groups) return refuse(&t, expression, strlen(expression), "with an open group");
    return strbuf_status(out);
}
