#include "trainer/stage.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/memory.h"

/* ---- options ---- */

int32_t run_stages(const struct run_options *run)
{
    return run->n_stages > 0 ? run->n_stages : 1;
}

struct stage_options run_stage(const struct run_options *run, int32_t number)
{
    if (run->n_stages > 0) {
        struct stage_options stage = run->stages[number];
        stage.number = number;
        return stage;
    }
    return (struct stage_options){.name = "",
                                  .train_sources = run->train_sources,
                                  .n_train_sources = run->n_train_sources,
                                  .eval_sources = run->eval_sources,
                                  .n_eval_sources = run->n_eval_sources,
                                  .val_size = run->val_size,
                                  .mix_strategy = run->mix_strategy,
                                  .optimizer = run->optimizer,
                                  .num_train_epochs = run->num_train_epochs,
                                  .max_steps = run->max_steps,
                                  .max_tokens = run->max_tokens};
}

const char *stage_title(char buffer[128], const struct run_options *run, int32_t number)
{
    buffer[0] = '\0';
    if (run->n_stages > 0)
        snprintf(buffer, 128, "stage %d of %d, %s", number + 1, run->n_stages, run->stages[number].name);
    return buffer;
}

/* ---- rows ---- */

static enum status agree(const struct session *session, enum status status)
{
    return session->world ? comm_agree(session->world, status) : status;
}

static enum status read_shares(struct stage *stage)
{
    int32_t n = stage->options.n_train_sources;
    stage->group_weights = memory_new((size_t)n, sizeof *stage->group_weights);
    stage->group_max_epochs = memory_new((size_t)n, sizeof *stage->group_max_epochs);
    if (!stage->group_weights || !stage->group_max_epochs) return LORAD_NOMEM;
    for (int32_t i = 0; i < n; i++) {
        const struct dataset_source *source = &stage->options.train_sources[i];
        stage->group_weights[i] = source->weight > 0 ? source->weight : 1;
        stage->group_max_epochs[i] = source->max_epochs;
    }
    return LORAD_OK;
}

enum status stage_mixture(struct mixture **out, const struct stage *stage, uint64_t seed, uint64_t number)
{
    int32_t n = dataset_groups(stage->train);
    struct mixture_group *groups = memory_new((size_t)n, sizeof *groups);
    if (!groups) return LORAD_NOMEM;
    ASSERT(n == stage->options.n_train_sources);
    for (int32_t i = 0; i < n; i++) {
        struct row_range rows = dataset_group(stage->train, i);
        groups[i] = (struct mixture_group){.first_row = rows.first,
                                           .n_rows = rows.n,
                                           .weight = stage->group_weights[i],
                                           .max_epochs = stage->group_max_epochs[i]};
    }
    struct mixture_options options = {
        .strategy = stage->options.mix_strategy, .shuffle = true, .seed = seed, .stage = number};
    enum status status = mixture_create(out, groups, n, &options);
    free(groups);
    return status;
}

static enum status in_stage(enum status status, const struct run_options *run, int32_t number)
{
    char title[128];
    stage_title(title, run, number);
    return status != LORAD_OK && *title ? status_context(status, "%s", title) : status;
}

/* A mixture that cannot be is refused before anything is trained. */
static enum status check_mixture(const struct stage *stage, const struct run_options *run, int32_t number)
{
    struct mixture *mixture = NULL;
    TRY(in_stage(stage_mixture(&mixture, stage, 0, 0), run, number));
    mixture_destroy(mixture);
    return LORAD_OK;
}

/* The rows of an earlier stage that names the very same sources. */
static struct dataset *find_train(const struct stages *stages, const struct stage_options *wanted)
{
    for (int32_t i = 0; i < stages->n; i++) {
        const struct stage_options *o = &stages->all[i].options;
        if (o->train_sources == wanted->train_sources && o->val_size == wanted->val_size)
            return stages->all[i].train;
    }
    return NULL;
}

static struct dataset *find_eval(const struct stages *stages, const struct stage_options *wanted)
{
    for (int32_t i = 0; i < stages->n; i++) {
        const struct stage_options *o = &stages->all[i].options;
        bool same_files = wanted->n_eval_sources > 0 && o->eval_sources == wanted->eval_sources,
             same_split = wanted->n_eval_sources == 0 && o->n_eval_sources == 0 &&
                          o->train_sources == wanted->train_sources && o->val_size == wanted->val_size;
        if (same_files || same_split) return stages->all[i].eval;
    }
    return NULL;
}

