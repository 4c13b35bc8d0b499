/*
 * cpu_features.c: CPUID says what the processor has, XCR0 whether the system saves those registers, and for
 * AMX the kernel must be asked (arch_prctl), once per process, before the first tile instruction.
 */
#include "kernels/cpu/cpu_features.h"

#include <pthread.h>
#include <string.h>

#if defined(__x86_64__)
#include <cpuid.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

enum {
    XCR0_AVX = 0x6,     /* xmm, ymm */
    XCR0_AVX512 = 0xe6, /* and opmask, zmm */
    XCR0_AMX = 0x60000, /* tile configuration, tile data */
    ARCH_REQ_XCOMP_PERM = 0x1023,
    XFEATURE_XTILEDATA = 18,
};

static uint64_t xcr0(void)
{
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}

static bool has(uint32_t word, int bit)
{
    return word >> bit & 1;
}

static void model_name(char text[64])
{
    uint32_t words[12] = {0};
    if (__get_cpuid_max(0x80000000, NULL) < 0x80000004) return;
    for (uint32_t i = 0; i < 3; i++)
        __get_cpuid(0x80000002 + i, &words[4 * i], &words[4 * i + 1], &words[4 * i + 2], &words[4 * i + 3]);
    char raw[sizeof words + 1] = {0};
    memcpy(raw, words, sizeof words);
    const char *from = raw;
    while (*from == ' ') from++;
    size_t length = strlen(from);
    while (length && from[length - 1] == ' ') length--;
    memcpy(text, from, length);
    text[length] = '\0';
}

static void detect(struct cpu_features *out)
{
    uint32_t a, b, c, d;
    if (!__get_cpuid(0, &a, &b, &c, &d)) return;
    out->intel = b == signature_INTEL_ebx && c == signature_INTEL_ecx;
    out->amd = b == signature_AMD_ebx && c == signature_AMD_ecx;
    model_name(out->model);

    uint32_t c1;
    if (!__get_cpuid(1, &a, &b, &c1, &d) || !has(c1, 27)) return; /* OSXSAVE */
    uint64_t saved = xcr0();
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return;
    uint32_t b7 = b, d7 = d, a71 = 0;
    if (a >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d)) a71 = a;

    bool fma = has(c1, 12), f16c = has(c1, 29), avx = has(c1, 28);
    out->avx2 = (saved & XCR0_AVX) == XCR0_AVX && avx && fma && f16c && has(b7, 5);
    out->avx512 = out->avx2 && (saved & XCR0_AVX512) == XCR0_AVX512 && has(b7, 16) && has(b7, 17) &&
                  has(b7, 30) && has(b7, 31);
    out->avx512_bf16 = out->avx512 && has(a71, 5);
    out->amx_bf16 = out->avx512_bf16 && (saved & XCR0_AMX) == XCR0_AMX && has(d7, 22) && has(d7, 24) &&
                    syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
}
#else
static void detect(struct cpu_features *out)
{
    (void)out;
}
#endif

static struct cpu_features features;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void detect_once(void)
{
    detect(&features);
}

const struct cpu_features *cpu_features(void)
{
    pthread_once(&once, detect_once);
    return &features;
}
