/* Linear layers by cuBLASLt: a product together with its bias, or with the gradient of the bias. */
#ifndef MR_KERNELS_CUDA_LT_H
#define MR_KERNELS_CUDA_LT_H

#include "tensor/cuda_queue.h"

#ifdef __cplusplus
extern "C" {
#endif

/* FORWARD:  out[n,o] = x[n,i] m[o,i]^T + bias[o]
 * BACKWARD: out[o,i] = beta * out + m[n,o]^T x[n,i], bias[o] = sum_n m */
typedef enum mr_lt_way { MR_LT_FORWARD, MR_LT_BACKWARD } mr_lt_way;

typedef struct mr_lt_layer {
    mr_lt_way way;
    void *out, *bias;
    const void *x, *m;
    int64_t n, o, i;
    float beta;
    cublasComputeType_t arithmetic;
    cudaDataType type; /* of x and m, and forward of out and bias; else those are float32 */
} mr_lt_layer;

/* Starts it on q's stream and returns true; false, and nothing was done, when the library has no
 * kernel for these sizes: then the caller takes a product and a kernel. Which of the two depends on
 * sizes, arithmetic, alignment and GPU alone. n, o and i are at least 1. A failed start is kept in
 * q->blas_status. */
bool mr_lt_run(mr_cuda_queue *q, const mr_lt_layer *l);

#ifdef __cplusplus
}
#endif

#endif
