/*
 * saver.c: the pipeline of saves.
 *
 *   main       begin ....... gate ... settle: all have written ... settle: committed
 *   copier         copy
 *   writer              write                    commit (rank 0)
 *
 * Invariants:
 *  1. The main thread alone knows which saves are in flight and in which order; it changes that only by what
 *     all ranks know, so the list is the same on all of them.
 *  2. What a thread works on (a slot's `save`) belongs to it from `task` to the next `task`, all of which
 *     change under `lock`.
 *  3. Commits are made in the order of the steps. Rank 0 alone needs no report to go on to the commit.
 *  4. No thread but the main one talks to other ranks.
 */
#include "trainer/saver.h"

#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/thread.h"
#include "trainer/run_event.h"
#include "trainer/save.h"

enum { MESSAGE_BYTES = 512, POLL_MS = 1 };

enum task { TASK_NONE, TASK_COPY, TASK_WRITE, TASK_COMMIT, TASK_ABANDON };

struct slot {
    struct save save;
    bool in_flight; /* main thread */
    bool decided;   /* main thread: all ranks have written, rank 0 commits */
    enum task task; /* from here on under the lock */
    bool working;
    enum save_phase phase;
    enum status status; /* why it failed, and its words */
    char message[MESSAGE_BYTES];
};

struct saver_pipeline {
    const struct saver *saver;
    struct slot slots[SAVES_IN_FLIGHT];
    struct slot *flight[SAVES_IN_FLIGHT]; /* the oldest first; main thread, as all up to the lock */
    int n_flight;
    struct snapshot *gated;          /* the one that may not be copied yet; NULL: none */
    struct boundary_report *reports; /* [world] */
    int64_t stall_ns;
    bool copies, writes; /* the threads run */
    pthread_t copier, writer;

    pthread_mutex_t lock;
    pthread_cond_t changed; /* any slot, or stop */
    bool stop;
    double last_seconds;
};

/* ---- the threads ---- */

static void fail_slot(struct slot *slot, enum status status)
{
    slot->phase = SAVE_FAILED;
    slot->status = status;
    snprintf(slot->message, sizeof slot->message, "%s", status_message());
}

/* The oldest slot that waits for one of two; NULL: none. */
static struct slot *waiting(struct saver_pipeline *p, enum task this, enum task or_this)
{
    struct slot *found = NULL;
    for (int i = 0; i < SAVES_IN_FLIGHT; i++) {
        struct slot *slot = &p->slots[i];
        if (slot->task != this && slot->task != or_this) continue;
        if (!found || slot->save.id.step < found->save.id.step) found = slot;
    }
    return found;
}

static bool anything_left(const struct saver_pipeline *p)
{
    for (int i = 0; i < SAVES_IN_FLIGHT; i++)
        if (p->slots[i].task != TASK_NONE || p->slots[i].working) return true;
    return false;
}

/* Takes what the slot waits for; the lock is free until leave. */
static enum task enter(struct saver_pipeline *p, struct slot *slot)
{
    enum task task = slot->task;
    slot->task = TASK_NONE;
    slot->working = true;
    pthread_mutex_unlock(&p->lock);
    return task;
}

static void leave(struct saver_pipeline *p, struct slot *slot)
{
    slot->working = false;
    pthread_cond_broadcast(&p->changed);
}

/* Awake, a thread of this kind waits for a processor instead of taking the main thread's. Best effort. The
 * name is for top and for tests/bench/checkpoint.py. */
static void give_way(const char *name)
{
    (void)pthread_setname_np(pthread_self(), name);
    (void)pthread_setschedparam(pthread_self(), SCHED_BATCH, &(struct sched_param){0});
}

