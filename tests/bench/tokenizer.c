/*
 * bench_tokenizer MODEL_DIR <STRINGS: how fast text becomes token numbers on one thread, and how soon a
 * tokenizer is ready.
 *
 * STRINGS: one JSON string a line. Prints one JSON object: bytes, tokens, seconds (processor time of encoding
 * all of them, the best of several rounds), open_ms (processor time of opening the model's tokenizer, the
 * best of several), mib (memory it holds). run_tokenizer.py compares with Hugging Face tokenizers.
 */
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/json.h"
#include "base/memory.h"
#include "dataloader/tokenizer.h"
#include "support/processor_time.h"

enum { ROUNDS = 7 };

struct texts {
    struct json **value;
    size_t n, capacity;
};

static enum status read_texts(struct texts *texts)
{
    char *line = NULL;
    size_t capacity = 0;
    ssize_t length;
    enum status status = LORAD_OK;
    while (status == LORAD_OK && (length = getline(&line, &capacity, stdin)) > 0) {
        status = memory_grow((void **)&texts->value, &texts->capacity, texts->n + 1, sizeof *texts->value);
        if (status == LORAD_OK)
            status = js_parse(&texts->value[texts->n], line, (size_t)length, "standard input");
        if (status == LORAD_OK && !js_string(texts->value[texts->n++], NULL))
            status = FAIL(LORAD_DATA, "not a string");
    }
    free(line);
    return status;
}

static size_t bytes_held(void)
{
    struct mallinfo2 info = mallinfo2();
    return info.uordblks + info.hblkhd;
}

static enum status open_timed(struct tokenizer **out, const char *model, double *best, size_t *held)
{
    *best = 1e9;
    for (int round = 0; round < ROUNDS; round++) {
        tokenizer_close(*out);
        *out = NULL;
        size_t before = bytes_held();
        double begin = processor_seconds();
        TRY(tokenizer_open(out, model));
        double seconds = processor_seconds() - begin;
        if (seconds < *best) *best = seconds;
        *held = bytes_held() - before;
    }
    return LORAD_OK;
}

static enum status encode_all(const struct tokenizer *tokenizer, const struct texts *texts,
                              struct token_list *list, size_t *bytes, size_t *tokens)
{
    *bytes = *tokens = 0;
    for (size_t i = 0; i < texts->n; i++) {
        size_t length;
        const char *text = js_string(texts->value[i], &length);
        list->length = 0;
        TRY(tokenizer_encode(tokenizer, text, length, (struct encode_options){true, true}, list));
        *bytes += length;
        *tokens += list->length;
    }
    return LORAD_OK;
}

static enum status measure(const char *model, const struct texts *texts)
{
    struct tokenizer *tokenizer = NULL;
    struct token_list list = {0};
    double open = 0, best = 1e9;
    size_t held = 0, bytes = 0, tokens = 0;
    enum status status = open_timed(&tokenizer, model, &open, &held);
    for (int round = 0; round < ROUNDS && status == LORAD_OK; round++) {
        double begin = processor_seconds();
        status = encode_all(tokenizer, texts, &list, &bytes, &tokens);
        double seconds = processor_seconds() - begin;
        if (seconds < best) best = seconds;
    }
    if (status == LORAD_OK)
        printf("{\"bytes\": %zu, \"tokens\": %zu, \"seconds\": %.6f, \"open_ms\": %.1f, \"mib\": %.1f}\n",
               bytes, tokens, best, open * 1e3, (double)held / (1 << 20));
    token_list_free(&list);
    tokenizer_close(tokenizer);
    return status;
}

int main(int argc, char **argv)
{
    struct texts texts = {NULL, 0, 0};
    enum status status = argc == 2 ? read_texts(&texts) : FAIL(LORAD_USAGE, "MODEL_DIR <STRINGS");
    if (status == LORAD_OK) status = measure(argv[1], &texts);
    for (size_t i = 0; i < texts.n; i++) js_destroy(texts.value[i]);
    free(texts.value);
    if (status != LORAD_OK) fprintf(stderr, "bench_tokenizer: %s\n", status_message());
    return status_exit_code(status);
}
