#include "trainer/commands.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "trainer/boundary.h"

enum { HOLD_MS = 100, TEXT_BYTES = 256 };

/* A request that was carried out and waits for the checkpoint of `step`, or (pause) for the run to stand. */
struct owed {
    struct coord_command command;
    int64_t step; /* < 0: a pause */
    char text[TEXT_BYTES];
};

enum status commands_open(struct commands *commands)
{
    commands->due = memory_new(COMMANDS_MOST, sizeof *commands->due);
    commands->waiting = memory_new(COMMANDS_MOST, sizeof *commands->waiting);
    commands->owed = memory_new(COMMANDS_MOST, sizeof *commands->owed);
    return commands->due && commands->waiting && commands->owed ? LORAD_OK : LORAD_NOMEM;
}

void commands_close(struct commands *commands)
{
    free(commands->due);
    free(commands->waiting);
    free(commands->owed);
    commands->due = commands->waiting = NULL;
    commands->owed = NULL;
}

static bool is(const struct coord_command *command, const char *verb)
{
    return strcmp(command->verb, verb) == 0;
}

/* ---- hearing, on rank 0 ---- */

/* Refuses at once what cannot be done; what cannot be known yet is found out when it is due. */
static enum status check(const struct commands *commands, const struct coord_command *command, int64_t step)
{
    struct override_record record;
    if (command->at_step > 0 && command->at_step < step)
        return FAIL(LORAD_USAGE, "step %lld is over: the run is in step %lld", (long long)command->at_step,
                    (long long)step);
    return is(command, "set")
               ? override_read(&record, &commands->place, commands->state, command->key, command->value)
               : LORAD_OK;
}

static void hear(struct commands *commands, int64_t step)
{
    struct coord_command command;
    while (commands->n_waiting + commands->n_owed < COMMANDS_MOST &&
           coord_commands_waiting(commands->coord) > 0 && coord_take_command(commands->coord, &command)) {
        enum status status = check(commands, &command, step);
        if (status == LORAD_OK)
            commands->waiting[commands->n_waiting++] = command;
        else
            coord_answer(commands->coord, &command, status, status_message());
        status_clear();
    }
}

static bool is_due(const struct coord_command *command, int64_t step)
{
    return command->at_step <= step;
}

int32_t commands_due(struct commands *commands, int64_t step)
{
    int32_t n = 0;
    if (!commands->coord) return 0;
    hear(commands, step);
    for (int i = 0; i < commands->n_waiting; i++) n += is_due(&commands->waiting[i], step);
    return n;
}

/* Moves the first n that are due, in the order in which they came, to commands->due. */
static void pick_due(struct commands *commands, int32_t n)
{
    int kept = 0;
    int32_t picked = 0;
    for (int i = 0; i < commands->n_waiting; i++) {
        if (picked < n && is_due(&commands->waiting[i], commands->state->step))
            commands->due[picked++] = commands->waiting[i];
        else
            commands->waiting[kept++] = commands->waiting[i];
    }
    commands->n_waiting = kept;
    ASSERT(picked == n);
}

/* ---- carrying out, on every rank ---- */

static void answer(const struct commands *commands, const struct coord_command *command, enum status status,
                   const char *text)
{
    if (commands->coord) coord_answer(commands->coord, command, status, text);
}

static void owe(struct commands *commands, const struct coord_command *command, int64_t step,
                const char *text)
{
    if (!commands->coord) return;
    struct owed *owed = &commands->owed[commands->n_owed++];
    *owed = (struct owed){.command = *command, .step = step};
    snprintf(owed->text, sizeof owed->text, "%s", text);
}

static void answer_pauses(struct commands *commands)
{
    int kept = 0;
    for (int i = 0; i < commands->n_owed; i++) {
        struct owed *owed = &commands->owed[i];
        if (owed->step < 0)
            coord_answer(commands->coord, &owed->command, LORAD_OK, owed->text);
        else
            commands->owed[kept++] = *owed;
    }
    commands->n_owed = kept;
}

static void take_pause(struct commands *commands, const struct coord_command *command)
{
    char text[TEXT_BYTES];
    snprintf(text, sizeof text, "paused after step %lld; `lorad resume` goes on",
             (long long)commands->state->step);
    if (commands->in_hold) {
        answer(commands, command, LORAD_OK, text);
        return;
    }
    commands->paused = true;
    owe(commands, command, -1, text);
}

static void take_resume(struct commands *commands, const struct coord_command *command)
{
    char text[TEXT_BYTES];
    snprintf(text, sizeof text,
             commands->paused ? "training goes on after step %lld" : "the run was not paused, at step %lld",
             (long long)commands->state->step);
    answer_pauses(commands); /* of this very boundary */
    commands->paused = false;
    answer(commands, command, LORAD_OK, text);
}

