/* read_ahead.c: see read_ahead.h. */
#include "dataloader/read_ahead.h"

#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/memory.h"

struct byte_span {
    uintptr_t begin, end; /* whole pages */
};

struct read_ahead {
    const struct dataset *dataset;
    uintptr_t page;
    int64_t rows[ORDER_WINDOW];
    struct byte_span span[2 * ORDER_WINDOW];
};

enum status read_ahead_create(struct read_ahead **out, const struct dataset *dataset)
{
    struct read_ahead *ahead = memory_new(1, sizeof *ahead);
    if (!ahead) return LORAD_NOMEM;
    ahead->dataset = dataset;
    ahead->page = (uintptr_t)sysconf(_SC_PAGESIZE);
    *out = ahead;
    return LORAD_OK;
}

void read_ahead_destroy(struct read_ahead *ahead)
{
    free(ahead);
}

static struct byte_span pages_of(const struct read_ahead *ahead, const void *bytes, size_t n)
{
    uintptr_t mask = ahead->page - 1, begin = (uintptr_t)bytes;
    return (struct byte_span){begin & ~mask, (begin + n + mask) & ~mask};
}

static int by_begin(const void *a, const void *b)
{
    const struct byte_span *x = a, *y = b;
    return (x->begin > y->begin) - (x->begin < y->begin);
}

void read_ahead_window(struct read_ahead *ahead, const struct order *order)
{
    int32_t n_rows = order_following_rows(order, ahead->rows), n = 0;
    for (int32_t i = 0; i < n_rows; i++) {
        struct dataset_row row = dataset_row(ahead->dataset, ahead->rows[i]);
        if (row.n_tokens == 0 || !row.tokens) continue; /* a hole, or damaged */
        size_t tokens = (size_t)row.n_tokens;
        ahead->span[n++] = pages_of(ahead, row.tokens, tokens * sizeof *row.tokens);
        ahead->span[n++] = pages_of(ahead, row.codes, tokens);
    }
    qsort(ahead->span, (size_t)n, sizeof *ahead->span, by_begin);
    for (int32_t i = 0; i < n;) {
        struct byte_span all = ahead->span[i];
        while (++i < n && ahead->span[i].begin <= all.end)
            if (ahead->span[i].end > all.end) all.end = ahead->span[i].end;
        madvise((void *)all.begin, all.end - all.begin, MADV_WILLNEED);
    }
}
