/*
 * mixture.c: see mixture.h.
 *
 * Invariants:
 * (1) eras follow each other: era i holds epochs first_epoch of i .. first_epoch of i + 1 - 1. Era 0 is the
 *     run without additions; the k-th append makes an era of one epoch with the new rows and then one with
 *     all rows.
 * (2) all numbers of draws are below 2^62: an epoch has at most MOST_DRAWS positions and there are
 *     MIXTURE_MOST_EPOCHS epochs.
 * (3) a group that is drawn at all gives at least one row in every epoch until it reaches its cap, so an
 *     epoch is empty only when all later ones of its era are.
 */
#include "dataloader/mixture.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/random.h"
#include "dataloader/sampler.h"

enum { RATE_BITS = 40, MOST_WEIGHT = 1 << 20 };
static const int64_t most_draws = (int64_t)1 << 42; /* in an epoch, and raw rows */

typedef unsigned __int128 wide;

struct drawing {
    int64_t first_row, n_rows;
    wide rate;   /* draws an epoch, times 2^RATE_BITS */
    int64_t cap; /* draws in the era at most */
};

struct era {
    int64_t first_epoch;
    uint64_t stage; /* of the keys */
    struct drawing *group;
};

struct mixture {
    uint64_t seed;
    bool shuffle;
    int32_t n_groups, n_eras;
    struct era *era;
    struct drawing *drawings; /* [n_eras * n_groups] */
};

/* ---- how many ---- */

/* Draws of a group in the first `epochs` epochs of its era. */
static int64_t draws_before(const struct drawing *group, int64_t epochs)
{
    wide draws = (group->rate * (wide)epochs + ((wide)1 << (RATE_BITS - 1))) >> RATE_BITS;
    return draws < (wide)group->cap ? (int64_t)draws : group->cap;
}

static int64_t draws_of_epoch(const struct drawing *group, int64_t epoch)
{
    return draws_before(group, epoch + 1) - draws_before(group, epoch);
}

static const struct era *era_of(const struct mixture *mixture, int64_t epoch)
{
    int32_t i = mixture->n_eras - 1;
    while (mixture->era[i].first_epoch > epoch) i--;
    return &mixture->era[i];
}

int64_t mixture_positions(const struct mixture *mixture, int64_t epoch)
{
    if (epoch < 0 || epoch >= MIXTURE_MOST_EPOCHS) return 0;
    const struct era *era = era_of(mixture, epoch);
    int64_t positions = 0;
    for (int32_t g = 0; g < mixture->n_groups; g++)
        positions += draws_of_epoch(&era->group[g], epoch - era->first_epoch);
    return positions;
}

/* ---- which ---- */

/* Of the first `left` positions of groups that have `n` of `rest` positions among them: how many are the
 * first group's. It and left - share(left) never fall when `left` grows, and share(rest) is n. */
static int64_t share(int64_t left, int64_t n, int64_t rest)
{
    return (int64_t)((2 * (wide)left * (wide)n + (wide)rest) / (2 * (wide)rest));
}

/* A block of an epoch: where it is, and what of each group lies before it and inside it, group by group. */
struct block_walk {
    int64_t left_begin,
        left_end; /* positions before the block and up to its end, of this group and all later ones */
    int64_t rest; /* positions in the epoch, of these */
};

/* The next group has `n` draws in the epoch: *before of them before the block, the result inside it. */
static int64_t walk_group(struct block_walk *walk, int64_t n, int64_t *before)
{
    if (n == 0) return 0;
    int64_t end = share(walk->left_end, n, walk->rest);
    *before = share(walk->left_begin, n, walk->rest);
    walk->left_begin -= *before;
    walk->left_end -= end;
    walk->rest -= n;
    return end - *before;
}

static struct block_walk walk_start(int64_t positions, int64_t block)
{
    int64_t begin = block * MIXTURE_BLOCK, left = positions - begin;
    return (struct block_walk){begin, begin + (left < MIXTURE_BLOCK ? left : MIXTURE_BLOCK), positions};
}