/* Whether every dataset has a number of epochs that it may give, so that the rows can be used up. */
static bool may_run_out(const struct stage_options *stage)
{
    for (int32_t i = 0; i < stage->n_train_sources; i++)
        if (!(stage->train_sources[i].max_epochs > 0)) return false;
    return true;
}

/* Training may begin with the first rows when nothing asks for the last one: neither a length nor a
 * comparison. */
static bool may_go_on(const struct session *session, const struct stage_options *stage)
{
    const struct run_options *run = session->options;
    return run->n_stages == 0 && stage->max_steps > 0 && !may_run_out(stage) &&
           run->data_policy == DATA_REFUSE;
}

static enum status open_stage(struct stages *stages, struct session *session, int32_t number,
                              struct preparation **preparing)
{
    struct stage *stage = &stages->all[number];
    const struct stage_options options = run_stage(session->options, number), *o = &stage->options;
    struct dataset *train = find_train(stages, &options), *eval = NULL;
    bool wants_eval = data_has_eval(&options);
    if (wants_eval) eval = find_eval(stages, &options);
    *stage = (struct stage){.options = options,
                            .train = train,
                            .eval = eval,
                            .train_is_lent = train != NULL,
                            .eval_is_lent = eval != NULL};
    stages->n = number + 1; /* what it has by now is closed with it */
    TRY(agree(session, read_shares(stage)));
    if (!may_go_on(session, o)) preparing = NULL;
    if (!train) TRY(data_open(&stage->train, preparing, session, o, DATA_TRAIN));
    TRY(agree(session, check_mixture(stage, session->options, number)));
    return wants_eval && !eval ? data_open(&stage->eval, NULL, session, o, DATA_EVAL) : LORAD_OK;
}

enum status stages_open(struct stages *out, struct session *session, struct preparation **preparing)
{
    int32_t n = run_stages(session->options);
    struct stages stages = {.all = memory_new((size_t)n, sizeof *stages.all),
                            .identities = memory_new((size_t)n, sizeof *stages.identities)};
    enum status status = agree(session, stages.all && stages.identities ? LORAD_OK : LORAD_NOMEM);
    for (int32_t i = 0; status == LORAD_OK && i < n; i++) status = open_stage(&stages, session, i, preparing);
    if (status == LORAD_OK)
        *out = stages;
    else
        stages_close(&stages);
    return status;
}

void stages_close(struct stages *stages)
{
    for (int32_t i = 0; i < stages->n; i++) {
        struct stage *stage = &stages->all[i];
        if (!stage->train_is_lent) dataset_close(stage->train);
        if (!stage->eval_is_lent) dataset_close(stage->eval);
        free(stage->group_weights);
        free(stage->group_max_epochs);
        free(stage->group_hashes);
        free(stage->appends);
    }
    free(stages->identities);
    free(stages->all);
    *stages = (struct stages){0};
}

struct loader_options stage_loader(const struct stages *stages, int32_t number, const struct session *session,
                                   int64_t global_batch_size)
{
    const struct stage *stage = &stages->all[number];
    struct loader_options options = data_train_loader(session, global_batch_size);
    options.stage = (uint64_t)number;
    options.mix_strategy = stage->options.mix_strategy;
    options.group_weights = stage->group_weights;
    options.group_max_epochs = stage->group_max_epochs;
    options.appends = stage->appends;
    options.n_appends = stage->n_appends;
    return options;
}

struct loader_capacity stages_capacity(const struct stages *stages, const struct session *session)
{
    struct loader_capacity capacity = {0};
    struct loader_options eval = data_eval_loader(session);
    for (int32_t i = 0; i < stages->n; i++) {
        const struct stage *stage = &stages->all[i];
        struct loader_options train = stage_loader(stages, i, session, 1);
        capacity = data_larger(capacity, loader_capacity(stage->train, &train));
        if (stage->eval) capacity = data_larger(capacity, loader_capacity(stage->eval, &eval));
    }
    return capacity;
}

/* ---- lengths ---- */

