#include "dataloader/prepare_order.h"

#include <stdlib.h>

#include "base/memory.h"

enum { AHEAD = 1024 };

struct prepare_order {
    struct mixture *mixture;
    uint8_t *done; /* a bit a row */
    int64_t n_rows, left;
    int64_t epoch, position, positions; /* behind the rows that are ahead */
    int64_t found_in_epoch;
    bool in_rest; /* the epochs are through: by number from `rest` on */
    int64_t rest;
    int64_t ahead[AHEAD];
    int32_t n_ahead, at;
};

void prepare_order_destroy(struct prepare_order *order)
{
    if (!order) return;
    mixture_destroy(order->mixture);
    free(order->done);
    free(order);
}

static enum status make_mixture(struct prepare_order *order, const struct row_range *groups,
                                const struct dataset_source *sources, int32_t n,
                                const struct mixture_options *options)
{
    struct mixture_group *group = memory_new((size_t)n, sizeof *group);
    if (!group) return LORAD_NOMEM;
    for (int32_t i = 0; i < n; i++)
        group[i] = (struct mixture_group){.first_row = groups[i].first,
                                          .n_rows = groups[i].n,
                                          .weight = sources[i].weight > 0 ? sources[i].weight : 1,
                                          .max_epochs = sources[i].max_epochs};
    enum status status = mixture_create(&order->mixture, group, n, options);
    free(group);
    return status;
}

enum status prepare_order_create(struct prepare_order **out, const struct row_range *groups,
                                 const struct dataset_source *sources, int32_t n,
                                 const struct mixture_options *options)
{
    struct prepare_order *order = memory_new(1, sizeof *order);
    if (!order) return LORAD_NOMEM;
    for (int32_t i = 0; i < n; i++) order->n_rows += groups[i].n;
    order->left = order->n_rows;
    order->done = memory_new((size_t)order->n_rows / 8 + 1, 1);
    enum status status = order->done ? make_mixture(order, groups, sources, n, options) : LORAD_NOMEM;
    if (status != LORAD_OK) {
        prepare_order_destroy(order);
        return status;
    }
    order->positions = mixture_positions(order->mixture, 0);
    *out = order;
    return LORAD_OK;
}

bool prepare_order_done(struct prepare_order *order, int64_t row)
{
    if (row < 0 || row >= order->n_rows) return false;
    uint8_t bit = (uint8_t)(1u << (row % 8));
    if (order->done[row / 8] & bit) return false;
    order->done[row / 8] |= bit;
    order->left--;
    return true;
}

/* The next rows of the epochs; false: no later epoch has a new one. */
static bool look_ahead(struct prepare_order *order)
{
    if (order->position == order->positions) {
        if (order->found_in_epoch == 0 && order->epoch > 0) return false;
        order->found_in_epoch = 0;
        order->position = 0;
        order->positions = mixture_positions(order->mixture, ++order->epoch);
        if (order->positions == 0) return false;
    }
    int64_t left = order->positions - order->position;
    order->n_ahead = left < AHEAD ? (int32_t)left : AHEAD;
    order->at = 0;
    mixture_rows(order->mixture, order->epoch, order->position, order->n_ahead, order->ahead);
    order->position += order->n_ahead;
    return true;
}

int64_t prepare_order_next(struct prepare_order *order)
{
    while (order->left > 0 && !order->in_rest) {
        if (order->at == order->n_ahead && !look_ahead(order)) {
            order->in_rest = true;
            break;
        }
        int64_t row = order->ahead[order->at++];
        if (!prepare_order_done(order, row)) continue;
        order->found_in_epoch++;
        return row;
    }
    while (order->left > 0) {
        int64_t row = order->rest++;
        if (prepare_order_done(order, row)) return row;
    }
    return -1;
}
