/*
 * run_boundary.c: what a run does between two steps: requests, evaluation, checkpoint, pause.
 *
 * 1. An evaluation that is due comes before the checkpoint of that step. One that is due when the run is
 * asked to stop is owed, so that no decision depends on the stop.
 * 2. The branches of a boundary depend on what all ranks know: their reports, and what rank 0 was asked.
 */
#include <math.h>

#include "base/clock.h"
#include "base/log.h"
#include "trainer/evaluate.h"
#include "trainer/request.h"
#include "trainer/run_impl.h"

/* Counts an evaluation for the best model and for early stopping; true when it is the best so far. */
static bool count_evaluation(struct run_state *state, double metric, bool greater)
{
    bool improved =
        isfinite(metric) &&
        (!state->has_best || (greater ? metric > state->best_metric : metric < state->best_metric));
    state->evaluations_without_gain = improved ? 0 : state->evaluations_without_gain + 1;
    if (!improved) return false;
    state->has_best = true;
    state->best_metric = metric;
    state->best_step = state->step;
    return true;
}

enum status run_evaluate(struct run *run, bool *improved)
{
    struct evaluation result;
    const struct stage *stage = run_stage_now(run);
    struct run_state *state = &run->state;
    bool greater = run->options->greater_is_better; /* the metric is the accuracy */
    progress_note(run->progress, "evaluating");
    teller_phase(&run->teller, "evaluating");
    watchdog_note(run->watchdog, WATCH_EVALUATE, state->step);
    *improved = false;
    TRY(evaluate(&result, &run->session, stage->eval, true, false));
    run->asked_to_stop = result.stopped;
    if (result.stopped) return LORAD_OK;
    *improved = count_evaluation(state, greater ? result.accuracy : result.loss, greater);
    stage_note_evaluation(&state->stage, &stage->options.promote, result.loss);
    state->evaluation_owed = false;
    struct eval_record record = {.stage = stage->options.name,
                                 .step = state->step,
                                 .epoch = state->epoch,
                                 .loss = result.loss,
                                 .token_accuracy = result.accuracy,
                                 .tokens = result.tokens,
                                 .seconds = result.seconds,
                                 .best = *improved};
    metrics_log_eval(run->metrics, &record);
    progress_eval(run->progress, &record);
    teller_eval(&run->teller, &record);
    return LORAD_OK;
}

enum status run_save(struct run *run)
{
    watchdog_note(run->watchdog, WATCH_SAVE, run->state.step);
    run->state.metrics_bytes = metrics_offset(run->metrics);
    return saver_begin(&run->saver, &run->state, &run->identity);
}

/* Tells of checkpoints that were committed or failed, and answers who waited for them. */
static void tell_saves(struct run *run)
{
    const struct saver *saver = &run->saver;
    teller_saves(&run->teller, saver->last_saved_step, saver->failures);
    commands_settle(&run->commands, saver_settled_step(saver), saver->last_failed_step);
}

enum stage_end run_stage_end(const struct run *run)
{
    return stage_end(run_stage_now(run), &run->state, run->options->early_stopping_patience);
}

/* Requests that are due, on all ranks. */
static enum status obey(struct run *run, int32_t n, uint32_t *asked)
{
    TRY(commands_take(&run->commands, n, asked));
    return *asked & COMMANDS_RATES ? run_choose_rates(run) : LORAD_OK;
}

enum status run_drain_saves(struct run *run)
{
    watchdog_note(run->watchdog, WATCH_SAVE, run->state.step);
    TRY(saver_drain(&run->saver));
    tell_saves(run);
    return LORAD_OK;
}

static enum status hold_turn(struct run *run)
{
    uint32_t wants = request_wants(), asked;
    int32_t n;
    watchdog_note(run->watchdog, WATCH_PAUSE, run->state.step);
    TRY(commands_wait(&run->commands, &wants, &n));
    TRY(obey(run, n, &asked));
    if (asked & COMMANDS_RATES) saver_state_changed(&run->saver, run->state.step);
    run->asked_to_stop = (wants & BOUNDARY_WANTS_STOP) || (asked & COMMANDS_STOP);
    if (!wants && !(asked & COMMANDS_SAVE)) return LORAD_OK;
    TRY(run_save(run));
    return run_drain_saves(run);
}

/* `lorad pause`: all ranks stand here until they are told to go on or to end. */
static enum status hold(struct run *run)
{
    int64_t start = clock_monotonic_ns();
    log_info("paused after step %lld; `lorad resume` goes on", (long long)run->state.step);
    progress_note(run->progress, "paused");
    TRY(run_drain_saves(run));
    teller_phase(&run->teller, "paused");
    teller_event(&run->teller, "paused", "by request");
    commands_holds(&run->commands);
    while (run->commands.paused && !run->asked_to_stop) TRY(hold_turn(run));
    commands_goes_on(&run->commands);
    /* early_stopping_patience may have been set meanwhile; a resumed run looks, too */
    run->over = run_stage_end(run);
    progress_rested(run->progress, clock_monotonic_ns() - start);
    if (run->asked_to_stop) return LORAD_OK;
    log_info("going on after a pause of %.0f s", clock_seconds_since(start));
    teller_event(&run->teller, "resumed_training", "after a pause of %.0f s", clock_seconds_since(start));
    teller_phase(&run->teller, "training");
    return LORAD_OK;
}

static bool due(enum when when, int64_t every, int64_t step, bool last_of_epoch)
{
    return (when == WHEN_STEPS && every > 0 && step % every == 0) || (when == WHEN_EPOCH && last_of_epoch);
}

enum status run_at_boundary(struct run *run, const struct step_info *info, const struct step_result *result)
{
    const struct run_options *o = run->options;
    struct run_state *state = &run->state;
    bool improved = false;
    uint32_t asked;
    TRY(obey(run, run->step.reports[0].commands, &asked));
    run->asked_to_stop = (result->wants & BOUNDARY_WANTS_STOP) || (asked & COMMANDS_STOP);
    state->evaluation_owed =
        run_stage_now(run)->eval && o->eval_strategy != WHEN_NO &&
        (run_stage_end(run) || due(o->eval_strategy, o->eval_steps, state->step, info->last_of_epoch));
    if (state->evaluation_owed && !run->asked_to_stop) {
        TRY(run_evaluate(run, &improved));
        if (!run->asked_to_stop) TRY(request_agree(&run->asked_to_stop, run->session.world));
    }
    run->over = run_stage_end(run);
    bool keep_best = o->load_best_model_at_end || o->save_strategy == WHEN_BEST;
    bool save = due(o->save_strategy, o->save_steps, state->step, info->last_of_epoch) ||
                (improved && keep_best) || (result->wants & BOUNDARY_WANTS_SAVE) || (asked & COMMANDS_SAVE) ||
                run->asked_to_stop || (run->over && o->save_strategy != WHEN_NO);
    if (save) TRY(run_save(run));
    tell_saves(run);
    bool last = run->asked_to_stop || (run->over && run_in_last_stage(run));
    return run->commands.paused && !last ? hold(run) : LORAD_OK;
}
