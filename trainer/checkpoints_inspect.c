/* checkpoints_inspect.c: what is in one checkpoint. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "comm/coord.h"
#include "trainer/checkpoints_impl.h"
#include "trainer/state.h"

enum { MOST_GROUPS = 16, GROUP_NAME_BYTES = 48, MOST_CONFIG_BYTES = 1 << 20 };

/* Tensors whose names begin alike: a vector of the optimizer, or the master weights. */
struct group {
    char name[GROUP_NAME_BYTES];
    int64_t tensors, raw_bytes, packed_bytes;
};

struct viewing {
    char *dir;
    struct checkpoint *checkpoint;
    const struct json *state;
    struct checkpoint_contents contents;
    struct group groups[MOST_GROUPS];
    int n_groups;
    bool is_void;
    char *run_name;
    struct strbuf problems, differences;
    int damaged; /* newer ones that were passed over */
};

/* ---- finding it ---- */

static enum status find(struct viewing *in, const char *path, bool verify)
{
    char name[CHECKPOINT_NAME_BYTES], *ckpt = file_join(path, "ckpt"),
                                      *manifest = file_join(path, "MANIFEST.json");
    enum status status = ckpt && manifest ? LORAD_OK : LORAD_NOMEM;
    if (status == LORAD_OK && !file_is_dir(path))
        status = FAIL(LORAD_NOT_FOUND, "there is no folder %s", path);
    if (status == LORAD_OK && file_is_dir(ckpt) && !file_exists(manifest)) {
        status = checkpoints_newest(name, &in->damaged, path, verify);
        if (status == LORAD_OK && !(in->dir = file_join(ckpt, name))) status = LORAD_NOMEM;
    } else if (status == LORAD_OK && !(in->dir = realpath(path, NULL))) {
        status = FAIL(LORAD_NOT_FOUND, "there is no folder %s", path);
    }
    free(ckpt);
    free(manifest);
    return status;
}

/* Void or not is known where the checkpoint still lies in its output_dir. */
static enum status ask_void(struct viewing *in)
{
    struct checkpoint_id id = checkpoint_id_of(in->checkpoint);
    char *output_dir = memory_string(in->dir);
    if (!output_dir) return LORAD_NOMEM;
    enum status status = LORAD_OK;
    char *slash = strrchr(output_dir, '/');
    if (slash) *slash = '\0';
    char *parent = slash ? strrchr(output_dir, '/') : NULL;
    if (parent && strcmp(parent, "/ckpt") == 0) {
        *parent = '\0';
        status = coord_is_fenced(&in->is_void, output_dir, id.step, id.epoch);
    }
    free(output_dir);
    return status;
}

static void add_to_group(struct viewing *in, const struct checkpoint_tensor *tensor)
{
    const char *end = strstr(tensor->name, ".model.");
    int length = (int)(end ? (size_t)(end - tensor->name) : strlen(tensor->name)), i = 0;
    char name[GROUP_NAME_BYTES];
    snprintf(name, sizeof name, "%.*s", length, tensor->name);
    while (i < in->n_groups && strcmp(in->groups[i].name, name) != 0) i++;
    if (i == MOST_GROUPS) i--; /* the last one takes what is too much */
    if (i == in->n_groups) memcpy(in->groups[in->n_groups++].name, name, sizeof name);
    in->groups[i].tensors++;
    in->groups[i].raw_bytes += tensor->raw_bytes;
    in->groups[i].packed_bytes += tensor->packed_bytes;
}

static enum status compare_config(struct viewing *in, const char *config_text)
{
    char *path = file_join(in->dir, "lorad.yaml"), *was = NULL;
    size_t length;
    if (!path) return LORAD_NOMEM;
    enum status status = file_read(&was, &length, path, MOST_CONFIG_BYTES);
    if (status == LORAD_OK) run_config_differences(&in->differences, was, config_text);
    free(was);
    free(path);
    return status;
}

static enum status look(struct viewing *in, const struct checkpoints_view *options)
{
    struct checkpoint_tensor tensor;
    TRY(checkpoint_open(&in->checkpoint, in->dir, false));
    in->state = checkpoint_state(in->checkpoint);
    checkpoint_describe(in->checkpoint, &in->contents);
    for (size_t at = 0; checkpoint_next_tensor(in->checkpoint, &at, &tensor);) add_to_group(in, &tensor);
    TRY(ask_void(in));
    TRY(checkpoints_config_value(&in->run_name, in->dir, "run_name"));
    return options->config_text ? compare_config(in, options->config_text) : LORAD_OK;
}

