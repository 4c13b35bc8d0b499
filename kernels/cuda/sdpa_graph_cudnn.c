/*
 * sdpa_graph_cudnn.c: the owner of cudnn.h: builds attention's graphs with cuDNN's backend interface.
 *
 * cuDNN recognises attention by the shape of the graph, and its kernels were made for the operations in the
 * order in which NVIDIA's own front end emits them (github.com/NVIDIA/cudnn-frontend, "composite" nodes). So:
 *
 * 1. The order of operations, where masks come, and which values are f32 or 16-bit are as there; other orders
 * that say the same may be refused, or be slower.
 * 2. Rows are packed: every tensor has dims [batch, heads, tokens, head_dim] and an offset for each sequence.
 * Both masks are always there: padding (rows and keys of a sequence's own length) and the causal one.
 * 3. In the backward, the padding mask comes before the log-sum-exps are taken off, the causal one after.
 * 4. What the backward keeps on the way is packed like what it belongs to, so its size goes with the tokens
 * there are, not with batch times the longest that a sequence may be.
 * 5. K and V of a product with a transposed side are the same memory with two dims exchanged.
 *
 * A graph remembers its first failure, after which its functions do nothing: callers look once, at the end.
 */
#include "kernels/cuda/sdpa_graph.h"

#include <cudnn.h>
#include <dlfcn.h>
#include <math.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

#define LIBRARY "libcudnn.so.9"

enum {
    OLDEST = 91801, /* 9.18.1: before it, packed backwards on Hopper could give NaN */
    MOST_NODES = 192,
    MOST_OPERATIONS = 48,
    MOST_GIVEN = 48,
    MOST_CONFIGS = 16,
};

typedef cudnnBackendDescriptor_t node;

/* The functions of libcudnn that are used. */
#define FUNCTIONS(X)                                                                                         \
    X(GetVersion)                                                                                            \
    X(Create)                                                                                                \
    X(Destroy)                                                                                               \
    X(SetStream)                                                                                             \
    X(GetErrorString)                                                                                        \
    X(GetLastErrorString)                                                                                    \
    X(BackendCreateDescriptor) X(BackendDestroyDescriptor) X(BackendSetAttribute) X(BackendGetAttribute)     \
        X(BackendFinalize) X(BackendExecute)

struct sdpa_library {
#define X(name) __typeof__(&cudnn##name) name;
    FUNCTIONS(X)
#undef X
    char version[32];
};

static struct sdpa_library opened;
static char missing[256]; /* why there is none */

static void open_once(void)
{
    void *file = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
    if (!file) {
        snprintf(missing, sizeof missing, "%s", dlerror());
        return;
    }
#define X(name)                                                                                              \
    *(void **)&opened.name = dlsym(file, "cudnn" #name);                                                     \
    if (!opened.name) snprintf(missing, sizeof missing, "%s lacks cudnn%s", LIBRARY, #name);
    FUNCTIONS(X)
#undef X
    if (missing[0]) return;
    size_t version = opened.GetVersion();
    snprintf(opened.version, sizeof opened.version, "%zu.%zu.%zu", version / 10000, version / 100 % 100,
             version % 100);
    if (version < OLDEST)
        snprintf(missing, sizeof missing, "cuDNN %s is too old, %d.%d.%d is needed", opened.version,
                 OLDEST / 10000, OLDEST / 100 % 100, OLDEST % 100);
}

enum status sdpa_library_open(const struct sdpa_library **out)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, open_once);
    if (missing[0]) return FAIL(LORAD_NOT_FOUND, "%s", missing);
    *out = &opened;
    return LORAD_OK;
}

const char *sdpa_library_version(const struct sdpa_library *library)
{
    return library->version;
}

