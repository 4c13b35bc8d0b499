/*
 * run.c: a run from start to adapter. Read run_all first: one call a line. This room owns everything a run
 * owns and is the only one that decides to stop.
 *
 * Invariants:
 *  1. Every branch that changes the order of collectives depends on agreed values only: the configuration,
 *     the order of the data, and what step_finish gathered.
 *  2. A run that ends because it was asked to has committed its last step.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "trainer/batch_size.h"
#include "trainer/data.h"
#include "trainer/output_dir.h"
#include "trainer/request.h"
#include "trainer/run_impl.h"
#include "trainer/schedule.h"

/* ---- start ---- */

/* Whether the earlier starts of a job that is started again have committed a checkpoint. */
static enum status find_own(int64_t *has_own, struct coord *coord, const char *output_dir)
{
    int64_t began;
    TRY(coord_job_began(&began, coord));
    struct run_committed committed = run_committed(output_dir);
    *has_own = committed.step >= 0 && committed.epoch >= began;
    return LORAD_OK;
}

static enum status coordinate(struct run *run)
{
    struct run_job job = run_job();
    struct coord_options options = {.output_dir = run->options->output_dir,
                                    .run_name = run->options->run_name,
                                    .job_id = job.id,
                                    .restart_count = job.start,
                                    .redis_url = run->options->redis_url,
                                    .redis_prefix = run->options->redis_prefix};
    enum status status = LORAD_OK;
    struct {
        int64_t epoch, restart, has_own;
    } agreed = {0};
    if (run_is_first(run)) {
        status = output_dir_prepare(run->options);
        if (status == LORAD_OK)
            status = coord_join(&run->coord, &options, output_dir_last_epoch(run->options));
        if (status == LORAD_OK) status = output_dir_check(run->options, job.requeued);
        if (status == LORAD_OK) agreed.epoch = coord_epoch(run->coord);
        agreed.restart = job.requeued;
        if (status == LORAD_OK && job.requeued)
            status = find_own(&agreed.has_own, run->coord, run->options->output_dir);
    }
    TRY(comm_agree(run->session.world, status));
    TRY(comm_host_broadcast(run->session.world, &agreed, sizeof agreed, 0));
    run->is_restart = agreed.restart;
    run->has_own = agreed.has_own;
    run->saver = (struct saver){.session = &run->session,
                                .coord = run->coord,
                                .fs = fs_posix(),
                                .output_dir = run->options->output_dir,
                                .epoch = agreed.epoch,
                                .last_saved_step = -1,
                                .last_failed_step = -1};
    TRY(teller_open(&run->teller, run->coord, &run->session, &run->state));
    run->teller.straggler = run->straggler;
    run->commands = (struct commands){.coord = run->coord,
                                      .world = run->session.world,
                                      .teller = &run->teller,
                                      .state = &run->state,
                                      .place = {run->configured, &run->live, &run->stages}};
    return commands_open(&run->commands);
}

enum status run_choose_rates(struct run *run)
{
    optimizer_destroy(run->optimizer);
    run->optimizer = NULL;
    TRY(optimizer_create(&run->optimizer, run->session.lora, &run_stage_now(run)->options.optimizer));
    run->step.optimizer = run->optimizer;
    return LORAD_OK;
}

/* The same on all ranks: what the one with the least memory holds. */
static enum status find_batch_size(struct run *run)
{
    struct session *session = &run->session;
    struct plan_request request = session_plan_request(session);
    enum status status = lora_create(&session->lora, &session->lora_options, &session->arch, &session->part);
    if (status == LORAD_OK) status = batch_size_choose(session, &run->stages, &request);
    lora_destroy(session->lora);
    session->lora = NULL;
    TRY(comm_agree(session->world, status));
    TRY(comm_host_all_reduce(session->world, &session->micro_batch_size, 1, DTYPE_I32, COMM_MIN));
    log_info("auto_find_batch_size: per_device_train_batch_size %d", (int)session->micro_batch_size);
    return LORAD_OK;
}