/* ---- telling ---- */

static int64_t number(const struct json *object, const char *key)
{
    return js_int(js_get(object, key), 0);
}

static void label(struct strbuf *out, const char *name)
{
    strbuf_printf(out, "%-12s ", name);
}

static void put_size(struct strbuf *out, int64_t raw, int64_t packed)
{
    char a[SIZE_TEXT_BYTES], b[SIZE_TEXT_BYTES];
    strbuf_printf(out, "%9s in %9s, %4.1f %%\n", size_text(a, raw), size_text(b, packed),
                  raw ? 100.0 * (double)packed / (double)raw : 100.0);
}

static void put_sizes(struct strbuf *out, const struct viewing *in)
{
    char size[SIZE_TEXT_BYTES], other[SIZE_TEXT_BYTES];
    const struct checkpoint_contents *c = &in->contents;
    label(out, "size");
    strbuf_printf(out, "%s in %zu files: %d shards; adapter and configuration %s\n",
                  size_text(size, c->total_bytes), c->n_files, c->world, size_text(other, c->other_bytes));
    label(out, "tensors");
    put_size(out, c->raw_bytes, c->shard_bytes);
    for (int i = 0; i < in->n_groups; i++) {
        const struct group *g = &in->groups[i];
        strbuf_printf(out, "  %-10s ", g->name);
        strbuf_printf(out, "%lld tensors, ", (long long)g->tensors);
        put_size(out, g->raw_bytes, g->packed_bytes);
    }
}

static void put_layout(struct strbuf *out, const struct viewing *in)
{
    const struct json *layout = js_get(in->state, "layout");
    const char *device = js_string(js_get(layout, "device"), NULL),
               *collectives = js_string(js_get(layout, "collectives"), NULL);
    label(out, "written");
    strbuf_printf(out, "%s by %d rank%s", in->contents.created_utc, in->contents.world,
                  in->contents.world == 1 ? "" : "s");
    if (layout)
        strbuf_printf(out, " (TP %lld%s x DP %lld)", (long long)number(layout, "tensor_parallel_size"),
                      js_bool(js_get(layout, "sequence_parallel"), false) ? " by rows" : "",
                      (long long)number(layout, "data_parallel_size"));
    if (device) strbuf_printf(out, " on %s", device);
    if (collectives && in->contents.world > 1) strbuf_printf(out, ", collectives by %s", collectives);
    strbuf_putc(out, '\n');
}

static void put_adapter(struct strbuf *out, const struct json *identity)
{
    const char *precision = js_string(js_get(identity, "precision"), NULL),
               *template_name = js_string(js_get(identity, "template"), NULL);
    if (!identity) return;
    label(out, "adapter");
    strbuf_printf(out, "rank %lld, alpha %g%s, %.2f M parameters, %s, template %s\n",
                  (long long)number(identity, "lora_rank"), js_real(js_get(identity, "lora_alpha"), 0),
                  js_bool(js_get(identity, "use_rslora"), false) ? " (rslora)" : "",
                  (double)number(identity, "lora_parameters") * 1e-6, precision ? precision : "?",
                  template_name ? template_name : "?");
}

static void put_stages(struct strbuf *out, const struct json *state)
{
    const struct json *stage = js_get(state, "stage"), *done = js_get(stage, "done");
    for (size_t i = 0; i < js_length(done); i++) {
        const struct json *record = js_at(done, i);
        const char *name = js_string(js_get(record, "name"), NULL),
                   *end = js_string(js_get(record, "end"), NULL);
        label(out, "stage");
        strbuf_printf(out, "%zu %s: steps %lld to %lld, ended by %s", i + 1, name ? name : "",
                      (long long)number(record, "first_step"), (long long)number(record, "last_step"),
                      end ? end : "?");
        if (js_get(record, "eval_loss"))
            strbuf_printf(out, ", eval_loss %g", js_real(js_get(record, "eval_loss"), 0));
        strbuf_putc(out, '\n');
    }
    if (js_length(done) == 0) return;
    label(out, "stage");
    strbuf_printf(out, "%lld in progress since step %lld\n", (long long)number(stage, "number") + 1,
                  (long long)number(stage, "first_step"));
}

