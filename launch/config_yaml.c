/*
 * config_yaml.c: a YAML text -> a tree of nodes. The owner of yaml.h.
 *
 * 1. A value appears in the tree where it is written and once: anchors, aliases and merge keys are refused,
 *    so a small file can never become a large tree.
 * 2. Every node knows its source and line.
 * 3. Depth is at most CONFIG_MAX_DEPTH, so recursion here and in every reader of the tree is bounded.
 * 4. The first of two equal keys stays; the second is a problem.
 */
#include "launch/config_impl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

#include "base/json.h"
#include "base/memory.h"

struct reader {
    yaml_parser_t parser;
    const char *source;
    struct config_problems *problems;
};

static enum status next_event(struct reader *reader, yaml_event_t *event)
{
    if (yaml_parser_parse(&reader->parser, event)) return LORAD_OK;
    const yaml_parser_t *p = &reader->parser;
    if (p->error == YAML_MEMORY_ERROR)
        return FAIL(LORAD_NOMEM, "out of memory while reading %s", reader->source);
    size_t line = p->problem_mark.line;
    if (p->error == YAML_READER_ERROR) {
        /* the reader's errors carry a byte offset only, and the parser's mark stands just before it */
        line = p->mark.line;
    }
    problems_add(reader->problems, LORAD_CONFIG, "%s:%zu: not valid YAML: %s%s%s", reader->source, line + 1,
                 p->problem ? p->problem : "unreadable", p->context ? " " : "", p->context ? p->context : "");
    return LORAD_CONFIG;
}

static struct config_node *node_new(struct reader *reader, enum node_kind kind, const yaml_event_t *event)
{
    struct config_node *node = memory_new(1, sizeof *node);
    if (!node) return NULL;
    node->kind = kind;
    node->source = reader->source;
    node->line = (int)event->start_mark.line + 1;
    return node;
}

void config_node_free(struct config_node *node)
{
    while (node) {
        struct config_node *next = node->next;
        config_node_free(node->first);
        free(node->key);
        free(node->text);
        free(node);
        node = next;
    }
}

static void refuse(struct reader *reader, const yaml_event_t *event, const char *what)
{
    problems_add(reader->problems, LORAD_CONFIG, "%s:%zu: %s", reader->source, event->start_mark.line + 1,
                 what);
}

static void refuse_anchor_and_tag(struct reader *reader, const yaml_event_t *event, const yaml_char_t *anchor,
                                  const yaml_char_t *tag)
{
    if (anchor)
        refuse(reader, event, "YAML anchors (&name) are not supported: write the value where it is used");
    if (tag) refuse(reader, event, "YAML tags (!name) are not supported: write the plain value");
}

static enum status read_node(struct reader *reader, struct config_node **out, const yaml_event_t *event,
                             int depth);

static enum status read_scalar(struct reader *reader, struct config_node **out, const yaml_event_t *event)
{
    refuse_anchor_and_tag(reader, event, event->data.scalar.anchor, event->data.scalar.tag);
    struct config_node *node = node_new(reader, NODE_SCALAR, event);
    if (!node) return LORAD_NOMEM;
    const char *value = (const char *)event->data.scalar.value;
    node->quoted = event->data.scalar.style != YAML_PLAIN_SCALAR_STYLE;
    node->text = memory_string_n(value, event->data.scalar.length);
    if (!node->text) {
        config_node_free(node);
        return LORAD_NOMEM;
    }
    if (memchr(value, 0, event->data.scalar.length)) refuse(reader, event, "a NUL character in a value");
    *out = node;
    return LORAD_OK;
}

static const struct config_node *member_named(const struct config_node *map, const char *key)
{
    for (const struct config_node *m = map->first; m; m = m->next)
        if (strcmp(m->key, key) == 0) return m;
    return NULL;
}

/* Reads the member whose key is `event` and links it at *tail, unless its key stands already. */
static enum status read_member(struct reader *reader, struct config_node *map, struct config_node ***tail,
                               const yaml_event_t *event, int depth)
{
    if (event->type != YAML_SCALAR_EVENT) {
        refuse(reader, event, "a key must be a plain word");
        return LORAD_CONFIG;
    }
    struct config_node *key = NULL, *value = NULL;
    TRY(read_scalar(reader, &key, event));
    yaml_event_t after;
    enum status status = next_event(reader, &after);
    if (status == LORAD_OK) {
        status = read_node(reader, &value, &after, depth + 1);
        yaml_event_delete(&after);
    }
    if (value && status != LORAD_OK) { /* half read: what stands there cannot be judged */
        config_node_free(value);
    } else if (value) {
        const struct config_node *twin = member_named(map, key->text);
        if (strcmp(key->text, "<<") == 0) {
            refuse(reader, event, "YAML merge keys (<<) are not supported: write the keys out");
            config_node_free(value);
        } else if (twin) {
            problems_add(reader->problems, LORAD_CONFIG,
                         "%s:%d: %s: given twice (first in line %d): keep one of the two lines",
                         reader->source, key->line, key->text, twin->key_line);
            config_node_free(value);
        } else {
            value->key = key->text;
            value->key_line = key->line;
            key->text = NULL;
            **tail = value;
            *tail = &value->next;
        }
    }
    config_node_free(key);
    return status;
}

