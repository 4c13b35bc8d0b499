/*
 * hiredis in its non-blocking form under a poll loop of our own, because its blocking form times out each
 * read but not a whole reply.
 *
 * 1. After a failure the connection is closed: a late reply can never be taken for that of a later command.
 * 2. No text built here holds the user or the password.
 */
#include "comm/redis_link.h"

#include <errno.h>
#include <hiredis.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#if HIREDIS_TLS
#include <hiredis_ssl.h>
#endif

#include "base/clock.h"
#include "base/memory.h"

enum { MOST_REPLY_BYTES = 16 << 20, MOST_ELEMENTS = 8192, MOST_ERROR_BYTES = 300 };

struct redis_link {
    struct redis_address address;
    redisContext *context; /* NULL: not connected */
#if HIREDIS_TLS
    redisSSLContext *tls;
#endif
    redisReplyObjectFunctions functions;
};

bool redis_link_has_tls(void)
{
    return HIREDIS_TLS;
}

/* ---- replies ---- */

static const redisReply *raw(const struct redis_reply *reply)
{
    return (const redisReply *)(const void *)reply;
}

const char *redis_reply_error(const struct redis_reply *reply)
{
    return reply && raw(reply)->type == REDIS_REPLY_ERROR ? raw(reply)->str : NULL;
}

const char *redis_reply_text(const struct redis_reply *reply, size_t *length)
{
    if (!reply || (raw(reply)->type != REDIS_REPLY_STRING && raw(reply)->type != REDIS_REPLY_STATUS))
        return NULL;
    if (length) *length = (size_t)raw(reply)->len;
    return raw(reply)->str;
}

int64_t redis_reply_int(const struct redis_reply *reply, int64_t otherwise)
{
    if (!reply) return otherwise;
    if (raw(reply)->type == REDIS_REPLY_INTEGER) return raw(reply)->integer;
    const char *text = redis_reply_text(reply, NULL);
    char *end;
    if (!text || !*text) return otherwise;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    return *end == '\0' && errno == 0 ? value : otherwise;
}

size_t redis_reply_length(const struct redis_reply *reply)
{
    return reply && raw(reply)->type == REDIS_REPLY_ARRAY ? (size_t)raw(reply)->elements : 0;
}

const struct redis_reply *redis_reply_at(const struct redis_reply *reply, size_t i)
{
    return i < redis_reply_length(reply) ? (const void *)raw(reply)->element[i] : NULL;
}

const struct redis_reply *redis_reply_get(const struct redis_reply *reply, const char *key)
{
    for (size_t i = 0; i + 1 < redis_reply_length(reply); i += 2) {
        const char *name = redis_reply_text(redis_reply_at(reply, i), NULL);
        if (name && strcmp(name, key) == 0) return redis_reply_at(reply, i + 1);
    }
    return NULL;
}

/* Replies are made by hiredis, but an array only when its size is sane: it is allocated from its head alone.
 */
static redisReplyObjectFunctions usual;

#if HIREDIS_MAJOR >= 1
static void *create_bounded(const redisReadTask *task, size_t elements)
{
    return elements <= MOST_ELEMENTS ? usual.createArray(task, elements) : NULL;
}
#else
static void *create_bounded(const redisReadTask *task, int elements)
{
    return elements <= MOST_ELEMENTS ? usual.createArray(task, elements) : NULL;
}
#endif

/* What an error says goes to the log and to terminals: a line of bounded length without control characters.
 */
static void *create_clean(const redisReadTask *task, char *text, size_t length)
{
    char line[MOST_ERROR_BYTES + 1];
    if (task->type != REDIS_REPLY_ERROR) return usual.createString(task, text, length);
    if (length > MOST_ERROR_BYTES)
        for (length = MOST_ERROR_BYTES; length > 0 && ((unsigned char)text[length] & 0xc0) == 0x80;) length--;
    for (size_t i = 0; i < length; i++) line[i] = text[i] ? text[i] : '?';
    line[length] = '\0';
    struct strbuf shown = STRBUF_EMPTY;
    strbuf_put_shown(&shown, line);
    void *reply = usual.createString(task, (char *)strbuf_text(&shown), shown.length);
    strbuf_free(&shown);
    return reply;
}