/* cuDNN's words for the last failure on this thread, on one line. */
static enum status fail(const struct sdpa_library *library, cudnnStatus_t error, const char *what)
{
    char words[400] = "";
    library->GetLastErrorString(words, sizeof words);
    for (char *c = words; *c; c++)
        if (*c == '\n') *c = ' ';
    enum status code = error == CUDNN_STATUS_ALLOC_FAILED ? LORAD_NOMEM : LORAD_DEVICE;
    return FAIL(code, "cuDNN %s: %s: %s %s", library->version, what, library->GetErrorString(error), words);
}

enum status sdpa_handle_create(void **out, const struct sdpa_library *library, void *stream)
{
    cudnnHandle_t handle;
    cudnnStatus_t error = library->Create(&handle);
    if (error != CUDNN_STATUS_SUCCESS) return fail(library, error, "cudnnCreate");
    error = library->SetStream(handle, stream);
    if (error != CUDNN_STATUS_SUCCESS) {
        enum status status = fail(library, error, "cudnnSetStream");
        library->Destroy(handle);
        return status;
    }
    *out = handle;
    return LORAD_OK;
}

void sdpa_handle_destroy(const struct sdpa_library *library, void *handle)
{
    if (handle) library->Destroy(handle);
}

/* ---- descriptors ---- */

struct graph {
    const struct sdpa_library *cudnn;
    struct sdpa_key key;
    cudnnDataType_t act;
    enum status status;
    int64_t next_uid;
    int nodes, operations, given;
    int64_t given_uid[MOST_GIVEN]; /* of the values that a run must give */
    node node[MOST_NODES];         /* all, to be destroyed */
    node operation[MOST_OPERATIONS];
    node lengths_q, lengths_kv;
    node scale;
    node gpu; /* properties, where they are given */
};

/* dims [batch, heads, rows, cols] of a value, and its strides */
struct box {
    int64_t dim[4], stride[4];
};

static bool went_well(struct graph *g, cudnnStatus_t error, const char *what)
{
    if (g->status == LORAD_OK && error != CUDNN_STATUS_SUCCESS) g->status = fail(g->cudnn, error, what);
    return g->status == LORAD_OK;
}

static node start(struct graph *g, cudnnBackendDescriptorType_t type)
{
    node made = NULL;
    if (g->status != LORAD_OK) return NULL;
    ASSERT(g->nodes < MOST_NODES);
    if (!went_well(g, g->cudnn->BackendCreateDescriptor(type, &made), "descriptor")) return NULL;
    g->node[g->nodes++] = made;
    return made;
}

static void set(struct graph *g, node of, cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type,
                int64_t count, const void *values)
{
    if (g->status == LORAD_OK)
        went_well(g, g->cudnn->BackendSetAttribute(of, name, type, count, values), "attribute");
}

static void set_node(struct graph *g, node of, cudnnBackendAttributeName_t name, node value)
{
    set(g, of, name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &value);
}

static node finish(struct graph *g, node made, const char *what)
{
    if (g->status == LORAD_OK) went_well(g, g->cudnn->BackendFinalize(made), what);
    return made;
}

static void finish_operation(struct graph *g, node made, const char *what)
{
    finish(g, made, what);
    if (g->status != LORAD_OK) return;
    ASSERT(g->operations < MOST_OPERATIONS);
    g->operation[g->operations++] = made;
}

static void destroy_graph(struct graph *g)
{
    for (int i = g->nodes; i-- > 0;) g->cudnn->BackendDestroyDescriptor(g->node[i]);
}

/* ---- values ---- */

/* Uids beside those of enum sdpa_tensor: f32 scalars that each run gives, then minus infinities and what only
 * passes through. */
enum { LENGTHS_AGAIN = SDPA_TENSORS, SCALE, ONE, WINDOW, OTHER };

