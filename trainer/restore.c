/* restore.c: reading checkpoints back: the reading half of saver.h. */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "trainer/saver.h"
#include "trainer/snapshot.h"

static enum status read_vector(struct saver *saver, struct checkpoint *checkpoint, int vector)
{
    struct adapter *adapter = saver->session->adapter;
    const struct lora *lora = adapter->lora;
    char name[SNAPSHOT_NAME_BYTES];
    memset(adapter->host, 0, (size_t)lora->count * sizeof(float));
    for (int32_t i = 0; i < lora->n_tensors; i++) {
        const struct lora_tensor *t = &lora->tensors[i];
        snapshot_name(name, vector, t);
        TRY(checkpoint_read(checkpoint, name, "F32", t->shape, t->row, t->rows, t->col, t->cols,
                            adapter->host + t->offset));
    }
    return adapter_write_vector(adapter, (enum adapter_vector)vector, adapter->host);
}

/* One candidate on this rank. The files are hashed by rank 0; every rank checks what it decompresses. */
static enum status read_candidate(struct saver *saver, const char *dir, struct run_state *state,
                                  const struct run_identity *identity, struct hash128 *manifest,
                                  struct checkpoint_id *id)
{
    struct checkpoint *checkpoint;
    TRY(checkpoint_open(&checkpoint, dir, saver->session->ranks.rank == 0));
    const struct json *json = checkpoint_state(checkpoint);
    enum status status = run_identity_check(json, identity, dir);
    if (status == LORAD_OK) status = run_state_read(state, json, dir);
    for (int v = 0; status == LORAD_OK && v < SNAPSHOT_VECTORS; v++)
        status = read_vector(saver, checkpoint, v);
    if (status == LORAD_OK) {
        saver->session->adapter->applied_steps = state->applied_steps;
        status = model_set_adapter(saver->session->model, saver->session->adapter);
        if (saver->session->ranks.rank == 0) run_state_announce(json, identity, saver->session, dir);
        *manifest = checkpoint_manifest_hash(checkpoint);
        *id = checkpoint_id_of(checkpoint);
    }
    checkpoint_close(checkpoint);
    return status;
}

/* The next committed, unfenced candidate at or after *index, agreed on by asking rank 0. name empty: none
 * left. */
static enum status next_candidate(struct saver *saver, const struct checkpoint_entry *entries, size_t n,
                                  size_t *index, char name[CHECKPOINT_NAME_BYTES])
{
    enum status status = LORAD_OK;
    memset(name, 0, CHECKPOINT_NAME_BYTES);
    while (saver->session->ranks.rank == 0 && status == LORAD_OK && *index < n) {
        const struct checkpoint_entry *entry = &entries[(*index)++];
        bool fenced = false;
        if (!entry->committed) continue;
        status = coord_is_fenced(&fenced, saver->output_dir, entry->id.step, entry->id.epoch);
        if (status != LORAD_OK || fenced) continue;
        memcpy(name, entry->name, CHECKPOINT_NAME_BYTES);
        break;
    }
    status = comm_agree(saver->session->world, status);
    return status == LORAD_OK ? comm_host_broadcast(saver->session->world, name, CHECKPOINT_NAME_BYTES, 0)
                              : status;
}

/* own: it lies in output_dir, which then holds this step. */
static enum status accept_candidate(struct saver *saver, const struct checkpoint_id *id,
                                    struct hash128 manifest, bool own)
{
    char hash[33];
    hash128_hex(manifest, hash);
    if (own) saver->last_saved_step = id->step;
    enum status status = LORAD_OK;
    if (saver->coord) status = coord_record_resume(saver->coord, id->step, id->epoch, hash);
    return comm_agree(saver->session->world, status);
}

static enum status try_candidate(struct saver *saver, const char *dir, bool own, struct run_state *state,
                                 const struct run_identity *identity)
{
    struct hash128 manifest = {0};
    struct checkpoint_id id = {0};
    enum status mine = read_candidate(saver, dir, state, identity, &manifest, &id);
    TRY(comm_agree(saver->session->world, mine));
    log_info("continuing from %s: step %lld", dir, (long long)state->step);
    return accept_candidate(saver, &id, manifest, own);
}