static void put_progress(struct strbuf *out, const struct json *state)
{
    const struct json *cursor = js_get(state, "cursor");
    label(out, "trained");
    strbuf_printf(out,
                  "step %lld of %lld, epoch %.2f; %lld tokens, %lld of them supervised; %lld steps skipped\n",
                  (long long)number(state, "step"), (long long)number(state, "total_steps"),
                  js_real(js_get(state, "epoch"), 0), (long long)number(state, "tokens"),
                  (long long)number(state, "supervised_tokens"), (long long)number(state, "skipped_steps"));
    label(out, "next rows");
    strbuf_printf(out, "epoch %lld, window %lld, pack %lld; global batch %lld\n",
                  (long long)number(cursor, "epoch"), (long long)number(cursor, "window"),
                  (long long)number(cursor, "pack"), (long long)number(state, "global_batch_size"));
    put_stages(out, state);
    if (js_get(state, "best_metric")) {
        label(out, "best");
        strbuf_printf(out, "step %lld, %g; %lld evaluations without gain since\n",
                      (long long)number(state, "best_step"), js_real(js_get(state, "best_metric"), 0),
                      (long long)number(state, "evaluations_without_gain"));
    }
    const struct json *scale = js_get(state, "loss_scale");
    if (scale) {
        label(out, "loss scale");
        strbuf_printf(out, "%.0f; %lld steps without an overflow\n", js_real(js_get(scale, "value"), 0),
                      (long long)number(scale, "good_steps"));
    }
    if (js_bool(js_get(state, "evaluation_owed"), false)) {
        label(out, "owed");
        strbuf_puts(out, "an evaluation of this step comes first when the run goes on\n");
    }
    const struct json *overrides = js_get(state, "overrides");
    if (js_length(overrides) > 0) {
        label(out, "changed live");
        js_write_value(out, overrides);
        strbuf_putc(out, '\n');
    }
}

static void put_verified(struct strbuf *out, const struct viewing *in)
{
    char size[SIZE_TEXT_BYTES];
    label(out, "verified");
    if (in->problems.length)
        strbuf_printf(out, "DAMAGED\n%s", strbuf_text(&in->problems));
    else
        strbuf_printf(out, "OK: %zu files, %s of tensors read and compared with their hashes\n",
                      in->contents.n_files, size_text(size, in->contents.raw_bytes));
}

static void put_tensors(struct strbuf *out, const struct viewing *in)
{
    struct checkpoint_tensor tensor;
    strbuf_puts(out, "\n");
    for (size_t at = 0; checkpoint_next_tensor(in->checkpoint, &at, &tensor);)
        strbuf_printf(out, "%-4s [%lld, %lld] in %d piece%s, %lld of %lld bytes: %s\n", tensor.dtype,
                      (long long)tensor.shape[0], (long long)tensor.shape[1], tensor.pieces,
                      tensor.pieces == 1 ? "" : "s", (long long)tensor.packed_bytes,
                      (long long)tensor.raw_bytes, tensor.name);
}

static void put_text(struct strbuf *out, const struct viewing *in, const struct checkpoints_view *options)
{
    struct checkpoint_id id = checkpoint_id_of(in->checkpoint);
    label(out, "checkpoint");
    strbuf_printf(out, "%s%s\n", in->dir, in->is_void ? " (VOID: a later start went on from before it)" : "");
    if (in->damaged) {
        label(out, "");
        strbuf_printf(out, "%d newer one%s cannot be used: lorad checkpoints says why\n", in->damaged,
                      in->damaged == 1 ? "" : "s");
    }
    label(out, "run");
    strbuf_printf(out, "%s, start %lld, attempt %d\n", in->run_name ? in->run_name : "(no run_name)",
                  (long long)id.epoch, id.attempt);
    put_layout(out, in);
    put_sizes(out, in);
    put_progress(out, in->state);
    put_adapter(out, js_get(in->state, "identity"));
    if (options->config_text) {
        label(out, "config");
        strbuf_printf(out, "%s\n",
                      in->differences.length ? strbuf_text(&in->differences)
                                             : "the same as the one it was made with");
    }
    if (options->verify) put_verified(out, in);
    if (options->tensors) put_tensors(out, in);
}

