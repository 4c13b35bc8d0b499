/*
 * A program to run under mpirun: collectives MODE [ARGUMENT].
 *   values     every collective, dtype and reduction against values computed here; prints a hash of them
 *   kind       prints which kind of communicator it is, and what reduces
 *   agree R    rank R fails; every rank must hear of it
 *   mismatch   the last rank calls something else (run with LORAD_COMM_CHECK=1)
 *   abort R    rank R calls comm_abort(42) while the others wait
 *   die R      rank R exits without a word while the others wait
 *   waits R    rank R comes 10 ms late to each of 40 collectives; every rank prints how long it waited in
 * them bench      microseconds of an all-reduce by size, of host memory LORAD_TEST_DEVICE (cpu, cuda): whose
 * memory, host memory without it; LORAD_TEST_COMM: the kind.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/random.h"
#include "comm/activity.h"
#include "comm/comm.h"
#include "kernels/device.h"
#include "trainer/gpu_choice.h"

static struct comm *all;
static int rank, world;
static struct device *device; /* NULL: host memory */
static void *room;            /* of the device, for an operand or for everybody's */

static void must(enum status status, const char *what)
{
    if (status == LORAD_OK) return;
    fprintf(stderr, "rank %d: %s: %s: %s\n", rank, what, status_name(status), status_message());
    comm_abort(status_exit_code(status));
}

static void expect(bool ok, const char *what, int64_t count, enum dtype dtype, int i)
{
    if (ok) return;
    fprintf(stderr, "rank %d: wrong %s of %lld %s, case %d\n", rank, what, (long long)count,
            dtype_name(dtype), i);
    comm_abort(1);
}

enum { MOST = 300001, MAX_WORLD = 16 };

/* The operands of every rank, drawn once: [world][MOST]. */
static uint32_t *draws;

static void draw_all(void)
{
    draws = memory_new((size_t)world * MOST, sizeof *draws);
    if (!draws) exit(70);
    for (int r = 0; r < world; r++)
        for (int64_t i = 0; i < MOST; i += 4) {
            struct random_block block = random_philox(7, (uint64_t)r, (uint64_t)i);
            for (int64_t k = 0; k < 4 && i + k < MOST; k++) draws[r * MOST + i + k] = block.word[k];
        }
}

static double drawn(int r, int64_t i, enum dtype dtype)
{
    uint32_t word = draws[r * MOST + i];
    if (dtype == DTYPE_I32 || dtype == DTYPE_I64) return (double)((int64_t)word % 100000 - 50000);
    float value = (random_unit_f32(word) - 0.5f) * (word & 1 ? 100.0f : 0.01f);
    if (dtype == DTYPE_F16) return f16_to_f32(f32_to_f16(value));
    return dtype == DTYPE_BF16 ? bf16_to_f32(f32_to_bf16(value)) : value;
}

static void store(void *at, int64_t i, double value, enum dtype dtype)
{
    switch (dtype) {
    case DTYPE_F32:
        ((float *)at)[i] = (float)value;
        break;
    case DTYPE_F64:
        ((double *)at)[i] = value;
        break;
    case DTYPE_I32:
        ((int32_t *)at)[i] = (int32_t)value;
        break;
    case DTYPE_I64:
        ((int64_t *)at)[i] = (int64_t)value;
        break;
    case DTYPE_BF16:
        ((uint16_t *)at)[i] = f32_to_bf16((float)value);
        break;
    case DTYPE_F16:
        ((uint16_t *)at)[i] = f32_to_f16((float)value);
        break;
    }
}

/* ---- collectives of host buffers, through the memory of the device that there is ---- */

static void *given(void *buffer, size_t bytes)
{
    if (!device) return buffer;
    must(device_copy_to(device, STREAM_COMPUTE, room, buffer, bytes), "copy_to");
    return room;
}

static void taken(void *buffer, size_t bytes)
{
    if (!device) return;
    must(device_copy_from(device, STREAM_COMPUTE, buffer, room, bytes), "copy_from");
    must(device_sync(device), "sync");
}

static void all_reduce(struct comm *comm, void *buffer, int64_t count, enum dtype dtype, int reduction)
{
    size_t bytes = (size_t)count * dtype_bytes(dtype);
    void *memory = given(buffer, bytes);
    must(comm_all_reduce(comm, memory, count, dtype, (enum comm_reduction)reduction), "all_reduce");
    taken(buffer, bytes);
}

