#include "support/loader_record.h"

#include "base/hash.h"
#include "support/test.h"

uint64_t batch_hash(const struct micro_batch *batch)
{
    size_t tokens = (size_t)batch->n_tokens, sequences = (size_t)batch->n_sequences;
    uint64_t parts[] = {hash64(batch->tokens, tokens * sizeof *batch->tokens),
                        hash64(batch->positions, tokens * sizeof *batch->positions),
                        hash64(batch->labels, tokens * sizeof *batch->labels),
                        hash64(batch->weights, tokens * sizeof *batch->weights),
                        hash64(batch->token_index, tokens * sizeof *batch->token_index),
                        hash64(batch->seq_start, (sequences + 1) * sizeof *batch->seq_start),
                        hash64(batch->row_ids, sequences * sizeof *batch->row_ids),
                        (uint64_t)batch->n_supervised,
                        (uint64_t)batch->longest};
    return hash64(parts, sizeof parts);
}

struct record *record_steps(struct dataset *dataset, const struct loader_options *options,
                            struct data_cursor from, int32_t n_steps)
{
    struct record *record = calloc(1, sizeof *record);
    struct loader *loader;
    struct micro_batch batch;
    assert_ok(loader_open(&loader, dataset, options, from));
    int32_t n = 0, step = 0;
    assert_true(n_steps <= MOST_STEPS);
    for (; step < n_steps && !(step > 0 && record->step[step - 1].last); step++) {
        record->before[step] = step > 0 ? record->step[step - 1].after : from;
        record->first_batch[step] = n;
        assert_ok(loader_next_step(loader, &record->step[step]));
        for (int32_t i = 0; i < record->step[step].my_micro_batches; i++) {
            assert_true(n < MOST_BATCHES);
            assert_ok(loader_next(loader, &batch));
            assert_true(batch.n_tokens > 0);
            record->hash[n++] = batch_hash(&batch);
        }
        assert_ok(loader_next(loader, &batch)); /* one too many: nothing */
        assert_int_equal(batch.n_tokens, 0);
    }
    record->first_batch[step] = n;
    record->n_steps = step;
    loader_close(loader);
    return record;
}

void assert_same_steps(const struct record *a, const struct record *b, int32_t from)
{
    assert_true(from + a->n_steps <= b->n_steps);
    for (int32_t i = 0; i < a->n_steps; i++) {
        const struct step_info *x = &a->step[i], *y = &b->step[from + i];
        assert_int_equal(x->packs, y->packs);
        assert_int_equal(x->micro_batches, y->micro_batches);
        assert_int_equal(x->supervised_tokens, y->supervised_tokens);
        assert_int_equal(x->tokens, y->tokens);
        assert_true(x->loss_weight == y->loss_weight && x->epoch == y->epoch);
        assert_memory_equal(&x->after, &y->after, sizeof x->after);
        assert_int_equal(x->last_of_epoch, y->last_of_epoch);
        assert_int_equal(x->last, y->last);
        int32_t n = a->first_batch[i + 1] - a->first_batch[i];
        assert_int_equal(n, b->first_batch[from + i + 1] - b->first_batch[from + i]);
        assert_memory_equal(a->hash + a->first_batch[i], b->hash + b->first_batch[from + i],
                            (size_t)n * sizeof *a->hash);
    }
}
