/* gemm_blas.c: the owner of cblas.h: f32 products by OpenBLAS, OpenMP build. */
#include <cblas.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/gemm.h"

void gemm_blas_single_thread(void)
{
    int threads = omp_get_max_threads();
    openblas_set_num_threads(1);
    omp_set_num_threads(threads); /* which the OpenMP build changed too */
}

void gemm_blas(int64_t m, int64_t n, int64_t k, float alpha, const float *a, int64_t lda, const float *b,
               int64_t k_step, int64_t n_step, float beta, float *c, int64_t ldc)
{
    enum CBLAS_TRANSPOSE order = n_step == 1 ? CblasNoTrans : CblasTrans;
    blasint ldb = (blasint)(n_step == 1 ? k_step : n_step);
    cblas_sgemm(CblasRowMajor, CblasNoTrans, order, (blasint)m, (blasint)n, (blasint)k, alpha, a,
                (blasint)lda, b, ldb, beta, c, (blasint)ldc);
}

/* What else changes its blocks, and with them bits. */
static void add_settings(char *text, size_t bytes)
{
    static const char *const names[] = {"OPENBLAS_L2_SIZE", "OPENBLAS_BLOCK_FACTOR"};
    const char *word = " with";
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const char *value = getenv(names[i]);
        size_t length = strlen(text);
        if (!value || !*value) continue;
        snprintf(text + length, bytes - length, "%s %s=%.8s", word, names[i], value);
        word = " and";
    }
}

const char *gemm_blas_version(void)
{
    /* "OpenBLAS 0.3.21 NO_LAPACKE DYNAMIC_ARCH ...", and the processor whose kernels it chose: others give
     * other bits (OPENBLAS_CORETYPE) */
    static char text[128];
    const char *config = openblas_get_config();
    const char *first = strchr(config, ' ');
    const char *end = first ? strchr(first + 1, ' ') : NULL;
    snprintf(text, sizeof text, "%.*s for %.20s", (int)(end ? end - config : 32), config,
             openblas_get_corename());
    add_settings(text, sizeof text);
    return text;
}
