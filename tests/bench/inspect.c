/*
 * inspect.c: what looking at rows costs beside tokenising them, in nanoseconds a byte of text, one thread:
 *
 *     bench_inspect MODEL_FOLDER SOURCE...
 *
 * and what finding duplicates costs, on synthetic signatures:
 *
 *     bench_inspect --duplicates ROWS
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "base/memory.h"
#include "base/random.h"
#include "dataloader/near_duplicates.h"
#include "dataloader/row_inspect.h"
#include "dataloader/sources.h"
#include "support/processor_time.h"

struct row {
    struct message *messages;
    size_t n;
};

struct corpus {
    struct row *row;
    size_t n, capacity, bytes;
};

static enum status keep_row(struct corpus *corpus, const struct parsed_row *parsed)
{
    void *block = corpus->row;
    TRY(memory_grow(&block, &corpus->capacity, corpus->n + 1, sizeof *corpus->row));
    corpus->row = block;
    struct row row = {memory_new(parsed->n, sizeof *row.messages), parsed->n};
    if (!row.messages) return LORAD_NOMEM;
    for (size_t i = 0; i < row.n; i++) {
        row.messages[i] = parsed->messages[i];
        row.messages[i].content = memory_string_n(parsed->messages[i].content, parsed->messages[i].length);
        if (!row.messages[i].content) return LORAD_NOMEM;
        corpus->bytes += row.messages[i].length;
    }
    corpus->row[corpus->n++] = row;
    return LORAD_OK;
}

static enum status read_source(struct corpus *corpus, const char *path)
{
    const struct dataset_source source = {.path = path};
    struct source_list list;
    struct parsed_row parsed = {0};
    struct raw_row raw;
    TRY(source_list_open(&list, &source, 1));
    for (int32_t i = 0; i < list.n; i++) {
        struct source_reader *reader;
        TRY(source_reader_open(&reader, &list.file[i]));
        while (source_reader_next(reader, &raw)) {
            TRY(source_reader_parse(reader, &raw, &parsed));
            if (parsed.problem == ROW_PROBLEMS) TRY(keep_row(corpus, &parsed));
        }
        source_reader_close(reader);
    }
    parsed_row_free(&parsed);
    source_list_free(&list);
    return LORAD_OK;
}

/* ---- the kinds of work ---- */

struct work {
    const struct chat_template *chat;
    struct inspect_options options;
    struct inspection inspection;
    struct finding_list findings;
    struct encoded_row encoded;
    struct signature_maker maker;
    struct row_signature signature;
};

enum kind { ENCODE, INSPECT, SIGN };

static enum status once(struct work *work, enum kind kind, const struct corpus *corpus)
{
    enum inspect_verdict verdict;
    work->findings.n = 0;
    for (size_t i = 0; i < corpus->n; i++) {
        struct row *row = &corpus->row[i];
        if (kind == ENCODE)
            TRY(chat_template_encode(work->chat, row->messages, row->n, (struct chat_options){false},
                                     &work->encoded));
        else if (kind == INSPECT)
            TRY(row_inspect(&work->options, &work->inspection, row->messages, row->n, &work->findings,
                            &verdict));
        else
            TRY(row_signature_make(&work->signature, &work->maker, row->messages, row->n));
    }
    return LORAD_OK;
}

/* The best of several runs, each of them at least a tenth of a second. */
static enum status measure(const char *name, struct work *work, enum kind kind, const struct corpus *corpus)
{
    double best = 1e9;
    for (int run = 0; run < 5; run++) {
        double start = processor_seconds(), used = 0;
        int times = 0;
        for (; used < 0.1; used = processor_seconds() - start, times++) TRY(once(work, kind, corpus));
        if (used / times < best) best = used / times;
    }
    printf("%-44s %7.2f ns/byte  %8.0f ns/row\n", name, best * 1e9 / (double)corpus->bytes,
           best * 1e9 / (double)corpus->n);
    return LORAD_OK;
}

/* Words of three to five characters, drawn from the text itself and changed, so that many begin but few are
 * found. */
static enum status make_words(struct word_list **out, const struct corpus *corpus, int32_t n)
{
    struct strbuf text = STRBUF_EMPTY;
    for (int32_t i = 0; i < n; i++) {
        struct random_block dice = random_philox(1, 0, (uint64_t)i);
        const struct row *row = &corpus->row[dice.word[0] % corpus->n];
        const struct message *message = &row->messages[dice.word[1] % row->n];
        size_t at = dice.word[2] % (message->length + 1), end = at + 9 + dice.word[3] % 6;
        while (at < message->length && (message->content[at] & 0xC0) == 0x80) at++;
        if (end > message->length) end = message->length;
        while (end > at && end < message->length && (message->content[end] & 0xC0) == 0x80) end--;
        for (size_t k = at; k < end; k++)
            if (message->content[k] != '\n' && message->content[k] != '\0')
                strbuf_putc(&text, message->content[k]);
        strbuf_puts(&text, i % 50 ? "龘\n" : "\n");
    }
    enum status status = strbuf_status(&text);
    double start = processor_seconds();
    if (status == LORAD_OK) status = word_list_parse(out, text.data, text.length, "words");
    printf("list of %d words made in %.1f ms\n", n, (processor_seconds() - start) * 1e3);
    strbuf_free(&text);
    return status;
}

