/* What a CUDA device hands its kernels through mr_exec.stream. Owned by tensor/device_cuda.c.
 * What it is not: visible to ops; only the device and the kernels of kernels/cuda look inside. */
#ifndef MR_TENSOR_CUDA_QUEUE_H
#define MR_TENSOR_CUDA_QUEUE_H

#include <cublasLt.h>
#include <cublas_v2.h>
#include <cuda_runtime.h>
#include <stdbool.h>
#include <stdint.h>

#include "tensor/device.h"

/* Doubles of device memory for reductions that need more than one block. Kernels of one stream
 * follow each other, so one buffer serves them all. */
#define MR_CUDA_PARTIALS 4096
/* Counters behind them, for blocks that have done their part (is_last_block in kernels/cuda). They
 * are 0 between kernels: the kernel that counts leaves them so. One that was ended by an error does
 * not, but then this process does nothing more with the GPU. */
#define MR_CUDA_COUNTERS 65
/* Device memory that the libraries of products may work in. */
#define MR_CUDA_BLAS_BYTES (32 << 20)
/* Floats behind it, for sums over rows that have no scratch of their own. */
#define MR_CUDA_SUMS (2 << 20)

/* How a linear layer of some size is computed by cuBLASLt (kernels/cuda/lt.c): what was asked for,
 * and the answer. */
typedef struct mr_lt_choice {
    int64_t rows, o, i; /* rows: rounded up */
    int way, arithmetic;
    bool is_known, works;
    cublasLtMatmulAlgo_t algo;
} mr_lt_choice;
#define MR_LT_CHOICES 256

/* A recording that can be started again, and what it asks for each time. */
typedef struct mr_kept {
    cudaGraphExec_t graph; /* NULL: none */
    mr_signature of;
    bool has_signature; /* else it is only there to take over the next one */
    int64_t turn;       /* when it was started last */
    int64_t calls, launches;
} mr_kept;

typedef struct mr_cuda_queue {
    mr_device_counts *counts; /* the device's own: kernels count their launches */
    cudaStream_t stream;
    cublasHandle_t blas;        /* bound to stream; every product says its arithmetic */
    cublasStatus_t blas_status; /* first failure of a product; sync returns it */
    double *partials;           /* [MR_CUDA_PARTIALS] device memory */
    unsigned *counters;         /* [MR_CUDA_COUNTERS] behind partials, zeros */
    mr_kept kept[MR_N_RECORDED][MR_KEPT];
    mr_kept next[MR_N_RECORDED]; /* signature of the recording to come; counts when it began */
    int64_t recordings, turns;   /* begun; recordings that were started */
    void *blas_space;            /* [MR_CUDA_BLAS_BYTES], fixed, so results repeat */
    float *sums;                 /* [MR_CUDA_SUMS] behind blas_space */
    mr_lt_choice lt[MR_LT_CHOICES];
    cudaEvent_t moment[MR_MOMENTS]; /* made when first wanted, NULL before */
    struct {
        const void *at;
        int64_t bytes;
    } * held; /* [held_cap] what is allocated; at NULL: a free place */
    int64_t held_cap;
} mr_cuda_queue;

#endif