static enum status load_model(struct run *run)
{
    if (run->options->auto_find_batch_size) TRY(find_batch_size(run));
    struct loader_capacity capacity = stages_capacity(&run->stages, &run->session);
    TRY(session_load(&run->session, capacity, run->options->adapter_dir, SESSION_TRAIN));
    log_info("%s: %.1f M parameters frozen, %.2f M trained (r %d, alpha %g)", run->session.arch.family,
             (double)arch_parameters(&run->session.arch) * 1e-6, (double)run->session.lora->parameters * 1e-6,
             run->session.lora->rank, run->session.lora->alpha);
    replay_init(&run->replay, model_can_replay(run->session.model), run->options->cuda_graphs);
    run->step = (struct step_context){.model = run->session.model,
                                      .adapter = run->session.adapter,
                                      .world = run->session.world,
                                      .arch = &run->session.arch,
                                      .part = &run->session.part,
                                      .seed = run->options->seed,
                                      .replay = &run->replay,
                                      .gate = saver_gate,
                                      .gate_context = &run->saver};
    TRY(run_choose_rates(run));
    return step_prepare(&run->step);
}

/* How many gradients a step adds up at most, and, after a resume, in which units. */
static enum status prepare_sums(struct run *run)
{
    struct fixed_sums *sums = run->session.adapter->sums;
    int64_t packs = run->session.micro_batch_size;
    if (!sums) {
        run->state.scales.n = 0;
        return LORAD_OK;
    }
    fixed_sums_set_addends(sums, (run->state.global_batch_size + packs - 1) / packs * run->session.part.tp);
    return fixed_sums_restore(sums, &run->state.scales);
}

/* fp16 alone has one: the checkpoint's, or the first. */
static void prepare_loss_scale(struct run *run)
{
    struct loss_scale *scale = &run->state.loss_scale;
    if (run->session.model_options.dtype != DTYPE_F16)
        *scale = (struct loss_scale){0};
    else if (!loss_scale_in_use(scale))
        *scale = loss_scale_first(&run->options->loss_scale);
    run->step.loss_scale = loss_scale_in_use(scale) ? scale : NULL;
}

/* Before anything of output_dir is changed. Collective. */
static enum status check_owner(const struct run *run)
{
    return comm_agree(run->session.world, run->coord ? coord_check_owner(run->coord) : LORAD_OK);
}

/* What earlier starts in this output_dir may still commit is void. Collective. */
static enum status begin_anew(const struct run *run)
{
    return comm_agree(run->session.world, run->coord ? coord_record_resume(run->coord, 0, 0, "") : LORAD_OK);
}

/* A new run's state, or the newest good checkpoint's. */
static enum status begin_or_resume(struct run *run)
{
    const struct run_options *o = run->options;
    const char *resume = o->resume_from_checkpoint;
    bool found = false;
    if (run->is_restart && (!resume || run->has_own)) resume = "auto";
    TRY(check_owner(run));
    TRY(comm_agree(run->session.world, run_is_first(run) ? output_dir_clear(o, run->is_restart) : LORAD_OK));
    /* A checkpoint may know the rows by their contents, so these have to be known. */
    if (resume && (strcmp(resume, "auto") != 0 || output_dir_last_epoch(o) > 0))
        TRY(preparing_wait(&run->preparing, &run->session, DATA_TRAIN));
    run_identity_make(&run->identity, &run->session);
    TRY(comm_agree(run->session.world,
                   stages_identify(&run->identity, &run->stages, o->data_policy == DATA_APPEND)));
    if (resume)
        TRY(saver_restore(&run->saver, strcmp(resume, "auto") == 0 ? NULL : resume, &run->state,
                          &run->identity, &found));
    run->resumed = found;
    if (found) TRY(stages_append(&run->stages, &run->state));
    if (found) overrides_replay(&run->commands.place, &run->state);
    if (found && o->global_batch_size > 0 && o->global_batch_size != run->state.global_batch_size)
        return FAIL(LORAD_CONFIG,
                    "global_batch_size is %lld, but the run to be continued has %lld: its order of rows "
                    "depends on it. "
                    "Restore the old value, or start fresh with another output_dir",
                    (long long)o->global_batch_size, (long long)run->state.global_batch_size);
    if (!found) {
        run->state = (struct run_state){.best_step = -1};
        run->state.global_batch_size = o->global_batch_size > 0
                                           ? o->global_batch_size
                                           : (int64_t)o->per_device_train_batch_size *
                                                 o->gradient_accumulation_steps * run->session.part.dp;
        if (resume) log_info("no checkpoint in %s yet: starting from the beginning", o->output_dir);
        TRY(begin_anew(run));
    }
    prepare_loss_scale(run);
    return prepare_sums(run);
}