static uint32_t take_checkpoint(struct commands *commands, const struct coord_command *command)
{
    char text[TEXT_BYTES];
    snprintf(text, sizeof text, "checkpoint of step %lld committed", (long long)commands->state->step);
    owe(commands, command, commands->state->step, text);
    return COMMANDS_SAVE;
}

static uint32_t take_stop(struct commands *commands, const struct coord_command *command)
{
    char text[TEXT_BYTES];
    snprintf(text, sizeof text,
             "stopped after step %lld, its checkpoint is committed; resume_from_checkpoint: auto continues",
             (long long)commands->state->step);
    commands->stop = true;
    teller_event(commands->teller, "stopping", "by request");
    owe(commands, command, commands->state->step, text);
    return COMMANDS_SAVE | COMMANDS_STOP;
}

static uint32_t take_set(struct commands *commands, const struct coord_command *command)
{
    const struct run_state *state = commands->state;
    struct override_record record;
    struct strbuf what = STRBUF_EMPTY;
    char text[TEXT_BYTES];
    enum status status = override_read(&record, &commands->place, state, command->key, command->value);
    if (status != LORAD_OK) { /* it could be when it was heard */
        answer(commands, command, status, status_message());
        status_clear();
        return 0;
    }
    override_apply(&commands->place, commands->state, &record);
    override_text(&what, &record);
    bool staged = strcmp(record.key, "learning_rate") == 0 && commands->place.stages->n > 1;
    snprintf(text, sizeof text, "%s from step %lld on%s (the configuration says %g)", strbuf_text(&what),
             (long long)state->step + 1, staged ? ", until its stage ends" : "", record.was);
    log_info("set: %s", text);
    teller_event(commands->teller, "set", "%s", text);
    owe(commands, command, state->step, text);
    strbuf_free(&what);
    return COMMANDS_SAVE | COMMANDS_RATES;
}

static uint32_t carry_out(struct commands *commands, const struct coord_command *command)
{
    if (is(command, "pause")) take_pause(commands, command);
    if (is(command, "resume")) take_resume(commands, command);
    if (is(command, "checkpoint")) return take_checkpoint(commands, command);
    if (is(command, "stop")) return take_stop(commands, command);
    if (is(command, "set")) return take_set(commands, command);
    return 0;
}

enum status commands_take(struct commands *commands, int32_t n, uint32_t *asked)
{
    *asked = 0;
    if (n <= 0) return LORAD_OK;
    ASSERT(n <= COMMANDS_MOST);
    if (commands->coord) pick_due(commands, n);
    TRY(comm_host_broadcast(commands->world, commands->due, (size_t)n * sizeof *commands->due, 0));
    for (int32_t i = 0; i < n; i++) *asked |= carry_out(commands, &commands->due[i]);
    return LORAD_OK;
}

/* ---- answering ---- */

void commands_settle(struct commands *commands, int64_t committed_step, int64_t failed_step)
{
    int kept = 0;
    for (int i = 0; i < commands->n_owed; i++) {
        struct owed *owed = &commands->owed[i];
        char text[TEXT_BYTES + 200];
        bool waits = owed->step < 0 || (committed_step < owed->step && failed_step < owed->step);
        if (waits) {
            commands->owed[kept++] = *owed;
            continue;
        }
        if (committed_step >= owed->step) {
            coord_answer(commands->coord, &owed->command, LORAD_OK, owed->text);
            continue;
        }
        bool set = is(&owed->command, "set");
        snprintf(text, sizeof text, "%s%sthe checkpoint of step %lld failed: the run's log says why%s",
                 set ? owed->text : "", set ? "; but " : "", (long long)owed->step,
                 set ? ". A run that is killed before the next one forgets this" : "");
        coord_answer(commands->coord, &owed->command, LORAD_IO, text);
    }
    commands->n_owed = kept;
}

/* ---- a pause ---- */

enum status commands_wait(struct commands *commands, uint32_t *wants, int32_t *n)
{
    clock_sleep_ms(HOLD_MS);
    int32_t due = commands_due(commands, commands->state->step);
    int64_t mine[3] = {(*wants & BOUNDARY_WANTS_STOP) != 0, (*wants & BOUNDARY_WANTS_SAVE) != 0, due};
    TRY(comm_host_all_reduce(commands->world, mine, 3, DTYPE_I64, COMM_MAX));
    *wants = (mine[0] ? BOUNDARY_WANTS_STOP : 0u) | (mine[1] ? BOUNDARY_WANTS_SAVE : 0u);
    *n = (int32_t)mine[2];
    return LORAD_OK;
}

void commands_holds(struct commands *commands)
{
    commands->in_hold = true;
    answer_pauses(commands);
}

void commands_goes_on(struct commands *commands)
{
    commands->in_hold = false;
}
