/*
 * emulator.cpp: runs kernels on one thread of an ordinary processor.
 *
 * 1. Blocks run one after the other. A block's threads are fibers; one runs until it meets a barrier or a
 * warp's collective, or ends. Fibers and their stacks are kept for the next block.
 * 2. LORAD_EMULATOR_ORDER (forward, reverse, shuffled) is the order of blocks, of warps between barriers and
 * of lanes between collectives. A kernel that lacks a barrier gives other bits in another order. Shuffled
 * takes turns between warps.
 * 3. A barrier waits for the threads that have not left the kernel; so does a collective for lanes. Threads
 * that wait for each other for ever end the process with a message.
 * 4. Before every block, dynamic shared memory holds NaN patterns; behind its last 128 bytes lies a page that
 * nobody may touch, and the bytes up to there are looked at after the block.
 */
#include "emulator.h"

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace emulator {

enum {
    WARP = 32,
    MOST_THREADS = 1024,
    PAGE = 4096,
    STACK = 192 * 1024,
    SHARED_MOST = 256 * 1024,
    SHARED_ALIGN = 128
};
enum { NAN_BYTE = 0xff, GUARD_BYTE = 0xa5 };

/* Fibers: fiber_start makes one that begins with entry(), which never returns; fiber_switch saves where the
 * caller is in *from and goes on where `to` was left. */

#if defined(__x86_64__)
typedef void *fiber;
extern "C" __attribute__((visibility("hidden"))) void emulator_fiber_switch(fiber *from, fiber to);
/* The callee-saved registers go onto the stack (System V ABI, x86-64, 3.2.1). */
asm(R"(
    .text
    .hidden emulator_fiber_switch
    .globl emulator_fiber_switch
    .type emulator_fiber_switch, @function
emulator_fiber_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size emulator_fiber_switch, .-emulator_fiber_switch
)");

static void fiber_start(fiber *out, char *stack, size_t bytes, void (*entry)())
{
    void **top = (void **)(stack + bytes);
    *--top = nullptr; /* entry's return address, which it never uses */
    *--top = (void *)entry;
    for (int i = 0; i < 6; i++) *--top = nullptr;
    *out = top;
}
static inline void fiber_switch(fiber *from, fiber *to)
{
    emulator_fiber_switch(from, *to);
}
#else
typedef ucontext_t fiber;
static void fiber_start(fiber *out, char *stack, size_t bytes, void (*entry)())
{
    getcontext(out);
    out->uc_stack.ss_sp = stack;
    out->uc_stack.ss_size = bytes;
    out->uc_link = nullptr;
    makecontext(out, entry, 0);
}
static inline void fiber_switch(fiber *from, fiber *to)
{
    swapcontext(from, to);
}
#endif

struct copy {
    void *to;
    const void *from;
    bool valid;
    int group;
};

struct worker {
    fiber where;
    char *stack;
    uint3 index;   /* threadIdx */
    uint32_t mask; /* of the collective that it waits at */
    collective *complete;
    void *mine;
    std::vector<copy> copies; /* under way */
    int groups;               /* closed by copy_commit */
};

/* Its lanes, by what they do; one that is in none of these has left the kernel. */
struct warp {
    uint32_t ready, at_barrier, at_collective;
};

static struct {
    const launch *kernel;
    uint3 block;
    int threads, warps;
    worker *thread[MOST_THREADS]; /* made when first needed */
    struct warp warp[MOST_THREADS / WARP];
    int current; /* -1: the scheduler runs */
    fiber scheduler;
    char *shared_end; /* page border behind shared memory */
    unsigned char *shared;
    uint64_t random;
    enum { FORWARD, REVERSE, SHUFFLED } order;
} machine = {.current = -1};

void fail(const char *format, ...)
{
    char text[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    fprintf(stderr, "emulator: ");
    if (machine.kernel)
        fprintf(stderr, "%s, block (%u, %u, %u): ", machine.kernel->name, machine.block.x, machine.block.y,
                machine.block.z);
    if (machine.current >= 0) fprintf(stderr, "thread %d: ", machine.current);
    fprintf(stderr, "%s\n", text);
    abort();
}

/* The order of n things that are done next. */

static uint64_t next_random()
{
    machine.random ^= machine.random << 13;
    machine.random ^= machine.random >> 7;
    machine.random ^= machine.random << 17;
    return machine.random;
}

static void read_order()
{
    const char *order = getenv("LORAD_EMULATOR_ORDER");
    machine.order = machine.FORWARD;
    machine.random = 0x9e3779b97f4a7c15u;
    if (!order || strcmp(order, "forward") == 0) return;
    if (strcmp(order, "reverse") == 0)
        machine.order = machine.REVERSE;
    else if (strcmp(order, "shuffled") == 0)
        machine.order = machine.SHUFFLED;
    else
        fail("LORAD_EMULATOR_ORDER is \"%s\", not forward, reverse or shuffled", order);
}

/* turn[0..n) becomes the numbers below n, in the order that was asked for. */
template <class Number> static void make_order(Number *turn, Number n)
{
    for (Number i = 0; i < n; i++) turn[i] = machine.order == machine.REVERSE ? n - 1 - i : i;
    if (machine.order != machine.SHUFFLED) return;
    for (Number i = n - 1; i > 0; i--) std::swap(turn[i], turn[next_random() % (uint64_t)(i + 1)]);
}

/* Threads */

static void switch_to(fiber *from, fiber *to, const char *stack, size_t bytes)
{
#if defined(__SANITIZE_ADDRESS__)
    void *fake = nullptr;
    __sanitizer_start_switch_fiber(&fake, stack, bytes);
    fiber_switch(from, to);
    __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#else
    (void)stack, (void)bytes;
    fiber_switch(from, to);
#endif
}

#if defined(__SANITIZE_ADDRESS__)
static const void *scheduler_stack;
static size_t scheduler_bytes;
#endif

/* Back to the scheduler, until it chooses this thread again. */
static void give_way()
{
    worker *self = machine.thread[machine.current];
#if defined(__SANITIZE_ADDRESS__)
    switch_to(&self->where, &machine.scheduler, (const char *)scheduler_stack, scheduler_bytes);
#else
    switch_to(&self->where, &machine.scheduler, nullptr, 0);
#endif
}

static void complete_groups(int number);

static void fiber_entry()
{
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(nullptr, &scheduler_stack, &scheduler_bytes);
#endif
    for (;;) {
        machine.kernel->thread();
        machine.warp[machine.current / WARP].ready &= ~(1u << lane());
        complete_groups(machine.current / WARP); /* others of the warp may wait for this lane */
        give_way();
    }
}

static worker *worker_new()
{
    worker *made = new worker();
    void *stack =
        mmap(nullptr, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (stack == MAP_FAILED) fail("no memory for the stacks of threads: %s", strerror(errno));
    mprotect(stack, PAGE, PROT_NONE);
    made->stack = (char *)stack;
    fiber_start(&made->where, made->stack, STACK, fiber_entry);
    return made;
}

static void resume(int number)
{
    worker *chosen = machine.thread[number];
    machine.current = number;
    threadIdx = chosen->index;
    switch_to(&machine.scheduler, &chosen->where, chosen->stack, STACK);
    machine.current = -1;
}

/* Barriers and collectives */

void barrier()
{
    warp &own = machine.warp[machine.current / WARP];
    own.ready &= ~(1u << lane());
    own.at_barrier |= 1u << lane();
    give_way();
}

int lane()
{
    return machine.current % WARP;
}

/* Runs the collective of `mask` in warp `number` if all lanes of it have arrived, or left the kernel. */
static bool complete_group(int number, uint32_t mask)
{
    warp &own = machine.warp[number];
    uint32_t here = own.at_collective & mask;
    if (!here || ((own.ready | own.at_barrier) & mask)) return false;
    void *brought[WARP] = {nullptr};
    collective *complete = nullptr;
    for (int i = 0; i < WARP; i++) {
        if (!(here >> i & 1)) continue;
        const worker *other = machine.thread[number * WARP + i];
        if (other->mask != mask) return false;
        if (complete && complete != other->complete)
            fail("lanes of warp %d are at different operations of the warp", number);
        complete = other->complete;
        brought[i] = other->mine;
    }
    complete(brought, mask);
    own.at_collective &= ~here;
    own.ready |= here;
    return true;
}

static void complete_groups(int number)
{
    for (int i = 0; i < WARP; i++)
        if (machine.warp[number].at_collective >> i & 1)
            complete_group(number, machine.thread[number * WARP + i]->mask);
}

void together(uint32_t mask, collective *complete, void *mine)
{
    worker *self = machine.thread[machine.current];
    warp &own = machine.warp[machine.current / WARP];
    if (!(mask >> lane() & 1)) fail("lane %d is not in the mask %08x of its operation", lane(), mask);
    own.ready &= ~(1u << lane());
    own.at_collective |= 1u << lane();
    self->mask = mask;
    self->complete = complete;
    self->mine = mine;
    if (!complete_group(machine.current / WARP, mask)) give_way();
}

/* Copies in the background */

void copy_begin(void *to, const void *from, bool valid)
{
    if ((uintptr_t)to % 16 || (uintptr_t)from % 16) fail("a copy from %p to %p: not aligned", from, to);
    worker *self = machine.thread[machine.current];
    memset(to, NAN_BYTE, 16);
    self->copies.push_back({to, from, valid, self->groups});
}

void copy_commit()
{
    machine.thread[machine.current]->groups++;
}

void copy_wait(int groups)
{
    worker *self = machine.thread[machine.current];
    size_t done = 0;
    for (; done < self->copies.size() && self->copies[done].group < self->groups - groups; done++) {
        const copy &c = self->copies[done];
        if (c.valid)
            memcpy(c.to, c.from, 16);
        else
            memset(c.to, 0, 16);
    }
    self->copies.erase(self->copies.begin(), self->copies.begin() + (ptrdiff_t)done);
}

/* Shared memory */

unsigned char *dynamic_shared()
{
    return machine.shared;
}

static void shared_begin(size_t bytes)
{
    if (!machine.shared_end) {
        char *room = (char *)mmap(nullptr, SHARED_MOST + PAGE, PROT_READ | PROT_WRITE,
                                  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (room == MAP_FAILED) fail("no memory for shared memory: %s", strerror(errno));
        machine.shared_end = room + SHARED_MOST;
        mprotect(machine.shared_end, PAGE, PROT_NONE);
    }
    size_t whole = (bytes + SHARED_ALIGN - 1) / SHARED_ALIGN * SHARED_ALIGN;
    machine.shared = (unsigned char *)machine.shared_end - whole;
    memset(machine.shared, NAN_BYTE, bytes);
    memset(machine.shared + bytes, GUARD_BYTE, whole - bytes);
}

static void shared_check(size_t bytes)
{
    for (const unsigned char *at = machine.shared + bytes; at < (unsigned char *)machine.shared_end; at++)
        if (*at != GUARD_BYTE)
            fail("byte %td of its %zu bytes of shared memory was written", at - machine.shared, bytes);
}

/* The scheduler */

/* Of these lanes (one at least) the one whose turn it is. */
static int next_lane(uint32_t lanes)
{
    if (machine.order == machine.FORWARD) return __builtin_ctz(lanes);
    if (machine.order == machine.REVERSE) return 31 - __builtin_clz(lanes);
    for (uint64_t skip = next_random() % (uint64_t)__builtin_popcount(lanes); skip > 0; skip--)
        lanes &= lanes - 1;
    return __builtin_ctz(lanes);
}

/* Every lane that can, runs once. */
static bool run_warp(int number)
{
    uint32_t lanes = machine.warp[number].ready;
    if (!lanes) return false;
    while (lanes) {
        int chosen = next_lane(lanes);
        lanes &= ~(1u << chosen);
        resume(number * WARP + chosen);
    }
    return true;
}

/* Runs all until they wait for a barrier, a collective that never comes, or are gone. */
static void run_to_barrier()
{
    int turn[MOST_THREADS / WARP];
    bool any = true;
    while (any) {
        any = false;
        make_order(turn, machine.warps);
        for (int i = 0; i < machine.warps; i++)
            while (run_warp(turn[i])) {
                any = true;
                if (machine.order == machine.SHUFFLED) break;
            }
    }
}

static void run_block()
{
    for (int i = 0; i < machine.threads; i++) {
        machine.thread[i]->copies.clear();
        machine.thread[i]->groups = 0;
    }
    for (int i = 0; i < machine.warps; i++) {
        int lanes = machine.threads - i * WARP;
        machine.warp[i] = {lanes < WARP ? (1u << lanes) - 1 : ~0u, 0, 0};
    }
    for (;;) {
        run_to_barrier();
        bool any = false;
        for (int i = 0; i < machine.warps; i++) {
            warp &own = machine.warp[i];
            if (own.at_collective) {
                int stuck = i * WARP + __builtin_ctz(own.at_collective);
                fail("thread %d waits for lanes of its warp (mask %08x) that wait elsewhere", stuck,
                     machine.thread[stuck]->mask);
            }
            any |= own.at_barrier != 0;
            own.ready = own.at_barrier;
            own.at_barrier = 0;
        }
        if (!any) return;
    }
}

#if defined(__SANITIZE_ADDRESS__)
static void watch_signals() /* the sanitizer tells more */
{
}
static void signals_back()
{
}
#else
/* A bad access in a kernel is named before the process ends by the same signal. */
static void on_signal(int number)
{
    char text[256];
    int length =
        snprintf(text, sizeof text, "emulator: %s, block (%u, %u, %u), thread %d: %s\n", machine.kernel->name,
                 machine.block.x, machine.block.y, machine.block.z, machine.current, strsignal(number));
    if (length > 0 && write(STDERR_FILENO, text, (size_t)length) < 0) _exit(1);
    raise(number); /* the handler is gone: SA_RESETHAND */
}

static const int watched[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE};
static struct sigaction handlers_before[4]; /* a test program has some of its own */

static void watch_signals()
{
    static char room[64 * 1024]; /* the stack of a fiber may be what overflowed */
    stack_t stack = {};
    stack.ss_sp = room;
    stack.ss_size = sizeof room;
    sigaltstack(&stack, nullptr);
    struct sigaction action = {};
    action.sa_handler = on_signal;
    action.sa_flags = SA_ONSTACK | (int)SA_RESETHAND | SA_NODEFER;
    for (int i = 0; i < 4; i++) sigaction(watched[i], &action, &handlers_before[i]);
}

static void signals_back()
{
    for (int i = 0; i < 4; i++) sigaction(watched[i], &handlers_before[i], nullptr);
}
#endif

void run(const launch &kernel)
{
    watch_signals();
    read_order();
    if (machine.current >= 0) fail("a kernel was started from a kernel");
    machine.kernel = &kernel;
    machine.threads = (int)(kernel.block.x * kernel.block.y * kernel.block.z);
    machine.warps = (machine.threads + WARP - 1) / WARP;
    for (int i = 0; i < machine.threads; i++) {
        if (!machine.thread[i]) machine.thread[i] = worker_new();
        unsigned n = (unsigned)i, x = kernel.block.x, y = kernel.block.y;
        machine.thread[i]->index = {n % x, n / x % y, n / x / y};
    }
    gridDim = kernel.grid;
    blockDim = kernel.block;
    size_t blocks = (size_t)kernel.grid.x * kernel.grid.y * kernel.grid.z;
    std::vector<size_t> turn(blocks);
    make_order(turn.data(), blocks);
    for (size_t number : turn) {
        machine.block = {(unsigned)(number % kernel.grid.x),
                         (unsigned)(number / kernel.grid.x % kernel.grid.y),
                         (unsigned)(number / kernel.grid.x / kernel.grid.y)};
        blockIdx = machine.block;
        shared_begin(kernel.shared_bytes);
        run_block();
        shared_check(kernel.shared_bytes);
    }
    machine.kernel = nullptr;
    signals_back();
}

} // namespace emulator
