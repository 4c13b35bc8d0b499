/*
 * op_run.h: one run of one operation under test: its buffers, its call, and what is then checked.
 *
 * A case's body asks for its matrices, calls the operation with OP_RUN and compares outputs with OP_EXPECT.
 * The harness adds what every operation must satisfy: nothing but the outputs' own elements is written
 * (redzones before and after every buffer and the spare columns hold NaN patterns, which also shows reads
 * beyond an input), inputs stay as they were, and the output bits are the same for any number of threads. In
 * a benchmark the same body runs once: OP_RUN times the call and is then false, so that nothing is compared.
 */
#ifndef LORAD_TESTS_SUPPORT_OP_RUN_H
#define LORAD_TESTS_SUPPORT_OP_RUN_H

#include <stdbool.h>

#include "kernels/ops.h"
#include "support/approx.h"
#include "support/test.h"

enum op_id {
#define OP(name) OP_ID_##name,
#include "kernels/ops.def"
#undef OP
    OP_COUNT
};
extern const char *const op_names[OP_COUNT];

enum op_use { OP_IN, OP_OUT, OP_INOUT };
enum { OP_BUFFERS = 32, OP_SEQUENCES = 8 };

struct op_shape {
    int64_t tokens, dim; /* T, d; f for swiglu, columns for the loss */
    int64_t spare;       /* columns behind each row of strided outputs */
    int64_t q_heads, kv_heads, head_dim, window;
    int64_t lengths[OP_SEQUENCES]; /* of the sequences; they sum to tokens. None: one sequence */
    int64_t padding, parts;        /* loss: columns beyond the vocabulary, ranks */
    int variant;                   /* of the body: optional arguments */
};

struct op_run;
struct op_case {
    enum op_id op;
    const char *name; /* what is special about the shape */
    void (*body)(struct op_run *run, const struct op_shape *shape);
    struct op_shape shape;
    bool f32_only;
};

struct op_buffer {
    enum op_use use;
    struct matrix device; /* as the operation sees it */
    char *block,
        *original; /* whole allocation with redzones: device memory; host copy from before the call */
    size_t bytes;
    bool has_values;
};

struct op_run {
    struct device *device;
    const struct op_case *test;
    enum dtype dtype;
    bool bench, deterministic;
    uint64_t random; /* counter */
    struct op_buffer buffer[OP_BUFFERS];
    int n_buffers;
    void *scrap[64]; /* freed at the end */
    int n_scrap;
    uint64_t bits; /* hash of all outputs compared so far */
    double seconds, work, bytes;
};

/* Runs a case's body on a device. In a benchmark, run->seconds is the least of several calls. */
void op_case_run(struct op_run *run, struct device *device, const struct op_case *test, enum dtype dtype,
                 bool bench);

/* A buffer: IN and INOUT are filled with uniform values in [-scale, scale] (rounded to dtype), OUT with NaN.
 */
struct matrix op_matrix(struct op_run *run, enum op_use use, enum dtype dtype, int64_t rows, int64_t cols,
                        int64_t spare, double scale);
/* The same with given values (IN or INOUT), or int32 values. */
struct matrix op_matrix_of(struct op_run *run, enum op_use use, enum dtype dtype, int64_t rows, int64_t cols,
                           int64_t spare, const double *values);
const int32_t *op_ints(struct op_run *run, int64_t n, const int32_t *values);

/* Values as dense doubles: of the buffer before the call, or now. Freed by the harness. */
double *op_before(struct op_run *run, struct matrix m);
double *op_now(struct op_run *run, struct matrix m);
double *op_doubles(struct op_run *run, int64_t n); /* room for a reference */

void op_expect(struct op_run *run, const char *what, struct matrix m, const double *want,
               struct approx limit);
#define OP_EXPECT(run, m, want)                                                                              \
    op_expect(run, #m, m, want, approx_for(op_names[(run)->test->op], (run)->dtype))

/* Calls op_NAME; fails the test when the call fails. work: arithmetic operations; moved: least bytes read and
 * written. True when the outputs are to be compared. */
#define OP_RUN(run, name, args, work, moved) op_call(run, op_call_##name, args, work, moved)
bool op_call(struct op_run *run, enum status (*call)(struct device *, const void *), const void *args,
             double work, double moved);
#define OP(name) enum status op_call_##name(struct device *device, const void *args);
#include "kernels/ops.def"
#undef OP

/* Uniform in [-1, 1), different at every call. */
double op_random(struct op_run *run);

/* starts of the shape's sequences, [count + 1], and positions that restart with each. Host and device. */
struct op_packing {
    struct sequences sequences;      /* device */
    const int32_t *positions;        /* device [T] */
    int32_t start[OP_SEQUENCES + 1]; /* host */
    int32_t *host_positions;
};
struct op_packing op_packing(struct op_run *run, const struct op_shape *shape);

/* All cases: support/op_cases_*.c */
extern const struct op_case op_cases_rows[], op_cases_attention[], op_cases_loss[];
extern const int n_op_cases_rows, n_op_cases_attention, n_op_cases_loss;

#endif
