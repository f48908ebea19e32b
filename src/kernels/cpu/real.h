/* Included by every CPU kernel file: one source, compiled for float and for double.
 * MR_FN(name) is the name of the instance, REAL its element type. */
#ifndef MR_KERNELS_CPU_REAL_H
#define MR_KERNELS_CPU_REAL_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "base/rng.h"
#include "kernels/kernels.h"

#define MR_PASTE2(a, b) a##b
#define MR_PASTE(a, b) MR_PASTE2(a, b)
#if MR_REAL_BITS == 64
typedef double REAL;
#define MR_FN(name) MR_PASTE(name, _cpu64)
#define MR_TABLE mr_kernels_cpu64
#define MR_GEMM cblas_dgemm
#define mr_sqrt sqrt
#else
typedef float REAL;
#define MR_FN(name) MR_PASTE(name, _cpu32)
#define MR_TABLE mr_kernels_cpu32
#define MR_GEMM cblas_sgemm
#define mr_sqrt sqrtf
#endif

/* Declarations of all instances: a family file that defines one with other arguments does not
 * compile. */
#define X(name, args) void MR_FN(name) args;
MR_KERNEL_LIST(X)
#undef X

/* Fixed work split for reductions over rows: the partial sums do not depend on the thread count. */
#define MR_CHUNK 64

#endif