static int64_t numbered_row(const struct mixture *mixture, int64_t number)
{
    const struct drawing *group = mixture->era[0].group;
    while (number >= group->n_rows) number -= group++->n_rows;
    return group->first_row + number;
}

static uint64_t pass_key(const struct mixture *mixture, const struct era *era, int32_t group, int64_t pass)
{
    return random_key(mixture->seed, RANDOM_ROW_ORDER, (uint64_t)pass, (uint64_t)group, era->stage);
}

/* Rows of draws [first, first + n) of a group. */
static void draw_rows(const struct mixture *mixture, const struct era *era, int32_t g, int64_t first,
                      int64_t n, int64_t *rows)
{
    const struct drawing *group = &era->group[g];
    struct permutation permutation;
    int64_t pass = first / group->n_rows, at = first % group->n_rows;
    for (int64_t i = 0; i < n; i++, at++) {
        if (at == group->n_rows) {
            at = 0;
            pass++;
        }
        if (i == 0 || at == 0)
            permutation_init(&permutation, (uint64_t)group->n_rows, pass_key(mixture, era, g, pass));
        rows[i] = group->first_row + (int64_t)permutation_at(&permutation, (uint64_t)at);
    }
}

static void slots_init(struct permutation *slots, const struct mixture *mixture, const struct era *era,
                       int64_t epoch, int64_t block, int64_t n)
{
    permutation_init(slots, (uint64_t)n,
                     random_key(mixture->seed, RANDOM_MIX, (uint64_t)epoch, (uint64_t)block, era->stage));
}

/* All rows of a block. Slot k of the permutation stands for draw k of the block, group by group; a block that
 * one group fills alone is left as it is drawn. */
static int64_t block_rows(const struct mixture *mixture, int64_t epoch, int64_t block, int64_t *rows)
{
    const struct era *era = era_of(mixture, epoch);
    int64_t of_era = epoch - era->first_epoch, drawn[MIXTURE_BLOCK], filled = 0, before = 0;
    struct block_walk walk = walk_start(mixture_positions(mixture, epoch), block);
    int64_t n = walk.left_end - walk.left_begin;
    bool alone = false;
    for (int32_t g = 0; g < mixture->n_groups; g++) {
        int64_t slots = walk_group(&walk, draws_of_epoch(&era->group[g], of_era), &before);
        if (slots == 0) continue;
        draw_rows(mixture, era, g, draws_before(&era->group[g], of_era) + before, slots, drawn + filled);
        filled += slots;
        alone = slots == n;
    }
    ASSERT(filled == n);
    struct permutation slots;
    if (!alone) slots_init(&slots, mixture, era, epoch, block, n);
    for (int64_t i = 0; i < n; i++) rows[i] = drawn[alone ? i : (int64_t)permutation_at(&slots, (uint64_t)i)];
    return n;
}

void mixture_rows(const struct mixture *mixture, int64_t epoch, int64_t first, int32_t n, int64_t *rows)
{
    ASSERT(n >= 0 && first >= 0 && first + n <= mixture_positions(mixture, epoch));
    if (!mixture->shuffle) {
        for (int32_t i = 0; i < n; i++) rows[i] = numbered_row(mixture, first + i);
        return;
    }
    for (int32_t i = 0; i < n;) {
        int64_t whole[MIXTURE_BLOCK], block = (first + i) / MIXTURE_BLOCK, skip = (first + i) % MIXTURE_BLOCK;
        int64_t of_block = block_rows(mixture, epoch, block, whole) - skip;
        if (of_block > n - i) of_block = n - i;
        memcpy(rows + i, whole + skip, (size_t)of_block * sizeof *rows);
        i += (int32_t)of_block;
    }
}

