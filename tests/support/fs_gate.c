#include "support/fs_gate.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/fs_impl.h"
#include "base/memory.h"

struct fs_gate {
    struct fs fs;
    struct fs_ops ops; /* the real ones, but for two */
    const struct fs *real;
    pthread_mutex_t lock; /* guards the rest */
    pthread_cond_t changed;
    bool closed;
    int waiting;
    const char *word;
};

static int gate_create(void *context, const char *path)
{
    struct fs_gate *gate = context;
    pthread_mutex_lock(&gate->lock);
    bool fails = gate->word && strstr(path, gate->word);
    pthread_mutex_unlock(&gate->lock);
    return fails ? -ENOSPC : gate->real->ops->create(gate->real->context, path);
}

static int gate_sync(void *context, int fd)
{
    struct fs_gate *gate = context;
    pthread_mutex_lock(&gate->lock);
    gate->waiting++;
    pthread_cond_broadcast(&gate->changed);
    while (gate->closed) pthread_cond_wait(&gate->changed, &gate->lock);
    gate->waiting--;
    pthread_mutex_unlock(&gate->lock);
    return gate->real->ops->sync(gate->real->context, fd);
}

enum status fs_gate_create(struct fs_gate **out)
{
    struct fs_gate *gate = memory_new(1, sizeof *gate);
    if (!gate) return LORAD_NOMEM;
    gate->real = fs_posix();
    gate->ops = *gate->real->ops; /* posix needs no context of its own */
    gate->ops.create = gate_create;
    gate->ops.sync = gate_sync;
    gate->fs = (struct fs){.ops = &gate->ops, .context = gate};
    pthread_mutex_init(&gate->lock, NULL);
    pthread_cond_init(&gate->changed, NULL);
    *out = gate;
    return LORAD_OK;
}

void fs_gate_destroy(struct fs_gate *gate)
{
    pthread_cond_destroy(&gate->changed);
    pthread_mutex_destroy(&gate->lock);
    free(gate);
}

struct fs *fs_gate_fs(struct fs_gate *gate)
{
    return &gate->fs;
}

static void set_closed(struct fs_gate *gate, bool closed)
{
    pthread_mutex_lock(&gate->lock);
    gate->closed = closed;
    pthread_cond_broadcast(&gate->changed);
    pthread_mutex_unlock(&gate->lock);
}

void fs_gate_close(struct fs_gate *gate)
{
    set_closed(gate, true);
}

void fs_gate_open(struct fs_gate *gate)
{
    set_closed(gate, false);
}

void fs_gate_wait(struct fs_gate *gate)
{
    pthread_mutex_lock(&gate->lock);
    while (gate->waiting == 0) pthread_cond_wait(&gate->changed, &gate->lock);
    pthread_mutex_unlock(&gate->lock);
}

void fs_gate_fail(struct fs_gate *gate, const char *word)
{
    pthread_mutex_lock(&gate->lock);
    gate->word = word;
    pthread_mutex_unlock(&gate->lock);
}
