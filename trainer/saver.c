#include "trainer/saver.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"

static const char *const vector_names[] = {
    [ADAPTER_PARAM] = "master", [ADAPTER_M] = "adam.m", [ADAPTER_V] = "adam.v"};
enum { SAVED_VECTORS = 3, PIECE_NAME_BYTES = LORA_NAME_BYTES + 16 };

static void piece_name(char name[PIECE_NAME_BYTES], int vector, const struct lora_tensor *t)
{
    snprintf(name, PIECE_NAME_BYTES, "%s.%s", vector_names[vector], t->name);
}

/* ---- saving ---- */

/* This rank's pieces, their names and a host copy of the three vectors, in one block. */
struct snapshot {
    struct checkpoint_piece *pieces;
    char (*names)[PIECE_NAME_BYTES];
    float *host;
    size_t n;
};

static void snapshot_free(struct snapshot *snapshot)
{
    free(snapshot->pieces);
    free(snapshot->names);
    free(snapshot->host);
}

/* Data-parallel replicas hold the same bits: the first of them writes; of replicated factors the first TP
 * rank. */
static enum status snapshot_take(struct snapshot *out, const struct saver *saver)
{
    const struct session *session = saver->session;
    const struct lora *lora = session->lora;
    size_t most = (size_t)lora->n_tensors * SAVED_VECTORS;
    struct snapshot s = {.pieces = memory_new(most, sizeof *s.pieces),
                         .names = memory_new(most, sizeof *s.names),
                         .host = memory_new((size_t)lora->count * SAVED_VECTORS + 1, sizeof(float))};
    enum status status = s.pieces && s.names && s.host ? LORAD_OK : LORAD_NOMEM;
    for (int v = 0; status == LORAD_OK && v < SAVED_VECTORS; v++) {
        float *host = s.host + v * lora->count;
        if (session->part.dp_rank != 0) break;
        status = adapter_read(session->adapter, (enum adapter_vector)v, host);
        for (int32_t i = 0; status == LORAD_OK && i < lora->n_tensors; i++) {
            const struct lora_tensor *t = &lora->tensors[i];
            if (t->replicated && session->part.tp_rank != 0) continue;
            piece_name(s.names[s.n], v, t);
            s.pieces[s.n] = (struct checkpoint_piece){.name = s.names[s.n],
                                                      .item_bytes = sizeof(float),
                                                      .dtype = "F32",
                                                      .shape = {t->shape[0], t->shape[1]},
                                                      .row = t->row,
                                                      .rows = t->rows,
                                                      .col = t->col,
                                                      .cols = t->cols,
                                                      .data = host + t->offset};
            s.n++;
        }
    }
    if (status != LORAD_OK) {
        snapshot_free(&s);
        return status;
    }
    *out = s;
    return LORAD_OK;
}

static enum status still_owner(void *context)
{
    return coord_check_owner(context);
}

enum status saver_export(struct saver *saver, const char *dir)
{
    struct session *session = saver->session;
    float **whole = NULL;
    TRY(adapter_gather(&whole, session->adapter, ADAPTER_PARAM));
    enum status status = LORAD_OK;
    if (session->ranks.rank == 0)
        status = adapter_export(session->lora, whole, &session->lora_options, session->options->model_dir,
                                saver->fs, dir);
    free(whole);
    return comm_agree(session->world, status);
}

static enum status write_config(const struct saver *saver, const char *dir)
{
    const char *text = saver->session->options->config_text;
    if (!text || !*text) return LORAD_OK;
    char *path = file_join(dir, "lorad.yaml");
    if (!path) return LORAD_NOMEM;
    enum status status = fs_write_file(saver->fs, path, text, strlen(text));
    free(path);
    return status;
}

/* Rank 0: everything is on disk, publish. */
static enum status commit(struct saver *saver, struct checkpoint_writer *writer,
                          const struct checkpoint_receipt *receipts, const struct run_state *state,
                          const struct run_identity *identity)
{
    struct strbuf json = STRBUF_EMPTY;
    run_state_write(&json, state, identity, saver->session);
    enum status status = strbuf_status(&json);
    if (status == LORAD_OK)
        status = checkpoint_commit(writer, receipts, saver->session->ranks.world, strbuf_text(&json),
                                   saver->coord ? still_owner : NULL, saver->coord);
    else
        checkpoint_abandon(writer);
    strbuf_free(&json);
    return status;
}

/* From an open writer on every rank to the common outcome. Frees the writer. */
static enum status write_and_commit(struct saver *saver, struct checkpoint_writer *writer,
                                    const struct snapshot *snapshot, const struct run_state *state,
                                    const struct run_identity *identity)
{
    struct session *session = saver->session;
    bool first = session->ranks.rank == 0;
    struct checkpoint_receipt mine = {.rank = session->ranks.rank};
    struct checkpoint_receipt *all = memory_new((size_t)session->ranks.world, sizeof *all);
    enum status status =
        all ? checkpoint_write_shard(writer, snapshot->pieces, snapshot->n, &mine) : LORAD_NOMEM;
    if (status == LORAD_OK && first) status = write_config(saver, checkpoint_writer_dir(writer));
    status = comm_agree(session->world, status);
    if (status == LORAD_OK) status = saver_export(saver, checkpoint_writer_dir(writer));
    if (status == LORAD_OK) status = comm_host_all_gather(session->world, &mine, all, sizeof mine);
    if (status != LORAD_OK) {
        checkpoint_abandon(writer);
    } else {
        if (first) status = commit(saver, writer, all, state, identity);
        status = comm_agree(session->world, status);
        if (!first) checkpoint_finish(writer);
    }
    free(all);
    return status;
}

