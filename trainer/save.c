#include "trainer/save.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/memory.h"
#include "trainer/run_event.h"

enum { SPARE_BYTES = 1 << 20 };

static bool is_first(const struct saver *saver)
{
    return saver->session->ranks.rank == 0;
}

/* ---- the adapter in PEFT's form ---- */

/* Where no rank holds a part only, rank 0's snapshot has every factor whole. */
static void whole_from_snapshot(float **whole, const struct save *save, const struct lora *lora)
{
    const float *masters = snapshot_masters(save->snapshot);
    for (int32_t i = 0; i < lora->n_tensors; i++) whole[i] = (float *)masters + lora->tensors[i].offset;
}

/* Else the shards are read back, which costs no collective and checks what is on the disk. Owns: *block. */
static enum status whole_from_shards(float **whole, float **block, const struct save *save,
                                     const struct saver *saver)
{
    const struct lora *lora = saver->session->lora;
    struct checkpoint *written;
    size_t total = 0;
    for (int32_t i = 0; i < lora->n_tensors; i++)
        total += (size_t)(lora->tensors[i].shape[0] * lora->tensors[i].shape[1]);
    if (!(*block = memory_new(total, sizeof **block))) return LORAD_NOMEM;
    TRY(checkpoint_open_written(&written, save->writer, save->receipts, saver->session->ranks.world));
    enum status status = LORAD_OK;
    float *at = *block;
    for (int32_t i = 0; status == LORAD_OK && i < lora->n_tensors; i++) {
        const struct lora_tensor *t = &lora->tensors[i];
        char name[SNAPSHOT_NAME_BYTES];
        snapshot_name(name, ADAPTER_PARAM, t);
        whole[i] = at;
        status = checkpoint_read(written, name, "F32", t->shape, 0, t->shape[0], 0, t->shape[1], at);
        at += t->shape[0] * t->shape[1];
    }
    checkpoint_close(written);
    return status;
}

static enum status write_adapter(const struct save *save, const struct saver *saver)
{
    const struct session *session = saver->session;
    struct adapter_written written;
    float *block = NULL, **whole = memory_new((size_t)session->lora->n_tensors, sizeof *whole);
    enum status status = whole ? LORAD_OK : LORAD_NOMEM;
    if (status == LORAD_OK && session->part.tp == 1)
        whole_from_snapshot(whole, save, session->lora);
    else if (status == LORAD_OK)
        status = whole_from_shards(whole, &block, save, saver);
    if (status == LORAD_OK)
        status = adapter_export(&written, session->lora, whole, &session->lora_options,
                                session->options->model_dir, saver->fs, checkpoint_writer_dir(save->writer));
    if (status == LORAD_OK)
        checkpoint_note_file(save->writer, ADAPTER_WEIGHTS_NAME, written.hash, written.bytes);
    free(whole);
    free(block);
    return status;
}

/* ---- before the commit ---- */

static enum status write_config(const struct save *save, const struct saver *saver)
{
    const char *text = saver->session->options->config_text;
    if (!text || !*text) return LORAD_OK;
    char *path = file_join(checkpoint_writer_dir(save->writer), "lorad.yaml");
    if (!path) return LORAD_NOMEM;
    enum status status = fs_write_file(saver->fs, path, text, strlen(text));
    free(path);
    return status;
}

/* What killed starts left unfinished may be what the disk lacks: it goes, and a second try says what is
 * wrong. */
static enum status make_room(const struct saver *saver)
{
    if (saver->coord) TRY(coord_check_owner(saver->coord));
    return checkpoint_clear_unfinished(saver->fs, saver->output_dir, saver->epoch);
}

static enum status begin(struct save *save, const struct saver *saver, int64_t need_bytes)
{
    const struct comm_world_info *ranks = &saver->session->ranks;
    enum status status = checkpoint_begin(&save->writer, saver->fs, saver->output_dir, save->id, ranks->rank,
                                          ranks->world, need_bytes);
    if (status != LORAD_IO || !is_first(saver)) return status;
    TRY(make_room(saver));
    return checkpoint_begin(&save->writer, saver->fs, saver->output_dir, save->id, ranks->rank, ranks->world,
                            need_bytes);
}

enum status save_write(struct save *save, const struct saver *saver)
{
    const struct session *session = saver->session;
    const struct run_options *options = session->options;
    /* Of the whole adapter: three vectors in the shards and the export. */
    int64_t need =
        is_first(saver)
            ? session->lora->parameters * (SNAPSHOT_VECTORS + 1) * (int64_t)sizeof(float) + SPARE_BYTES
            : 0;
    size_t n;
    const struct checkpoint_piece *pieces = snapshot_pieces(save->snapshot, &n);
    TRY(begin(save, saver, need));
    checkpoint_writer_pack(save->writer, options->save_compression_level, options->save_threads);
    TRY(checkpoint_write_shard(save->writer, pieces, n, &save->receipt));
    return is_first(saver) ? write_config(save, saver) : LORAD_OK;
}

