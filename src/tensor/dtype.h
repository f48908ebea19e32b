/* Element types. Widths of everything stored or sent. */
#ifndef MR_TENSOR_DTYPE_H
#define MR_TENSOR_DTYPE_H

#include <stddef.h>

typedef enum mr_dtype { MR_F32, MR_F64, MR_F16, MR_BF16, MR_I32, MR_I64, MR_U8, MR_U32 } mr_dtype;

/* Arithmetic of matrix products on a GPU; sums are float32 in all of them. TF32 and BF16 round the
 * operands to 10 and 7 bits behind the point. Under BF16 a device may store activations so
 * (mr_device.act); parameters, statistics and sums are float32 in memory in all of them. */
typedef enum mr_precision { MR_FP32, MR_TF32, MR_BF16_PRODUCTS } mr_precision;

static inline size_t mr_dtype_bytes(mr_dtype t)
{
    switch (t) {
    case MR_F64:
    case MR_I64: return 8;
    case MR_F32:
    case MR_I32:
    case MR_U32: return 4;
    case MR_F16:
    case MR_BF16: return 2;
    case MR_U8: return 1;
    }
    return 0;
}

#endif