/* Lengths are known once the global batch is. */
static enum status plan_steps(struct run *run)
{
    TRY(stages_measure(&run->stages, &run->session, run->state.global_batch_size));
    run->state.total_steps = stages_total_steps(&run->stages, &run->state.stage);
    return LORAD_OK;
}

static enum status open_logs(struct run *run)
{
    enum status status = run->coord ? coord_check_owner(run->coord) : LORAD_OK;
    if (status == LORAD_OK && run_is_first(run)) {
        status = metrics_open(&run->metrics,
                              &(struct metrics_options){.output_dir = run->options->output_dir,
                                                        .resume_bytes = run->state.metrics_bytes,
                                                        .resume_step = run->state.step,
                                                        .tensorboard = run->options->report_tensorboard,
                                                        .coord = run->coord});
        if (status == LORAD_OK)
            status = progress_open(&run->progress, run->options->progress, run->state.step,
                                   run->state.total_steps);
    }
    run->teller.saved_step = run->saver.last_saved_step;
    teller_event(&run->teller, run->resumed ? "resumed" : "started", "step %lld of %lld",
                 (long long)run->state.step, (long long)run->state.total_steps);
    return comm_agree(run->session.world, status);
}

/* ---- a stage ---- */

static void announce_stage(const struct run *run)
{
    const struct stage *stage = run_stage_now(run);
    char title[128];
    int64_t done = run->state.step - run->state.stage.first_step;
    stage_title(title, run->options, run->state.stage.number);
    log_info("%s%s%lld steps of %lld %s (%lld warm-up), starting at step %lld", title, *title ? ": " : "",
             (long long)stage->steps, (long long)run->state.global_batch_size,
             run->options->packing ? "packs" : "rows",
             (long long)schedule_warmup(&stage->options.optimizer, stage->steps), (long long)done);
}

static enum status open_loader(struct run *run)
{
    struct loader_options options =
        stage_loader(&run->stages, run->state.stage.number, &run->session, run->state.global_batch_size);
    return loader_open(&run->loader, run_stage_now(run)->train, &options, run->state.cursor);
}

static enum status open_stage(struct run *run)
{
    announce_stage(run);
    TRY(run_choose_rates(run));
    run->waited_seconds = 0;
    return open_loader(run);
}

/* Journals why the stage ended; the next checkpoint says so. */
static void next_stage(struct run *run)
{
    struct strbuf why = STRBUF_EMPTY;
    char title[128];
    stage_end_text(&why, run->over, run_stage_now(run), &run->state);
    stage_title(title, run->options, run->state.stage.number);
    log_info("%s ended at step %lld: %s", title, (long long)run->state.step, strbuf_text(&why));
    teller_event(&run->teller, "stage", "%s ended: %s", title, strbuf_text(&why));
    strbuf_free(&why);
    stage_leave(&run->state, run_stage_now(run), run->over);
    run->state.total_steps = stages_total_steps(&run->stages, &run->state.stage);
}

/* ---- one step ---- */

/* Once all rows are there, they are known by their contents. */
static enum status follow_preparing(struct run *run)
{
    if (!run->preparing) return LORAD_OK;
    TRY(preparing_poll(&run->preparing, &run->session, DATA_TRAIN));
    return run->preparing ? LORAD_OK : stages_identify(&run->identity, &run->stages, false);
}

static struct step_targets targets_of(const struct step_info *info)
{
    return (struct step_targets){.tokens = info->supervised_tokens, .weight = info->loss_weight};
}

/* The micro-batches of the step in hand, which begins with the next one. */
static enum status accumulate_step(struct run *run, struct step_info *info)
{
    TRY(loader_next_step(run->loader, info));
    TRY(step_begin(&run->step, targets_of(info)));
    run->last_row = -1;
    for (int32_t i = 0; i < info->my_micro_batches; i++) {
        struct micro_batch batch;
        TRY(loader_next(run->loader, &batch));
        TRY(step_accumulate(&run->step, &batch, run->state.step));
        if (batch.n_sequences > 0) run->last_row = batch.row_ids[batch.n_sequences - 1];
    }
    return LORAD_OK;
}