static enum status try_save(struct saver *saver, const struct run_state *state,
                            const struct run_identity *identity)
{
    struct session *session = saver->session;
    struct checkpoint_writer *writer = NULL;
    struct snapshot snapshot = {0};
    struct checkpoint_id id = {
        .step = state->step, .epoch = saver->epoch, .attempt = (int32_t)saver->failures};
    int64_t need = (int64_t)adapter_bytes(session->lora) + (1 << 20);
    bool first = session->ranks.rank == 0;
    enum status status = snapshot_take(&snapshot, saver);
    if (status == LORAD_OK && first)
        status = checkpoint_begin(&writer, saver->fs, saver->output_dir, id, 0, session->ranks.world, need);
    status = comm_agree(session->world, status);
    if (status == LORAD_OK && !first)
        status = checkpoint_begin(&writer, saver->fs, saver->output_dir, id, session->ranks.rank,
                                  session->ranks.world, 0);
    status = comm_agree(session->world, status);
    if (status == LORAD_OK)
        status = write_and_commit(saver, writer, &snapshot, state, identity);
    else
        checkpoint_abandon(writer);
    snapshot_free(&snapshot);
    return status;
}

static void announce_failure(const struct saver *saver, int64_t step)
{
    char last[64] = "there is no checkpoint yet";
    if (saver->last_saved_step >= 0)
        snprintf(last, sizeof last, "the last good checkpoint is that of step %lld",
                 (long long)saver->last_saved_step);
    log_error("checkpoint of step %lld FAILED: %s. Training goes on; %s", (long long)step, status_message(),
              last);
}

enum status saver_save(struct saver *saver, struct run_state *state, const struct run_identity *identity)
{
    if (saver->last_saved_step == state->step) return LORAD_OK;
    int64_t start = clock_monotonic_ns();
    enum status status = try_save(saver, state, identity);
    if (status == LORAD_OK) {
        saver->last_saved_step = state->step;
        log_info("checkpoint of step %lld committed in %.2f s", (long long)state->step,
                 clock_seconds_since(start));
        return LORAD_OK;
    }
    if (status != LORAD_IO && status != LORAD_CANNOT_CREATE) return status;
    saver->failures++;
    if (saver->session->ranks.rank == 0) announce_failure(saver, state->step);
    return LORAD_OK;
}

static enum status is_void(bool *out, void *context, struct checkpoint_id id)
{
    const struct saver *saver = context;
    return coord_is_fenced(out, saver->output_dir, id.step, id.epoch);
}

void saver_collect(struct saver *saver, int32_t keep, int64_t best_step)
{
    if (keep <= 0 || saver->session->ranks.rank != 0 || saver->last_saved_step < 0) return;
    struct checkpoint_retention retention = {
        .keep = keep, .steps = {best_step, saver->last_saved_step}, .is_void = is_void, .context = saver};
    if (checkpoint_collect(saver->fs, saver->output_dir, &retention) != LORAD_OK)
        log_warn("old checkpoints were not removed: %s", status_message());
}

/* ---- restoring ---- */

static enum status read_vector(struct saver *saver, struct checkpoint *checkpoint, int vector)
{
    struct adapter *adapter = saver->session->adapter;
    const struct lora *lora = adapter->lora;
    char name[PIECE_NAME_BYTES];
    memset(adapter->host, 0, (size_t)lora->count * sizeof(float));
    for (int32_t i = 0; i < lora->n_tensors; i++) {
        const struct lora_tensor *t = &lora->tensors[i];
        piece_name(name, vector, t);
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
    for (int v = 0; status == LORAD_OK && v < SAVED_VECTORS; v++) status = read_vector(saver, checkpoint, v);
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

static enum status accept_candidate(struct saver *saver, const struct checkpoint_id *id,
                                    struct hash128 manifest)
{
    char hash[33];
    hash128_hex(manifest, hash);
    saver->last_saved_step = id->step;
    enum status status = LORAD_OK;
    if (saver->coord) status = coord_record_resume(saver->coord, id->step, id->epoch, hash);
    return comm_agree(saver->session->world, status);
}

static enum status try_candidate(struct saver *saver, const char *dir, struct run_state *state,
                                 const struct run_identity *identity)
{
    struct hash128 manifest;
    struct checkpoint_id id;
    enum status mine = read_candidate(saver, dir, state, identity, &manifest, &id);
    TRY(comm_agree(saver->session->world, mine));
    log_info("continuing from %s: step %lld", dir, (long long)state->step);
    return accept_candidate(saver, &id, manifest);
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
        status = try_candidate(saver, dir, state, identity);
        *found = status == LORAD_OK;
        if (status != LORAD_DATA && status != LORAD_NOT_FOUND) continue;
        if (first) log_warn("%s; it goes to quarantine and the one before is tried", status_message());
        status = comm_agree(
            saver->session->world,
            first ? checkpoint_quarantine(saver->fs, saver->output_dir, name, status_message()) : LORAD_OK);
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

enum status saver_restore(struct saver *saver, const char *from, struct run_state *state,
                          const struct run_identity *identity, bool *found)
{
    if (!from) return restore_newest(saver, state, identity, found);
    TRY(try_candidate(saver, from, state, identity));
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