static node value(struct graph *g, int64_t uid, cudnnDataType_t type, struct box box, bool virtual,
                  bool by_value, node offset)
{
    node made = start(g, CUDNN_BACKEND_TENSOR_DESCRIPTOR);
    int64_t alignment = 16;
    set(g, made, CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, 1, &uid);
    set(g, made, CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &type);
    set(g, made, CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, 4, box.dim);
    set(g, made, CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, 4, box.stride);
    set(g, made, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, 1, &alignment);
    set(g, made, CUDNN_ATTR_TENSOR_IS_VIRTUAL, CUDNN_TYPE_BOOLEAN, 1, &virtual);
    set(g, made, CUDNN_ATTR_TENSOR_IS_BY_VALUE, CUDNN_TYPE_BOOLEAN, 1, &by_value);
    if (offset) set_node(g, made, CUDNN_ATTR_TENSOR_RAGGED_OFFSET_DESC, offset);
    if (!virtual) {
        ASSERT(g->given < MOST_GIVEN);
        g->given_uid[g->given++] = uid;
    }
    return finish(g, made, "tensor");
}

static node passing(struct graph *g, cudnnDataType_t type, struct box box)
{
    return value(g, g->next_uid++, type, box, true, false, NULL);
}

static struct box vector_box(int64_t n)
{
    return (struct box){{n, 1, 1, 1}, {1, 1, 1, 1}};
}

static node scalar(struct graph *g, int64_t uid)
{
    return value(g, uid, CUDNN_DATA_FLOAT, vector_box(1), false, true, NULL);
}

/* The rows of `which`: a real tensor with `heads` heads side by side in a row, times `wider`. */
static struct box rows_box(const struct sdpa_key *key, enum sdpa_tensor which, int64_t heads, int64_t wider)
{
    int64_t width = which == SDPA_LSE ? 1 : key->head_dim, stride = key->stride[which] * wider;
    return (struct box){{key->batch, heads, key->tokens, width}, {key->tokens * stride, width, stride, 1}};
}

static struct box transposed(struct box box)
{
    return (struct box){{box.dim[0], box.dim[1], box.dim[3], box.dim[2]},
                        {box.stride[0], box.stride[1], box.stride[3], box.stride[2]}};
}

/* [batch, q_heads, tokens, cols], dense: what only passes through */
static struct box dense_box(const struct sdpa_key *key, int64_t cols)
{
    int64_t s = key->tokens, h = key->q_heads;
    return (struct box){{key->batch, h, s, cols}, {h * s * cols, s * cols, cols, 1}};
}

static node offsets(struct graph *g, enum sdpa_tensor which)
{
    return value(g, SDPA_OFFSET + which, CUDNN_DATA_INT64, vector_box(g->key.batch + 1), false, false, NULL);
}

static int64_t heads_of(const struct sdpa_key *key, enum sdpa_tensor which)
{
    bool kv = which == SDPA_K || which == SDPA_V || which == SDPA_DK || which == SDPA_DV;
    return kv ? key->kv_heads : key->q_heads;
}

static node packed(struct graph *g, enum sdpa_tensor which, bool transpose, node offset)
{
    struct box box = rows_box(&g->key, which, heads_of(&g->key, which), 1);
    return value(g, which, which == SDPA_LSE ? CUDNN_DATA_FLOAT : g->act, transpose ? transposed(box) : box,
                 false, false, offset);
}

/* ---- operations ---- */

/* y = mode(x, b); for BINARY_SELECT y = t ? x : b */
static void pointwise_into(struct graph *g, cudnnPointwiseMode_t mode, cudnnDataType_t precision, node x,
                           node b, node t, node y)
{
    node how = start(g, CUDNN_BACKEND_POINTWISE_DESCRIPTOR);
    set(g, how, CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, 1, &mode);
    set(g, how, CUDNN_ATTR_POINTWISE_MATH_PREC, CUDNN_TYPE_DATA_TYPE, 1, &precision);
    finish(g, how, "pointwise");
    node made = start(g, CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);
    set_node(g, made, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, how);
    set_node(g, made, CUDNN_ATTR_OPERATION_POINTWISE_XDESC, x);
    if (b) set_node(g, made, CUDNN_ATTR_OPERATION_POINTWISE_BDESC, b);
    if (t) set_node(g, made, CUDNN_ATTR_OPERATION_POINTWISE_TDESC, t);
    set_node(g, made, CUDNN_ATTR_OPERATION_POINTWISE_YDESC, y);
    finish_operation(g, made, "pointwise operation");
}