/* Back to the first micro-batch of the step in hand. Rare: first steps, and gradients that jump. */
static enum status rewind_step(struct run *run)
{
    log_info("step %lld is computed again in other units", (long long)run->state.step + 1);
    run->waited_seconds -= loader_wait_seconds(run->loader);
    loader_close(run->loader);
    run->loader = NULL;
    return open_loader(run);
}

static enum status train_step(struct run *run, struct step_info *info, struct step_result *result)
{
    const struct stage *stage = run_stage_now(run);
    double factor = schedule_factor(&stage->options.optimizer, run->state.step - run->state.stage.first_step,
                                    stage->steps);
    watchdog_note(run->watchdog, run->preparing ? WATCH_WAIT_ROWS : WATCH_TRAIN, run->state.step);
    TRY(accumulate_step(run, info));
    struct boundary_report report = {.wants = request_wants(),
                                     .commands = commands_due(&run->commands, run->state.step + 1)};
    saver_vote(&run->saver, report.saves);
    TRY(step_finish(&run->step, targets_of(info), factor, &report, result));
    if (result->again) {
        TRY(rewind_step(run));
        TRY(accumulate_step(run, info));
        TRY(step_finish(&run->step, targets_of(info), factor, &report, result));
    }
    return saver_settle(&run->saver, run->step.reports);
}

/* Who skipped knows one of the rows; a rank that had none of the step knows no row to name. */
static enum status note_skip(const struct run *run, const struct step_result *result)
{
    const struct run_state *state = &run->state;
    const struct dataset *rows = run_stage_now(run)->train;
    char where[4200] = ""; /* a path and some words */
    if (run->last_row >= 0) {
        struct dataset_row row = dataset_row(rows, run->last_row);
        snprintf(where, sizeof where, "; last row of the batch: %s line %lld",
                 dataset_source_name(rows, row.source), (long long)row.line);
    }
    log_warn("step %lld skipped: loss %g, gradient norm %g%s (%d in a row)", (long long)state->step,
             result->loss, result->grad_norm, where, state->skipped_in_row);
    if (run->options->max_skipped_steps <= 0 || state->skipped_in_row < run->options->max_skipped_steps)
        return LORAD_OK;
    return FAIL(LORAD_NUMERIC,
                "%d steps in a row had a loss or gradient that is not finite (max_skipped_steps); lower "
                "learning_rate, or look at the rows named above",
                state->skipped_in_row);
}

/* The scale of the next step. Too large a scale is no fault of the run's. */
static void follow_loss_scale(struct run *run, const struct step_result *result)
{
    struct loss_scale *scale = &run->state.loss_scale;
    if (!loss_scale_in_use(scale)) return;
    if (result->overflowed) {
        loss_scale_overflowed(scale);
        log_info("step %lld: the gradient overflowed at loss scale %.0f: no update; the scale is %.0f now",
                 (long long)run->state.step, result->loss_scale, scale->value);
    } else if (result->skipped) {
        scale->good_steps = 0;
    } else {
        loss_scale_went_well(scale, &run->options->loss_scale);
    }
}

/* The batch is consumed whether or not the update was applied. */
static enum status advance(struct run *run, const struct step_info *info, const struct step_result *result)
{
    struct run_state *state = &run->state;
    state->step++;
    state->applied_steps = run->session.adapter->applied_steps;
    if (run->session.adapter->sums) fixed_sums_scales(run->session.adapter->sums, &state->scales);
    state->cursor = info->after;
    state->stage.spent = info->last;
    state->epoch = info->epoch;
    state->tokens += info->tokens;
    state->supervised_tokens += info->supervised_tokens;
    if (!result->overflowed) state->skipped_in_row = result->skipped ? state->skipped_in_row + 1 : 0;
    state->skipped_steps += result->skipped;
    follow_loss_scale(run, result);
    return result->skipped ? note_skip(run, result) : LORAD_OK;
}

/* Of the time from a boundary to the commit, two steps are those whose ends it waited for; when the run ends
 * it does not. */
static void compare_grace(const struct run *run)
{
    double save_seconds = run_is_first(run) ? saver_last_seconds(&run->saver) : 0;
    if (save_seconds > 0)
        request_compare_grace(run->options, run->slowest_seconds,
                              fmax(0, save_seconds - 2 * run->slowest_seconds));
}