static void learn_usual(void)
{
    redisReader *reader = redisReaderCreate();
    if (!reader) return;
    usual = *reader->fn;
    redisReaderFree(reader);
}

static bool bounded_functions(redisReplyObjectFunctions *out)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, learn_usual);
    *out = usual;
    out->createArray = create_bounded;
    out->createString = create_clean;
    return usual.freeObject != NULL;
}

/* ---- batches ---- */

/* Takes a command that hiredis made. */
static size_t add_made(struct redis_batch *batch, char *command, int64_t length)
{
    if (length < 0 || batch->n == REDIS_BATCH_COMMANDS) {
        batch->failed = true;
        if (length >= 0) redisFreeCommand(command);
        return batch->n;
    }
    strbuf_add(&batch->bytes, command, (size_t)length);
    redisFreeCommand(command);
    return batch->n++;
}

size_t redis_batch_add(struct redis_batch *batch, const char *format, ...)
{
    char *command = NULL;
    va_list args;
    va_start(args, format);
    int length = redisvFormatCommand(&command, format, args);
    va_end(args);
    return add_made(batch, command, length);
}

size_t redis_batch_add_words(struct redis_batch *batch, size_t n, const char *const *words)
{
    char *command = NULL;
    int64_t length = redisFormatCommandArgv(&command, (int)n, (const char **)words, NULL);
    return add_made(batch, command, length);
}

void redis_batch_key(struct redis_batch *batch, size_t command, const char *key)
{
    if (command < REDIS_BATCH_COMMANDS) batch->keys[command] = key;
}

static void free_replies(struct redis_batch *batch)
{
    for (size_t i = 0; i < batch->n; i++) {
        if (batch->replies[i]) freeReplyObject(batch->replies[i]);
        batch->replies[i] = NULL;
    }
}

void redis_batch_clear(struct redis_batch *batch)
{
    free_replies(batch);
    memset(batch->keys, 0, sizeof batch->keys);
    strbuf_clear(&batch->bytes);
    batch->n = 0;
    batch->failed = false;
}

void redis_batch_free(struct redis_batch *batch)
{
    redis_batch_clear(batch);
    strbuf_free(&batch->bytes);
}

const struct redis_reply *redis_batch_reply(const struct redis_batch *batch, size_t i)
{
    return i < batch->n ? batch->replies[i] : NULL;
}

/* Takes the replies that are whole; *got counts them. */
static enum status take_replies(struct redis_batch *batch, redisReader *reader, size_t *got)
{
    while (*got < batch->n) {
        void *reply = NULL;
        if (redisReaderGetReply(reader, &reply) != REDIS_OK)
            return FAIL(LORAD_DATA, "the reply is not Redis's protocol (%s)", reader->errstr);
        if (!reply) return LORAD_OK;
        batch->replies[(*got)++] = reply;
    }
    return LORAD_OK;
}

enum status redis_batch_parse(struct redis_batch *batch, const char *bytes, size_t length)
{
    redisReplyObjectFunctions functions;
    redisReader *reader = bounded_functions(&functions) ? redisReaderCreateWithFunctions(&functions) : NULL;
    if (!reader) return LORAD_NOMEM;
    size_t got = 0;
    free_replies(batch);
    enum status status = LORAD_OK;
    if (length && redisReaderFeed(reader, bytes, length) != REDIS_OK)
        status = FAIL(LORAD_NOMEM, "out of memory for a reply of %zu bytes", length);
    if (status == LORAD_OK) status = take_replies(batch, reader, &got);
    if (status == LORAD_OK && got < batch->n) status = FAIL(LORAD_DATA, "%zu of %zu replies", got, batch->n);
    redisReaderFree(reader);
    return status;
}

/* ---- the connection ---- */

enum status redis_link_create(struct redis_link **out, const struct redis_address *address)
{
    struct redis_link *link = memory_new(1, sizeof *link);
    if (!link) return LORAD_NOMEM;
    link->address = *address;
    if (!bounded_functions(&link->functions)) {
        free(link);
        return FAIL(LORAD_NOMEM, "out of memory for a connection to Redis");
    }
    *out = link;
    return LORAD_OK;
}

