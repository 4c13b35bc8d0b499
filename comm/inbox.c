/*
 * 1. A slot holds a command from inbox_put until it is answered; ids are unique among them.
 * 2. Channels are called without the lock held.
 */
#include "comm/inbox.h"

#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

struct slot {
    struct coord_command command;
    struct inbox_channel channel;
    uint64_t number; /* in order of arrival; 0: the slot is free */
    bool taken;
};

struct inbox {
    pthread_mutex_t lock; /* guards the rest */
    struct slot slots[INBOX_CAPACITY];
    uint64_t arrived;
    bool closed;
};

enum status inbox_create(struct inbox **out)
{
    struct inbox *inbox = memory_new(1, sizeof *inbox);
    if (!inbox) return LORAD_NOMEM;
    pthread_mutex_init(&inbox->lock, NULL);
    *out = inbox;
    return LORAD_OK;
}

/* The id of a command that nobody has answered yet. */
static bool find_open(struct inbox *inbox, char id[COMMAND_ID_BYTES])
{
    bool found = false;
    pthread_mutex_lock(&inbox->lock);
    for (int i = 0; i < INBOX_CAPACITY && !found; i++) {
        found = inbox->slots[i].number != 0;
        if (found) memcpy(id, inbox->slots[i].command.id, COMMAND_ID_BYTES);
    }
    pthread_mutex_unlock(&inbox->lock);
    return found;
}

void inbox_close(struct inbox *inbox)
{
    char id[COMMAND_ID_BYTES];
    pthread_mutex_lock(&inbox->lock);
    inbox->closed = true;
    pthread_mutex_unlock(&inbox->lock);
    while (find_open(inbox, id))
        inbox_answer(inbox, id, LORAD_NOT_FOUND, "the run ended before this request was done");
}

void inbox_destroy(struct inbox *inbox)
{
    if (!inbox) return;
    inbox_close(inbox);
    pthread_mutex_destroy(&inbox->lock);
    free(inbox);
}

bool inbox_put(struct inbox *inbox, const struct coord_command *command, struct inbox_channel channel)
{
    bool done = false;
    pthread_mutex_lock(&inbox->lock);
    for (int i = 0; i < INBOX_CAPACITY && !done && !inbox->closed; i++) {
        struct slot *slot = &inbox->slots[i];
        if (slot->number) continue;
        *slot = (struct slot){.command = *command, .channel = channel, .number = ++inbox->arrived};
        done = true;
    }
    pthread_mutex_unlock(&inbox->lock);
    return done;
}

int inbox_waiting(struct inbox *inbox)
{
    int waiting = 0;
    pthread_mutex_lock(&inbox->lock);
    for (int i = 0; i < INBOX_CAPACITY; i++) waiting += inbox->slots[i].number && !inbox->slots[i].taken;
    pthread_mutex_unlock(&inbox->lock);
    return waiting;
}

bool inbox_take(struct inbox *inbox, struct coord_command *out)
{
    struct slot *oldest = NULL;
    pthread_mutex_lock(&inbox->lock);
    for (int i = 0; i < INBOX_CAPACITY; i++) {
        struct slot *slot = &inbox->slots[i];
        if (slot->number && !slot->taken && (!oldest || slot->number < oldest->number)) oldest = slot;
    }
    if (oldest) {
        oldest->taken = true;
        *out = oldest->command;
    }
    pthread_mutex_unlock(&inbox->lock);
    return oldest;
}

void inbox_answer(struct inbox *inbox, const char *id, enum status status, const char *text)
{
    struct inbox_channel channel = {0};
    char name[COMMAND_ID_BYTES] = "";
    pthread_mutex_lock(&inbox->lock);
    for (int i = 0; i < INBOX_CAPACITY; i++) {
        struct slot *slot = &inbox->slots[i];
        if (!slot->number || strcmp(slot->command.id, id) != 0) continue;
        channel = slot->channel;
        memcpy(name, slot->command.id, sizeof name);
        slot->number = 0;
        break;
    }
    pthread_mutex_unlock(&inbox->lock);
    if (channel.answer) channel.answer(channel.context, name, status, text);
}