static void *run_copier(void *argument)
{
    struct saver_pipeline *p = argument;
    give_way("save copier");
    pthread_mutex_lock(&p->lock);
    for (;;) {
        struct slot *slot = waiting(p, TASK_COPY, TASK_COPY);
        if (!slot) {
            if (p->stop) break;
            pthread_cond_wait(&p->changed, &p->lock);
            continue;
        }
        (void)enter(p, slot);
        enum status status = snapshot_copy(slot->save.snapshot);
        pthread_mutex_lock(&p->lock);
        if (status == LORAD_OK)
            slot->task = TASK_WRITE;
        else
            fail_slot(slot, status);
        leave(p, slot);
    }
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

static void set_phase(struct saver_pipeline *p, struct slot *slot, enum save_phase phase, enum status status)
{
    pthread_mutex_lock(&p->lock);
    if (status == LORAD_OK)
        slot->phase = phase;
    else
        fail_slot(slot, status);
    if (status == LORAD_OK && phase == SAVE_COMMITTED)
        p->last_seconds = clock_seconds_since(slot->save.begun_ns);
    pthread_cond_broadcast(&p->changed);
    pthread_mutex_unlock(&p->lock);
}

static void commit(struct saver_pipeline *p, struct slot *slot)
{
    enum status status = save_commit(&slot->save, p->saver);
    set_phase(p, slot, SAVE_COMMITTED, status);
    if (status == LORAD_OK) save_conclude(&slot->save, p->saver);
}

static void write_shard(struct saver_pipeline *p, struct slot *slot)
{
    bool alone = p->saver->session->ranks.world == 1;
    enum status status = save_write(&slot->save, p->saver);
    if (status != LORAD_OK || !alone) {
        set_phase(p, slot, SAVE_WRITTEN, status);
        return;
    }
    slot->save.receipts[0] = slot->save.receipt;
    commit(p, slot);
}

/* Commits and clearing up go before new shards: they end what is older. */
static void *run_writer(void *argument)
{
    struct saver_pipeline *p = argument;
    bool alone = p->saver->session->ranks.world == 1;
    give_way("save writer");
    pthread_mutex_lock(&p->lock);
    for (;;) {
        struct slot *slot = waiting(p, TASK_COMMIT, TASK_ABANDON);
        if (!slot && (!p->stop || alone)) slot = waiting(p, TASK_WRITE, TASK_WRITE);
        if (!slot) {
            if (p->stop && (!alone || !anything_left(p))) break;
            pthread_cond_wait(&p->changed, &p->lock);
            continue;
        }
        enum task task = enter(p, slot);
        if (task == TASK_WRITE)
            write_shard(p, slot);
        else if (task == TASK_COMMIT)
            commit(p, slot);
        else
            save_abandon(&slot->save, p->saver);
        pthread_mutex_lock(&p->lock);
        leave(p, slot);
    }
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

/* ---- start and end ---- */

static enum status start_threads(struct saver_pipeline *p)
{
    int error = thread_start(&p->copier, run_copier, p);
    p->copies = error == 0;
    if (error == 0) error = thread_start(&p->writer, run_writer, p);
    p->writes = p->copies && error == 0;
    return error == 0
               ? LORAD_OK
               : FAIL(LORAD_NOMEM, "cannot start the threads that write checkpoints (error %d)", error);
}

enum status saver_start(struct saver *saver)
{
    size_t world = (size_t)saver->session->ranks.world;
    struct saver_pipeline *p = memory_new(1, sizeof *p);
    if (!p) return LORAD_NOMEM;
    p->saver = saver;
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->changed, NULL);
    saver->pipeline = p;
    p->reports = memory_new(world, sizeof *p->reports);
    bool all = p->reports;
    for (int i = 0; i < SAVES_IN_FLIGHT; i++) {
        p->slots[i].save.receipts = memory_new(world, sizeof(struct checkpoint_receipt));
        all = all && p->slots[i].save.receipts;
    }
    enum status status = all ? LORAD_OK : LORAD_NOMEM;
    for (int i = 0; i < SAVES_IN_FLIGHT && status == LORAD_OK; i++)
        status = snapshot_create(&p->slots[i].save.snapshot, saver->session);
    if (status == LORAD_OK) status = start_threads(p);
    if (status != LORAD_OK) saver_stop(saver);
    return status;
}

/* What is not settled: rank 0's commits that were agreed on are made; nobody can agree on more. Rank 0 may
 * have agreed to commit what this rank has written without this rank's hearing of it: that shard stays. */
static void let_go(struct slot *slot, const struct saver *saver)
{
    if (slot->save.writer && slot->phase == SAVE_WRITTEN && saver->session->ranks.rank != 0)
        checkpoint_finish(slot->save.writer);
    else if (slot->save.writer)
        save_abandon(&slot->save, saver);
    snapshot_destroy(slot->save.snapshot);
    strbuf_free(&slot->save.state);
    free(slot->save.receipts);
}

void saver_stop(struct saver *saver)
{
    struct saver_pipeline *p = saver->pipeline;
    if (!p) return;
    pthread_mutex_lock(&p->lock);
    p->stop = true;
    pthread_cond_broadcast(&p->changed);
    pthread_mutex_unlock(&p->lock);
    if (p->copies) pthread_join(p->copier, NULL);
    if (p->writes) pthread_join(p->writer, NULL);
    for (int i = 0; i < SAVES_IN_FLIGHT; i++) let_go(&p->slots[i], saver);
    pthread_cond_destroy(&p->changed);
    pthread_mutex_destroy(&p->lock);
    free(p->reports);
    free(p);
    saver->pipeline = NULL;
}

/* ---- decisions, the same on all ranks ---- */

static void land(struct saver_pipeline *p, struct slot *slot)
{
    int kept = 0;
    for (int i = 0; i < p->n_flight; i++)
        if (p->flight[i] != slot) p->flight[kept++] = p->flight[i];
    p->n_flight = kept;
    slot->in_flight = false;
}

static void assign(struct saver_pipeline *p, struct slot *slot, enum task task)
{
    pthread_mutex_lock(&p->lock);
    slot->task = task;
    pthread_cond_broadcast(&p->changed);
    pthread_mutex_unlock(&p->lock);
}

static void settle_committed(struct saver *saver, struct slot *slot)
{
    saver->last_saved_step = slot->save.id.step;
    saver->last_failed_step = -1;
    saver->outdated = false;
    if (saver->session->ranks.rank == 0) return;
    checkpoint_finish(slot->save.writer);
    slot->save.writer = NULL;
}

static void announce_failure(const struct saver *saver, int64_t step)
{
    char last[64] = "there is no checkpoint yet";
    if (saver->last_saved_step >= 0)
        snprintf(last, sizeof last, "the last good checkpoint is that of step %lld",
                 (long long)saver->last_saved_step);
    log_error("checkpoint of step %lld FAILED: %s. Training goes on; %s", (long long)step, status_message(),
              last);
    struct strbuf event = STRBUF_EMPTY;
    run_event_begin(&event, "checkpoint_failed", step);
    run_event_end(&event, "%s", status_message());
    run_event_tell(&event, saver->coord);
}

/* All ranks know that some rank failed; here they learn why. */
static enum status settle_failed(struct saver *saver, struct slot *slot)
{
    struct saver_pipeline *p = saver->pipeline;
    pthread_mutex_lock(&p->lock);
    enum status mine = slot->phase == SAVE_FAILED ? slot->status : LORAD_OK;
    pthread_mutex_unlock(&p->lock);
    if (mine != LORAD_OK) mine = FAIL(mine, "%s", slot->message);
    enum status status = comm_agree(saver->session->world, mine);
    assign(p, slot, TASK_ABANDON);
    saver->failures++;
    saver->last_failed_step = slot->save.id.step;
    if (status == LORAD_FENCED || status == LORAD_BUG || status == LORAD_PEER_LOST) return status;
    if (saver->session->ranks.rank == 0) announce_failure(saver, slot->save.id.step);
    status_clear();
    return LORAD_OK;
}

/* What the reports say of the save at `index` of those in flight. */
static enum save_phase common_phase(const struct saver *saver, const struct slot *slot,
                                    const struct boundary_report *reports, int index)
{
    bool failed = false;
    if (slot->decided) return (enum save_phase)reports[0].saves[index].phase;
    for (int rank = 0; rank < saver->session->ranks.world; rank++) {
        const struct save_vote *vote = &reports[rank].saves[index];
        ASSERT(vote->step == slot->save.id.step);
        if (vote->phase == SAVE_WRITING) return SAVE_WRITING;
        failed = failed || vote->phase == SAVE_FAILED;
    }
    return failed ? SAVE_FAILED : SAVE_WRITTEN;
}

static void decide(struct saver *saver, struct slot *slot, const struct boundary_report *reports, int index)
{
    slot->decided = true;
    if (saver->session->ranks.rank != 0) return;
    for (int rank = 0; rank < saver->session->ranks.world; rank++)
        slot->save.receipts[rank] = reports[rank].saves[index].receipt;
    assign(saver->pipeline, slot, TASK_COMMIT);
}

enum status saver_settle(struct saver *saver, const struct boundary_report *reports)
{
    struct saver_pipeline *p = saver->pipeline;
    struct slot *voted[SAVES_IN_FLIGHT];
    int n = p->n_flight;
    memcpy(voted, p->flight, sizeof voted);
    for (int i = 0; i < n; i++) {
        struct slot *slot = voted[i];
        enum save_phase phase = common_phase(saver, slot, reports, i);
        if (phase == SAVE_WRITING) break; /* a later save is not committed before this one */
        if (phase == SAVE_WRITTEN && !slot->decided) decide(saver, slot, reports, i);
        if (phase == SAVE_COMMITTED) {
            land(p, slot);
            settle_committed(saver, slot);
        } else if (phase == SAVE_FAILED) {
            if (p->flight[0] != slot) break; /* told after the end of what is older */
            land(p, slot);
            TRY(settle_failed(saver, slot));
        }
    }
    return LORAD_OK;
}

/* ---- the main thread's side ---- */

void saver_vote(struct saver *saver, struct save_vote votes[SAVES_IN_FLIGHT])
{
    struct saver_pipeline *p = saver->pipeline;
    memset(votes, 0, SAVES_IN_FLIGHT * sizeof *votes);
    if (p->n_flight == 0) return;
    pthread_mutex_lock(&p->lock);
    for (int i = 0; i < p->n_flight; i++) {
        const struct slot *slot = p->flight[i];
        votes[i].step = slot->save.id.step;
        votes[i].phase = slot->phase;
        if (slot->phase == SAVE_WRITTEN) votes[i].receipt = slot->save.receipt;
    }
    pthread_mutex_unlock(&p->lock);
}

/* What a step boundary does, without a step. Waits a little, or alone until something has happened. */
static enum status exchange(struct saver *saver)
{
    struct saver_pipeline *p = saver->pipeline;
    int world = saver->session->ranks.world, before = p->n_flight;
    struct boundary_report mine = {0};
    if (world == 1) {
        pthread_mutex_lock(&p->lock);
        while (p->flight[0]->phase == SAVE_WRITING) pthread_cond_wait(&p->changed, &p->lock);
        pthread_mutex_unlock(&p->lock);
    }
    saver_vote(saver, mine.saves);
    if (world == 1)
        p->reports[0] = mine;
    else
        TRY(comm_host_all_gather(saver->session->world, &mine, p->reports, sizeof mine));
    TRY(saver_settle(saver, p->reports));
    if (p->n_flight == before) clock_sleep_ms(POLL_MS);
    return LORAD_OK;
}

/* One that is not in flight; its thread may still be clearing up. */
static struct slot *take_slot(struct saver_pipeline *p)
{
    struct slot *slot = NULL;
    pthread_mutex_lock(&p->lock);
    for (;;) {
        for (int i = 0; i < SAVES_IN_FLIGHT && !slot; i++)
            if (!p->slots[i].in_flight && p->slots[i].task == TASK_NONE && !p->slots[i].working)
                slot = &p->slots[i];
        if (slot) break;
        pthread_cond_wait(&p->changed, &p->lock);
    }
    pthread_mutex_unlock(&p->lock);
    return slot;
}

static enum status prepare(struct save *save, const struct saver *saver, const struct run_state *state,
                           const struct run_identity *identity)
{
    const struct session *session = saver->session;
    save->id = (struct checkpoint_id){
        .step = state->step, .epoch = saver->epoch, .attempt = (int32_t)(saver->failures + saver->again)};
    save->best_step = state->has_best ? state->best_step : -1;
    save->keep = session->options->save_total_limit;
    strbuf_clear(&save->state);
    if (session->ranks.rank == 0) run_state_write(&save->state, state, identity, session);
    TRY(strbuf_status(&save->state));
    return snapshot_begin(save->snapshot);
}

/* From here on the save is in flight on all ranks, also where it has failed already. */
static void take_off(struct saver *saver, struct slot *slot, enum status status)
{
    struct saver_pipeline *p = saver->pipeline;
    slot->in_flight = true;
    slot->decided = saver->session->ranks.world == 1;
    p->flight[p->n_flight++] = slot;
    if (status == LORAD_OK) p->gated = slot->save.snapshot;
    pthread_mutex_lock(&p->lock);
    slot->phase = SAVE_WRITING;
    if (status == LORAD_OK)
        slot->task = TASK_COPY;
    else
        fail_slot(slot, status);
    pthread_cond_broadcast(&p->changed);
    pthread_mutex_unlock(&p->lock);
}

static bool is_in_flight(const struct saver_pipeline *p, int64_t step)
{
    for (int i = 0; i < p->n_flight; i++)
        if (p->flight[i]->save.id.step == step) return true;
    return false;
}

enum status saver_begin(struct saver *saver, const struct run_state *state,
                        const struct run_identity *identity)
{
    struct saver_pipeline *p = saver->pipeline;
    int64_t start = clock_monotonic_ns();
    if (saver_settled_step(saver) == state->step || is_in_flight(p, state->step)) return LORAD_OK;
    TRY(saver_gate(saver)); /* a skipped step has not passed it */
    while (p->n_flight == SAVES_IN_FLIGHT) TRY(exchange(saver));
    struct slot *slot = take_slot(p);
    slot->save.begun_ns = start;
    take_off(saver, slot, prepare(&slot->save, saver, state, identity));
    p->stall_ns += clock_monotonic_ns() - start;
    return LORAD_OK;
}

void saver_state_changed(struct saver *saver, int64_t step)
{
    if (saver_settled_step(saver) != step) return;
    saver->outdated = true;
    saver->again++;
}

int64_t saver_settled_step(const struct saver *saver)
{
    return saver->last_saved_step - saver->outdated;
}

enum status saver_gate(void *context)
{
    struct saver_pipeline *p = ((struct saver *)context)->pipeline;
    if (!p->gated) return LORAD_OK;
    int64_t start = clock_monotonic_ns();
    struct snapshot *snapshot = p->gated;
    p->gated = NULL;
    enum status status = snapshot_gate(snapshot);
    p->stall_ns += clock_monotonic_ns() - start;
    return status;
}

enum status saver_drain(struct saver *saver)
{
    struct saver_pipeline *p = saver->pipeline;
    TRY(saver_gate(saver));
    while (p->n_flight > 0) TRY(exchange(saver));
    pthread_mutex_lock(&p->lock);
    while (anything_left(p)) pthread_cond_wait(&p->changed, &p->lock);
    pthread_mutex_unlock(&p->lock);
    return LORAD_OK;
}

double saver_last_seconds(const struct saver *saver)
{
    struct saver_pipeline *p = saver->pipeline;
    if (!p) return 0;
    pthread_mutex_lock(&p->lock);
    double seconds = p->last_seconds;
    pthread_mutex_unlock(&p->lock);
    return seconds;
}

double saver_take_stall_seconds(struct saver *saver)
{
    struct saver_pipeline *p = saver->pipeline;
    double seconds = (double)p->stall_ns * 1e-9;
    p->stall_ns = 0;
    return seconds;
}

enum status saver_export(struct saver *saver, const char *dir)
{
    struct session *session = saver->session;
    float **whole = NULL;
    TRY(adapter_gather(&whole, session->adapter, ADAPTER_PARAM));
    enum status status = LORAD_OK;
    if (session->ranks.rank == 0)
        status = adapter_export(NULL, session->lora, whole, &session->lora_options,
                                session->options->model_dir, saver->fs, dir);
    free(whole);
    return comm_agree(session->world, status);
}
