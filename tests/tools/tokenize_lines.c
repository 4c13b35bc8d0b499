/*
 * tokenize_lines MODEL_DIR [encode | plain | spans | decode]: for comparing with another tokenizer.
 *
 * Reads one JSON value a line from standard input and answers each with a line:
 *   encode  a string -> its token numbers, special tokens matched and added
 *   plain   a string -> its token numbers, nothing special
 *   spans   a string -> start:end of its tokens
 *   decode  an array of token numbers -> their text as a JSON string, special tokens left out
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "dataloader/tokenizer.h"

static enum status encode(const struct tokenizer *tokenizer, const struct json *value, bool special,
                          bool spans, struct token_list *list)
{
    size_t length;
    const char *text = js_string(value, &length);
    if (!text) return FAIL(LORAD_DATA, "not a string");
    list->length = 0;
    list->want_spans = spans;
    TRY(tokenizer_encode(tokenizer, text, length, (struct encode_options){special, special}, list));
    for (size_t i = 0; i < list->length; i++) {
        if (spans)
            printf("%s%u:%u", i ? " " : "", list->start[i], list->end[i]);
        else
            printf("%s%d", i ? " " : "", list->ids[i]);
    }
    putchar('\n');
    return LORAD_OK;
}

static enum status decode(const struct tokenizer *tokenizer, const struct json *value,
                          struct token_list *list, struct strbuf *text)
{
    size_t n = js_length(value);
    int32_t *ids = malloc((n + 1) * sizeof *ids);
    if (!ids) return FAIL(LORAD_NOMEM, "out of memory");
    for (size_t i = 0; i < n; i++) ids[i] = (int32_t)js_int(js_at(value, i), -1);
    (void)list;
    strbuf_clear(text);
    enum status status = tokenizer_decode(tokenizer, ids, n, true, text);
    free(ids);
    if (status != LORAD_OK) return status;
    struct strbuf quoted = STRBUF_EMPTY;
    js_write_string(&quoted, strbuf_text(text), text->length);
    puts(strbuf_text(&quoted));
    strbuf_free(&quoted);
    return LORAD_OK;
}

int main(int argc, char **argv)
{
    const char *mode = argc > 2 ? argv[2] : "encode";
    struct tokenizer *tokenizer = NULL;
    if (argc < 2 || tokenizer_open(&tokenizer, argv[1]) != LORAD_OK) {
        fprintf(stderr, "tokenize_lines: %s\n", argc < 2 ? "MODEL_DIR [mode]" : status_message());
        return 1;
    }
    struct token_list list = {0};
    struct strbuf text = STRBUF_EMPTY;
    char *line = NULL;
    size_t capacity = 0;
    ssize_t length;
    enum status status = LORAD_OK;
    while (status == LORAD_OK && (length = getline(&line, &capacity, stdin)) > 0) {
        struct json *value;
        status = js_parse(&value, line, (size_t)length, "standard input");
        if (status != LORAD_OK) break;
        if (strcmp(mode, "decode") == 0)
            status = decode(tokenizer, value, &list, &text);
        else
            status = encode(tokenizer, value, strcmp(mode, "plain") != 0, strcmp(mode, "spans") == 0, &list);
        js_destroy(value);
    }
    if (status != LORAD_OK) fprintf(stderr, "tokenize_lines: %s\n", status_message());
    free(line);
    strbuf_free(&text);
    token_list_free(&list);
    tokenizer_close(tokenizer);
    return status == LORAD_OK ? 0 : 1;
}
