#include "trainer/preparing.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "comm/activity.h"
#include "trainer/data.h"
#include "trainer/progress.h"
#include "trainer/request.h"

const char *preparing_name(enum data_part part)
{
    return part == DATA_TRAIN ? "training rows" : "held-out rows";
}

enum { LOOK_MS = 10, MEET_MS = 200 };

/* ---- to look at ---- */

struct watched {
    struct progress *progress;
    enum data_part part;
    int64_t start_ns, first_done; /* what was there at the start; -1: not known yet */
};

static void draw(struct watched *watched, const struct preparation *preparation)
{
    enum { CELLS = 24 };
    struct preparation_progress at = preparation_progress(preparation);
    char text[256], left[32] = "?", cells[CELLS + 1] = "";
    const char *name = preparing_name(watched->part);
    if (at.raw_rows == 0) {
        snprintf(text, sizeof text, "%s: looking for rows, %lld of %lld MB", name,
                 (long long)(at.scanned_bytes / 1000000), (long long)(at.source_bytes / 1000000));
        progress_text(watched->progress, text);
        return;
    }
    if (watched->first_done < 0) watched->first_done = at.rows_done;
    double seconds = clock_seconds_since(watched->start_ns);
    double share = (double)at.rows_done / (double)at.raw_rows;
    int64_t made = at.rows_done - watched->first_done;
    if (made > 0) progress_duration(left, seconds / (double)made * (double)(at.raw_rows - at.rows_done));
    for (int i = 0; i < CELLS; i++) cells[i] = i < (int)(CELLS * share) ? '#' : '-';
    snprintf(text, sizeof text, "%s [%s] %lld/%lld %.0f%%  %.2fM tokens  left %s", name, cells,
             (long long)at.rows_done, (long long)at.raw_rows, 100 * share, (double)at.tokens * 1e-6, left);
    progress_text(watched->progress, text);
}

static enum status stopped(void)
{
    return FAIL(LORAD_REQUEUE, "stopped on request; what is prepared is kept");
}

enum status preparing_watch(struct preparation *preparation, enum progress_style style, enum data_part part,
                            enum preparing_until until)
{
    struct watched watched = {.part = part, .start_ns = clock_monotonic_ns(), .first_done = -1};
    bool done = false;
    enum status status = preparation_poll(preparation, &done);
    if (done || status != LORAD_OK) return status; /* nothing to look at */
    TRY(progress_open_text(&watched.progress, style));
    while (status == LORAD_OK && !done) {
        if (until == PREPARING_ROWS && preparation_rows_known(preparation)) break;
        clock_sleep_ms(LOOK_MS);
        status = request_wants_stop() ? stopped() : preparation_poll(preparation, &done);
        draw(&watched, preparation);
        activity_sign();
    }
    progress_close(watched.progress);
    return status;
}

/* ---- for a run ---- */

static bool speaks(const struct session *session)
{
    return session->ranks.local_rank == 0;
}

enum status preparing_finish(struct preparation **preparation, const struct session *session,
                             enum data_part part)
{
    if (!*preparation) return LORAD_OK;
    struct prepare_report *report = memory_new(1, sizeof *report);
    enum status status = LORAD_OK;
    if (report && session->ranks.rank == 0)
        status = preparing_watch(*preparation, session->options->progress, part, PREPARING_ALL);
    enum status end = preparation_finish(*preparation, report);
    *preparation = NULL;
    if (status == LORAD_OK) status = end;
    if (status == LORAD_OK && report && speaks(session)) data_print_report(part, report);
    free(report);
    return report ? status : LORAD_NOMEM;
}

/* Until this rank is done, has failed, is asked to stop, or should hear of the others. */
static enum status look(struct watched *watched, struct preparation *preparation, bool *done)
{
    enum status status = preparation_poll(preparation, done);
    for (int ms = 0; status == LORAD_OK && !*done && ms < MEET_MS && !request_wants_stop(); ms += LOOK_MS) {
        clock_sleep_ms(LOOK_MS);
        status = preparation_poll(preparation, done);
        if (watched->progress) draw(watched, preparation);
    }
    return status;
}

/* All ranks make the same number of rounds. */
static enum status wait_for_all(struct watched *watched, struct preparation *preparation,
                                const struct session *session)
{
    int32_t any[2] = {1, 0}; /* not done, asked to stop */
    while (any[0]) {
        bool done = false;
        TRY(comm_agree(session->world, look(watched, preparation, &done)));
        any[0] = !done;
        any[1] = request_wants_stop();
        TRY(comm_host_all_reduce(session->world, any, 2, DTYPE_I32, COMM_MAX));
        if (any[0] && any[1]) return stopped();
    }
    return LORAD_OK;
}

