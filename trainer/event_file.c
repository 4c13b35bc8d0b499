/*
 * A record is: u64 length, u32 masked CRC of those 8 bytes, the payload, u32 masked CRC of the payload;
 * little endian.
 *
 * 1. Each event is one write(2) at a known offset; one that fails is cut off again, so a reader never meets
 * half a record in front of a whole one.
 */
#include "trainer/event_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/strbuf.h"

struct event_file {
    int fd;
    int64_t offset;
    bool warned;
    struct strbuf summary, event, record, value;
};

/* ---- encoding ---- */

uint32_t event_crc32c(const void *bytes, size_t length)
{
    const unsigned char *at = bytes;
    uint32_t crc = 0xffffffffu;
    for (size_t i = 0; i < length; i++) {
        crc ^= at[i];
        for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (0x82f63b78u & (0u - (crc & 1)));
    }
    return ~crc;
}

static uint32_t masked(uint32_t crc)
{
    return (crc >> 15 | crc << 17) + 0xa282ead8u;
}

static void add_fixed(struct strbuf *out, uint64_t value, int bytes)
{
    for (int i = 0; i < bytes; i++) strbuf_putc(out, (char)(value >> 8 * i));
}

static void add_varint(struct strbuf *out, uint64_t value)
{
    for (; value >= 0x80; value >>= 7) strbuf_putc(out, (char)(value | 0x80));
    strbuf_putc(out, (char)value);
}

enum wire { WIRE_VARINT = 0, WIRE_64 = 1, WIRE_BYTES = 2, WIRE_32 = 5 };

static void add_tag(struct strbuf *out, int field, enum wire wire)
{
    add_varint(out, (uint64_t)field << 3 | (uint64_t)wire);
}

static void add_bytes(struct strbuf *out, int field, const void *bytes, size_t length)
{
    add_tag(out, field, WIRE_BYTES);
    add_varint(out, length);
    strbuf_add(out, bytes, length);
}

/* Event: 1 wall_time, 2 step; the caller adds what happened. */
static void begin_event(struct strbuf *event, int64_t step)
{
    double now = clock_unix_seconds();
    uint64_t bits;
    memcpy(&bits, &now, sizeof bits);
    strbuf_clear(event);
    add_tag(event, 1, WIRE_64);
    add_fixed(event, bits, 8);
    add_tag(event, 2, WIRE_VARINT);
    add_varint(event, (uint64_t)step);
}

/* Summary.Value: 1 tag, 2 simple_value. */
static void add_value(struct event_file *file, const struct event_value *value)
{
    float narrow = (float)value->value;
    uint32_t bits;
    memcpy(&bits, &narrow, sizeof bits);
    strbuf_clear(&file->value);
    add_bytes(&file->value, 1, value->tag, strlen(value->tag));
    add_tag(&file->value, 2, WIRE_32);
    add_fixed(&file->value, bits, 4);
    add_bytes(&file->summary, 1, file->value.data, file->value.length);
    file->summary.failed |= file->value.failed;
}

/* ---- the file ---- */

static bool write_event(struct event_file *file)
{
    struct strbuf *record = &file->record;
    unsigned char length[8];
    for (int i = 0; i < 8; i++) length[i] = (unsigned char)((uint64_t)file->event.length >> 8 * i);
    strbuf_clear(record);
    strbuf_add(record, length, sizeof length);
    add_fixed(record, masked(event_crc32c(length, sizeof length)), 4);
    strbuf_add(record, file->event.data, file->event.length);
    add_fixed(record, masked(event_crc32c(file->event.data, file->event.length)), 4);
    if (record->failed || file->event.failed || file->summary.failed) {
        errno = ENOMEM;
        return false;
    }
    ssize_t written = pwrite(file->fd, record->data, record->length, (off_t)file->offset);
    if (written != (ssize_t)record->length) {
        int error = written < 0 ? errno : ENOSPC;
        if (ftruncate(file->fd, (off_t)file->offset) != 0) error = errno;
        errno = error;
        return false;
    }
    file->offset += written;
    return true;
}

/* Readers order the files of a folder by name: seconds first. */
static enum status create_file(int *out, const char *folder)
{
    char host[128] = "host", name[256];
    if (gethostname(host, sizeof host - 1) != 0 || strchr(host, '/')) strcpy(host, "host");
    for (int n = 0;; n++) {
        snprintf(name, sizeof name, "events.out.tfevents.%010lld.%s.%d.%d", (long long)clock_unix_seconds(),
                 host, (int)getpid(), n);
        char *path = file_join(folder, name);
        if (!path) return LORAD_NOMEM;
        int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        int error = errno;
        enum status status = LORAD_OK;
        if (fd < 0) status = FAIL(LORAD_CANNOT_CREATE, "cannot create %s: %s", path, strerror(error));
        free(path);
        if (fd < 0 && error == EEXIST) continue;
        if (fd >= 0) *out = fd;
        return status;
    }
}

enum status event_file_open(struct event_file **out, const char *folder, int64_t resume_step)
{
    struct event_file *file = memory_new(1, sizeof *file);
    if (!file) return LORAD_NOMEM;
    file->fd = -1;
    enum status status = create_file(&file->fd, folder);
    if (status != LORAD_OK) {
        event_file_close(file);
        return status;
    }
    begin_event(&file->event, 0);
    add_bytes(&file->event, 3, "brain.Event:2", 13); /* 3 file_version */
    bool ok = write_event(file);
    if (ok && resume_step >= 0) {
        begin_event(&file->event, resume_step + 1);
        add_bytes(&file->event, 7, "\x08\x01", 2); /* 7 session_log { 1 status: START } */
        ok = write_event(file);
    }
    if (!ok) {
        status = FAIL(LORAD_IO, "cannot write a TensorBoard file in %s: %s", folder, strerror(errno));
        event_file_close(file);
        return status;
    }
    *out = file;
    return LORAD_OK;
}

void event_file_close(struct event_file *file)
{
    if (!file) return;
    if (file->fd >= 0) close(file->fd);
    strbuf_free(&file->summary);
    strbuf_free(&file->event);
    strbuf_free(&file->record);
    strbuf_free(&file->value);
    free(file);
}

void event_file_add(struct event_file *file, int64_t step, const struct event_value *values, int n_values)
{
    if (!file) return;
    strbuf_clear(&file->summary);
    for (int i = 0; i < n_values; i++) add_value(file, &values[i]);
    begin_event(&file->event, step);
    add_bytes(&file->event, 5, file->summary.data, file->summary.length); /* 5 summary */
    if (!write_event(file) && !file->warned) {
        file->warned = true;
        log_warn("cannot write the TensorBoard file: %s; training goes on without some of its points",
                 strerror(errno));
    }
}