static enum status measure_rows(const char *model, char **sources, int n)
{
    struct corpus corpus = {0};
    struct tokenizer *tokenizer;
    struct chat_template *chat;
    struct word_list *words;
    TRY(tokenizer_open(&tokenizer, model));
    TRY(chat_template_open(&chat, tokenizer, NULL));
    for (int i = 0; i < n; i++) TRY(read_source(&corpus, sources[i]));
    printf("%zu rows, %zu bytes of text\n", corpus.n, corpus.bytes);
    TRY(make_words(&words, &corpus, 10000));
    struct work work = {.chat = chat};
    TRY(measure("rendering and tokenising", &work, ENCODE, &corpus));
    work.options = (struct inspect_options){.pii = PII_WARN};
    TRY(measure("personal data", &work, INSPECT, &corpus));
    work.options = (struct inspect_options){.min_answer_chars = 10};
    TRY(measure("answers of fewer than 10 characters", &work, INSPECT, &corpus));
    work.options = (struct inspect_options){.words = words};
    TRY(measure("10,000 words", &work, INSPECT, &corpus));
    TRY(measure("signature for near duplicates", &work, SIGN, &corpus));
    inspection_free(&work.inspection);
    finding_list_free(&work.findings);
    encoded_row_free(&work.encoded);
    signature_maker_free(&work.maker);
    for (size_t i = 0; i < corpus.n; i++) {
        for (size_t k = 0; k < corpus.row[i].n; k++)
            free((char *)(uintptr_t)corpus.row[i].messages[k].content);
        free(corpus.row[i].messages);
    }
    free(corpus.row);
    word_list_free(words);
    chat_template_close(chat);
    tokenizer_close(tokenizer);
    return LORAD_OK;
}

/* ---- duplicates ---- */

static long peak_mib(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_maxrss / 1024;
}

/* Random rows, of which each tenth repeats an earlier one and each twentieth nearly. */
static enum status measure_duplicates(int64_t n)
{
    struct row_signature *rows = memory_new((size_t)n, sizeof *rows);
    struct duplicates found;
    struct overlap overlap;
    if (!rows) return LORAD_NOMEM;
    for (int64_t i = 0; i < n; i++) {
        uint64_t key = random_key(1, (uint64_t)i, 0, 0, 0);
        rows[i].text_hash = key | 1;
        for (uint64_t b = 0; b < SIGNATURE_BANDS; b++) rows[i].band[b] = key * (2 * b + 3) ^ key >> 29;
        if (i > 0 && key % 10 == 0) rows[i] = rows[key / 16 % (uint64_t)i];
        if (i > 0 && key % 20 == 1) {
            rows[i] = rows[key / 16 % (uint64_t)i];
            rows[i].text_hash = key | 1;
            for (uint64_t b = 0; b < 10; b++) rows[i].band[b] ^= 1;
        }
    }
    long before = peak_mib();
    double start = processor_seconds();
    TRY(duplicates_find(&found, rows, n));
    printf("%lld rows: %lld exact, %lld near in %.1f s; %ld MiB beside %ld MiB of signatures\n", (long long)n,
           (long long)found.exact_rows, (long long)found.near_rows, processor_seconds() - start,
           peak_mib() - before, before);
    int64_t eval = n / 100;
    start = processor_seconds();
    TRY(overlap_find(&overlap, rows, n - eval, rows + n - eval, eval));
    printf("overlap with %lld rows: %lld exact, %lld near in %.1f s\n", (long long)eval,
           (long long)overlap.exact_rows, (long long)overlap.near_rows, processor_seconds() - start);
    free(rows);
    return LORAD_OK;
}

int main(int argc, char **argv)
{
    enum status status = LORAD_OK;
    if (argc == 3 && strcmp(argv[1], "--duplicates") == 0)
        status = measure_duplicates(strtoll(argv[2], NULL, 10));
    else if (argc >= 3)
        status = measure_rows(argv[1], argv + 2, argc - 2);
    else
        fprintf(stderr, "usage: bench_inspect MODEL_FOLDER SOURCE... | bench_inspect --duplicates ROWS\n");
    if (status != LORAD_OK) fprintf(stderr, "%s\n", status_message());
    return argc < 3 || status != LORAD_OK;
}