static enum status measure_stage(struct stages *stages, int32_t number, const struct session *session,
                                 int64_t global_batch_size)
{
    struct stage *stage = &stages->all[number];
    const struct stage_options *o = &stage->options;
    struct loader_options loader = stage_loader(stages, number, session, global_batch_size);
    struct run_length length = {.steps = o->max_steps};
    if (o->max_tokens > 0)
        TRY(loader_measure_tokens(&length, stage->train, &loader, o->max_tokens));
    else if (o->max_steps <= 0)
        TRY(loader_measure(&length, stage->train, &loader, o->num_train_epochs + stage->n_appends));
    else if (may_run_out(o))
        TRY(loader_measure(&length, stage->train, &loader, MIXTURE_MOST_EPOCHS));
    if (o->max_steps > 0 && length.steps < o->max_steps)
        log_warn("max_steps is %lld, but the datasets are used up after %lld steps: each has its `epochs`",
                 (long long)o->max_steps, (long long)length.steps);
    stage->steps = o->max_steps > 0 && length.steps > o->max_steps ? o->max_steps : length.steps;
    return LORAD_OK;
}

enum status stages_measure(struct stages *stages, const struct session *session, int64_t global_batch_size)
{
    for (int32_t i = 0; i < stages->n; i++)
        TRY(in_stage(measure_stage(stages, i, session, global_batch_size), session->options, i));
    return LORAD_OK;
}

int64_t stages_total_steps(const struct stages *stages, const struct stage_state *state)
{
    int64_t steps = state->first_step;
    for (int32_t i = state->number; i < stages->n; i++) steps += stages->all[i].steps;
    return steps;
}

/* ---- identity ---- */

/* Reading the tables of rows of very large data at every start is paid only by runs that may need it. */
static enum status hash_groups(struct stage *stage, bool may_grow)
{
    enum { ALWAYS_HASHED_ROWS = 1 << 20 };
    if (stage->group_hashes || !dataset_complete(stage->train)) return LORAD_OK;
    if (!may_grow && dataset_raw_rows(stage->train) > ALWAYS_HASHED_ROWS) return LORAD_OK;
    int32_t n = stage->options.n_train_sources;
    stage->group_hashes = memory_new((size_t)n, sizeof *stage->group_hashes);
    if (!stage->group_hashes) return LORAD_NOMEM;
    for (int32_t g = 0; g < n; g++) {
        struct row_range range = dataset_group(stage->train, g);
        stage->group_hashes[g] = dataset_rows_fingerprint(stage->train, range.first, range.n);
    }
    return LORAD_OK;
}

enum status stages_identify(struct run_identity *identity, struct stages *stages, bool may_grow)
{
    for (int32_t i = 0; i < stages->n; i++) {
        struct stage *stage = &stages->all[i];
        TRY(hash_groups(stage, may_grow));
        stages->identities[i] = (struct stage_identity){.name = stage->options.name,
                                                        .rows = stage->train,
                                                        .mix_strategy = stage->options.mix_strategy,
                                                        .sources = stage->options.train_sources,
                                                        .weights = stage->group_weights,
                                                        .max_epochs = stage->group_max_epochs,
                                                        .hashes = stage->group_hashes,
                                                        .n_groups = stage->options.n_train_sources,
                                                        .may_grow = may_grow};
    }
    identity->stages = stages->identities;
    identity->n_stages = stages->n;
    return LORAD_OK;
}

/* ---- rows added to a run ---- */

/* How many rows the stage has gained over what the checkpoint says; 0: none. */
static int64_t rows_gained(const struct stage *stage, const struct stage_state *state)
{
    int64_t gained = 0;
    if (state->n_groups > MOST_APPEND_GROUPS) return 0; /* such a run is not allowed to grow */
    for (int32_t g = 0; g < stage->options.n_train_sources; g++)
        gained += dataset_group(stage->train, g).n - (g < state->n_groups ? state->group_rows[g] : 0);
    return gained;
}

static enum status journal_append(struct stage_state *state, struct data_cursor cursor)
{
    int64_t epoch = data_cursor_append_epoch(cursor);
    bool again = state->n_appends > 0 && state->appends[state->n_appends - 1].epoch == epoch;
    if (again) return LORAD_OK; /* nothing was trained in between: one epoch holds the rows of both */
    if (state->n_appends == MOST_APPENDS)
        return FAIL(LORAD_CONFIG,
                    "data_policy: rows can be added %d times to a run; go on in a new one with "
                    "adapter_name_or_path",
                    MOST_APPENDS);
    struct append_record *append = &state->appends[state->n_appends++];
    *append = (struct append_record){.epoch = epoch, .n_groups = state->n_groups};
    memcpy(append->old_rows, state->group_rows, (size_t)state->n_groups * sizeof *append->old_rows);
    return LORAD_OK;
}

