/* What every kernel is handed besides its tensors. Plain C and CUDA C. */
#ifndef MR_KERNELS_EXEC_H
#define MR_KERNELS_EXEC_H

#include <stddef.h>
#include <stdint.h>

#include "tensor/dtype.h"

/* Everything that changes from step to step; lives in device memory, because a captured step
 * freezes kernel arguments. Filled by the host before each step. */
typedef struct mr_step_state {
    uint32_t step;       /* third word of the random counter */
    uint32_t skip;       /* non-zero: the optimizer must not touch anything */
    int64_t rows;        /* rows of this rank */
    int64_t rows_global; /* rows of the global batch */
    double lr;           /* learning rate */
    double bias1, bias2; /* Adam: 1 - beta1^t, 1 - beta2^t */
    double grad_scale;   /* gradient clipping factor, 1 without clipping */
} mr_step_state;

typedef struct mr_exec {
    uint64_t seed;              /* run seed: the random key */
    const mr_step_state *state; /* device memory */
    void *scratch;              /* device memory, at least what the op asked for */
    size_t scratch_bytes;
    void *stream;           /* mr_device.stream: mr_cuda_queue on cuda, NULL on a CPU */
    mr_precision precision; /* of gemm on cuda; CPUs have one only */
} mr_exec;

/* Where the rows of a matrix come from, for random draws that do not depend on batch layout:
 * matrix row n belongs to global row rid[n] at position pos[n]; the element counter of column c is
 * pos[n] * ceil8(width) + c, with ceil8 = rounded up to a multiple of 8. */
typedef struct mr_rows_of {
    const uint32_t *rid; /* [n] */
    const int32_t *pos;  /* [n] */
} mr_rows_of;

#endif
