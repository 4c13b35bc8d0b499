/*
 * embed.cu: rows copied by number: the embedding, and the gather and scatter of supervised rows. A row is
 * words here, of 16 bytes where every matrix allows it, else of one element.
 */
#include "kernels/cuda/rows.cuh"

enum { EACH = 4 }; /* rows of a thread */

/* m in words of `bytes` */
static struct matrix in_words(struct matrix m, int bytes)
{
    int n = bytes / (int)dtype_bytes(m.dtype);
    m.cols /= n;
    m.stride /= n;
    return m;
}

#define WITH_WORD(a, b, Word, ...)                                                                           \
    do {                                                                                                     \
        int bytes_ = (int)dtype_bytes((a)->dtype), n_ = 16 / bytes_;                                         \
        if (is_packed(a, n_) && is_packed(b, n_)) {                                                          \
            typedef uint4 Word;                                                                              \
            __VA_ARGS__;                                                                                     \
        } else if (bytes_ == 4) {                                                                            \
            typedef uint32_t Word;                                                                           \
            __VA_ARGS__;                                                                                     \
        } else {                                                                                             \
            typedef uint16_t Word;                                                                           \
            __VA_ARGS__;                                                                                     \
        }                                                                                                    \
    } while (0)

/* out[i] = table[ids[i] - first_row]. A row that is not in the table: zeros where it may be on another rank
 * or is none (-1), else the caller's fault, at which the kernel stops. */
template <class Word, bool ELSEWHERE>
static __global__ void __launch_bounds__(TILE_THREADS, 4)
    take_kernel(struct matrix table, const int32_t *ids, int64_t first_row, struct matrix out)
{
    int64_t col = tile_col(1);
    if (col >= out.cols) return;
    for (int64_t first = tile_row(EACH); first < out.rows; first += tile_step(EACH)) {
        Word word[EACH];
#pragma unroll
        for (int e = 0; e < EACH; e++) {
            int64_t i = first + e * blockDim.y;
            if (i >= out.rows) break;
            int64_t row = ids[i] - first_row;
            if (row >= 0 && row < table.rows)
                word[e] = row_of<Word>(table, row)[col];
            else if (ELSEWHERE || row == -1)
                word[e] = Word();
            else
                __trap();
        }
#pragma unroll
        for (int e = 0; e < EACH; e++) {
            int64_t i = first + e * blockDim.y;
            if (i >= out.rows) break;
            row_of<Word>(out, i)[col] = word[e];
        }
    }
}

/* out[index[i]] = in[i], but for an index of -1 */
template <class Word>
static __global__ void __launch_bounds__(TILE_THREADS, 4)
    put_kernel(struct matrix in, const int32_t *index, struct matrix out)
{
    int64_t col = tile_col(1);
    if (col >= in.cols) return;
    for (int64_t first = tile_row(EACH); first < in.rows; first += tile_step(EACH)) {
        Word word[EACH];
        int32_t to[EACH];
#pragma unroll
        for (int e = 0; e < EACH; e++) {
            int64_t i = first + e * blockDim.y;
            if (i >= in.rows) break;
            word[e] = row_of<Word>(in, i)[col];
            to[e] = index[i];
        }
#pragma unroll
        for (int e = 0; e < EACH; e++) {
            int64_t i = first + e * blockDim.y;
            if (i >= in.rows) break;
            if (to[e] < -1 || to[e] >= out.rows) __trap();
            if (to[e] >= 0) row_of<Word>(out, to[e])[col] = word[e];
        }
    }
}

template <class Word> static __global__ void zero_kernel(struct matrix out)
{
    int64_t col = tile_col(1);
    if (col >= out.cols) return;
    for (int64_t first = tile_row(EACH); first < out.rows; first += tile_step(EACH)) {
#pragma unroll
        for (int e = 0; e < EACH; e++) {
            int64_t row = first + e * blockDim.y;
            if (row < out.rows) row_of<Word>(out, row)[col] = Word();
        }
    }
}

enum status cuda_embed(struct device *device, const struct op_embed *args)
{
    WITH_WORD(&args->table, &args->out, Word, {
        struct matrix table = in_words(args->table, sizeof(Word)), out = in_words(args->out, sizeof(Word));
        struct tiles tiles = tiles_for(device, out.rows, out.cols, EACH);
        LAUNCH((take_kernel<Word, true>), tiles.grid, tiles.block, 0, cuda_compute(device), table, args->ids,
               args->first_row, out);
    });
    return cuda_launched("embed");
}

enum status cuda_gather_rows(struct device *device, const struct op_gather_rows *args)
{
    WITH_WORD(&args->in, &args->out, Word, {
        struct matrix in = in_words(args->in, sizeof(Word)), out = in_words(args->out, sizeof(Word));
        struct tiles tiles = tiles_for(device, out.rows, out.cols, EACH);
        LAUNCH((take_kernel<Word, false>), tiles.grid, tiles.block, 0, cuda_compute(device), in, args->index,
               (int64_t)0, out);
    });
    return cuda_launched("gather_rows");
}

enum status cuda_scatter_rows(struct device *device, const struct op_scatter_rows *args)
{
    WITH_WORD(&args->in, &args->out, Word, {
        struct matrix in = in_words(args->in, sizeof(Word)), out = in_words(args->out, sizeof(Word));
        struct tiles tiles = tiles_for(device, out.rows, out.cols, EACH);
        LAUNCH((zero_kernel<Word>), tiles.grid, tiles.block, 0, cuda_compute(device), out);
        tiles = tiles_for(device, in.rows, in.cols, EACH);
        if (in.rows > 0)
            LAUNCH((put_kernel<Word>), tiles.grid, tiles.block, 0, cuda_compute(device), in, args->index,
                   out);
    });
    return cuda_launched("scatter_rows");
}