static void report(struct run *run, const struct step_info *info, const struct step_result *result,
                   double seconds)
{
    double waited = loader_wait_seconds(run->loader);
    struct step_record record = {.stage = run_stage_now(run)->options.name,
                                 .step = run->state.step,
                                 .total_steps = run->state.total_steps,
                                 .epoch = run->state.epoch,
                                 .loss = result->loss,
                                 .grad_norm = result->grad_norm,
                                 .learning_rate = result->learning_rate,
                                 .supervised_tokens = info->supervised_tokens,
                                 .tokens = info->tokens,
                                 .slots = info->capacity_tokens,
                                 .total_tokens = run->state.tokens,
                                 .step_seconds = seconds,
                                 .loader_wait_seconds = waited - run->waited_seconds,
                                 .save_stall_seconds = saver_take_stall_seconds(&run->saver),
                                 .skipped_steps = run->state.skipped_steps,
                                 .loss_scale = result->loss_scale,
                                 .overflowed = result->overflowed,
                                 .skipped = result->skipped};
    bool logged = run->state.step % run->options->logging_steps == 0 || run->state.step == 1 ||
                  run->state.step == run->state.total_steps;
    run->waited_seconds = waited;
    watchdog_learn(run->watchdog, seconds);
    run->slowest_seconds = fmax(run->slowest_seconds, seconds);
    compare_grace(run);
    straggler_step(run->straggler, run->step.reports, run->state.step, run->coord);
    if (logged) metrics_log_step(run->metrics, &record);
    progress_step(run->progress, &record, logged);
    teller_step(&run->teller, &record, progress_seconds_left(run->progress));
}

/* ---- all steps of all stages ---- */

static enum status train_steps(struct run *run)
{
    while (!run->over && !run->asked_to_stop) {
        int64_t start = clock_monotonic_ns();
        struct step_info info;
        struct step_result result;
        TRY(train_step(run, &info, &result));
        if (run->coord) TRY(coord_check_step(run->coord));
        TRY(advance(run, &info, &result));
        report(run, &info, &result, clock_seconds_since(start));
        TRY(follow_preparing(run));
        TRY(run_at_boundary(run, &info, &result));
    }
    return LORAD_OK;
}

/* A stage that was over when its checkpoint was made is left at once. A stop before the first step saves what
 * was resumed from elsewhere. */
static enum status train_stage(struct run *run)
{
    bool improved;
    if (run->state.evaluation_owed && run_stage_now(run)->eval) TRY(run_evaluate(run, &improved));
    run->over = run_stage_end(run);
    if (run->asked_to_stop) return run_save(run);
    if (run->over) return LORAD_OK;
    TRY(open_stage(run));
    TRY(train_steps(run));
    loader_close(run->loader);
    run->loader = NULL;
    return LORAD_OK;
}

static enum status train(struct run *run)
{
    TRY(train_stage(run));
    while (run->over && !run_in_last_stage(run) && !run->asked_to_stop) {
        next_stage(run);
        TRY(train_stage(run));
    }
    if (run->over == STAGE_EARLY_STOPPING || run->over == STAGE_PLATEAU || run->over == STAGE_EVAL_LOSS) {
        struct strbuf why = STRBUF_EMPTY;
        stage_end_text(&why, run->over, run_stage_now(run), &run->state);
        log_info("stopping early: %s", strbuf_text(&why));
        strbuf_free(&why);
    }
    return LORAD_OK;
}

/* ---- end ---- */

/* Commits what is in flight. That a run diverged is agreed on by all ranks, as its end is. */
static enum status settle_saves(struct run *run, enum status ended)
{
    if (ended != LORAD_OK && ended != LORAD_NUMERIC) return ended;
    char why[512];
    snprintf(why, sizeof why, "%s", status_message());
    progress_note(run->progress, "saving");
    teller_phase(&run->teller, "saving");
    enum status status = run_drain_saves(run);
    return ended == LORAD_OK ? status : FAIL(ended, "%s", why);
}

/* The last adapter is already in place when the best one's save had failed. */
static enum status load_best(struct run *run)
{
    const struct run_state *state = &run->state;
    enum status status = saver_load_masters(&run->saver, state->best_step);
    if (status == LORAD_NOT_FOUND) {
        if (run_is_first(run))
            log_warn(
                "the best adapter, that of step %lld (%g), was not saved: the one of step %lld is exported",
                (long long)state->best_step, state->best_metric, (long long)state->step);
        status_clear();
        return LORAD_OK;
    }
    if (status == LORAD_OK)
        log_info("the best adapter is that of step %lld (%g)", (long long)state->best_step,
                 state->best_metric);
    return status;
}

