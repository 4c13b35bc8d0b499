#include "comm/control.h"
#include "comm/control_impl.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/memory.h"

/* The way that needs the least comes first. */
static const struct control_ops *const ways[] = {
    &control_socket_ops,
    &control_redis_ops,
};
enum { WAYS = sizeof ways / sizeof *ways };

struct control {
    const struct control_ops *ops;
    void *state;
};

/* Why the ways before did not lead there, in front of the last one's reason. */
static enum status try_ways(struct control *control, const struct control_target *target)
{
    char before[1024] = "";
    enum status status = LORAD_OK;
    for (int i = 0; i < WAYS; i++) {
        if (!ways[i]->fits(target)) continue;
        if (status != LORAD_OK) snprintf(before, sizeof before, "%s", status_message());
        control->ops = ways[i];
        status = ways[i]->open(&control->state, target);
        if (status == LORAD_OK) return LORAD_OK;
        if (*before) status = status_context(status, "%s; by %s", before, ways[i]->kind);
    }
    if (status != LORAD_OK) return status;
    return FAIL(LORAD_USAGE,
                "which run? Name its output_dir, or --config FILE; by its name alone it is found "
                "with --redis-url URL");
}

enum status control_open(struct control **out, const struct control_target *target)
{
    struct control *control = memory_new(1, sizeof *control);
    if (!control) return LORAD_NOMEM;
    enum status status = try_ways(control, target);
    if (status != LORAD_OK) {
        free(control);
        return status;
    }
    *out = control;
    return LORAD_OK;
}

void control_close(struct control *control)
{
    if (!control) return;
    control->ops->close(control->state);
    free(control);
}

enum status control_send(struct control *control, const struct coord_command *request)
{
    return control->ops->send(control->state, request);
}

enum status control_receive(struct control *control, struct control_reply *out, int timeout_ms, bool *got)
{
    return control->ops->receive(control->state, out, timeout_ms, got);
}

void control_reply_free(struct control_reply *reply)
{
    free(reply->text);
    free(reply->run);
    *reply = (struct control_reply){.status = LORAD_OK};
}