int64_t mixture_row(const struct mixture *mixture, int64_t epoch, int64_t position)
{
    int64_t positions = mixture_positions(mixture, epoch);
    ASSERT(position >= 0 && position < positions);
    if (!mixture->shuffle) return numbered_row(mixture, position);
    const struct era *era = era_of(mixture, epoch);
    int64_t of_era = epoch - era->first_epoch, block = position / MIXTURE_BLOCK;
    int64_t offset = position % MIXTURE_BLOCK, first = 0, before = 0;
    struct block_walk walk = walk_start(positions, block);
    int64_t n = walk.left_end - walk.left_begin;
    bool alone = false;
    for (int32_t g = 0; g < mixture->n_groups; g++) {
        struct block_walk again = walk;
        if (walk_group(&again, draws_of_epoch(&era->group[g], of_era), &before) == n) alone = true;
        walk = again;
    }
    struct permutation slots;
    if (!alone) {
        slots_init(&slots, mixture, era, epoch, block, n);
        offset = (int64_t)permutation_at(&slots, (uint64_t)offset);
    }
    walk = walk_start(positions, block);
    for (int32_t g = 0;; g++) {
        int64_t count = walk_group(&walk, draws_of_epoch(&era->group[g], of_era), &before);
        if (offset < first + count) {
            int64_t row;
            draw_rows(mixture, era, g, draws_before(&era->group[g], of_era) + before + offset - first, 1,
                      &row);
            return row;
        }
        first += count;
    }
}

int64_t mixture_repeats(const struct mixture *mixture)
{
    int64_t most = 1;
    for (int64_t i = 0; i < (int64_t)mixture->n_eras * mixture->n_groups; i++) {
        const struct drawing *group = &mixture->drawings[i];
        if (group->rate == 0) continue;
        /* n draws of passes of n_rows touch at most n / n_rows passes as a whole and parts of two more. */
        int64_t repeats = (int64_t)(group->rate >> RATE_BITS) / group->n_rows + 2;
        if (group->rate == (wide)group->n_rows << RATE_BITS) repeats = 1;
        if (repeats > most) most = repeats;
    }
    return most;
}

/* ---- making one ---- */

static enum status check_groups(const struct mixture_group *groups, int32_t n,
                                const struct mixture_options *options)
{
    int64_t rows = 0;
    for (int32_t g = 0; g < n; g++) {
        ASSERT(groups[g].n_rows >= 0 && groups[g].first_row >= 0);
        if (!(groups[g].weight >= 0 && groups[g].weight <= MOST_WEIGHT))
            return FAIL(LORAD_CONFIG, "dataset %d: its weight is %g; it must lie between 0 and %d", g + 1,
                        groups[g].weight, MOST_WEIGHT);
        if (!(groups[g].max_epochs >= 0 && groups[g].max_epochs <= MIXTURE_MOST_EPOCHS))
            return FAIL(LORAD_CONFIG,
                        "dataset %d: its epochs are %g; they must lie between 0 (no limit) and %d", g + 1,
                        groups[g].max_epochs, MIXTURE_MOST_EPOCHS);
        if (groups[g].n_rows > most_draws || (rows += groups[g].n_rows) > most_draws)
            return FAIL(LORAD_DATA, "more than %lld rows", (long long)most_draws);
    }
    if (rows == 0) return FAIL(LORAD_DATA, "the prepared data holds no rows");
    ASSERT(options->stage <= UINT32_MAX);
    return LORAD_OK;
}

/* Sizes and places of the groups in an era: the whole, the front or the end of each. */
static void set_ranges(const struct mixture *mixture, struct drawing *out, const struct mixture_group *groups,
                       const int64_t *skip, const int64_t *end)
{
    for (int32_t g = 0; g < mixture->n_groups; g++) {
        int64_t first = skip ? skip[g] : 0, last = end ? end[g] : groups[g].n_rows;
        out[g] = (struct drawing){.first_row = groups[g].first_row + first, .n_rows = last - first};
    }
}