static node pointwise(struct graph *g, cudnnPointwiseMode_t mode, node x, node b, struct box box)
{
    node y = passing(g, CUDNN_DATA_FLOAT, box);
    pointwise_into(g, mode, CUDNN_DATA_FLOAT, x, b, NULL, y);
    return y;
}

/* The number of each element's row (axis 2) or column (axis 3) */
static node numbers(struct graph *g, node like, int64_t axis, cudnnDataType_t precision, struct box box)
{
    cudnnPointwiseMode_t mode = CUDNN_POINTWISE_GEN_INDEX;
    node how = start(g, CUDNN_BACKEND_POINTWISE_DESCRIPTOR);
    set(g, how, CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, 1, &mode);
    set(g, how, CUDNN_ATTR_POINTWISE_MATH_PREC, CUDNN_TYPE_DATA_TYPE, 1, &precision);
    set(g, how, CUDNN_ATTR_POINTWISE_AXIS, CUDNN_TYPE_INT64, 1, &axis);
    finish(g, how, "numbering");
    node y = passing(g, CUDNN_DATA_INT32, box), made = start(g, CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);
    set_node(g, made, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, how);
    set_node(g, made, CUDNN_ATTR_OPERATION_POINTWISE_XDESC, like);
    set_node(g, made, CUDNN_ATTR_OPERATION_POINTWISE_YDESC, y);
    finish_operation(g, made, "numbering operation");
    return y;
}

static node compare(struct graph *g, cudnnPointwiseMode_t mode, node x, node b, struct box box)
{
    node y = passing(g, CUDNN_DATA_BOOLEAN, box);
    pointwise_into(g, mode, CUDNN_DATA_BOOLEAN, x, b, NULL, y);
    return y;
}

/* x where `seen`, else -inf */
static node hide(struct graph *g, node x, node seen, struct box box)
{
    node y = passing(g, CUDNN_DATA_FLOAT, box), infinity = scalar(g, g->next_uid++);
    pointwise_into(g, CUDNN_POINTWISE_BINARY_SELECT, CUDNN_DATA_FLOAT, x, infinity, seen, y);
    return y;
}

/* c = a b; the lengths say how far rows, columns and the inner dim are real */
static void multiply(struct graph *g, node a, node b, node c, node rows, node cols, node inner)
{
    cudnnDataType_t precision = CUDNN_DATA_FLOAT;
    node how = start(g, CUDNN_BACKEND_MATMUL_DESCRIPTOR);
    set(g, how, CUDNN_ATTR_MATMUL_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &precision);
    finish(g, how, "product");
    node made = start(g, CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR);
    set_node(g, made, CUDNN_ATTR_OPERATION_MATMUL_ADESC, a);
    set_node(g, made, CUDNN_ATTR_OPERATION_MATMUL_BDESC, b);
    set_node(g, made, CUDNN_ATTR_OPERATION_MATMUL_CDESC, c);
    set_node(g, made, CUDNN_ATTR_OPERATION_MATMUL_DESC, how);
    if (rows) set_node(g, made, CUDNN_ATTR_OPERATION_MATMUL_GEMM_M_OVERRIDE_DESC, rows);
    if (cols) set_node(g, made, CUDNN_ATTR_OPERATION_MATMUL_GEMM_N_OVERRIDE_DESC, cols);
    if (inner) set_node(g, made, CUDNN_ATTR_OPERATION_MATMUL_GEMM_K_OVERRIDE_DESC, inner);
    finish_operation(g, made, "product operation");
}