void redis_link_close(struct redis_link *link)
{
    if (link->context) redisFree(link->context);
    link->context = NULL;
#if HIREDIS_TLS
    if (link->tls) redisFreeSSLContext(link->tls);
    link->tls = NULL;
#endif
}

void redis_link_destroy(struct redis_link *link)
{
    if (!link) return;
    redis_link_close(link);
    free(link);
}

static enum status refuse(const struct redis_link *link, const char *why)
{
    return FAIL(LORAD_IO, "Redis at %s: %s", link->address.place, why && *why ? why : "it does not work");
}

/* Waits until the socket is ready for one of `events`. */
static enum status wait_for(const struct redis_link *link, short events, int64_t deadline_ns)
{
    struct pollfd fd = {.fd = link->context->fd, .events = events};
    for (;;) {
        int64_t left_ms = (deadline_ns - clock_monotonic_ns() + 999999) / 1000000;
        int ready = left_ms > 0 ? poll(&fd, 1, (int)left_ms) : 0;
        if (ready > 0) return LORAD_OK;
        if (ready == 0) return refuse(link, "no answer in time");
        if (errno != EINTR) return refuse(link, strerror(errno));
    }
}

static enum status context_failed(const struct redis_link *link)
{
    const redisContext *context = link->context;
    return refuse(link, context->err == REDIS_ERR_IO && errno ? strerror(errno) : context->errstr);
}

/* hiredis wants a certificate of a known authority, but knows none unless it is told where they are. The name
 * only says which server is meant; hiredis does not compare it with the certificate. */
static enum status start_tls(struct redis_link *link)
{
#if HIREDIS_TLS
    redisSSLContextError error = REDIS_SSL_CTX_NONE;
    const char *file = getenv("SSL_CERT_FILE"), *folder = getenv("SSL_CERT_DIR");
    if (!folder && !file) folder = "/etc/ssl/certs";
    link->tls = redisCreateSSLContext(file, folder, NULL, NULL, link->address.host, &error);
    if (!link->tls) return refuse(link, redisSSLContextGetError(error));
    if (redisInitiateSSLWithContext(link->context, link->tls) != REDIS_OK)
        return refuse(link, link->context->errstr);
#else
    (void)link;
#endif
    return LORAD_OK;
}

/* Connected, but not logged in. */
static enum status open_socket(struct redis_link *link, int64_t deadline_ns)
{
    const struct redis_address *address = &link->address;
    link->context = *address->path ? redisConnectUnixNonBlock(address->path)
                                   : redisConnectNonBlock(address->host, address->port);
    if (!link->context) return FAIL(LORAD_NOMEM, "out of memory for a connection to Redis");
    if (link->context->err) return context_failed(link);
    link->context->reader->fn = &link->functions;
    TRY(wait_for(link, POLLOUT, deadline_ns));
    int error = 0;
    socklen_t bytes = sizeof error;
    if (getsockopt(link->context->fd, SOL_SOCKET, SO_ERROR, &error, &bytes) != 0) error = errno;
    if (error) return refuse(link, strerror(error));
    return address->tls ? start_tls(link) : LORAD_OK;
}

static enum status send_all(struct redis_link *link, const struct strbuf *bytes, int64_t deadline_ns)
{
    int done = 0;
    if (redisAppendFormattedCommand(link->context, bytes->data, bytes->length) != REDIS_OK)
        return context_failed(link);
    for (;;) {
        if (redisBufferWrite(link->context, &done) != REDIS_OK) return context_failed(link);
        if (done) return LORAD_OK;
        TRY(wait_for(link, POLLOUT | (link->address.tls ? POLLIN : 0), deadline_ns));
    }
}