/* The group whose single pass makes the length of an epoch; -1: none. */
static int32_t find_pace(const struct drawing *drawing, const struct mixture_group *groups, int32_t n,
                         enum mix_strategy strategy)
{
    int32_t pace = -1;
    double best = 0;
    for (int32_t g = 0; g < n; g++) {
        if (groups[g].weight == 0 || drawing[g].n_rows == 0) continue;
        double length = (double)drawing[g].n_rows / groups[g].weight;
        if (pace < 0 || (strategy == MIX_INTERLEAVE_UNDER ? length < best : length > best)) {
            pace = g;
            best = length;
        }
    }
    return pace;
}

/* `drawn`: draws made in earlier eras. */
static enum status set_rates(const struct mixture *mixture, struct drawing *drawing,
                             const struct mixture_group *groups, const struct mixture_options *options,
                             const int64_t *drawn)
{
    int32_t n = mixture->n_groups, pace = find_pace(drawing, groups, n, options->strategy);
    wide total = 0;
    for (int32_t g = 0; g < n; g++) {
        double weight = groups[g].weight;
        int64_t rows = drawing[g].n_rows;
        if (weight == 0 || rows == 0) continue;
        if (options->strategy != MIX_CONCAT) {
            weight /= groups[pace].weight;
            rows = drawing[pace].n_rows;
        }
        wide rate = (wide)(fmin(weight, 0x1p43) * 0x1p40 + 0.5) * (wide)rows;
        drawing[g].rate = rate;
        if (rate < (wide)1 << RATE_BITS)
            return FAIL(LORAD_CONFIG, "dataset %d: weight %g gives less than one of its %lld rows an epoch",
                        g + 1, groups[g].weight, (long long)drawing[g].n_rows);
        if (rate > (wide)most_draws << RATE_BITS || (total += rate) > (wide)most_draws << RATE_BITS)
            return FAIL(LORAD_CONFIG, "dataset %d: with weight %g an epoch has more than %lld rows", g + 1,
                        groups[g].weight, (long long)most_draws);
        drawing[g].cap = INT64_MAX;
        if (groups[g].max_epochs > 0) {
            double cap = floor(groups[g].max_epochs * (double)drawing[g].n_rows + 0.5) - (double)drawn[g];
            drawing[g].cap = cap < 0 ? 0 : cap > 0x1p62 ? (int64_t)1 << 62 : (int64_t)cap;
        }
    }
    return LORAD_OK;
}

/* Every new row once. */
static enum status set_new_rows(const struct mixture *mixture, struct drawing *drawing,
                                const struct mixture_group *groups, int64_t epoch)
{
    int64_t rows = 0;
    for (int32_t g = 0; g < mixture->n_groups; g++) {
        if (groups[g].weight == 0) continue;
        rows += drawing[g].n_rows;
        drawing[g].rate = (wide)drawing[g].n_rows << RATE_BITS;
        drawing[g].cap = drawing[g].n_rows;
    }
    if (rows == 0)
        return FAIL(LORAD_DATA, "no row of a dataset with a weight was added in epoch %lld",
                    (long long)epoch);
    return LORAD_OK;
}

static void add_drawn(const struct mixture *mixture, const struct drawing *drawing, int64_t epochs,
                      int64_t *drawn)
{
    for (int32_t g = 0; g < mixture->n_groups; g++) drawn[g] += draws_before(&drawing[g], epochs);
}