static void reduce_into(struct graph *g, cudnnReduceTensorOp_t mode, node x, node y)
{
    cudnnDataType_t precision = CUDNN_DATA_FLOAT;
    node how = start(g, CUDNN_BACKEND_REDUCTION_DESCRIPTOR);
    set(g, how, CUDNN_ATTR_REDUCTION_OPERATOR, CUDNN_TYPE_REDUCTION_OPERATOR_TYPE, 1, &mode);
    set(g, how, CUDNN_ATTR_REDUCTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &precision);
    finish(g, how, "reduction");
    node made = start(g, CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR);
    set_node(g, made, CUDNN_ATTR_OPERATION_REDUCTION_DESC, how);
    set_node(g, made, CUDNN_ATTR_OPERATION_REDUCTION_XDESC, x);
    set_node(g, made, CUDNN_ATTR_OPERATION_REDUCTION_YDESC, y);
    finish_operation(g, made, "reduction operation");
}

static node reduce(struct graph *g, cudnnReduceTensorOp_t mode, node x)
{
    node y = passing(g, CUDNN_DATA_FLOAT, dense_box(&g->key, 1));
    reduce_into(g, mode, x, y);
    return y;
}

static node reshape(struct graph *g, node x, cudnnDataType_t type, struct box box, node offset)
{
    node y = value(g, g->next_uid++, type, box, true, false, offset);
    node made = start(g, CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR);
    set_node(g, made, CUDNN_ATTR_OPERATION_RESHAPE_XDESC, x);
    set_node(g, made, CUDNN_ATTR_OPERATION_RESHAPE_YDESC, y);
    finish_operation(g, made, "reshape operation");
    return y;
}

/* ---- attention ---- */

static struct box scores_box(const struct sdpa_key *key)
{
    return dense_box(key, key->tokens);
}

/* scale q k^T, -inf beyond the sequences' ends */
static node scores(struct graph *g, node q, node k_transposed)
{
    struct box box = scores_box(&g->key);
    node product = passing(g, CUDNN_DATA_FLOAT, box);
    multiply(g, q, k_transposed, product, g->lengths_q, g->lengths_kv, NULL);
    node x = pointwise(g, CUDNN_POINTWISE_MUL, product, g->scale, box);
    node row = numbers(g, x, 2, CUDNN_DATA_INT32, box), col = numbers(g, x, 3, CUDNN_DATA_INT32, box);
    node row_real = compare(g, CUDNN_POINTWISE_CMP_LT, row, g->lengths_q, box);
    node col_real = compare(g, CUDNN_POINTWISE_CMP_LT, col, g->lengths_kv, box);
    return hide(g, x, compare(g, CUDNN_POINTWISE_LOGICAL_AND, row_real, col_real, box), box);
}

/* -inf for keys after the query, and for those that have left the window: column + window > row */
static node causal(struct graph *g, node x)
{
    struct box box = scores_box(&g->key);
    node row = numbers(g, x, 2, CUDNN_DATA_FLOAT, box), col = numbers(g, x, 3, CUDNN_DATA_FLOAT, box);
    x = hide(g, x, compare(g, CUDNN_POINTWISE_CMP_GE, row, col, box), box);
    if (!g->key.windowed) return x;
    row = numbers(g, x, 2, CUDNN_DATA_FLOAT, box);
    col = numbers(g, x, 3, CUDNN_DATA_FLOAT, box);
    node last = pointwise(g, CUDNN_POINTWISE_ADD, col, scalar(g, WINDOW), box);
    return hide(g, x, compare(g, CUDNN_POINTWISE_CMP_GT, last, row, box), box);
}

static void begin(struct graph *g, const struct sdpa_library *library, const struct sdpa_key *key)
{
    *g = (struct graph){.cudnn = library,
                        .key = *key,
                        .act = key->dtype == DTYPE_BF16 ? CUDNN_DATA_BFLOAT16 : CUDNN_DATA_HALF,
                        .next_uid = OTHER};
    struct box box = vector_box(key->batch);
    g->lengths_q = value(g, SDPA_LENGTHS, CUDNN_DATA_INT32, box, false, false, NULL);
    g->lengths_kv = value(g, LENGTHS_AGAIN, CUDNN_DATA_INT32, box, false, false, NULL);
    g->scale = scalar(g, SCALE);
}