enum status preparing_wait(struct preparation **preparation, const struct session *session,
                           enum data_part part)
{
    if (!*preparation) return LORAD_OK;
    struct watched watched = {.part = part, .start_ns = clock_monotonic_ns(), .first_done = -1};
    bool done = false;
    enum status status = preparation_poll(*preparation, &done);
    if (status == LORAD_OK && !done && session->ranks.rank == 0)
        status = progress_open_text(&watched.progress, session->options->progress);
    status = comm_agree(session->world, status);
    if (status == LORAD_OK) status = wait_for_all(&watched, *preparation, session);
    progress_close(watched.progress);
    TRY(status);
    return comm_agree(session->world, preparing_finish(preparation, session, part));
}

enum status preparing_poll(struct preparation **preparation, const struct session *session,
                           enum data_part part)
{
    bool done;
    if (!*preparation) return LORAD_OK;
    TRY(preparation_poll(*preparation, &done));
    return done ? preparing_finish(preparation, session, part) : LORAD_OK;
}

void preparing_stop(struct preparation **preparation)
{
    char message[2048]; /* of what the run ends with */
    if (!*preparation) return;
    snprintf(message, sizeof message, "%s", status_message());
    preparation_cancel(*preparation);
    if (preparation_finish(*preparation, NULL) != LORAD_OK) status_clear();
    if (*message) (void)FAIL(LORAD_REQUEUE, "%s", message);
    *preparation = NULL;
}

static enum status begin(struct preparation **preparation, char **dir, const struct session *session,
                         const struct prepare_options *asked, enum data_part part)
{
    struct prepare_options options = *asked;
    options.follow = session->ranks.local_rank != 0;
    TRY(preparation_begin(preparation, &options));
    if (session->ranks.rank == 0)
        TRY(preparing_watch(*preparation, session->options->progress, part, PREPARING_ROWS));
    return preparation_folder(*preparation, dir);
}

/* What a rank knows of its folder. */
struct view {
    struct hash128 folder;
    int64_t done;
};

/* Whether all have the same folder and some have not all of it. Collective. */
static enum status may_train(bool *out, struct preparation *preparation, const char *dir,
                             const struct session *session)
{
    int size = session->ranks.world;
    const char *name = strrchr(dir, '/');
    bool done = true, same = true, all_done = true;
    struct view mine = {.folder = hash128(name ? name : dir, strlen(name ? name : dir))};
    struct view *all = memory_new((size_t)size, sizeof *all);
    enum status status = all ? preparation_poll(preparation, &done) : LORAD_NOMEM;
    mine.done = done;
    status = comm_agree(session->world, status);
    if (status == LORAD_OK) status = comm_host_all_gather(session->world, &mine, all, sizeof mine);
    for (int i = 0; status == LORAD_OK && i < size; i++) {
        same &= hash128_equal(all[i].folder, all[0].folder) != 0;
        all_done &= all[i].done != 0;
    }
    free(all);
    *out = same && !all_done;
    return status;
}

/* The first rank of a host prepares, so that the others find it at work. Collective. */
static enum status begin_everywhere(struct preparation **preparation, char **dir,
                                    const struct session *session, const struct prepare_options *options,
                                    enum data_part part)
{
    bool first = session->ranks.local_rank == 0;
    enum status status = first ? begin(preparation, dir, session, options, part) : LORAD_OK;
    TRY(comm_agree(session->world, status));
    if (!first) status = begin(preparation, dir, session, options, part);
    return comm_agree(session->world, status);
}

static void say_why(struct preparation *preparation, enum data_part part, bool may_go_on)
{
    bool done;
    if (part != DATA_TRAIN || preparation_poll(preparation, &done) != LORAD_OK || done) return;
    log_info("%s",
             may_go_on
                 ? "the hosts do not name the data the same: all rows are prepared before the first step"
                 : "all rows are prepared before the first step, since the length of the run follows "
                   "from them; with max_steps alone it starts at once");
}

enum status preparing_start(struct preparation **out, char **dir, const struct session *session,
                            const struct prepare_options *options, enum data_part part, bool may_go_on)
{
    struct preparation *preparation = NULL;
    char *folder = NULL;
    bool train = false;
    enum status status = begin_everywhere(&preparation, &folder, session, options, part);
    if (status == LORAD_OK && may_go_on) status = may_train(&train, preparation, folder, session);
    if (status == LORAD_OK && train) {
        log_info("training starts while its rows are being prepared");
    } else if (status == LORAD_OK) {
        say_why(preparation, part, may_go_on);
        status = preparing_wait(&preparation, session, part);
    }
    if (status == LORAD_OK) {
        *out = preparation;
        *dir = folder;
        return LORAD_OK;
    }
    preparing_stop(&preparation);
    free(folder);
    return status;
}