/* The sizes of append k against those of the next one, or of today. */
static enum status check_append(const struct mixture_group *groups, int32_t n,
                                const struct mixture_options *options, int32_t k)
{
    const struct mixture_append *append = &options->appends[k];
    int64_t earliest = k > 0 ? options->appends[k - 1].epoch + 1 : 0;
    if (append->epoch < earliest || append->epoch >= MIXTURE_MOST_EPOCHS - 1)
        return FAIL(LORAD_DATA, "rows cannot have been added in epoch %lld", (long long)append->epoch);
    for (int32_t g = 0; g < n; g++) {
        int64_t later = k + 1 < options->n_appends ? append[1].old_rows[g] : groups[g].n_rows;
        if (append->old_rows[g] < 0 || append->old_rows[g] > later)
            return FAIL(LORAD_DATA, "dataset %d had %lld rows when rows were added, and has %lld after that",
                        g + 1, (long long)append->old_rows[g], (long long)later);
    }
    return LORAD_OK;
}

static enum status make_eras(struct mixture *mixture, const struct mixture_group *groups,
                             const struct mixture_options *options, int64_t *drawn)
{
    int32_t n = options->shuffle ? options->n_appends : 0;
    struct drawing *drawing = mixture->drawings;
    for (int32_t i = 0; i < mixture->n_eras; i++, drawing += mixture->n_groups) {
        const struct mixture_append *last = i > 0 ? &options->appends[(i - 1) / 2] : NULL;
        const struct mixture_append *next = (i + 1) / 2 < n ? &options->appends[(i + 1) / 2] : NULL;
        bool is_new = i % 2 == 1;
        if (i % 2 == 0 && next) TRY(check_append(groups, mixture->n_groups, options, i / 2));
        mixture->era[i] = (struct era){.first_epoch = last ? last->epoch + !is_new : 0,
                                       .stage = options->stage | (uint64_t)i << 32,
                                       .group = drawing};
        set_ranges(mixture, drawing, groups, is_new ? last->old_rows : NULL, next ? next->old_rows : NULL);
        if (is_new)
            TRY(set_new_rows(mixture, drawing, groups, last->epoch));
        else
            TRY(set_rates(mixture, drawing, groups, options, drawn));
        if (is_new)
            add_drawn(mixture, drawing, 1, drawn);
        else if (next)
            add_drawn(mixture, drawing, next->epoch - mixture->era[i].first_epoch, drawn);
    }
    return LORAD_OK;
}

enum status mixture_create(struct mixture **out, const struct mixture_group *groups, int32_t n,
                           const struct mixture_options *options)
{
    TRY(check_groups(groups, n, options));
    struct mixture *mixture = memory_new(1, sizeof *mixture);
    if (!mixture) return LORAD_NOMEM;
    mixture->seed = options->seed;
    mixture->shuffle = options->shuffle;
    mixture->n_groups = n;
    mixture->n_eras = 1 + (options->shuffle ? 2 * options->n_appends : 0);
    enum status status = LORAD_NOMEM;
    int64_t *drawn = memory_new((size_t)n, sizeof *drawn);
    mixture->era = memory_new((size_t)mixture->n_eras, sizeof *mixture->era);
    mixture->drawings = memory_new((size_t)mixture->n_eras * (size_t)n, sizeof *mixture->drawings);
    if (!drawn || !mixture->era || !mixture->drawings) goto done;
    if (options->shuffle) {
        status = make_eras(mixture, groups, options, drawn);
    } else {
        mixture->era[0].group = mixture->drawings;
        set_ranges(mixture, mixture->drawings, groups, NULL, NULL);
        for (int32_t g = 0; g < n; g++) {
            mixture->drawings[g].rate = (wide)groups[g].n_rows << RATE_BITS;
            mixture->drawings[g].cap = INT64_MAX;
        }
        status = LORAD_OK;
    }
    if (status == LORAD_OK && mixture_positions(mixture, 0) == 0)
        status = FAIL(LORAD_DATA, "there is nothing to train on: every dataset is empty or has weight 0");
done:
    free(drawn);
    if (status == LORAD_OK)
        *out = mixture;
    else
        mixture_destroy(mixture);
    return status;
}

void mixture_destroy(struct mixture *mixture)
{
    if (!mixture) return;
    free(mixture->era);
    free(mixture->drawings);
    free(mixture);
}
