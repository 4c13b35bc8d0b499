/* approx.h: how far a result may be from its reference: one number per operation and dtype, each with its
 * reason. */
#ifndef LORAD_TESTS_SUPPORT_APPROX_H
#define LORAD_TESTS_SUPPORT_APPROX_H

#include <stdint.h>

#include "kernels/tensor.h"

struct approx {
    double nmse;  /* sum (got - want)^2 / sum want^2 */
    double most;  /* max |got - want| / max |want| */
    double least; /* |want| counts as at least this, for results that cancel to nothing */
};

/* `op` is a name of ops.def; `dtype` that of the storage. Fails the test for a pair the table lacks. */
struct approx approx_for(const char *op, enum dtype dtype);

/* Fails the test when got is further from want than allowed, or when they are not finite (or infinite with
 * one sign) at the same places. `what` begins the message. */
void approx_check(const char *what, struct approx limit, const double *got, const double *want, int64_t n);

#endif
