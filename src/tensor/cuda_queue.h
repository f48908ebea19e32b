/* What a CUDA device hands its kernels through mr_exec.stream. Owned by tensor/device_cuda.c.
 * What it is not: visible to ops; only the device and the kernels of kernels/cuda look inside. */
#ifndef MR_TENSOR_CUDA_QUEUE_H
#define MR_TENSOR_CUDA_QUEUE_H

#include <cublas_v2.h>
#include <cuda_runtime.h>

#include "tensor/device.h"

/* Doubles of device memory for reductions that need more than one block. Kernels of one stream
 * follow each other, so one buffer serves them all. */
#define MR_CUDA_PARTIALS 2048

typedef struct mr_cuda_queue {
    cudaStream_t stream;
    cublasHandle_t blas;                  /* bound to stream; every product says its arithmetic */
    cublasStatus_t blas_status;           /* first failure of a product; sync returns it */
    double *partials;                     /* [MR_CUDA_PARTIALS] device memory */
    cudaGraphExec_t graph[MR_N_RECORDED]; /* the last of each kind, NULL before the first */
    void *blas_space; /* device memory of the library: fixed, so results repeat */
} mr_cuda_queue;

#endif