/* A list or map whose start event has been read. What was read before an error stays in *out. */
static enum status read_children(struct reader *reader, struct config_node **out, const yaml_event_t *start,
                                 int depth)
{
    bool is_map = start->type == YAML_MAPPING_START_EVENT;
    if (depth >= CONFIG_MAX_DEPTH) {
        refuse(reader, start, "nested too deeply");
        return LORAD_CONFIG;
    }
    struct config_node *node = node_new(reader, is_map ? NODE_MAP : NODE_LIST, start);
    if (!node) return LORAD_NOMEM;
    *out = node;
    struct config_node **tail = &node->first;
    enum status status = LORAD_OK;
    while (status == LORAD_OK) {
        yaml_event_t event;
        status = next_event(reader, &event);
        if (status != LORAD_OK) break;
        bool end = event.type == YAML_SEQUENCE_END_EVENT || event.type == YAML_MAPPING_END_EVENT;
        if (!end && is_map) {
            status = read_member(reader, node, &tail, &event, depth);
        } else if (!end) {
            status = read_node(reader, tail, &event, depth + 1);
            if (*tail) tail = &(*tail)->next;
        }
        yaml_event_delete(&event);
        if (end) break;
    }
    return status;
}

static enum status read_node(struct reader *reader, struct config_node **out, const yaml_event_t *event,
                             int depth)
{
    switch (event->type) {
    case YAML_SCALAR_EVENT:
        return read_scalar(reader, out, event);
    case YAML_SEQUENCE_START_EVENT:
        refuse_anchor_and_tag(reader, event, event->data.sequence_start.anchor,
                              event->data.sequence_start.tag);
        return read_children(reader, out, event, depth);
    case YAML_MAPPING_START_EVENT:
        refuse_anchor_and_tag(reader, event, event->data.mapping_start.anchor, event->data.mapping_start.tag);
        return read_children(reader, out, event, depth);
    case YAML_ALIAS_EVENT:
        refuse(reader, event,
               "YAML aliases (*name) are not supported: write the value here, in quotes if it starts with *");
        *out = node_new(reader, NODE_SCALAR, event);
        if (*out) (*out)->text = memory_string("");
        return *out && (*out)->text ? LORAD_OK : LORAD_NOMEM;
    default:
        refuse(reader, event, "not valid YAML here");
        return LORAD_CONFIG;
    }
}

static enum status read_stream(struct reader *reader, struct config_node **out)
{
    int documents = 0;
    for (;;) {
        yaml_event_t event;
        TRY(next_event(reader, &event));
        enum status status = LORAD_OK;
        bool end = event.type == YAML_STREAM_END_EVENT;
        if (event.type == YAML_DOCUMENT_START_EVENT) {
            if (++documents > 1) {
                refuse(reader, &event, "a second YAML document (---): one file is one configuration");
                status = LORAD_CONFIG;
            }
        } else if (!end && event.type != YAML_STREAM_START_EVENT && event.type != YAML_DOCUMENT_END_EVENT) {
            status = read_node(reader, out, &event, 0);
        }
        yaml_event_delete(&event);
        if (end || status != LORAD_OK) return status;
    }
}

enum status config_yaml_parse(struct config_node **out, const char *text, size_t length, const char *source,
                              struct config_problems *problems, bool *whole)
{
    struct reader reader = {.source = source, .problems = problems};
    if (!yaml_parser_initialize(&reader.parser))
        return FAIL(LORAD_NOMEM, "out of memory while reading %s", source);
    yaml_parser_set_encoding(&reader.parser, YAML_UTF8_ENCODING);
    yaml_parser_set_input_string(&reader.parser, (const unsigned char *)text, length);
    struct config_node *tree = NULL;
    enum status status = read_stream(&reader, &tree);
    yaml_parser_delete(&reader.parser);
    if (status == LORAD_NOMEM) {
        config_node_free(tree);
        return status;
    }
    *out = tree;
    *whole = status == LORAD_OK;
    return LORAD_OK;
}

const char *config_place(char buffer[512], const struct config_node *node)
{
    if (node->line > 0)
        snprintf(buffer, 512, "%s:%d", node->source, node->line);
    else
        snprintf(buffer, 512, "%s", node->source);
    return buffer;
}

bool config_node_is_null(const struct config_node *node)
{
    return node->kind == NODE_SCALAR && !node->quoted &&
           (node->text[0] == 0 || strcmp(node->text, "~") == 0 || strcasecmp(node->text, "null") == 0);
}

/* Plain text that reads back as the same plain scalar in any place of a flow collection. */
static bool safe_plain(const char *text)
{
    if (!text[0] ||
        strspn(text, "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_.+-") != strlen(text))
        return false;
    return text[0] != '-' || (text[1] >= '0' && text[1] <= '9');
}

void config_node_write(struct strbuf *out, const struct config_node *node)
{
    if (node->kind == NODE_SCALAR) {
        if (config_node_is_null(node))
            strbuf_puts(out, "null");
        else if (!node->quoted && safe_plain(node->text))
            strbuf_puts(out, node->text);
        else
            js_write_string(out, node->text, strlen(node->text));
        return;
    }
    strbuf_putc(out, node->kind == NODE_LIST ? '[' : '{');
    for (const struct config_node *child = node->first; child; child = child->next) {
        if (child != node->first) strbuf_puts(out, ", ");
        if (node->kind == NODE_MAP) {
            js_write_string(out, child->key, strlen(child->key));
            strbuf_puts(out, ": ");
        }
        config_node_write(out, child);
    }
    strbuf_putc(out, node->kind == NODE_LIST ? ']' : '}');
}