static void build_forward(struct graph *g)
{
    const struct sdpa_key *key = &g->key;
    struct box box = scores_box(key), column = dense_box(key, 1);
    node x = causal(g, scores(g, packed(g, SDPA_Q, false, offsets(g, SDPA_Q)),
                              packed(g, SDPA_K, true, offsets(g, SDPA_K))));
    node max = reduce(g, CUDNN_REDUCE_TENSOR_MAX, x);
    node weight =
        pointwise(g, CUDNN_POINTWISE_EXP, pointwise(g, CUDNN_POINTWISE_SUB, x, max, box), NULL, box);
    node sum = reduce(g, CUDNN_REDUCE_TENSOR_ADD, weight);
    pointwise_into(g, CUDNN_POINTWISE_ADD, CUDNN_DATA_FLOAT, max,
                   pointwise(g, CUDNN_POINTWISE_LOG, sum, NULL, column), NULL,
                   packed(g, SDPA_LSE, false, offsets(g, SDPA_LSE)));
    node p = passing(g, g->act, box);
    pointwise_into(g, CUDNN_POINTWISE_DIV, CUDNN_DATA_FLOAT, weight, sum, NULL, p);
    multiply(g, p, packed(g, SDPA_V, false, offsets(g, SDPA_V)),
             packed(g, SDPA_OUT, false, offsets(g, SDPA_OUT)), g->lengths_q, NULL, g->lengths_kv);
}

/* dk or dv = x^T y, added up over the query heads of a key head */
static void gradient_of_keys(struct graph *g, enum sdpa_tensor which, enum sdpa_tensor by_head, node x,
                             node y)
{
    const struct sdpa_key *key = &g->key;
    int64_t group = key->q_heads / key->kv_heads;
    struct box box = scores_box(key);
    node offset = offsets(g, which), out = packed(g, which, false, offset);
    node flipped = reshape(g, x, g->act,
                           (struct box){{box.dim[0], box.dim[1], box.dim[3], box.dim[2]},
                                        {box.stride[0], box.stride[1], 1, box.dim[3]}},
                           NULL);
    node product = out;
    if (group > 1)
        product = value(g, by_head, g->act, rows_box(key, which, key->q_heads, group), false, false, offset);
    multiply(g, flipped, y, product, g->lengths_kv, NULL, g->lengths_q);
    if (group > 1) reduce_into(g, CUDNN_REDUCE_TENSOR_ADD, product, out);
}

