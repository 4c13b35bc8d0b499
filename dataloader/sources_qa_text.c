/*
 * sources_qa_text.c: plain text of questions and answers, blocks separated by blank lines:
 *
 *     用户：问题
 *     律师：回答
 *     回答的下一行
 *
 * A line that begins with one of the file's two role names and a colon (half or full width) begins a turn;
 * any other line belongs to the turn above it. The name that begins the first block is the user's. The other
 * one is the name that most blocks begin their second turn with. An answer may stand in a paragraph of its
 * own behind its question; any other block that does not begin with the user's name is a bad row, for an
 * answer must not grow by a stray paragraph.
 */
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "dataloader/sources_impl.h"

enum { NAME_BYTES = 48, CANDIDATES = 16, BLOCKS_LOOKED_AT = 256, BYTES_LOOKED_AT = 4 << 20 };

struct roles {
    char name[2][NAME_BYTES]; /* user, assistant */
    size_t length[2];
};

/* The name before the first colon of a line; 0: none. *behind is where the text starts. */
static size_t name_of(const char *line, size_t length, size_t *behind)
{
    for (size_t i = 0; i < length && i < NAME_BYTES; i++) {
        bool full = i + 3 <= length && memcmp(line + i, "：", 3) == 0;
        if (line[i] == ':' || full) {
            *behind = i + (full ? 3 : 1);
            return i;
        }
        if ((unsigned char)line[i] <= ' ' || memchr("/.,;!?\"'()[]{}<>", line[i], 16)) return 0;
    }
    return 0;
}

/* Which of the two roles the line begins; -1: neither. */
static int role_of(const struct roles *roles, const char *line, size_t length, size_t *behind)
{
    size_t n = name_of(line, length, behind);
    for (int role = 0; n > 0 && role < 2; role++)
        if (n == roles->length[role] && memcmp(line, roles->name[role], n) == 0) return role;
    return -1;
}

struct vote {
    const char *name;
    size_t length;
    int count;
};

static void count_vote(struct vote *votes, int *n, const char *name, size_t length)
{
    int i = 0;
    while (i < *n && (votes[i].length != length || memcmp(votes[i].name, name, length) != 0)) i++;
    if (i == CANDIDATES) return;
    if (i == *n) votes[(*n)++] = (struct vote){.name = name, .length = length};
    votes[i].count++;
}

/* The two names, from the first blocks. False: the text does not look like questions and answers. */
static bool find_roles(struct roles *out, const char *text, size_t length)
{
    size_t looked_at = length < BYTES_LOOKED_AT ? length : BYTES_LOOKED_AT;
    struct source_cursor cursor = {text, text + looked_at, 1};
    struct vote votes[CANDIDATES];
    struct roles roles = {0};
    int n = 0, blocks = 0;
    bool voted = false;
    const char *line;
    size_t line_length, behind;
    while (blocks < BLOCKS_LOOKED_AT && source_line(&cursor, &line, &line_length)) {
        size_t name = name_of(line, line_length, &behind);
        if (roles.length[0] == 0) {
            if (source_is_blank(line, line_length)) continue;
            if (name == 0) return false;
            memcpy(roles.name[0], line, name);
            roles.length[0] = name;
            continue;
        }
        if (name == 0) continue;
        if (name == roles.length[0] && memcmp(line, roles.name[0], name) == 0) {
            voted = false;
            blocks++;
        } else if (!voted) {
            count_vote(votes, &n, line, name);
            voted = true;
        }
    }
    if (n == 0) return false;
    int best = 0;
    for (int i = 1; i < n; i++)
        if (votes[i].count > votes[best].count) best = i;
    memcpy(roles.name[1], votes[best].name, votes[best].length);
    roles.length[1] = votes[best].length;
    *out = roles;
    return true;
}

static bool detect(const struct source_input *input)
{
    struct roles roles;
    return find_roles(&roles, input->text, input->length);
}

static enum status open_roles(void **context, const struct source_input *input)
{
    struct roles *roles = memory_new(1, sizeof *roles);
    if (!roles) return LORAD_NOMEM;
    find_roles(roles, input->text, input->length); /* false: there are no rows */
    *context = roles;
    return LORAD_OK;
}

/* A block ends at a blank line, unless its last turn is a question and the next paragraph begins the answer.
 */
static bool next(const void *context, struct source_cursor *cursor, struct raw_row *row)
{
    const struct roles *roles = context;
    const char *line, *end = NULL;
    size_t length, behind;
    int last_role = -1;
    bool after_blank = false;
    for (;;) {
        struct source_cursor before = *cursor;
        if (!source_line(cursor, &line, &length)) break;
        if (length < 4096 && source_is_blank(line, length)) {
            after_blank = true;
            continue;
        }
        int role = role_of(roles, line, length, &behind);
        if (!end) {
            row->text = line;
            row->line = before.line;
        } else if (after_blank && !(last_role == 0 && role == 1)) {
            *cursor = before;
            break;
        }
        if (role >= 0) last_role = role;
        end = line + length;
        after_blank = false;
    }
    if (!end) return false;
    row->length = (size_t)(end - row->text);
    return true;
}

static void trim(const char **text, size_t *length)
{
    while (*length > 0 && strchr(" \t\r\n", (*text)[*length - 1])) --*length;
    while (*length > 0 && strchr(" \t\r\n", **text)) ++*text, --*length;
}

static enum status parse(const void *context, const struct raw_row *row, struct parsed_row *out)
{
    const struct roles *roles = context;
    struct source_cursor cursor = {row->text, row->text + row->length, row->line};
    const char *line;
    size_t length, behind = 0;
    if (strnlen(row->text, row->length) < row->length) {
        parsed_row_reject(out, ROW_BAD_UTF8, "a NUL byte in the text");
        return LORAD_OK;
    }
    /* The text is collected first and its pieces found afterwards, since collecting may move it: until then a
     * message holds only its length. */
    size_t turn_start = 0;
    while (source_line(&cursor, &line, &length)) {
        int role = role_of(roles, line, length, &behind);
        if (role >= 0) {
            if (out->n > 0) out->messages[out->n - 1].length = out->text.length - turn_start;
            turn_start = out->text.length;
            TRY(parsed_row_add(out, role == 0 ? ROLE_USER : ROLE_ASSISTANT, NULL, 0));
            strbuf_add(&out->text, line + behind, length - behind);
        } else if (out->n == 0) {
            parsed_row_reject(out, ROW_BAD_ROLE, "the block does not begin with \"%s:\"", roles->name[0]);
            return LORAD_OK;
        } else {
            strbuf_putc(&out->text, '\n');
            strbuf_add(&out->text, line, length);
        }
    }
    TRY(strbuf_status(&out->text));
    if (out->n > 0) out->messages[out->n - 1].length = out->text.length - turn_start;
    const char *at = strbuf_text(&out->text);
    for (size_t i = 0; i < out->n; i++) {
        struct message *message = &out->messages[i];
        message->content = at;
        at += message->length;
        trim(&message->content, &message->length);
    }
    return LORAD_OK;
}

const struct source_format source_qa_text = {
    .name = "qa_text",
    .expects =
        "blocks of \"user: ...\" and \"lawyer: ...\" on lines of their own, a blank line between blocks",
    .detect = detect,
    .open = open_roles,
    .close = free,
    .next = next,
    .parse = parse,
};
