#include "support/checkpoint_state.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/random.h"
#include "checkpoint/adapter_file.h"
#include "support/test.h"

enum { MAX_WORLD = 8 };

const char *state_folder(const char *name)
{
    static char path[600];
    snprintf(path, sizeof path, "%s/%s", test_tmpdir(), name);
    return path;
}

struct checkpoint_id state_id(int64_t n)
{
    return (struct checkpoint_id){n, 1, 0};
}

static float value_of(int64_t step, int tensor, int64_t row, int64_t col)
{
    struct random_block dice =
        random_philox((uint64_t)step, (uint64_t)tensor, (uint64_t)(row * STATE_COLS + col));
    return random_unit_f32(dice.word[0]) - 0.5f;
}

static int64_t count_of(int64_t step, int i)
{
    return step * 1000 + i;
}

static enum status write_shard(struct checkpoint_writer *writer, int64_t step, int rank, int world,
                               bool by_columns, struct checkpoint_receipt *receipt)
{
    float w[STATE_ROWS * STATE_COLS], m[STATE_ROWS * STATE_COLS];
    int64_t counts[STATE_COUNTS];
    int64_t n = by_columns ? STATE_COLS : STATE_ROWS, start = n * rank / world, end = n * (rank + 1) / world;
    struct checkpoint_piece part = {"w", 4, "F32", {STATE_ROWS, STATE_COLS}, 0, STATE_ROWS, 0, STATE_COLS, w};
    struct checkpoint_piece whole = {"m", 4,          "F32", {STATE_ROWS, STATE_COLS}, 0, STATE_ROWS,
                                     0,   STATE_COLS, m};
    struct checkpoint_piece count = {"t", 8, "I64", {1, STATE_COUNTS}, 0, 1, 0, STATE_COUNTS, counts};
    if (by_columns)
        part.col = start, part.cols = end - start;
    else
        part.row = start, part.rows = end - start;
    for (int64_t i = 0; i < part.rows; i++)
        for (int64_t k = 0; k < part.cols; k++)
            w[i * part.cols + k] = value_of(step, 0, part.row + i, part.col + k);
    for (int64_t i = 0; i < STATE_ROWS; i++)
        for (int64_t k = 0; k < STATE_COLS; k++) m[i * STATE_COLS + k] = value_of(step, 1, i, k);
    for (int i = 0; i < STATE_COUNTS; i++) counts[i] = count_of(step, i);
    struct checkpoint_piece pieces[] = {part, whole, count};
    return checkpoint_write_shard(writer, pieces, rank == 0 ? 3 : 2, receipt);
}

/* The configuration of the run, as it were, and the adapter. */
static enum status write_extras(struct fs *fs, const struct checkpoint_writer *writer, int64_t step)
{
    char text[64], *targets[] = {"q_proj"};
    float numbers[8];
    for (int i = 0; i < 8; i++) numbers[i] = value_of(step, 2, i, 0);
    struct adapter_config config = {
        .r = 2, .lora_alpha = 4, .target_modules = targets, .n_target_modules = 1};
    struct st_item items[] = {
        {"base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight", ST_F32, 2, {2, 4}, numbers},
        {"base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight", ST_F32, 2, {4, 2}, numbers}};
    int n = snprintf(text, sizeof text, "step %lld\n", (long long)step);
    char *path = file_join(checkpoint_writer_dir(writer), "notes.txt");
    enum status status = path ? fs_write_file(fs, path, text, (size_t)n) : LORAD_NOMEM;
    if (status == LORAD_OK)
        status = adapter_write(NULL, fs, checkpoint_writer_dir(writer), &config, items, 2);
    free(path);
    return status;
}

enum status state_save(struct fs *fs, const char *output_dir, struct checkpoint_id id, int world,
                       bool by_columns)
{
    struct checkpoint_writer *writers[MAX_WORLD] = {NULL};
    struct checkpoint_receipt receipts[MAX_WORLD];
    char state[64];
    enum status status = LORAD_OK;
    snprintf(state, sizeof state, "{\"step\":%lld}", (long long)id.step);
    for (int rank = 0; rank < world && status == LORAD_OK; rank++)
        status = checkpoint_begin(&writers[rank], fs, output_dir, id, rank, world, 1000);
    for (int rank = 0; rank < world && status == LORAD_OK; rank++)
        status = write_shard(writers[rank], id.step, rank, world, by_columns, &receipts[rank]);
    if (status == LORAD_OK) status = write_extras(fs, writers[0], id.step);
    if (status == LORAD_OK) {
        status = checkpoint_commit(writers[0], receipts, world, state, NULL, NULL);
        writers[0] = NULL;
    }
    if (status == LORAD_OK)
        for (int rank = 1; rank < world; rank++) checkpoint_finish(writers[rank]);
    else
        for (int rank = world - 1; rank >= 0; rank--) checkpoint_abandon(writers[rank]);
    return status;
}

enum status state_compare(struct checkpoint *checkpoint)
{
    static const int64_t shape[2] = {STATE_ROWS, STATE_COLS}, count_shape[2] = {1, STATE_COUNTS};
    static const char *const names[] = {"w", "m"};
    float values[STATE_ROWS * STATE_COLS];
    int64_t counts[STATE_COUNTS], step = checkpoint_id_of(checkpoint).step;
    for (int t = 0; t < 2; t++) {
        TRY(checkpoint_read(checkpoint, names[t], "F32", shape, 0, STATE_ROWS, 0, STATE_COLS, values));
        for (int i = 0; i < STATE_ROWS * STATE_COLS; i++)
            if (values[i] != value_of(step, t, i / STATE_COLS, i % STATE_COLS))
                return FAIL(LORAD_BUG, "a wrong value of %s was loaded", names[t]);
    }
    TRY(checkpoint_read(checkpoint, "t", "I64", count_shape, 0, 1, 0, STATE_COUNTS, counts));
    for (int i = 0; i < STATE_COUNTS; i++)
        if (counts[i] != count_of(step, i)) return FAIL(LORAD_BUG, "a wrong count was loaded");
    if (js_int(js_get(checkpoint_state(checkpoint), "step"), -1) != step)
        return FAIL(LORAD_BUG, "the wrong state was loaded");
    return LORAD_OK;
}

enum status state_verify_dir(const char *dir)
{
    struct checkpoint *checkpoint;
    TRY(checkpoint_open(&checkpoint, dir, true));
    enum status status = state_compare(checkpoint);
    checkpoint_close(checkpoint);
    return status;
}

enum status state_verify(const char *output_dir, struct checkpoint_id id)
{
    char name[CHECKPOINT_NAME_BYTES], path[1024];
    checkpoint_id_name(id, name);
    snprintf(path, sizeof path, "%s/ckpt/%s", output_dir, name);
    return state_verify_dir(path);
}

enum status state_collect(struct fs *fs, const char *output_dir, int32_t keep, int64_t best)
{
    struct checkpoint_retention retention = {.keep = keep, .steps = {best, -1}};
    return checkpoint_collect(fs, output_dir, &retention);
}

int64_t state_left(const char *output_dir, bool committed_only)
{
    struct checkpoint_entry *entries;
    size_t n;
    int64_t steps = 0;
    if (checkpoint_list(&entries, &n, output_dir) != LORAD_OK) return -1;
    for (size_t i = n; i-- > 0;)
        if (!committed_only || entries[i].committed) steps = steps * 10 + entries[i].id.step;
    free(entries);
    return steps;
}
