/* The group of one rank: every collective is the identity. */
#include "comm/comm_impl.h"

#include <string.h>

static char the_group;

static enum status self_create(void **out)
{
    *out = &the_group;
    return LORAD_OK;
}

static enum status self_split(void **out, void *group, int color, int key)
{
    (void)color, (void)key;
    *out = group;
    return LORAD_OK;
}

static void self_destroy(void *group)
{
    (void)group;
}

static int self_rank(const void *group)
{
    (void)group;
    return 0;
}

static int self_size(const void *group)
{
    (void)group;
    return 1;
}

static enum status self_all_reduce(void *group, void *buffer, int64_t count, enum dtype dtype,
                                   enum comm_reduction reduction)
{
    (void)group, (void)buffer, (void)count, (void)dtype, (void)reduction;
    return LORAD_OK;
}

static enum status self_all_gather(void *group, const void *in, void *out, size_t bytes)
{
    (void)group;
    if (out != in) memcpy(out, in, bytes);
    return LORAD_OK;
}

static enum status self_reduce_scatter(void *group, const void *in, void *out, int64_t count,
                                       enum dtype dtype, enum comm_reduction reduction)
{
    (void)reduction;
    return self_all_gather(group, in, out, (size_t)count * dtype_bytes(dtype));
}

static enum status self_broadcast(void *group, void *buffer, size_t bytes, int root)
{
    (void)group, (void)buffer, (void)bytes, (void)root;
    return LORAD_OK;
}

static enum status self_barrier(void *group)
{
    (void)group;
    return LORAD_OK;
}

const struct comm_ops comm_self_ops = {
    .kind = "self",
    .create = self_create,
    .split = self_split,
    .destroy = self_destroy,
    .rank = self_rank,
    .size = self_size,
    .all_reduce = self_all_reduce,
    .all_gather = self_all_gather,
    .reduce_scatter = self_reduce_scatter,
    .broadcast = self_broadcast,
    .barrier = self_barrier,
};