static void all_gather(struct comm *comm, void *in, void *out, int64_t count)
{
    size_t bytes = (size_t)count * sizeof(int32_t), whole = bytes * (size_t)comm_size(comm);
    void *memory = given(in, bytes), *gathered = device ? (char *)room + bytes : out;
    must(comm_all_gather(comm, memory, gathered, count, DTYPE_I32), "all_gather");
    if (!device) return;
    must(device_copy_from(device, STREAM_COMPUTE, out, gathered, whole), "copy_from");
    must(device_sync(device), "sync");
}

/* in_place: the result replaces this rank's block. */
static void reduce_scatter(struct comm *comm, char *blocks, void *out, int64_t count, enum dtype dtype,
                           int reduction, bool in_place)
{
    size_t block = (size_t)count * dtype_bytes(dtype), whole = block * (size_t)comm_size(comm);
    char *memory = given(blocks, whole), *apart = device ? (char *)room + whole : out;
    char *to = in_place ? memory + (size_t)comm_rank(comm) * block : apart;
    must(comm_reduce_scatter(comm, memory, to, count, dtype, (enum comm_reduction)reduction),
         "reduce_scatter");
    if (device) {
        must(device_copy_from(device, STREAM_COMPUTE, out, to, block), "copy_from");
        must(device_sync(device), "sync");
    } else if (in_place) {
        memcpy(out, to, block);
    }
}

static void broadcast(struct comm *comm, void *buffer, int64_t count, int root)
{
    size_t bytes = (size_t)count * sizeof(int32_t);
    void *memory = given(buffer, bytes);
    must(comm_broadcast(comm, memory, count, DTYPE_I32, root), "broadcast");
    taken(buffer, bytes);
}

/* The definition: operands left to right, halves in f32; through NCCL halves are rounded each time. */
static void fold_all(void *out, const int *ranks, int ways, int64_t count, enum dtype dtype,
                     enum comm_reduction reduction)
{
    bool rounds = strcmp(comm_kind(all), "nccl") == 0;
    for (int64_t i = 0; i < count; i++) {
        double acc = drawn(ranks[0], i, dtype);
        for (int w = 1; w < ways; w++) {
            double next = drawn(ranks[w], i, dtype);
            if (reduction == COMM_SUM)
                acc = dtype == DTYPE_F64 ? acc + next : (double)((float)acc + (float)next);
            else if (reduction == COMM_MAX)
                acc = next > acc ? next : acc;
            else
                acc = next < acc ? next : acc;
            if (rounds && dtype == DTYPE_BF16) acc = bf16_to_f32(f32_to_bf16((float)acc));
            if (rounds && dtype == DTYPE_F16) acc = f16_to_f32(f32_to_f16((float)acc));
        }
        store(out, i, acc, dtype);
    }
}

/* Emulated memory is slow: there all types have one size, and one type all sizes. */
static bool worth_it(int64_t count, enum dtype dtype, int reduction)
{
    bool every_size = reduction == COMM_SUM && dtype == DTYPE_BF16;
    return count == 1000 || (every_size && count != 7 && count != 4096) ||
           (dtype == DTYPE_I64 && count == MOST);
}

static void check_reductions(struct comm *comm, const int *ranks, struct hash_stream *seen)
{
    static const int64_t counts[] = {0, 1, 7, 1000, 4096, 65537, MOST};
    static const enum dtype dtypes[] = {DTYPE_F32, DTYPE_BF16, DTYPE_F16, DTYPE_I32, DTYPE_I64, DTYPE_F64};
    void *mine = memory_new(MOST, 8), *expected = memory_new(MOST, 8);
    if (!mine || !expected) exit(70);
    for (size_t d = 0; d < 6; d++)
        for (size_t c = 0; c < 7; c++)
            for (int reduction = COMM_SUM; reduction <= COMM_MIN; reduction++) {
                int64_t count = counts[c];
                enum dtype dtype = dtypes[d];
                if (count == MOST && reduction != COMM_SUM) continue;
                if (device && !worth_it(count, dtype, reduction)) continue;
                size_t bytes = (size_t)count * dtype_bytes(dtype);
                for (int64_t i = 0; i < count; i++) store(mine, i, drawn(rank, i, dtype), dtype);
                fold_all(expected, ranks, comm_size(comm), count, dtype, (enum comm_reduction)reduction);
                all_reduce(comm, mine, count, dtype, reduction);
                expect(memcmp(mine, expected, bytes) == 0, "all_reduce", count, dtype, reduction);
                hash_stream_add(seen, mine, bytes);
            }
    free(mine);
    free(expected);
}

/* The blocks of all ranks together are the first elements of their operands: each gets its part of what
 * all_reduce gives. */