/* ---- the commit ---- */

static enum status still_owner(void *context)
{
    return coord_check_owner(context);
}

enum status save_commit(struct save *save, const struct saver *saver)
{
    TRY(write_adapter(save, saver));
    struct checkpoint_writer *writer = save->writer;
    save->writer = NULL;
    return checkpoint_commit(writer, save->receipts, saver->session->ranks.world, strbuf_text(&save->state),
                             saver->coord ? still_owner : NULL, saver->coord);
}

static void add_receipt(struct strbuf *text, const struct checkpoint_receipt *receipt)
{
    char raw[33], file[33], index[33];
    hash128_hex(receipt->raw_hash, raw);
    hash128_hex(receipt->file_hash, file);
    hash128_hex(receipt->index_hash, index);
    strbuf_printf(text,
                  "{\"rank\":%d,\"bytes\":%lld,\"raw_bytes\":%lld,\"hash\":\"%s\",\"raw_hash\":\"%s\","
                  "\"index_hash\":\"%s\"}",
                  receipt->rank, (long long)receipt->file_bytes, (long long)receipt->raw_bytes, file, raw,
                  index);
}

static void tell_coordinator(const struct save *save, const struct saver *saver, const char *name,
                             double seconds)
{
    int world = saver->session->ranks.world;
    const char **receipts = memory_new((size_t)world, sizeof *receipts);
    struct strbuf record = STRBUF_EMPTY, *texts = memory_new((size_t)world, sizeof *texts);
    int64_t bytes = 0, raw_bytes = 0;
    for (int i = 0; receipts && texts && i < world; i++) {
        add_receipt(&texts[i], &save->receipts[i]);
        receipts[i] = strbuf_text(&texts[i]);
        bytes += save->receipts[i].file_bytes;
        raw_bytes += save->receipts[i].raw_bytes;
    }
    run_event_begin(&record, "checkpoint", save->id.step);
    strbuf_printf(&record,
                  ",\"epoch\":%lld,\"attempt\":%d,\"name\":\"%s\",\"world\":%d,\"bytes\":%lld,"
                  "\"raw_bytes\":%lld,\"seconds\":",
                  (long long)save->id.epoch, save->id.attempt, name, world, (long long)bytes,
                  (long long)raw_bytes);
    js_write_double(&record, seconds);
    run_event_end(&record, "committed as %s in %.2f s, %.1f MB", name, seconds, (double)bytes * 1e-6);
    if (receipts && texts && strbuf_status(&record) == LORAD_OK) {
        coord_note_commit(saver->coord, name, save->id.step, strbuf_text(&record), receipts, world);
        coord_tell(saver->coord, COORD_EVENTS, strbuf_text(&record));
    }
    for (int i = 0; texts && i < world; i++) strbuf_free(&texts[i]);
    strbuf_free(&record);
    free(texts);
    free(receipts);
}

static enum status is_void(bool *out, void *context, struct checkpoint_id id)
{
    const char *output_dir = context;
    return coord_is_fenced(out, output_dir, id.step, id.epoch);
}

static void collect(const struct save *save, const struct saver *saver)
{
    struct checkpoint_retention retention = {.keep = save->keep,
                                             .steps = {save->best_step, save->id.step},
                                             .is_void = is_void,
                                             .context = (void *)saver->output_dir};
    if (retention.keep <= 0) return;
    if (saver->coord && coord_check_owner(saver->coord) != LORAD_OK) return; /* the next step ends the run */
    if (checkpoint_collect(saver->fs, saver->output_dir, &retention) != LORAD_OK)
        log_warn("old checkpoints were not removed: %s", status_message());
}

void save_conclude(const struct save *save, const struct saver *saver)
{
    char name[CHECKPOINT_NAME_BYTES];
    double seconds = clock_seconds_since(save->begun_ns);
    checkpoint_id_name(save->id, name);
    log_info("checkpoint of step %lld committed in %.2f s", (long long)save->id.step, seconds);
    if (saver->coord) tell_coordinator(save, saver, name, seconds);
    collect(save, saver);
}

void save_abandon(struct save *save, const struct saver *saver)
{
    struct checkpoint_writer *writer = save->writer;
    save->writer = NULL;
    if (writer)
        checkpoint_abandon(writer);
    else if (is_first(saver)) /* other ranks may have come further than this one */
        checkpoint_discard(saver->fs, saver->output_dir, save->id);
}