static void build_backward(struct graph *g)
{
    const struct sdpa_key *key = &g->key;
    struct box box = scores_box(key), row = dense_box(key, key->head_dim);
    node lse_offset = offsets(g, SDPA_LSE), k_offset = offsets(g, SDPA_K), dq_offset = offsets(g, SDPA_DQ);
    node q = packed(g, SDPA_Q, false, offsets(g, SDPA_Q)), k = packed(g, SDPA_K, true, k_offset);
    node dout = packed(g, SDPA_DOUT, false, offsets(g, SDPA_DOUT));

    node product =
        pointwise(g, CUDNN_POINTWISE_MUL, dout, packed(g, SDPA_OUT, false, offsets(g, SDPA_OUT)), row);
    node dout_out = value(g, SDPA_DOUT_OUT, CUDNN_DATA_FLOAT, rows_box(key, SDPA_LSE, key->q_heads, 1), false,
                          false, lse_offset);
    pointwise_into(g, CUDNN_POINTWISE_MUL, CUDNN_DATA_FLOAT, reduce(g, CUDNN_REDUCE_TENSOR_ADD, product),
                   scalar(g, ONE), NULL, dout_out);

    node x = pointwise(g, CUDNN_POINTWISE_SUB, scores(g, q, k), packed(g, SDPA_LSE, false, lse_offset), box);
    node p = pointwise(g, CUDNN_POINTWISE_EXP, causal(g, x), NULL, box);
    gradient_of_keys(g, SDPA_DV, SDPA_DV_HEADS, p, dout);

    node dp = passing(g, CUDNN_DATA_FLOAT, box);
    multiply(g, dout, packed(g, SDPA_V, true, offsets(g, SDPA_V)), dp, g->lengths_q, g->lengths_kv, NULL);
    node ds = pointwise(g, CUDNN_POINTWISE_SUB, dp, dout_out, box);
    ds = pointwise(g, CUDNN_POINTWISE_MUL, ds, p, box);
    ds = pointwise(g, CUDNN_POINTWISE_MUL, ds, g->scale, box);
    gradient_of_keys(g, SDPA_DK, SDPA_DK_HEADS, ds, q);

    node k_again = reshape(g, k, CUDNN_DATA_FLOAT, rows_box(key, SDPA_K, key->kv_heads, 1), k_offset);
    node dq_sum = value(g, SDPA_DQ_SUM, CUDNN_DATA_FLOAT, rows_box(key, SDPA_DQ, key->q_heads, 1), false,
                        false, dq_offset);
    multiply(g, ds, k_again, dq_sum, g->lengths_q, NULL, g->lengths_kv);
    pointwise_into(g, CUDNN_POINTWISE_IDENTITY, CUDNN_DATA_FLOAT, dq_sum, NULL, NULL,
                   packed(g, SDPA_DQ, false, dq_offset));
}

