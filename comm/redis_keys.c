#include "comm/redis_keys.h"

#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"

/* ---- names ---- */

void redis_run_name(char out[REDIS_RUN_BYTES], const char *run_name, const char *output_dir)
{
    char resolved[PATH_MAX];
    const char *name = run_name;
    if (!name || !*name) {
        const char *path = realpath(output_dir, resolved) ? resolved : output_dir,
                   *slash = strrchr(path, '/');
        name = slash && slash[1] ? slash + 1 : path;
    }
    snprintf(out, REDIS_RUN_BYTES, "%.*s", REDIS_RUN_BYTES - 1, name);
    for (char *at = out; *at; at++)
        if (*at == '{' || *at == '}' || (unsigned char)*at < 0x20 || *at == 0x7f) *at = '_';
}

void redis_keys_make(struct redis_keys *out, const char *prefix, const char *run)
{
    if (!prefix) prefix = "lorad";
    memset(out, 0, sizeof *out);
    snprintf(out->run, sizeof out->run, "%s", run);
    snprintf(out->runs, sizeof out->runs, "%.64s:runs", prefix);
    const struct {
        char *key;
        const char *name;
    } names[] = {
        {out->owner, "owner"},    {out->epoch, "epoch"},     {out->info, "info"},
        {out->status, "status"},  {out->beats, "hb"},        {out->checkpoints, "ckpts"},
        {out->events, "events"},  {out->metrics, "metrics"}, {out->control, "control"},
        {out->checkpoint, "ck:"}, {out->reply, "reply:"},
    };
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        snprintf(names[i].key, REDIS_KEY_BYTES, "%.64s:{%s}:%s", prefix, out->run, names[i].name);
}

/* ---- the owner ---- */

static void copy_text(char *out, size_t bytes, const char *text)
{
    snprintf(out, bytes, "%s", text ? text : "");
}

static void read_boot(char *out, size_t bytes)
{
    out[0] = '\0';
    int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    if (fd < 0) return;
    ssize_t n = read(fd, out, bytes - 1);
    close(fd);
    out[n > 0 ? n : 0] = '\0';
    out[strcspn(out, "\n")] = '\0';
}

enum status redis_owner_me(struct redis_owner *out, const struct coord_options *options)
{
    uint64_t random[2];
    struct stat folder;
    char resolved[PATH_MAX];
    memset(out, 0, sizeof *out);
    if (getrandom(random, sizeof random, 0) != (ssize_t)sizeof random ||
        stat(options->output_dir, &folder) != 0 || !realpath(options->output_dir, resolved))
        return FAIL(LORAD_CANNOT_CREATE, "cannot look at output_dir %s", options->output_dir);
    snprintf(out->id, sizeof out->id, "%016llx%016llx", (unsigned long long)random[0],
             (unsigned long long)random[1]);
    if (gethostname(out->host, sizeof out->host - 1) != 0) copy_text(out->host, sizeof out->host, "unknown");
    read_boot(out->boot, sizeof out->boot);
    copy_text(out->job, sizeof out->job, options->job_id);
    clock_utc(out->since);
    copy_text(out->output_dir, sizeof out->output_dir, resolved);
    snprintf(out->place, sizeof out->place, "%llu", (unsigned long long)folder.st_ino);
    out->pid = (int64_t)getpid();
    out->restart = options->restart_count;
    return LORAD_OK;
}

static void take_field(char *out, size_t bytes, const struct redis_reply *fields, const char *key)
{
    copy_text(out, bytes, redis_reply_text(redis_reply_get(fields, key), NULL));
    for (char *at = out; *at; at++) /* it may be printed */
        if ((unsigned char)*at < 0x20 || *at == 0x7f) *at = '?';
}

bool redis_owner_read(struct redis_owner *out, const struct redis_reply *fields, int64_t ttl_ms)
{
    memset(out, 0, sizeof *out);
    take_field(out->id, sizeof out->id, fields, "id");
    take_field(out->host, sizeof out->host, fields, "host");
    take_field(out->boot, sizeof out->boot, fields, "boot");
    take_field(out->job, sizeof out->job, fields, "job");
    take_field(out->since, sizeof out->since, fields, "since");
    take_field(out->output_dir, sizeof out->output_dir, fields, "output_dir");
    take_field(out->place, sizeof out->place, fields, "place");
    out->epoch = redis_reply_int(redis_reply_get(fields, "epoch"), -1);
    out->pid = redis_reply_int(redis_reply_get(fields, "pid"), 0);
    out->restart = redis_reply_int(redis_reply_get(fields, "restart"), 0);
    out->ttl_ms = ttl_ms;
    return *out->id && *out->output_dir && out->epoch >= 0 && ttl_ms > 0 && ttl_ms <= REDIS_LEASE_MS;
}

bool redis_owner_same_folder(const struct redis_owner *a, const struct redis_owner *b)
{
    return strcmp(a->output_dir, b->output_dir) == 0 && strcmp(a->place, b->place) == 0;
}

void redis_owner_describe(char *text, size_t bytes, const struct redis_owner *owner)
{
    snprintf(text, bytes, "a run on host %s, process %lld, since %s, in %.512s", owner->host,
             (long long)owner->pid, owner->since, owner->output_dir);
}

/* ---- the lease ---- */

/* A key of another type is nobody's: it is dropped. KEYS: owner, epoch, then keys whose end is put off.
 * ARGV: id, epoch, output_dir, place, lease in ms, end of the others in s, then the owner's fields.
 * Returns {1, 0}: renewed; {1, 1}: taken, nobody held it; {0, ttl, fields...}: somebody else holds it. */
