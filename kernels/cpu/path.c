/* path.c: the table of one instruction path. */
#include "kernels/cpu/cpu_impl.h"

const struct cpu_path CPU_OP(path) = {
    .name = CPU_TEXT(CPU_PATH),
#define OP(op) .op = CPU_OP(op),
#include "kernels/ops.def"
#undef OP
};
