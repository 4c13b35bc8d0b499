/*
 * personal_data.c: numbers and addresses of people, by pattern.
 *
 * Text is read in glyphs: ASCII, the full-width forms as the ASCII characters that they stand for, and all
 * others as one kind. A number is read as groups of digits with one sign between them; each pattern says
 * which groups it wants and what may stand beside it.
 *
 * Sources: GB 11643-1999 (ID number; check digit ISO 7064 MOD 11-2), GB/T 2260 (region codes), the numbering
 * plan of the Ministry of Industry and Information Technology (mobile prefixes, area codes), ISO/IEC 7812-1
 * (Luhn digit).
 */
#include "dataloader/personal_data.h"

#include <stdint.h>
#include <string.h>
#include <strings.h>

enum { MOST_GROUPS = 6, MOST_DIGITS = 20, OTHER = 0x80, KEYWORD_WINDOW = 36 };

struct glyph {
    uint8_t c;      /* ASCII; OTHER: another character; 0 at an end of the text */
    uint8_t length; /* bytes */
};

struct text {
    const char *at;
    size_t length;
    size_t start; /* what lies before it is taken already: nothing looks there for a neighbour */
};

struct group {
    size_t begin, end;
    int32_t n;                  /* digits, counted up to MOST_DIGITS */
    uint8_t digit[MOST_DIGITS]; /* 0 .. 9 */
    char sign;                  /* between it and the next group: ' ', '-' or ')'; 0 behind the last one */
};

struct number {
    struct group group[MOST_GROUPS];
    int32_t n;
};

/* ---- glyphs ---- */

static struct glyph glyph_at(struct text text, size_t at)
{
    if (at >= text.length) return (struct glyph){0, 0};
    uint8_t a = (uint8_t)text.at[at];
    if (a < 0x80) return (struct glyph){a ? a : OTHER, 1};
    uint8_t n = a < 0xE0 ? 2 : a < 0xF0 ? 3 : 4;
    if (at + n > text.length) return (struct glyph){OTHER, (uint8_t)(text.length - at)};
    if (n != 3) return (struct glyph){OTHER, n};
    uint8_t b = (uint8_t)text.at[at + 1], c = (uint8_t)text.at[at + 2];
    if (a == 0xEF && b == 0xBC && c >= 0x81) return (struct glyph){(uint8_t)(c - 0x81 + '!'), 3};
    if (a == 0xEF && b == 0xBD && c <= 0x9E) return (struct glyph){(uint8_t)(c - 0x80 + '`'), 3};
    if (a == 0xE3 && b == 0x80 && c == 0x80) return (struct glyph){' ', 3};
    if (a == 0xE2 && ((b == 0x80 && c >= 0x90 && c <= 0x95) || (b == 0x88 && c == 0x92)))
        return (struct glyph){'-', 3}; /* hyphens, dashes, minus */
    return (struct glyph){OTHER, 3};
}

static struct glyph glyph_before(struct text text, size_t at)
{
    size_t start = at;
    while (start > text.start && at - start < 4) {
        start--;
        if (((uint8_t)text.at[start] & 0xC0) != 0x80) break;
    }
    if (start == at) return (struct glyph){0, 0};
    struct glyph glyph = glyph_at((struct text){text.at, at, 0}, start);
    glyph.length = (uint8_t)(at - start);
    return glyph;
}

static bool is_digit(uint8_t c)
{
    return c >= '0' && c <= '9';
}