static void check_scatters(struct comm *comm, const int *ranks)
{
    static const int64_t counts[] = {0, 1, 7, 1000, 4096, 65537, MOST};
    static const enum dtype dtypes[] = {DTYPE_F32, DTYPE_BF16, DTYPE_F16, DTYPE_I32, DTYPE_I64, DTYPE_F64};
    int size = comm_size(comm);
    char *mine = memory_new(MOST, 8), *expected = memory_new(MOST, 8), *out = memory_new(MOST, 8);
    if (!mine || !expected || !out) exit(70);
    for (size_t d = 0; d < 6; d++)
        for (size_t c = 0; c < 7; c++)
            for (int reduction = COMM_SUM; reduction <= COMM_MIN; reduction++) {
                int64_t count = counts[c] / size, all_counts = count * size;
                enum dtype dtype = dtypes[d];
                if (counts[c] == MOST && reduction != COMM_SUM) continue;
                if (device && !worth_it(counts[c], dtype, reduction)) continue;
                size_t block = (size_t)count * dtype_bytes(dtype);
                for (int64_t i = 0; i < all_counts; i++) store(mine, i, drawn(rank, i, dtype), dtype);
                fold_all(expected, ranks, size, all_counts, dtype, (enum comm_reduction)reduction);
                reduce_scatter(comm, mine, out, count, dtype, reduction, c % 2 == 0);
                expect(memcmp(out, expected + (size_t)comm_rank(comm) * block, block) == 0, "reduce_scatter",
                       count, dtype, reduction);
            }
    free(mine);
    free(expected);
    free(out);
}

static void check_moves(struct comm *comm, const int *ranks)
{
    static const int64_t counts[] = {1, 1000, 200000};
    int size = comm_size(comm);
    int32_t *mine = memory_new(200000, 4), *out = memory_new(200000 * (size_t)size, 4);
    if (!mine || !out) exit(70);
    for (int c = 0; c < 3; c++) {
        int64_t n = counts[c];
        for (int64_t i = 0; i < n; i++) mine[i] = (int32_t)(rank * 1000000 + i);
        all_gather(comm, mine, out, n);
        for (int r = 0; r < size; r++)
            for (int64_t i = 0; i < n; i++)
                expect(out[r * n + i] == ranks[r] * 1000000 + i, "all_gather", n, DTYPE_I32, r);
        for (int root = 0; root < size; root++) {
            for (int64_t i = 0; i < n; i++) mine[i] = (int32_t)(rank * 1000000 + i);
            broadcast(comm, mine, n, root);
            for (int64_t i = 0; i < n; i++)
                expect(mine[i] == ranks[root] * 1000000 + i, "broadcast", n, DTYPE_I32, root);
        }
        must(comm_barrier(comm), "barrier");
    }
    free(mine);
    free(out);
}

static void check_nan(void)
{
    float value[2] = {rank == world - 1 ? 0.0f / 0.0f : 1.0f, 1.0f};
    if (strcmp(comm_kind(all), "nccl") == 0) return;
    all_reduce(all, value, 2, DTYPE_F32, COMM_MAX);
    expect(value[0] != value[0] && value[1] == 1.0f, "max with a NaN", 2, DTYPE_F32, 0);
}

static void values(void)
{
    struct hash_stream *seen;
    int ranks[MAX_WORLD];
    draw_all();
    must(hash_stream_create(&seen), "hash");
    for (int r = 0; r < world; r++) ranks[r] = r;
    check_reductions(all, ranks, seen);
    check_scatters(all, ranks);
    check_moves(all, ranks);
    check_nan();

    /* Even and odd ranks, each group in descending order of rank. */
    struct comm *half;
    must(comm_split(&half, all, rank % 2, -rank), "split");
    int n = 0;
    for (int r = world - 1; r >= 0; r--)
        if (r % 2 == rank % 2) ranks[n++] = r;
    expect(n == comm_size(half) && ranks[comm_rank(half)] == rank, "split", n, DTYPE_I32, 0);
    struct hash_stream *local;
    must(hash_stream_create(&local), "hash");
    check_reductions(half, ranks, local);
    check_scatters(half, ranks);
    check_moves(half, ranks);
    comm_destroy(half);

    struct hash128 mine = hash_stream_value(seen), every[MAX_WORLD];
    must(comm_host_all_gather(all, &mine, every, sizeof mine), "host_all_gather");
    for (int r = 0; r < world; r++) expect(hash128_equal(every[0], every[r]), "bits", r, DTYPE_F32, 0);
    char text[33];
    hash128_hex(mine, text);
    if (rank == 0) printf("%s\n", text);
    free(draws);
    hash_stream_destroy(seen);
    hash_stream_destroy(local);
}