/* What a run that was shorter than the preparing of its rows has to say of them. */
static void tell_of_rows(struct run *run)
{
    if (!run->preparing) return;
    if (run->state.epoch < 1) {
        log_info("the run is over before all of its rows were looked at: `lorad prepare`, or the next run, "
                 "goes on");
        return;
    }
    if (preparing_finish(&run->preparing, &run->session, DATA_TRAIN) == LORAD_OK) return;
    log_warn("%s", status_message());
    status_clear();
}

static enum status finish(struct run *run)
{
    watchdog_note(run->watchdog, WATCH_END, run->state.step);
    progress_close(run->progress);
    run->progress = NULL;
    bool finished = run->over && run_in_last_stage(run) && !run->state.evaluation_owed;
    if (run->asked_to_stop && !finished) {
        if (saver_settled_step(&run->saver) != run->state.step)
            return FAIL(LORAD_IO,
                        "stopped on request, but step %lld could not be saved; resume_from_checkpoint: auto "
                        "continues "
                        "from the last good checkpoint once %s can be written",
                        (long long)run->state.step, run->options->output_dir);
        log_info("stopped on request after step %lld; resume_from_checkpoint: auto continues",
                 (long long)run->state.step);
        return run->commands.stop ? LORAD_STOPPED : LORAD_REQUEUE;
    }
    if (run->options->load_best_model_at_end && run->state.has_best) TRY(load_best(run));
    TRY(check_owner(run));
    teller_phase(&run->teller, "exporting");
    TRY(saver_export(&run->saver, run->options->output_dir));
    tell_of_rows(run);
    log_info("adapter written to %s", run->options->output_dir);
    return LORAD_OK;
}

/* Closing may fail, too: the message stays that of what the run ends with. */
static void close_all(struct run *run, enum status status)
{
    char why[4096];
    snprintf(why, sizeof why, "%s", status_message());
    if (run->teller.session)
        teller_event(&run->teller, status == LORAD_FENCED ? "fenced" : "ended", "exit code %d%s%s",
                     status_exit_code(status), *why ? ": " : "", why);
    coord_note_exit(run->coord, status_exit_code(status));
    commands_close(&run->commands);
    teller_close(&run->teller);
    watchdog_close(run->watchdog);
    straggler_close(run->straggler);
    saver_stop(&run->saver);
    progress_close(run->progress);
    metrics_close(run->metrics);
    loader_close(run->loader);
    preparing_stop(&run->preparing);
    optimizer_destroy(run->optimizer);
    step_release(&run->step);
    stages_close(&run->stages);
    coord_leave(run->coord);
    session_close(&run->session);
    if (status != LORAD_OK && strcmp(why, status_message()) != 0) (void)FAIL(status, "%s", why);
}

static enum status run_all(struct run *run, const struct comm_world_info *ranks)
{
    TRY(session_read(&run->session, run->options, run->options->adapter_dir, SESSION_TRAIN));
    TRY(session_join(&run->session, ranks));
    TRY(watchdog_open(&run->watchdog, ranks->world, run->options->hang_timeout));
    TRY(straggler_open(&run->straggler, run->session.world));
    TRY(coordinate(run));
    TRY(request_check(run->session.world));
    teller_phase(&run->teller, "preparing");
    TRY(stages_open(&run->stages, &run->session, &run->preparing));
    teller_phase(&run->teller, "loading");
    TRY(load_model(run));
    TRY(saver_start(&run->saver));
    TRY(begin_or_resume(run));
    TRY(plan_steps(run));
    TRY(open_logs(run));
    TRY(request_check(run->session.world));
    TRY(settle_saves(run, train(run)));
    return finish(run);
}

enum status run_train(const struct run_options *options, const struct comm_world_info *ranks)
{
    struct run run = {.configured = options, .live = *options};
    run.options = &run.live;
    enum status status = run_all(&run, ranks);
    if (status == LORAD_REQUEUE && !run.asked_to_stop)
        log_info("stopped on request before the first step: nothing is lost, the same command starts again");
    close_all(&run, status);
    return status;
}
