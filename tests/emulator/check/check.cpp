/*
 * check.cpp: the emulator itself: what its operations of a warp give, and that it finds what it is there to
 * find. A program: each fault runs in a child, which must end by itself with the words that name it.
 */
#include <machine.cuh>

#include <functional>
#include <stdio.h>
#include <stdlib.h>
#include <string>
#include <sys/wait.h>
#include <unistd.h>
#include <vector>

namespace {

#if defined(__SANITIZE_ADDRESS__)
const bool SANITIZED = true;
#else
const bool SANITIZED = false;
#endif

int failures;

void expect(bool good, const char *what)
{
    if (good) return;
    printf("failed: %s (order %s)\n", what, getenv("LORAD_EMULATOR_ORDER"));
    failures++;
}

/* Device memory of n values, and what is in it. */
template <class T> T *device_values(const std::vector<T> &values)
{
    T *block = nullptr;
    if (cudaMalloc((void **)&block, values.size() * sizeof(T)) != cudaSuccess) abort();
    if (cudaMemcpy(block, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice) != cudaSuccess)
        abort();
    return block;
}
template <class T> std::vector<T> host_values(const T *block, size_t n)
{
    std::vector<T> values(n);
    if (cudaMemcpy(values.data(), block, n * sizeof(T), cudaMemcpyDeviceToHost) != cudaSuccess) abort();
    return values;
}

/* What works */

__global__ void exchange_kernel(int *out)
{
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, *mine = out + 8 * threadIdx.x;
    mine[0] = __shfl_xor_sync(0xffffffffu, lane, 5);
    mine[1] = __shfl_down_sync(0xffffffffu, lane, 3);
    mine[2] = __shfl_up_sync(0xffffffffu, lane, 3, 8);
    mine[3] = __shfl_sync(0xffffffffu, lane, 9, 16);
    mine[4] = (int)__ballot_sync(0xffffffffu, lane % 3 == 0);
    mine[5] = __any_sync(0xffffffffu, lane == warp) + 2 * __all_sync(0xffffffffu, lane < 31);
    if (lane < 16) /* halves of a warp go their own ways */
        mine[6] = __shfl_xor_sync(0x0000ffffu, lane, 1);
    else
        mine[6] = __shfl_xor_sync(0xffff0000u, lane, 2);
    mine[7] = atomicAdd(out + 8 * blockDim.x, lane) >= 0;
}

void warps_exchange()
{
    enum { THREADS = 96 };
    int *out = device_values(std::vector<int>(8 * THREADS + 1, 0));
    LAUNCH(exchange_kernel, 1, THREADS, 0, nullptr, out);
    std::vector<int> got = host_values(out, 8 * THREADS + 1);
    for (int t = 0; t < THREADS; t++) {
        int lane = t % 32, *mine = got.data() + 8 * t;
        expect(mine[0] == (lane ^ 5), "xor");
        expect(mine[1] == (lane + 3 < 32 ? lane + 3 : lane), "down");
        expect(mine[2] == (lane % 8 >= 3 ? lane - 3 : lane), "up, within 8 lanes");
        expect(mine[3] == lane / 16 * 16 + 9, "from a lane, within 16");
        expect(mine[4] == 0x49249249, "ballot");
        expect(mine[5] == 1, "any and all");
        expect(mine[6] == (lane < 16 ? lane ^ 1 : lane ^ 2), "halves of a warp");
    }
    expect(got[8 * THREADS] == 3 * 496, "atomic sum");
    cudaFree(out);
}

/* Sums over a block whose last threads have nothing to do and leave at once. */
__global__ void sum_kernel(const float *in, float *out, int n)
{
    __shared__ float part[256];
    int i = (int)(threadIdx.y * blockDim.x + threadIdx.x);
    if (i >= 200) return;
    int at = (int)blockIdx.x * 200 + i;
    part[i] = at < n ? in[at] : 0;
    __syncthreads();
    for (int step = 128; step > 0; step /= 2) {
        if (i < step && i + step < 200) part[i] += part[i + step];
        __syncthreads();
    }
    if (i == 0) out[blockIdx.x] = part[0];
}

void blocks_meet_at_barriers()
{
    std::vector<float> values(1000);
    for (int i = 0; i < 1000; i++) values[(size_t)i] = (float)(i % 17);
    float *in = device_values(values), *out = device_values(std::vector<float>(5));
    LAUNCH(sum_kernel, 5, dim3(32, 8), 0, nullptr, in, out, 1000);
    std::vector<float> got = host_values(out, 5);
    for (size_t b = 0; b < 5; b++) {
        float want = 0;
        for (size_t i = 0; i < 200; i++) want += values[200 * b + i];
        expect(got[b] == want, "a sum over a block");
    }
    cudaFree(in);
    cudaFree(out);
}

/* c = a b with a 16 x 16 and b 16 x 8 through shared memory, copied in the background. */
__global__ void product_kernel(const bf16 *a, const bf16 *b, float *c)
{
    DYNAMIC_SHARED(room);
    bf16 *a_here = (bf16 *)room, *b_here = a_here + 256;
    int lane = threadIdx.x;
    copy_async(a_here + 8 * lane, a + 8 * lane, true);
    commit_copies();
    copy_async(b_here + 8 * (lane % 16), b + 8 * (lane % 16), true);
    commit_copies();
    wait_copies<1>();
    __syncthreads();
    uint32_t left[4], right[4];
    load_matrices(left, a_here + 16 * (lane % 16) + 8 * (lane / 16));
    wait_copies<0>();
    __syncthreads();
    load_matrices_transposed(right, b_here + 8 * (lane % 16));
    float sum[4] = {0, 0, 0, 1};
    mma_16x8x16<bf16>(sum, left, right);
    for (int i = 0; i < 4; i++) c[(lane / 4 + 8 * (i / 2)) * 8 + 2 * (lane % 4) + i % 2] = sum[i];
}

void tensor_cores_multiply()
{
    std::vector<bf16> a(256), b(128);
    for (size_t i = 0; i < 256; i++) a[i] = from_float<bf16>((float)(i * 37 % 23) - 11);
    for (size_t i = 0; i < 128; i++) b[i] = from_float<bf16>((float)(i * 29 % 19) - 9);
    bf16 *on_a = device_values(a), *on_b = device_values(b);
    float *on_c = device_values(std::vector<float>(128));
    LAUNCH(product_kernel, 1, 32, 768, nullptr, on_a, on_b, on_c);
    std::vector<float> c = host_values(on_c, 128);
    for (size_t i = 0; i < 16; i++)
        for (size_t j = 0; j < 8; j++) {
            float want = i >= 8 && j % 2 ? 1 : 0;
            for (size_t k = 0; k < 16; k++) want += to_float(a[16 * i + k]) * to_float(b[8 * k + j]);
            expect(c[8 * i + j] == want, "a product of matrices");
        }
    cudaFree(on_a);
    cudaFree(on_b);
    cudaFree(on_c);
}

/* What is found */

/* Reversed through shared memory, without the barrier that it needs. */
__global__ void hasty_kernel(int *out)
{
    __shared__ int room[64];
    room[threadIdx.x] = (int)threadIdx.x;
    out[threadIdx.x] = room[63 - threadIdx.x];
}

std::vector<int> hasty()
{
    int *out = device_values(std::vector<int>(64));
    LAUNCH(hasty_kernel, 1, 64, 0, nullptr, out);
    std::vector<int> got = host_values(out, 64);
    cudaFree(out);
    return got;
}

__global__ void divergent_kernel(int *out)
{
    if (threadIdx.x < 8)
        __syncthreads();
    else
        out[threadIdx.x] = __shfl_xor_sync(0xffffffffu, 1, 1);
}
__global__ void beyond_kernel(int at)
{
    DYNAMIC_SHARED(room);
    room[at] = 1;
}
__global__ void unaligned_kernel(float *out)
{
    *(float4 *)(out + 1) = make_float4(1, 2, 3, 4);
}
__global__ void beside_kernel(float *out)
{
    out[10] = 1;
}
__global__ void nothing_kernel(int)
{
}

int *some_ints()
{
    return device_values(std::vector<int>(64));
}

const struct {
    const char *words;
    void (*run)();
} faults[] = {
    {"that wait elsewhere", [] { LAUNCH(divergent_kernel, 1, 32, 0, nullptr, some_ints()); }},
    {"byte 100 of its 100 bytes of shared memory was written",
     [] { LAUNCH(beyond_kernel, 1, 1, 100, nullptr, 100); }},
    {"beyond_kernel, block (0, 0, 0), thread 0: Segmentation fault",
     [] { LAUNCH(beyond_kernel, 1, 1, 100, nullptr, 128); }},
    {"unaligned_kernel, block (0, 0, 0), thread 0: Illegal instruction",
     [] { LAUNCH(unaligned_kernel, 1, 1, 0, nullptr, (float *)some_ints()); }},
    {"byte 40 of a block of 40 bytes of device memory was written",
     [] {
         float *block = device_values(std::vector<float>(10));
         LAUNCH(beside_kernel, 1, 1, 0, nullptr, block);
         cudaFree(block);
     }},
    {"a copy's target",
     [] { (void)cudaMemcpy(some_ints() + 60, &failures, 5 * sizeof(int), cudaMemcpyHostToDevice); }},
    {"is device memory, where host memory is wanted",
     [] { (void)cudaMemcpy(some_ints(), some_ints(), sizeof(int), cudaMemcpyHostToDevice); }},
    {"", [] { *some_ints() = 1; }}, /* a signal of the host's own */
};

/* Whether a child that runs it ends by itself, and has said `words`; a sanitizer has its own. */
bool ends_with(const char *words, void (*run)())
{
    int ends[2], status = 0;
    if (pipe(ends) != 0) abort();
    pid_t child = fork();
    if (child == 0) {
        dup2(ends[1], STDERR_FILENO);
        run();
        cudaDeviceSynchronize();
        _exit(0);
    }
    close(ends[1]);
    std::string said;
    char part[256];
    for (ssize_t n; (n = read(ends[0], part, sizeof part)) > 0;) said.append(part, (size_t)n);
    close(ends[0]);
    waitpid(child, &status, 0);
    bool good = status != 0 && (SANITIZED || said.find(words) != std::string::npos);
    if (!good) printf("status %x, said: %s\n", (unsigned)status, said.c_str());
    return good;
}

void launches_are_refused()
{
    const struct {
        dim3 grid, block;
        size_t shared;
        cudaError_t error;
    } bad[] = {{0, 1, 0, cudaErrorInvalidConfiguration},
               {1, 1025, 0, cudaErrorInvalidConfiguration},
               {dim3(1, 65536), 1, 0, cudaErrorInvalidConfiguration},
               {1, 1, 49153, cudaErrorInvalidValue}};
    for (const auto &launch : bad) {
        LAUNCH(nothing_kernel, launch.grid, launch.block, launch.shared, nullptr, 0);
        expect(cudaGetLastError() == launch.error, "a launch that CUDA refuses");
    }
    expect(allow_shared(nothing_kernel, 100000) == cudaSuccess, "more shared memory");
    LAUNCH(nothing_kernel, 1, 1, 100000, nullptr, 0);
    expect(cudaGetLastError() == cudaSuccess, "a launch with more shared memory");
    expect(allow_shared(nothing_kernel, 1 << 20) == cudaErrorInvalidValue, "more than there is");
    (void)cudaGetLastError();
}

/* Under lazy streams, what is not waited for has not happened. */
void streams_are_late()
{
    cudaStream_t first, second;
    int *block = some_ints(), *pinned;
    if (cudaStreamCreate(&first) != cudaSuccess || cudaStreamCreate(&second) != cudaSuccess ||
        cudaMallocHost((void **)&pinned, sizeof(int)) != cudaSuccess)
        abort();
    (void)cudaMemsetAsync(block, 1, sizeof(int), first);
    (void)cudaMemcpyAsync(pinned, block, sizeof(int), cudaMemcpyDeviceToHost, second);
    (void)cudaStreamSynchronize(second);
    expect(*pinned == 0, "a copy that does not wait for another stream");
    cudaStreamDestroy(first);
    cudaStreamDestroy(second);
    cudaFreeHost(pinned);
    cudaFree(block);
}

__global__ void add_kernel(int *sum, int value)
{
    *sum += value;
}

/* What was captured has not run; each launch of the graph runs it, with the arguments it had. */
void graphs_run_again()
{
    cudaStream_t stream;
    cudaGraph_t graph;
    cudaGraphExec_t ready;
    cudaStreamCaptureStatus status;
    int *sum = device_values(std::vector<int>(1)), value = 5;
    if (cudaStreamCreate(&stream) != cudaSuccess) abort();
    expect(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess, "a capture");
    LAUNCH(add_kernel, 1, 1, 0, stream, sum, value);
    value = 7;
    (void)cudaStreamIsCapturing(stream, &status);
    expect(status == cudaStreamCaptureStatusActive, "a stream that is captured");
    expect(cudaStreamEndCapture(stream, &graph) == cudaSuccess, "its end");
    expect(host_values(sum, 1)[0] == 0, "captured work has not run");
    if (cudaGraphInstantiate(&ready, graph, 0) != cudaSuccess) abort();
    cudaGraphDestroy(graph);
    for (int i = 0; i < 3; i++) expect(cudaGraphLaunch(ready, stream) == cudaSuccess, "a graph's launch");
    (void)cudaStreamSynchronize(stream);
    expect(host_values(sum, 1)[0] == 15, "three launches of a graph");
    cudaGraphExecDestroy(ready);

    void *block;
    const struct {
        const char *what;
        std::function<cudaError_t()> call;
    } forbidden[] = {{"memory", [&] { return cudaMalloc(&block, 8); }},
                     {"waiting", [&] { return cudaStreamSynchronize(stream); }},
                     {"a copy from memory that is not pinned",
                      [&] { return cudaMemcpyAsync(sum, &value, 4, cudaMemcpyHostToDevice, stream); }},
                     {"the legacy stream", [&] { return cudaMemsetAsync(sum, 0, 4, nullptr); }}};
    for (const auto &each : forbidden) {
        if (cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal) != cudaSuccess) abort();
        expect(each.call() != cudaSuccess, each.what);
        expect(cudaStreamEndCapture(stream, &graph) == cudaErrorStreamCaptureInvalidated && !graph,
               each.what);
    }
    (void)cudaGetLastError();
    cudaStreamDestroy(stream);
    cudaFree(sum);
}

} // namespace

int main()
{
    std::vector<int> forward;
    for (const char *order : {"forward", "reverse", "shuffled"}) {
        setenv("LORAD_EMULATOR_ORDER", order, 1);
        warps_exchange();
        blocks_meet_at_barriers();
        tensor_cores_multiply();
        if (forward.empty())
            forward = hasty();
        else
            expect(forward != hasty(), "a missing barrier shows in another order");
        for (const auto &fault : faults) expect(ends_with(fault.words, fault.run), fault.words);
    }
    launches_are_refused();
    streams_are_late();
    graphs_run_again();
    printf("%d failures\n", failures);
    return failures != 0;
}