static void agree(int loser)
{
    must(comm_agree(all, LORAD_OK), "agree");
    enum status mine = rank == loser ? FAIL(LORAD_DATA, "row %d is bad", 40 + rank) : LORAD_OK;
    enum status common = comm_agree(all, mine);
    char words[64];
    snprintf(words, sizeof words, "rank %d: row %d is bad", loser, 40 + loser);
    if (world == 1) memmove(words, words + 8, strlen(words + 8) + 1);
    if (common != LORAD_DATA || strcmp(status_message(), words) != 0) {
        fprintf(stderr, "rank %d heard %s: %s\n", rank, status_name(common), status_message());
        comm_abort(1);
    }
    must(comm_agree(all, LORAD_OK), "agree");
}

static void bench(void)
{
    char *buffer = memory_new(16 << 20, 1);
    if (!buffer) exit(70);
    for (size_t bytes = 64; bytes <= 16u << 20; bytes *= 4) {
        int turns = bytes < 1u << 18 ? 400 : 30;
        double best = 1e9;
        for (int batch = 0; batch < 5; batch++) {
            must(comm_barrier(all), "barrier");
            int64_t start = clock_monotonic_ns();
            for (int i = 0; i < turns; i++)
                must(comm_all_reduce(all, buffer, (int64_t)(bytes / 4), DTYPE_F32, COMM_SUM), "all_reduce");
            double each = clock_seconds_since(start) / turns;
            if (each < best) best = each;
        }
        if (rank == 0) printf("{\"ranks\":%d,\"bytes\":%zu,\"us\":%.1f}\n", world, bytes, best * 1e6);
    }
    free(buffer);
}

static void one_late(int late)
{
    must(comm_all_reduce(all, room, 16, DTYPE_F32, COMM_SUM), "all_reduce"); /* connects */
    must(device_sync(device), "device_sync");
    comm_settle();
    double before = activity_waited_seconds();
    for (int i = 0; i < 40; i++) {
        if (rank == late) clock_sleep_ms(10);
        must(comm_all_reduce(all, room, 16, DTYPE_F32, COMM_SUM), "all_reduce");
    }
    must(device_sync(device), "device_sync");
    comm_settle();
    printf("%d waited %.3f\n", rank, activity_waited_seconds() - before);
}

static void create(void)
{
    struct gpu_choice gpu;
    const char *kind = getenv("LORAD_TEST_DEVICE");
    struct comm_options options = {.kind = getenv("LORAD_TEST_COMM"), .deterministic = true};
    if (kind) {
        must(gpu_choose(&gpu, kind), "gpu_choose");
        struct device_options wanted = {
            .kind = kind, .number = gpu.number, .threads = 1, .deterministic = true};
        must(device_open(&device, &wanted), "device_open");
        must(device_alloc(&room, device, (size_t)(world + 1) * MOST * 8), "device_alloc");
        options.device = device;
    }
    must(comm_create(&all, &options), "create");
}

int main(int argc, char **argv)
{
    struct comm_world_info info;
    enum status started = comm_startup(&info);
    if (started != LORAD_OK) {
        fprintf(stderr, "%s\n", status_message());
        return status_exit_code(started);
    }
    rank = info.rank;
    world = info.world;
    if (world > MAX_WORLD) return 64;
    log_set_rank(rank, world);
    create();
    const char *mode = argc > 1 ? argv[1] : "values";
    int argument = argc > 2 ? atoi(argv[2]) : 0;
    if (strcmp(mode, "values") == 0) values();
    if (strcmp(mode, "agree") == 0) agree(argument);
    if (strcmp(mode, "bench") == 0) bench();
    if (strcmp(mode, "waits") == 0) one_late(argument);
    if (strcmp(mode, "mismatch") == 0) {
        float value[4] = {0};
        must(comm_barrier(all), "barrier");
        must(comm_all_reduce(all, value, rank == world - 1 ? 3 : 4, DTYPE_F32, COMM_SUM), "all_reduce");
    }
    if (strcmp(mode, "abort") == 0 || strcmp(mode, "die") == 0) {
        if (rank == argument) {
            clock_sleep_ms(300); /* the others sleep in the barrier by then */
            if (strcmp(mode, "die") == 0) _exit(9);
            fprintf(stderr, "rank %d ends the run\n", rank);
            comm_abort(42);
        }
        must(comm_barrier(all), "barrier");
    }
    if (strcmp(mode, "kind") == 0 && rank == 0) printf("%s: %s\n", comm_kind(all), comm_describe(all));
    comm_destroy(all);
    device_free(device, room);
    device_close(device);
    comm_shutdown();
    return 0;
}