static bool is_letter(uint8_t c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

/* ---- what stands beside a number ---- */

static bool ends_with(struct text text, size_t end, const char *word)
{
    size_t n = strlen(word);
    return end >= text.start + n && strncasecmp(text.at + end - n, word, n) == 0;
}

static bool starts_with(struct text text, size_t at, const char *word)
{
    size_t n = strlen(word);
    return at + n <= text.length && memcmp(text.at + at, word, n) == 0;
}

/* One of the words (separated by spaces) stands in the few characters before `at`. */
static bool word_before(struct text text, size_t at, const char *words)
{
    size_t from = at > KEYWORD_WINDOW ? at - KEYWORD_WINDOW : 0;
    for (const char *word = words; *word;) {
        size_t n = strcspn(word, " ");
        for (size_t i = from; i + n <= at; i++)
            if (strncasecmp(text.at + i, word, n) == 0) return true;
        word += n + (word[n] == ' ');
    }
    return false;
}

/* Letters, an underscore, money and decimal points before a number make it part of something else. */
static bool free_before(struct text text, size_t begin)
{
    static const char *const money[] = {"￥", "¥", "€", "£", "＄", "币", "额"};
    struct glyph before = glyph_before(text, begin);
    size_t at = begin - before.length;
    struct glyph further = glyph_before(text, at);
    if (is_letter(before.c))
        return ends_with(text, begin, "tel") || ends_with(text, begin, "phone") ||
               ends_with(text, begin, "mobile");
    if (is_digit(before.c) || before.c == '_' || before.c == '$') return false;
    if ((before.c == '.' || before.c == '-') && (is_digit(further.c) || is_letter(further.c))) return false;
    if (before.c == '/' && is_letter(further.c)) return false; /* a path */
    for (size_t i = 0; i < sizeof money / sizeof *money; i++)
        if (ends_with(text, begin, money[i])) return false;
    return true;
}

static bool amount_at(struct text text, size_t at)
{
    static const char *const unit[] = {"元", "股", "万", "亿", "份", "张", "吨",
                                       "千", "美", "港", "欧", "英", "户"};
    struct glyph glyph = glyph_at(text, at);
    if (glyph.c == ' ') glyph = glyph_at(text, at += glyph.length);
    if (glyph.c == '%') return true;
    for (size_t i = 0; i < sizeof unit / sizeof *unit; i++)
        if (starts_with(text, at, unit[i])) return true;
    return starts_with(text, at, "手") && !starts_with(text, at, "手机");
}

static bool free_after(struct text text, size_t end)
{
    struct glyph after = glyph_at(text, end);
    size_t at = end + after.length;
    if (is_letter(after.c) || is_digit(after.c) || after.c == '_' || after.c == '@') return false;
    if (after.c == '.' || after.c == '-' || after.c == ',') {
        int32_t digits = 0;
        for (struct glyph next; is_digit((next = glyph_at(text, at)).c) && digits < 4; at += next.length)
            digits++;
        if (after.c == ',' ? digits == 3 : digits > 0) return false;
    }
    return !amount_at(text, end);
}

static bool stands_alone(struct text text, size_t begin, size_t end)
{
    return free_before(text, begin) && free_after(text, end);
}

/* A digit stands one space before `begin` or behind `end`: a row of a table rather than one number in groups.
 */
static bool in_a_table(struct text text, size_t begin, size_t end)
{
    struct glyph before = glyph_before(text, begin), after = glyph_at(text, end);
    return (before.c == ' ' && is_digit(glyph_before(text, begin - before.length).c)) ||
           (after.c == ' ' && is_digit(glyph_at(text, end + after.length).c));
}

/* ---- numbers ---- */

static void read_group(struct group *group, struct text text, size_t at)
{
    group->begin = at;
    group->n = 0;
    for (struct glyph glyph; is_digit((glyph = glyph_at(text, at)).c); at += glyph.length)
        if (group->n < MOST_DIGITS) group->digit[group->n++] = glyph.c - '0';
    group->end = at;
    group->sign = 0;
}

/* The groups from `at` on, where a digit stands. */
static void read_number(struct number *number, struct text text, size_t at)
{
    number->n = 0;
    for (;;) {
        struct group *group = &number->group[number->n++];
        read_group(group, text, at);
        struct glyph sign = glyph_at(text, group->end), next;
        if ((sign.c != ' ' && sign.c != '-' && sign.c != ')') || number->n == MOST_GROUPS) return;
        at = group->end + sign.length;
        next = glyph_at(text, at);
        if ((sign.c == ')' && next.c == ' ') || (sign.c != ' ' && next.c == '-'))
            next = glyph_at(text, at += next.length); /* "(010) 1", "021--6" */
        if (!is_digit(next.c)) return;
        group->sign = (char)sign.c;
    }
}

static int32_t value(const struct group *group, int32_t from, int32_t n)
{
    int32_t v = 0;
    for (int32_t i = 0; i < n; i++) v = v * 10 + group->digit[from + i];
    return v;
}

/* Groups first, first + 1, ... have these lengths and the same sign between them. */
static bool has_shape(const struct number *number, int32_t first, const int32_t *lengths, int32_t n)
{
    if (first + n > number->n) return false;
    for (int32_t i = 0; i < n; i++) {
        const struct group *group = &number->group[first + i];
        if (group->n != lengths[i]) return false;
        if (i + 1 < n && (group->sign == ')' || group->sign != number->group[first].sign)) return false;
    }
    return true;
}

static bool accept(struct personal_data *out, enum finding_kind kind, size_t begin, size_t end)
{
    *out = (struct personal_data){kind, begin, end - begin};
    return true;
}

/* ---- ID numbers ---- */

static bool is_date(int32_t year, int32_t month, int32_t day)
{
    static const int32_t days[] = {31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    if (year < 1900 || year > 2099 || month < 1 || month > 12 || day < 1 || day > days[month - 1])
        return false;
    bool leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    return leap || month != 2 || day < 29;
}

static bool is_region(int32_t province)
{
    return (province >= 11 && province <= 15) || (province >= 21 && province <= 23) ||
           (province >= 31 && province <= 37) || (province >= 41 && province <= 46) ||
           (province >= 50 && province <= 54) || (province >= 61 && province <= 65) || province == 71 ||
           (province >= 81 && province <= 83);
}

static bool find_id(struct personal_data *out, struct text text, const struct number *number)
{
    static const int32_t weight[] = {7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2};
    const struct group *group = &number->group[0];
    size_t end = group->end;
    if (group->n != 17 && group->n != 18) return false;
    int32_t sum = 0, check = group->n == 18 ? group->digit[17] : 10;
    if (group->n == 17) {
        struct glyph x = glyph_at(text, end);
        if (x.c != 'X' && x.c != 'x') return false;
        end += x.length;
    }
    for (int32_t i = 0; i < 17; i++) sum += group->digit[i] * weight[i];
    if ((sum + check) % 11 != 1 || !is_region(value(group, 0, 2))) return false;
    if (!is_date(value(group, 6, 4), value(group, 10, 2), value(group, 12, 2))) return false;
    return stands_alone(text, group->begin, end) && accept(out, FINDING_ID, group->begin, end);
}

/* ---- telephones ---- */

/* The first three digits of mobile numbers that people have; 14x data cards are left out except the old voice
 * ranges. */
static bool is_mobile_prefix(int32_t prefix)
{
    switch (prefix / 10) {
    case 13:
    case 18:
        return true;
    case 14:
        return prefix == 145 || prefix == 147 || prefix == 149;
    case 15:
        return prefix != 154;
    case 16:
        return prefix == 162 || (prefix >= 165 && prefix <= 167);
    case 17:
        return prefix <= 178 && prefix != 174 && prefix != 179;
    case 19:
        return prefix != 194;
    default:
        return false;
    }
}

/* Begins with +86, 0086 or 86 as a group of its own; *begin then includes a plus sign. */
static bool has_country(struct text text, const struct number *number, size_t *begin)
{
    const struct group *group = &number->group[0];
    *begin = group->begin;
    struct glyph before = glyph_before(text, *begin);
    if (before.c == '+') *begin -= before.length;
    bool country = (group->n == 2 && value(group, 0, 2) == 86) || (group->n == 4 && value(group, 0, 4) == 86);
    return country && number->n > 1;
}

static bool is_year(const struct group *group)
{
    int32_t year = value(group, 0, 4);
    return year >= 1900 && year < 2100;
}

static bool find_mobile(struct personal_data *out, struct text text, const struct number *number)
{
    static const int32_t shape[] = {3, 4, 4};
    size_t begin;
    int32_t first = has_country(text, number, &begin), skip = 0;
    const struct group *group = &number->group[first];
    if (first == 0 && group->n == 13 && value(group, 0, 2) == 86) skip = 2;
    if (first == 0 && group->n == 15 && value(group, 0, 4) == 86) skip = 4;
    if (group->n - skip == 11 && is_mobile_prefix(value(group, skip, 3)))
        return stands_alone(text, begin, group->end) && accept(out, FINDING_MOBILE, begin, group->end);
    if (!has_shape(number, first, shape, 3) || !is_mobile_prefix(value(group, 0, 3))) return false;
    const struct group *last = group + 2;
    if (group->sign == ' ' && first == 0 &&
        (in_a_table(text, begin, last->end) || is_year(group + 1) || is_year(last)))
        return false;
    return stands_alone(text, begin, last->end) && accept(out, FINDING_MOBILE, begin, last->end);
}

/* Whether it is an area code, with its zero unless a country stands before. *subscriber: digits of the number
 * behind it; 0: 7 or 8. */
static bool is_area(const struct group *group, bool country, int32_t *subscriber)
{
    int32_t zero = country && group->digit[0] != 0 ? 0 : 1;
    if (zero == 1 && group->digit[0] != 0) return false;
    int32_t n = group->n - zero, code = value(group, zero, n > 3 ? 3 : n);
    if (n == 2) {
        *subscriber = 8;
        return code == 10 || (code >= 20 && code <= 29 && code != 26);
    }
    *subscriber = 0; /* 7 or 8 */
    return n == 3 && code >= 310 && code <= 998;
}

/* Groups of the subscriber's number that start at `first`: one of 7 or 8 digits, or two. 0: it is none. */
static int32_t subscriber_groups(const struct number *number, int32_t first, int32_t digits)
{
    if (first >= number->n) return 0;
    const struct group *group = &number->group[first];
    if (group->digit[0] < 2 || group->digit[0] > 8) return 0;
    if (group->n == 8 && is_date(value(group, 0, 4), value(group, 4, 2), value(group, 6, 2))) return 0;
    if (group->n == 8 || (group->n == 7 && digits != 8)) return 1;
    bool two = first + 1 < number->n && group->sign != ')' && group[1].n == 4 &&
               (group->n == 4 || (group->n == 3 && digits != 8));
    if (!two || (group->n == 4 && is_year(group))) return 0;
    return 2;
}

/* Makes the area code a group of its own where it is written together with the country ("8610-66638188") or
 * with the rest ("02584418888"). True: a country stands before it. */
static bool part_area(struct number *number)
{
    struct group *area = &number->group[0];
    if ((area->n == 4 || area->n == 5) && value(area, 0, 2) == 86 && number->n > 1) {
        memmove(area->digit, area->digit + 2, (size_t)(area->n -= 2));
        return true;
    }
    if ((area->n != 11 && area->n != 12) || area->digit[0] != 0 || number->n == MOST_GROUPS) return false;
    int32_t n = area->digit[1] <= 2 ? 3 : 4;
    memmove(area + 1, area, (size_t)number->n++ * sizeof *area);
    memmove(area[1].digit, area[1].digit + n, (size_t)(area[1].n -= n));
    area->n = n;
    area->sign = ' ';
    return false;
}

static bool find_landline(struct personal_data *out, struct text text, struct number *number)
{
    static const char words[] = "电话 热线 专线 传真 tel fax phone";
    size_t begin;
    int32_t digits, first = has_country(text, number, &begin);
    bool country = first == 1 || part_area(number);
    const struct group *area = &number->group[first];
    if (!is_area(area, country, &digits) || area->sign == 0) return false;
    if (area->sign == ' ' && !country && !word_before(text, begin, words)) return false;
    int32_t n = subscriber_groups(number, first + 1, digits);
    if (n == 0) return false;
    const struct group *last = area + n;
    if (last->sign == '-' && last + 1 < number->group + number->n && last[1].n <= 6) last++; /* extension */
    struct glyph before = glyph_before(text, begin);
    if (area->sign == ')' && before.c == '(') begin -= before.length;
    return stands_alone(text, begin, last->end) && accept(out, FINDING_LANDLINE, begin, last->end);
}

/* ---- cards ---- */

struct digits {
    int32_t n;
    uint8_t digit[4 * MOST_DIGITS];
};

static void join(struct digits *all, const struct number *number, int32_t n)
{
    all->n = 0;
    for (int32_t g = 0; g < n; g++)
        for (int32_t i = 0; i < number->group[g].n && all->n < 4 * MOST_DIGITS; i++)
            all->digit[all->n++] = number->group[g].digit[i];
}

static bool luhn(const struct digits *all)
{
    int32_t sum = 0;
    for (int32_t i = 0; i < all->n; i++) {
        int32_t d = all->digit[all->n - 1 - i] << (i & 1);
        sum += d > 9 ? d - 9 : d;
    }
    return sum % 10 == 0;
}

enum scheme { SCHEME_NONE, SCHEME_UNIONPAY, SCHEME_OTHER };

static enum scheme card_scheme(const struct digits *all)
{
    int32_t two = all->digit[0] * 10 + all->digit[1], four = two * 100 + all->digit[2] * 10 + all->digit[3];
    if (two == 62 && all->n >= 16 && all->n <= 19) return SCHEME_UNIONPAY;
    if (all->n == 15 && (two == 34 || two == 37)) return SCHEME_OTHER; /* American Express */
    if (all->n != 16) return SCHEME_NONE;
    bool known = all->digit[0] == 4 || (two >= 51 && two <= 55) || (four >= 2221 && four <= 2720) ||
                 (four >= 3528 && four <= 3589);
    return known ? SCHEME_OTHER : SCHEME_NONE;
}

static bool find_card(struct personal_data *out, struct text text, const struct number *number)
{
    static const int32_t fours[] = {4, 4, 4, 4}, amex[] = {4, 6, 5}, halves[] = {6, 13};
    struct digits all;
    const struct group *first = &number->group[0];
    int32_t n = 1;
    if (has_shape(number, 0, fours, 4)) {
        bool fifth = number->n > 4 && number->group[3].sign == first->sign && number->group[4].n <= 3;
        n = fifth ? 5 : 4;
    } else if (has_shape(number, 0, amex, 3)) {
        n = 3;
    } else if (has_shape(number, 0, halves, 2)) {
        n = 2;
    } else if (first->n < 15 || first->n > 19) {
        return false;
    }
    join(&all, number, n);
    size_t begin = first->begin, end = number->group[n - 1].end;
    enum scheme scheme = card_scheme(&all);
    if (scheme == SCHEME_NONE || !luhn(&all)) return false;
    bool spaced = n > 1 && first->sign == ' ';
    if (spaced && in_a_table(text, begin, end)) return false;
    if (scheme == SCHEME_OTHER && (n == 1 || spaced) &&
        !word_before(text, begin, "卡 账号 帐号 账户 帐户 card visa"))
        return false;
    return stands_alone(text, begin, end) && accept(out, FINDING_CARD, begin, end);
}

/* ---- addresses ---- */

static bool is_local(uint8_t c)
{
    return is_letter(c) || is_digit(c) || c == '.' || c == '_' || c == '-' || c == '+';
}

/* Where the domain ends that starts at `at`; 0: there is none. */
static size_t domain_end(struct text text, size_t at)
{
    static const char *const files[] = {"png", "jpg", "jpeg", "gif", "svg", "webp", "js", "css", "pdf"};
    size_t end = 0, label = at, start = at;
    int32_t n = 0, labels = 0;
    bool letters = true;
    for (;; n++) {
        struct glyph glyph = glyph_at(text, at);
        bool inside = is_letter(glyph.c) || is_digit(glyph.c) || (glyph.c == '-' && at > label);
        if (inside && n < 255) {
            letters = letters && is_letter(glyph.c);
            at += glyph.length;
            continue;
        }
        if (at == label) break; /* an empty label */
        if (labels++ > 0 && letters && at - label >= 2) end = at;
        if (glyph.c != '.') break;
        at += glyph.length;
        label = at;
        letters = true;
    }
    for (size_t i = 0; end > start && i < sizeof files / sizeof *files; i++)
        if (text.at[end - strlen(files[i]) - 1] == '.' && ends_with(text, end, files[i])) return 0;
    return end;
}

/* An address around the sign at `sign`. */
static bool find_email(struct personal_data *out, struct text text, size_t sign)
{
    size_t begin = sign, end = domain_end(text, sign + glyph_at(text, sign).length);
    int32_t n = 0;
    if (end == 0) return false;
    for (struct glyph glyph; is_local((glyph = glyph_before(text, begin)).c); n++) {
        if (n == 64) return false;
        begin -= glyph.length;
    }
    for (struct glyph glyph; begin < sign; begin += glyph.length) {
        glyph = glyph_at(text, begin);
        if (is_letter(glyph.c) || is_digit(glyph.c) || glyph.c == '_') break;
    }
    struct glyph last = glyph_before(text, sign);
    return begin < sign && last.c != '.' && accept(out, FINDING_EMAIL, begin, end);
}

/* ---- together ---- */

static bool find_number(struct personal_data *out, struct text text, size_t *at)
{
    struct number number;
    read_number(&number, text, *at);
    *at = number.group[0].end;
    if (number.n == 1 && number.group[0].n < 11) return false;
    return find_id(out, text, &number) || find_mobile(out, text, &number) ||
           find_landline(out, text, &number) || find_card(out, text, &number);
}

bool personal_data_find(struct personal_data *out, const char *bytes, size_t length, size_t from)
{
    struct text text = {bytes, length, from};
    size_t at = from;
    while (at < length) {
        uint8_t byte = (uint8_t)bytes[at];
        if (!is_digit(byte) && byte != '@' && byte != 0xEF) {
            at++;
            continue;
        }
        struct glyph glyph = glyph_at(text, at);
        if (is_digit(glyph.c)) {
            if (find_number(out, text, &at)) return true;
        } else {
            if (glyph.c == '@' && find_email(out, text, at)) return true;
            at += glyph.length;
        }
    }
    return false;
}