static enum status receive_all(struct redis_link *link, struct redis_batch *batch, int64_t deadline_ns)
{
    const redisReader *reader = link->context->reader;
    size_t got = 0, bytes = 0;
    for (;;) {
        if (take_replies(batch, link->context->reader, &got) != LORAD_OK)
            return refuse(link, status_message());
        if (got == batch->n) return LORAD_OK;
        if (bytes > MOST_REPLY_BYTES) return refuse(link, "the reply does not end");
        TRY(wait_for(link, POLLIN, deadline_ns));
        size_t before = reader->len; /* what was read into elements already has left it */
        if (redisBufferRead(link->context) != REDIS_OK) return context_failed(link);
        bytes += reader->len - before;
    }
}

/* A server that goes away must not end the program: the signal that write(2) raises is held back and taken.
 */
static enum status talk(struct redis_link *link, struct redis_batch *batch, int64_t deadline_ns)
{
    sigset_t pipe_set, before, pending;
    struct timespec none = {0};
    sigemptyset(&pipe_set);
    sigaddset(&pipe_set, SIGPIPE);
    sigpending(&pending);
    pthread_sigmask(SIG_BLOCK, &pipe_set, &before);
    enum status status = send_all(link, &batch->bytes, deadline_ns);
    if (status == LORAD_OK) status = receive_all(link, batch, deadline_ns);
    if (!sigismember(&pending, SIGPIPE))
        while (sigtimedwait(&pipe_set, NULL, &none) < 0 && errno == EINTR) continue;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return status;
}

/* Some servers repeat the command that they do not know; what was cut may be the rest of a password. */
static bool may_hold(const char *error, const char *password)
{
    return *password && (strlen(error) > MOST_ERROR_BYTES - 4 || strstr(error, password));
}

static enum status log_in(struct redis_link *link, int64_t deadline_ns)
{
    const struct redis_address *address = &link->address;
    struct redis_batch batch = REDIS_BATCH_EMPTY;
    if (*address->password && *address->user)
        redis_batch_add(&batch, "AUTH %s %s", address->user, address->password);
    else if (*address->password)
        redis_batch_add(&batch, "AUTH %s", address->password);
    if (address->database != 0) redis_batch_add(&batch, "SELECT %d", address->database);
    enum status status = batch.failed || batch.bytes.failed ? FAIL(LORAD_NOMEM, "out of memory") : LORAD_OK;
    if (status == LORAD_OK && batch.n > 0) status = talk(link, &batch, deadline_ns);
    for (size_t i = 0; status == LORAD_OK && i < batch.n; i++) {
        const char *error = redis_reply_error(batch.replies[i]);
        if (error)
            status = refuse(link, may_hold(error, address->password) ? "the log-in is refused" : error);
    }
    redis_batch_free(&batch);
    return status;
}

enum status redis_link_exchange(struct redis_link *link, struct redis_batch *batch, int timeout_ms)
{
    int64_t timeout_ns = (int64_t)timeout_ms * 1000000;
    enum status status = LORAD_OK;
    free_replies(batch);
    if (batch->failed || batch->bytes.failed) return FAIL(LORAD_NOMEM, "out of memory for commands to Redis");
    if (batch->n == 0) return LORAD_OK;
    if (!link->context) {
        int64_t deadline_ns = clock_monotonic_ns() + timeout_ns;
        status = open_socket(link, deadline_ns);
        if (status == LORAD_OK) status = log_in(link, deadline_ns);
    }
    if (status == LORAD_OK) status = talk(link, batch, clock_monotonic_ns() + timeout_ns);
    if (status != LORAD_OK) redis_link_close(link);
    return status;
}

/* ---- when to try again ---- */

bool redis_breaker_allows(const struct redis_breaker *breaker, int64_t now_ns)
{
    return breaker->wait_ms == 0 || now_ns >= breaker->until_ns;
}

void redis_breaker_note(struct redis_breaker *breaker, bool ok, int64_t now_ns)
{
    int64_t wait_ms = breaker->wait_ms ? 2 * (int64_t)breaker->wait_ms : REDIS_BREAKER_FIRST_MS;
    if (wait_ms > REDIS_BREAKER_MOST_MS) wait_ms = REDIS_BREAKER_MOST_MS;
    breaker->wait_ms = ok ? 0 : (int)wait_ms;
    breaker->until_ns = now_ns + (int64_t)breaker->wait_ms * 1000000;
}