static const char renew_script[] =
    "local owner, epoch = KEYS[1], KEYS[2]\n"
    "if redis.call('TYPE', owner).ok ~= 'hash' then redis.call('DEL', owner) end\n"
    "local h = redis.call('HMGET', owner, 'id', 'epoch', 'output_dir', 'place')\n"
    "local ttl = redis.call('PTTL', owner)\n"
    "local live = h[1] and ttl > 0 and ttl <= tonumber(ARGV[5])\n"
    "local same = h[3] == ARGV[3] and h[4] == ARGV[4]\n"
    "if live and h[1] ~= ARGV[1] and (not same or (tonumber(h[2]) or 0) >= tonumber(ARGV[2])) then\n"
    "  local out = redis.call('HGETALL', owner)\n"
    "  table.insert(out, 1, ttl)\n"
    "  table.insert(out, 1, 0)\n"
    "  return out\n"
    "end\n"
    "if h[1] and h[1] ~= ARGV[1] then redis.call('DEL', owner) end\n"
    "for i = 7, #ARGV, 2 do redis.call('HSET', owner, ARGV[i], ARGV[i + 1]) end\n"
    "redis.call('PEXPIRE', owner, ARGV[5])\n"
    "if redis.call('TYPE', epoch).ok ~= 'string' then redis.call('DEL', epoch) end\n"
    "local seen = tonumber(redis.call('GET', epoch) or '0') or 0\n"
    "if seen < tonumber(ARGV[2]) then redis.call('SET', epoch, ARGV[2]) end\n"
    "for i = 2, #KEYS do redis.call('EXPIRE', KEYS[i], ARGV[6]) end\n"
    "if live and h[1] == ARGV[1] then return {1, 0} end\n"
    "return {1, 1}\n";

static const char release_script[] = "if redis.call('TYPE', KEYS[1]).ok ~= 'hash' then return 0 end\n"
                                     "if redis.call('HGET', KEYS[1], 'id') ~= ARGV[1] then return 0 end\n"
                                     "return redis.call('DEL', KEYS[1])\n";

size_t redis_lease_renew(struct redis_batch *batch, const struct redis_keys *keys,
                         const struct redis_owner *me)
{
    char epoch[24], pid[24], restart[24], lease[24], keep[24];
    snprintf(epoch, sizeof epoch, "%lld", (long long)me->epoch);
    snprintf(pid, sizeof pid, "%lld", (long long)me->pid);
    snprintf(restart, sizeof restart, "%lld", (long long)me->restart);
    snprintf(lease, sizeof lease, "%d", REDIS_LEASE_MS);
    snprintf(keep, sizeof keep, "%d", REDIS_KEEP_S);
    const char *words[] = {
        "EVAL",       renew_script,  "9",
        keys->owner,  keys->epoch,   keys->info,
        keys->status, keys->beats,   keys->checkpoints,
        keys->events, keys->metrics, keys->control,
        me->id,       epoch,         me->output_dir,
        me->place,    lease,         keep,
        "id",         me->id,        "epoch",
        epoch,        "output_dir",  me->output_dir,
        "place",      me->place,     "host",
        me->host,     "boot",        me->boot,
        "job",        me->job,       "since",
        me->since,    "pid",         pid,
        "restart",    restart,
    };
    return redis_batch_add_words(batch, sizeof words / sizeof words[0], words);
}

size_t redis_lease_release(struct redis_batch *batch, const struct redis_keys *keys,
                           const struct redis_owner *me)
{
    return redis_batch_add(batch, "EVAL %s 1 %s %s", release_script, keys->owner, me->id);
}

enum redis_lease redis_lease_read(struct redis_owner *other, const struct redis_reply *reply)
{
    size_t n = redis_reply_length(reply);
    if (n < 2) return LEASE_UNKNOWN;
    int64_t done = redis_reply_int(redis_reply_at(reply, 0), -1),
            second = redis_reply_int(redis_reply_at(reply, 1), -1);
    if (done == 1) return second == 1 ? LEASE_TAKEN : LEASE_HELD;
    if (done != 0) return LEASE_UNKNOWN;
    /* the fields stand behind two numbers, so they keep their places as pairs */
    return redis_owner_read(other, reply, second) ? LEASE_OTHERS : LEASE_UNKNOWN;
}

/* ---- requests ---- */

bool redis_is_request_id(const char *id)
{
    size_t length = strlen(id);
    return length > 0 && length <= REDIS_ID_LENGTH &&
           strspn(id, "0123456789abcdefghijklmnopqrstuvwxyz-") == length;
}

bool redis_is_position(const char *text)
{
    size_t first = strspn(text, "0123456789");
    if (first == 0 || first > 18 || text[first] != '-') return false;
    size_t second = strspn(text + first + 1, "0123456789");
    return second > 0 && second <= 18 && text[first + 1 + second] == '\0';
}

/* [[stream, [[id, [field, value, ...]], ...]]] */
bool redis_request_read(struct redis_request *out, const struct redis_reply *reply, size_t i)
{
    const struct redis_reply *entry = redis_reply_at(redis_reply_at(redis_reply_at(reply, 0), 1), i);
    const char *position = redis_reply_text(redis_reply_at(entry, 0), NULL);
    if (!position || !redis_is_position(position)) return false;
    snprintf(out->position, sizeof out->position, "%s", position);
    out->sent_ms = strtoll(position, NULL, 10);
    out->text = redis_reply_text(redis_reply_get(redis_reply_at(entry, 1), "request"), NULL);
    return true;
}

int64_t redis_time_ms(const struct redis_reply *reply)
{
    int64_t seconds = redis_reply_int(redis_reply_at(reply, 0), -1),
            us = redis_reply_int(redis_reply_at(reply, 1), -1);
    if (seconds < 0 || seconds > INT64_MAX / 2000 || us < 0 || us >= 1000000) return -1;
    return seconds * 1000 + us / 1000;
}
