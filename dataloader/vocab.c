#include "dataloader/vocab.h"

#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/memory.h"

void vocab_free(struct vocab *vocab)
{
    free(vocab->text);
    free(vocab->entry);
    free(vocab->slot);
    *vocab = (struct vocab){0};
}

enum status vocab_add(struct vocab *vocab, const char *text, size_t length, int64_t number, const char *where)
{
    if (number < 0 || number >= VOCAB_MAX)
        return FAIL(LORAD_DATA, "%s: token number %lld of \"%.*s\" is not in 0..%d", where, (long long)number,
                    (int)(length < 40 ? length : 40), text, VOCAB_MAX - 1);
    size_t old = (size_t)vocab->size, need = (size_t)number + 1;
    if (need > old) {
        TRY(memory_grow((void **)&vocab->entry, &vocab->entry_capacity, need, sizeof *vocab->entry));
        memset(vocab->entry + old, 0, (need - old) * sizeof *vocab->entry);
        vocab->size = (int32_t)need;
    }
    if (vocab->entry[number].present)
        return FAIL(LORAD_DATA, "%s: two tokens have the number %lld", where, (long long)number);
    TRY(memory_grow((void **)&vocab->text, &vocab->text_capacity, vocab->text_length + length + 1, 1));
    memcpy(vocab->text + vocab->text_length, text, length);
    vocab->entry[number] = (struct vocab_entry){vocab->text_length, (uint32_t)length, true};
    vocab->text_length += length;
    vocab->count++;
    return LORAD_OK;
}

/* The slot that holds the text, or the empty one where it belongs. */
static inline struct vocab_slot *find_slot(const struct vocab *vocab, const char *text, size_t length,
                                           uint64_t hash)
{
    for (size_t at = hash & (vocab->n_slots - 1);; at = (at + 1) & (vocab->n_slots - 1)) {
        struct vocab_slot *slot = &vocab->slot[at];
        if (slot->number < 0) return slot;
        if (slot->hash != (uint32_t)(hash >> 32)) continue;
        const struct vocab_entry *entry = &vocab->entry[slot->number];
        if (entry->length == length && memcmp(vocab->text + entry->at, text, length) == 0) return slot;
    }
}

enum status vocab_index(struct vocab *vocab, const char *where)
{
    vocab->n_slots = 16;
    while (vocab->n_slots < 2 * (size_t)vocab->count) vocab->n_slots *= 2;
    vocab->slot = memory_new(vocab->n_slots, sizeof *vocab->slot);
    if (!vocab->slot) return LORAD_NOMEM;
    memset(vocab->slot, 0xFF, vocab->n_slots * sizeof *vocab->slot);
    for (int32_t i = 0; i < vocab->size; i++) {
        const struct vocab_entry *entry = &vocab->entry[i];
        if (!entry->present) continue;
        const char *text = vocab->text + entry->at;
        uint64_t hash = hash64(text, entry->length);
        struct vocab_slot *slot = find_slot(vocab, text, entry->length, hash);
        if (slot->number >= 0)
            return FAIL(LORAD_DATA, "%s: the tokens %d and %d have the same text", where, slot->number, i);
        *slot = (struct vocab_slot){i, (uint32_t)(hash >> 32)};
    }
    return LORAD_OK;
}

int32_t vocab_find(const struct vocab *vocab, const char *text, size_t length)
{
    return find_slot(vocab, text, length, hash64(text, length))->number;
}

const char *vocab_text(const struct vocab *vocab, int32_t number, size_t *length)
{
    if (number < 0 || number >= vocab->size || !vocab->entry[number].present) return NULL;
    *length = vocab->entry[number].length;
    return vocab->text + vocab->entry[number].at;
}
