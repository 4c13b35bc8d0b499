#include "trainer/replay.h"

#include <stdlib.h>

#include "base/log.h"

void replay_init(struct replay *replay, bool can, enum cuda_graphs wish)
{
    *replay = (struct replay){.wish = wish};
    replay->decided = !can || wish != CUDA_GRAPHS_AUTO;
    replay->chosen = can && wish == CUDA_GRAPHS_ON;
}

bool replay_begin(struct replay *replay)
{
    replay->now = replay->decided ? replay->chosen : replay->steps % 2 == 1;
    return replay->now;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values)
{
    qsort(values, REPLAY_TRIALS, sizeof *values, ascending);
    return values[REPLAY_TRIALS / 2];
}

static void decide(struct replay *replay)
{
    replay->decided = true;
    if (replay->n[0] < REPLAY_TRIALS || replay->n[1] < REPLAY_TRIALS) {
        log_info("cuda_graphs: off, since the shapes of micro-batches repeat too seldom");
        return;
    }
    double plain = median(replay->pace[0]), replayed = median(replay->pace[1]);
    replay->chosen = replayed < plain;
    log_info("cuda_graphs: %s, since with them a step takes %.3f of the time", replay->chosen ? "on" : "off",
             replayed / plain);
}

void replay_join(struct replay_step *all, const struct replay_step *one)
{
    if (one->seconds > all->seconds) all->seconds = one->seconds;
    all->tokens += one->tokens;
    all->passes += one->passes;
    all->replayed += one->replayed;
}

bool replay_end(struct replay *replay, const struct replay_step *step)
{
    if (replay->wish == CUDA_GRAPHS_ON && step->replayed > 0 && !replay->told) {
        replay->told = true;
        log_info("cuda_graphs: on; a micro-batch whose shape was met before is replayed");
    }
    if (replay->decided || step->passes == 0) return false;
    /* The first steps warm up. One that mostly recorded, or met new shapes, is not what the rest will be
     * like; but with many micro-batches in a step nearly each has a rare one. */
    bool counts = replay->steps >= 2 && (!replay->now || 2 * step->replayed >= step->passes);
    int32_t *n = &replay->n[replay->now];
    if (counts && *n < REPLAY_TRIALS)
        replay->pace[replay->now][(*n)++] = step->seconds / (double)step->tokens;
    replay->steps++;
    bool enough = replay->n[0] == REPLAY_TRIALS && replay->n[1] == REPLAY_TRIALS;
    if (!enough && replay->steps < REPLAY_PATIENCE) return false;
    decide(replay);
    return !replay->chosen;
}