/* The graph of `key` and cuDNN's choices of a kernel for it, best first. */
static int find_configs(struct graph *g, void *handle, const char *gpu, node config[MOST_CONFIGS])
{
    if (g->key.backward)
        build_backward(g);
    else
        build_forward(g);
    node graph = start(g, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
    set(g, graph, CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR, g->operations, g->operation);
    if (handle) set(g, graph, CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, 1, &handle);
    finish(g, graph, "operation graph");

    cudnnBackendHeurMode_t mode = CUDNN_HEUR_MODE_A;
    node choice = start(g, CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
    set_node(g, choice, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph);
    set(g, choice, CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, &mode);
    if (gpu) {
        g->gpu = start(g, CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR);
        set(g, g->gpu, CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, CUDNN_TYPE_CHAR, (int64_t)strlen(gpu) + 1,
            gpu);
        finish(g, g->gpu, "GPU's properties");
        set_node(g, choice, CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, g->gpu);
    }
    finish(g, choice, "choice of a kernel");

    int64_t found = 0;
    for (int i = 0; i < MOST_CONFIGS; i++) config[i] = start(g, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
    if (g->status == LORAD_OK)
        went_well(g,
                  g->cudnn->BackendGetAttribute(choice, CUDNN_ATTR_ENGINEHEUR_RESULTS,
                                                CUDNN_TYPE_BACKEND_DESCRIPTOR, MOST_CONFIGS, &found, config),
                  "kernels");
    return g->status == LORAD_OK ? (int)found : 0;
}

enum status sdpa_plan_find(size_t *workspace, const struct sdpa_library *library, void *handle,
                           const struct sdpa_key *key, const char *gpu)
{
    struct graph g;
    node config[MOST_CONFIGS];
    begin(&g, library, key);
    int found = find_configs(&g, handle, gpu, config);
    int64_t bytes = 0, count;
    if (found > 0)
        went_well(&g,
                  library->BackendGetAttribute(config[0], CUDNN_ATTR_ENGINECFG_WORKSPACE_SIZE,
                                               CUDNN_TYPE_INT64, 1, &count, &bytes),
                  "workspace");
    else if (g.status == LORAD_OK)
        g.status = FAIL(LORAD_NOT_FOUND, "cuDNN %s has no kernel for this attention", library->version);
    destroy_graph(&g);
    if (g.status == LORAD_OK) *workspace = (size_t)bytes;
    return g.status;
}

/* ---- plans ---- */

struct sdpa_plan {
    struct graph graph; /* cuDNN may look at it as long as the plan lives */
    node plan;
    size_t workspace;
};

static cudnnStatus_t compile(struct graph *g, node plan, void *handle, const char *gpu, node config)
{
    const struct sdpa_library *library = g->cudnn;
    cudnnStatus_t error = library->BackendSetAttribute(plan, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG,
                                                       CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &config);
    if (error == CUDNN_STATUS_SUCCESS && handle)
        error = library->BackendSetAttribute(plan, CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE, 1,
                                             &handle);
    if (error == CUDNN_STATUS_SUCCESS && gpu)
        error = library->BackendSetAttribute(plan, CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP,
                                             CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &g->gpu);
    return error == CUDNN_STATUS_SUCCESS ? library->BackendFinalize(plan) : error;
}

/* The best kernel that compiles. */
static void make_plan(struct sdpa_plan *plan, void *handle, const char *gpu)
{
    struct graph *g = &plan->graph;
    node config[MOST_CONFIGS];
    int found = find_configs(g, handle, gpu, config);
    cudnnStatus_t error = CUDNN_STATUS_NOT_SUPPORTED;
    for (int i = 0; i < found && error != CUDNN_STATUS_SUCCESS; i++) {
        plan->plan = start(g, CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
        if (plan->plan) error = compile(g, plan->plan, handle, gpu, config[i]);
    }
    int64_t bytes = 0, count;
    if (went_well(g, error, "no kernel compiles"))
        went_well(g,
                  g->cudnn->BackendGetAttribute(plan->plan, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE,
                                                CUDNN_TYPE_INT64, 1, &count, &bytes),
                  "workspace");
    plan->workspace = (size_t)bytes;
}

enum status sdpa_plan_create(struct sdpa_plan **out, const struct sdpa_library *library, void *handle,
                             const struct sdpa_key *key, const char *gpu)
{
    struct sdpa_plan *plan = memory_new(1, sizeof *plan);
    if (!plan) return LORAD_NOMEM;
    begin(&plan->graph, library, key);
    make_plan(plan, handle, gpu);
    enum status status = plan->graph.status;
    if (status == LORAD_OK)
        *out = plan;
    else
        sdpa_plan_destroy(plan);
    return status;
}

void sdpa_plan_destroy(struct sdpa_plan *plan)
{
    if (!plan) return;
    destroy_graph(&plan->graph);
    free(plan);
}

size_t sdpa_plan_workspace(const struct sdpa_plan *plan)
{
    return plan->workspace;
}

static const void *given(const struct sdpa_values *values, int64_t uid)
{
    static const float one = 1, minus_infinity = -INFINITY;
    switch (uid) {
    case LENGTHS_AGAIN:
        return values->at[SDPA_LENGTHS];
    case SCALE:
        return &values->scale;
    case ONE:
        return &one;
    case WINDOW:
        return &values->window;
    default:
        return uid < SDPA_TENSORS ? values->at[uid] : &minus_infinity;
    }
}

enum status sdpa_plan_run(const struct sdpa_plan *plan, void *handle, const struct sdpa_values *values)
{
    const struct graph *g = &plan->graph;
    const struct sdpa_library *library = g->cudnn;
    const void *pointer[MOST_GIVEN];
    for (int i = 0; i < g->given; i++) pointer[i] = given(values, g->given_uid[i]);
    struct graph pack = {.cudnn = library}; /* for its failures and what it made */
    node all = start(&pack, CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR);
    set(&pack, all, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, g->given, g->given_uid);
    set(&pack, all, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, g->given, pointer);
    set(&pack, all, CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1, &values->workspace);
    finish(&pack, all, "addresses");
    if (pack.status == LORAD_OK) went_well(&pack, library->BackendExecute(handle, plan->plan, all), "run");
    destroy_graph(&pack);
    return pack.status;
}
