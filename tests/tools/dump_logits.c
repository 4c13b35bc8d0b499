/*
 * dump_logits MODEL ADAPTER IDS OUT [TP]: the logits of rows of token ids, for a comparison with another
 * program.
 *
 * ADAPTER is a PEFT folder or "-" for the frozen base. IDS is a JSON array of arrays of token ids. OUT
 * becomes a safetensors file with "row.0", "row.1", ...: f32 [tokens, vocabulary], everything computed in
 * f32. Each row is a micro-batch of its own. Runs on any number of ranks; TP defaults to all of them.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"
#include "base/fs.h"
#include "checkpoint/safetensors.h"
#include "support/rig.h"

enum { IDS_BYTES = 16 << 20, NAME_BYTES = 32 };

struct job {
    const char *model_dir, *adapter_dir, *out;
    struct json *ids;
    size_t rows;
    int32_t longest;
    struct st_item *items;
    char (*names)[NAME_BYTES];
};

static enum status read_ids(struct job *job, const char *path)
{
    TRY(js_read_file(&job->ids, path, IDS_BYTES));
    job->rows = js_length(job->ids);
    if (js_type(job->ids) != JS_ARRAY || job->rows == 0)
        return FAIL(LORAD_DATA, "%s: not an array of arrays of token ids", path);
    for (size_t i = 0; i < job->rows; i++) {
        size_t n = js_length(js_at(job->ids, i));
        if (n == 0 || n > 1 << 20) return FAIL(LORAD_DATA, "%s: row %zu has %zu ids", path, i, n);
        if ((int32_t)n > job->longest) job->longest = (int32_t)n;
    }
    job->items = memory_new(job->rows, sizeof *job->items);
    job->names = memory_new(job->rows, sizeof *job->names);
    return job->items && job->names ? LORAD_OK : LORAD_NOMEM;
}

static enum status run_row(struct job *job, struct rig *rig, size_t row, struct micro_batch *batch)
{
    const struct json *ids = js_at(job->ids, row);
    int32_t n = (int32_t)js_length(ids), vocab = rig->arch.vocab;
    for (int32_t i = 0; i < n; i++) {
        int64_t id = js_int(js_at(ids, (size_t)i), -1);
        if (id < 0 || id >= vocab)
            return FAIL(LORAD_DATA, "row %zu: token %d is not in the vocabulary", row, i);
        batch->tokens[i] = (int32_t)id;
        batch->positions[i] = i;
        batch->labels[i] = -1;
        batch->token_index[i] = i;
    }
    batch->seq_start[1] = n;
    batch->n_tokens = batch->longest = n;
    float *logits = memory_new((size_t)n * (size_t)vocab, sizeof(float));
    if (!logits) return LORAD_NOMEM;
    snprintf(job->names[row], NAME_BYTES, "row.%zu", row);
    job->items[row] = (struct st_item){
        .name = job->names[row], .dtype = ST_F32, .n_dims = 2, .shape = {n, vocab}, .data = logits};
    return model_logits(rig->model, batch, rig->adapter != NULL, 0, n, logits);
}

static enum status run(struct job *job, const struct comm_world_info *world, int32_t tp)
{
    struct rig_options options = {
        .model_dir = job->model_dir,
        .adapter_dir = job->adapter_dir,
        .model = {.dtype = DTYPE_F32,
                  .checkpointing = CHECKPOINTING_NONE,
                  .max_tokens = job->longest,
                  .max_sequences = 1,
                  .max_positions = job->longest},
        .tp = tp,
    };
    size_t n = (size_t)job->longest;
    int32_t seq_start[2] = {0, 0};
    int64_t row_id = 0;
    int32_t *memory = memory_new(3 * n, sizeof *memory);
    int64_t *token_index = memory_new(n, sizeof *token_index);
    if (!memory || !token_index) return LORAD_NOMEM;
    struct micro_batch batch = {.tokens = memory,
                                .positions = memory + n,
                                .labels = memory + 2 * n,
                                .token_index = token_index,
                                .seq_start = seq_start,
                                .row_ids = &row_id,
                                .n_sequences = 1};
    struct rig *rig = NULL;
    enum status status = rig_open(&rig, &options, world);
    for (size_t i = 0; i < job->rows && status == LORAD_OK; i++) status = run_row(job, rig, i, &batch);
    if (status == LORAD_OK && world->rank == 0)
        status = st_write_file(fs_posix(), job->out, job->items, job->rows);
    rig_close(rig);
    free(token_index);
    free(memory);
    return status;
}

int main(int argc, char **argv)
{
    if (argc < 5 || argc > 6) {
        fprintf(stderr, "usage: dump_logits MODEL ADAPTER|- IDS OUT [TP]\n");
        return 64;
    }
    struct job job = {
        .model_dir = argv[1], .adapter_dir = strcmp(argv[2], "-") == 0 ? NULL : argv[2], .out = argv[4]};
    struct comm_world_info world;
    enum status status = comm_startup(&world);
    if (status == LORAD_OK) status = read_ids(&job, argv[3]);
    if (status == LORAD_OK) status = run(&job, &world, argc == 6 ? atoi(argv[5]) : world.world);
    for (size_t i = 0; i < job.rows && job.items; i++) free((void *)(uintptr_t)job.items[i].data);
    free(job.items);
    free(job.names);
    js_destroy(job.ids);
    if (status != LORAD_OK) {
        fprintf(stderr, "dump_logits: %s\n", status_message());
        comm_abort(status_exit_code(status));
    }
    comm_shutdown();
    return 0;
}