static enum status restore_newest(struct saver *saver, struct run_state *state,
                                  const struct run_identity *identity, bool *found)
{
    struct checkpoint_entry *entries = NULL;
    char name[CHECKPOINT_NAME_BYTES], dir[4096];
    size_t n = 0, index = 0;
    int damaged = 0;
    bool first = saver->session->ranks.rank == 0;
    enum status status = comm_agree(saver->session->world,
                                    first ? checkpoint_list(&entries, &n, saver->output_dir) : LORAD_OK);
    *found = false;
    while (status == LORAD_OK && !*found) {
        status = next_candidate(saver, entries, n, &index, name);
        if (status != LORAD_OK || !name[0]) break;
        snprintf(dir, sizeof dir, "%s/ckpt/%s", saver->output_dir, name);
        status = try_candidate(saver, dir, true, state, identity);
        *found = status == LORAD_OK;
        if (status != LORAD_DATA && status != LORAD_NOT_FOUND) continue;
        if (first) log_warn("%s; it goes to quarantine and the one before is tried", status_message());
        status = comm_agree(
            saver->session->world,
            first ? checkpoint_quarantine(saver->fs, saver->output_dir, name, status_message()) : LORAD_OK);
        if (status == LORAD_OK) status_clear();
        damaged++;
    }
    free(entries);
    if (status == LORAD_OK && !*found && damaged > 0) /* not to lose a run's work without a word */
        return FAIL(
            LORAD_DATA,
            "no checkpoint in %s can be read: all %d are damaged and now in %s/quarantine; start again to "
            "train from the beginning",
            saver->output_dir, damaged, saver->output_dir);
    return status;
}

/* Whether a folder is one of output_dir/ckpt, by whatever name; rank 0 looks. */
static enum status lies_here(bool *out, const struct saver *saver, const char *dir)
{
    char ckpt[PATH_MAX], here[PATH_MAX], there[PATH_MAX];
    *out = false;
    if (saver->session->ranks.rank == 0 && realpath(dir, there)) {
        snprintf(ckpt, sizeof ckpt, "%s/ckpt", saver->output_dir);
        *strrchr(there, '/') = '\0';
        *out = realpath(ckpt, here) && strcmp(here, there) == 0;
    }
    return comm_host_broadcast(saver->session->world, out, sizeof *out, 0);
}

enum status saver_restore(struct saver *saver, const char *from, struct run_state *state,
                          const struct run_identity *identity, bool *found)
{
    bool own;
    if (!from) return restore_newest(saver, state, identity, found);
    TRY(lies_here(&own, saver, from));
    TRY(try_candidate(saver, from, own, state, identity));
    *found = true;
    return LORAD_OK;
}

/* The committed checkpoint of `step` that a run which owns the folder wrote: that of the highest epoch. Rank
 * 0's listing decides; links are for people and may be missing. */
static enum status find_step(struct saver *saver, int64_t step, char name[CHECKPOINT_NAME_BYTES])
{
    struct checkpoint_entry *entries = NULL;
    size_t n = 0;
    enum status status = LORAD_OK;
    memset(name, 0, CHECKPOINT_NAME_BYTES);
    if (saver->session->ranks.rank == 0) {
        status = checkpoint_list(&entries, &n, saver->output_dir);
        for (size_t i = 0; status == LORAD_OK && i < n && !name[0]; i++) {
            bool fenced = false;
            if (!entries[i].committed || entries[i].id.step != step) continue;
            status = coord_is_fenced(&fenced, saver->output_dir, step, entries[i].id.epoch);
            if (status == LORAD_OK && !fenced) memcpy(name, entries[i].name, CHECKPOINT_NAME_BYTES);
        }
        free(entries);
        if (status == LORAD_OK && !name[0])
            status = FAIL(LORAD_NOT_FOUND, "%s holds no checkpoint of step %lld", saver->output_dir,
                          (long long)step);
    }
    TRY(comm_agree(saver->session->world, status));
    return comm_host_broadcast(saver->session->world, name, CHECKPOINT_NAME_BYTES, 0);
}

enum status saver_load_masters(struct saver *saver, int64_t step)
{
    char name[CHECKPOINT_NAME_BYTES], dir[4096];
    struct checkpoint *checkpoint;
    TRY(find_step(saver, step, name));
    snprintf(dir, sizeof dir, "%s/ckpt/%s", saver->output_dir, name);
    enum status status = checkpoint_open(&checkpoint, dir, false);
    if (status == LORAD_OK) {
        status = read_vector(saver, checkpoint, ADAPTER_PARAM);
        checkpoint_close(checkpoint);
    }
    if (status == LORAD_OK) status = model_set_adapter(saver->session->model, saver->session->adapter);
    return comm_agree(saver->session->world, status);
}