static void put_json(struct strbuf *out, const struct viewing *in, const struct checkpoints_view *options)
{
    struct checkpoint_id id = checkpoint_id_of(in->checkpoint);
    const struct checkpoint_contents *c = &in->contents;
    struct checkpoint_tensor tensor;
    strbuf_puts(out, "{\"path\":");
    js_write_string(out, in->dir, strlen(in->dir));
    strbuf_printf(
        out,
        ",\"step\":%lld,\"start\":%lld,\"attempt\":%d,\"void\":%s,\"created_utc\":\"%s\",\"world\":%d,"
        "\"files\":%zu,\"bytes\":%lld,\"raw_bytes\":%lld,\"shard_bytes\":%lld,\"groups\":[",
        (long long)id.step, (long long)id.epoch, id.attempt, in->is_void ? "true" : "false", c->created_utc,
        c->world, c->n_files, (long long)c->total_bytes, (long long)c->raw_bytes, (long long)c->shard_bytes);
    for (int i = 0; i < in->n_groups; i++) {
        strbuf_puts(out, i ? ",{\"name\":" : "{\"name\":");
        js_write_string(out, in->groups[i].name, strlen(in->groups[i].name));
        strbuf_printf(out, ",\"tensors\":%lld,\"raw_bytes\":%lld,\"bytes\":%lld}",
                      (long long)in->groups[i].tensors, (long long)in->groups[i].raw_bytes,
                      (long long)in->groups[i].packed_bytes);
    }
    strbuf_puts(out, "],\"state\":");
    js_write_value(out, in->state);
    if (options->tensors) strbuf_puts(out, ",\"tensors\":[");
    size_t at = 0;
    for (bool first = true; options->tensors && checkpoint_next_tensor(in->checkpoint, &at, &tensor);
         first = false) {
        strbuf_puts(out, first ? "{\"name\":" : ",{\"name\":");
        js_write_string(out, tensor.name, strlen(tensor.name));
        strbuf_printf(
            out, ",\"dtype\":\"%s\",\"shape\":[%lld,%lld],\"pieces\":%d,\"raw_bytes\":%lld,\"bytes\":%lld}",
            tensor.dtype, (long long)tensor.shape[0], (long long)tensor.shape[1], tensor.pieces,
            (long long)tensor.raw_bytes, (long long)tensor.packed_bytes);
    }
    if (options->tensors) strbuf_putc(out, ']');
    if (options->config_text) {
        strbuf_puts(out, ",\"config_differences\":");
        js_write_string(out, strbuf_text(&in->differences), in->differences.length);
    }
    strbuf_puts(out, options->verify ? ",\"verified\":true}\n" : "}\n");
}

static void put_json_failure(struct strbuf *out, const struct viewing *in)
{
    strbuf_puts(out, "{\"path\":");
    js_write_string(out, in->dir, strlen(in->dir));
    strbuf_puts(out, ",\"damaged\":");
    js_write_string(out, strbuf_text(&in->problems), in->problems.length);
    strbuf_puts(out, "}\n");
}

enum status checkpoints_inspect(struct strbuf *out, const char *path, const struct checkpoints_view *options)
{
    struct viewing in = {.problems = STRBUF_EMPTY, .differences = STRBUF_EMPTY};
    enum status status = find(&in, path, options->verify);
    /* First, since a damaged one may not open. */
    if (status == LORAD_OK && options->verify) status = checkpoint_examine(&in.problems, in.dir);
    if (status == LORAD_DATA && in.problems.length && options->json) put_json_failure(out, &in);
    if (status == LORAD_DATA && in.problems.length && !options->json) put_verified(out, &in);
    if (status == LORAD_OK) status = look(&in, options);
    if (status == LORAD_OK && options->json) put_json(out, &in, options);
    if (status == LORAD_OK && !options->json) put_text(out, &in, options);
    if (status == LORAD_OK) status = strbuf_status(out);
    checkpoint_close(in.checkpoint);
    strbuf_free(&in.problems);
    strbuf_free(&in.differences);
    free(in.run_name);
    free(in.dir);
    return status;
}
