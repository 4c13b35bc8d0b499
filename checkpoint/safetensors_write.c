/* safetensors_write.c: a safetensors file from host tensors: the layout first, then header and data in one
 * pass. */
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"
#include "base/strbuf.h"
#include "checkpoint/hashed_file.h"
#include "checkpoint/safetensors.h"
#include "checkpoint/safetensors_header.h"

/* Wide dtypes first, so that each tensor's data is aligned to its items; then by name. */
static int in_file_order(const void *a, const void *b)
{
    const struct st_item *x = *(const struct st_item *const *)a, *y = *(const struct st_item *const *)b;
    size_t wide_x = st_dtype_bytes(x->dtype), wide_y = st_dtype_bytes(y->dtype);
    if (wide_x != wide_y) return wide_x > wide_y ? -1 : 1;
    return strcmp(x->name, y->name);
}

static enum status item_bytes(int64_t *out, const struct st_item *item)
{
    int64_t bytes = (int64_t)st_dtype_bytes(item->dtype);
    for (int i = 0; i < item->n_dims; i++)
        if (item->shape[i] < 0 || __builtin_mul_overflow(bytes, item->shape[i], &bytes))
            return FAIL(LORAD_BUG, "tensor %s has an impossible shape", item->name);
    *out = bytes;
    return LORAD_OK;
}

/* {"__metadata__":{"format":"pt"},"name":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},...}, padded
 * with spaces to a multiple of 8 bytes. */
static enum status write_header(struct strbuf *text, const struct st_item *const *items, size_t n)
{
    int64_t offset = 0;
    strbuf_puts(text, "{\"__metadata__\":{\"format\":\"pt\"}");
    for (size_t i = 0; i < n; i++) {
        const struct st_item *item = items[i];
        int64_t bytes = 0;
        if (i > 0 && !strcmp(items[i - 1]->name, item->name))
            return FAIL(LORAD_BUG, "tensor %s is written twice", item->name);
        TRY(item_bytes(&bytes, item));
        strbuf_putc(text, ',');
        js_write_string(text, item->name, strlen(item->name));
        strbuf_printf(text, ":{\"dtype\":\"%s\",\"shape\":[", st_dtype_name(item->dtype));
        for (int d = 0; d < item->n_dims; d++)
            strbuf_printf(text, "%s%lld", d ? "," : "", (long long)item->shape[d]);
        strbuf_printf(text, "],\"data_offsets\":[%lld,%lld]}", (long long)offset,
                      (long long)(offset + bytes));
        offset += bytes;
    }
    strbuf_putc(text, '}');
    while (text->length % 8 && !text->failed) strbuf_putc(text, ' ');
    return strbuf_status(text);
}

static enum status write_all(struct hashed_file *file, const struct strbuf *header,
                             const struct st_item *const *items, size_t n)
{
    unsigned char prefix[8];
    for (int i = 0; i < 8; i++) prefix[i] = (unsigned char)(header->length >> (8 * i));
    TRY(hashed_file_put(file, prefix, sizeof prefix));
    TRY(hashed_file_put(file, header->data, header->length));
    for (size_t i = 0; i < n; i++) {
        int64_t bytes = 0;
        TRY(item_bytes(&bytes, items[i]));
        TRY(hashed_file_put(file, items[i]->data, (size_t)bytes));
    }
    return LORAD_OK;
}

enum status st_write_hashed(struct hash128 *hash, int64_t *bytes, struct fs *fs, const char *path,
                            const struct st_item *items, size_t n)
{
    const struct st_item **sorted = memory_new(n, sizeof *sorted);
    if (!sorted) return LORAD_NOMEM;
    struct strbuf header = STRBUF_EMPTY;
    struct hashed_file *file = NULL;
    for (size_t i = 0; i < n; i++) sorted[i] = &items[i];
    if (n) qsort(sorted, n, sizeof *sorted, in_file_order);

    enum status status = write_header(&header, sorted, n);
    if (status == LORAD_OK) status = hashed_file_begin(&file, fs, path);
    if (status == LORAD_OK) {
        status = write_all(file, &header, sorted, n);
        if (status == LORAD_OK)
            status = hashed_file_finish(file, hash, bytes);
        else
            hashed_file_discard(file);
    }
    strbuf_free(&header);
    free(sorted);
    return status;
}

enum status st_write_file(struct fs *fs, const char *path, const struct st_item *items, size_t n)
{
    struct hash128 hash;
    int64_t bytes;
    return st_write_hashed(&hash, &bytes, fs, path, items, n);
}