enum status stages_append(struct stages *stages, struct run_state *state)
{
    struct stage_state *s = &state->stage;
    struct stage *stage = &stages->all[s->number];
    int64_t gained = rows_gained(stage, s);
    if (gained > 0) {
        TRY(journal_append(s, state->cursor));
        log_info("%lld rows were added: epoch %lld holds them, then epochs go over all rows",
                 (long long)gained, (long long)s->appends[s->n_appends - 1].epoch + 1);
    }
    stage->appends = memory_new((size_t)s->n_appends + 1, sizeof *stage->appends);
    if (!stage->appends) return LORAD_NOMEM;
    for (int32_t i = 0; i < s->n_appends; i++)
        stage->appends[i] = (struct mixture_append){s->appends[i].epoch, s->appends[i].old_rows};
    stage->n_appends = s->n_appends;
    return LORAD_OK;
}

/* ---- the rules ---- */

enum stage_end stage_end(const struct stage *stage, const struct run_state *state, int32_t patience)
{
    const struct stage_state *s = &state->stage;
    const struct promotion *promote = &stage->options.promote;
    if (promote->eval_loss_below > 0 && s->has_loss && s->last_loss < promote->eval_loss_below)
        return STAGE_EVAL_LOSS;
    if (promote->plateau_evaluations > 0 && s->evaluations_on_plateau >= promote->plateau_evaluations)
        return STAGE_PLATEAU;
    if (patience > 0 && state->evaluations_without_gain >= patience) return STAGE_EARLY_STOPPING;
    return s->spent || state->step - s->first_step >= stage->steps ? STAGE_LENGTH : STAGE_GOES_ON;
}

void stage_end_text(struct strbuf *out, enum stage_end end, const struct stage *stage,
                    const struct run_state *state)
{
    const struct stage_state *s = &state->stage;
    const struct promotion *promote = &stage->options.promote;
    switch (end) {
    case STAGE_EVAL_LOSS:
        strbuf_printf(out, "eval_loss %.4f is below %g", s->last_loss, promote->eval_loss_below);
        break;
    case STAGE_PLATEAU:
        strbuf_printf(out, "%d evaluations without a gain of more than %g in eval_loss",
                      s->evaluations_on_plateau, promote->min_delta);
        break;
    case STAGE_EARLY_STOPPING:
        strbuf_printf(out, "%d evaluations without a better metric", state->evaluations_without_gain);
        break;
    default:
        if (s->spent && state->step - s->first_step < stage->steps)
            strbuf_puts(out, "every dataset has given the epochs it may give: ");
        strbuf_printf(out, "its %lld steps are done", (long long)(state->step - s->first_step));
    }
}

void stage_note_evaluation(struct stage_state *state, const struct promotion *promote, double eval_loss)
{
    bool number = eval_loss == eval_loss && eval_loss < 1e300; /* NaN and infinity promote nothing */
    bool gained = number && (!state->has_level || eval_loss < state->level - promote->min_delta);
    state->has_loss = number;
    state->last_loss = number ? eval_loss : 0;
    state->evaluations_on_plateau = gained ? 0 : state->evaluations_on_plateau + 1;
    if (!gained) return;
    state->has_level = true;
    state->level = eval_loss;
}

void stage_leave(struct run_state *state, const struct stage *stage, enum stage_end end)
{
    struct stage_state *s = &state->stage;
    struct stage_record *record = &s->done[s->number++];
    *record = (struct stage_record){.first_step = s->first_step,
                                    .last_step = state->step,
                                    .end = end,
                                    .has_loss = s->has_loss,
                                    .eval_loss = s->last_loss};
    snprintf(record->name, sizeof record->name, "%s", stage->options.name);
    s->first_step = state->step;
    s->n_appends = s->n_groups = 0;
    s->has_loss = s->has_level = s->spent = false;
    s->last_loss = s->level = 0;
    s->evaluations_on_plateau = 0;
    state->cursor = (struct data_cursor){0};
    state->epoch = 0;
    state->has_best = false;
    state->best_step = -1;
    state->evaluations_without_gain = 0;
}
