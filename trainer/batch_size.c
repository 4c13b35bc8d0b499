#include "trainer/batch_size.h"

enum { TOKENS_ENOUGH = 16384 };

static int32_t largest(const struct session *session)
{
    const struct run_options *o = session->options;
    int64_t share = o->global_batch_size / session->part.dp, fit = TOKENS_ENOUGH / o->cutoff_len;
    int32_t size = 1;
    while (2 * size <= share && 2 * size <= fit) size *= 2;
    return size;
}

enum status batch_size_choose(struct session *session, const struct stages *stages,
                              const struct plan_request *request)
{
    struct plan_request rung = *request;
    enum checkpointing wanted = request->wanted,
                       last = wanted == CHECKPOINTING_AUTO ? CHECKPOINTING_LAYER : wanted;
    enum status status = LORAD_OK;
    rung.wanted = wanted == CHECKPOINTING_AUTO ? CHECKPOINTING_NONE : wanted;
    for (; rung.wanted <= last; rung.wanted++) {
        for (int32_t size = largest(session); size > 0; size /= 2) {
            struct plan plan;
            session->micro_batch_size = size;
            rung.model = session_model_options(session, stages_capacity(stages, session), true);
            status = plan_make(&plan, &session->arch, &session->part, session->lora, &rung);
            if (status != LORAD_NOMEM) return status;
        }
    }
    return status;
}
