/* What the emulated libraries of products share. */
#ifndef MR_EMULATE_BLAS_H
#define MR_EMULATE_BLAS_H

#include "core.h"

#include "cublas_v2.h"

struct cublasContext {
    cudaStream_t stream;
    cublasMath_t mode;
    bool has_space; /* cublasSetWorkspace since the last cublasSetStream */
};

namespace emulate
{
/* c[m,n] = alpha op(a) op(b) + beta c, column-major, `count` times with operands a distance apart.
 * a and b are of one type, float32 or bf16, c of the same or float32; sums are float32. in_parts: a
 * result of bf16 is added up from parts that were rounded to bf16 already, as cuBLAS may do. */
struct product {
    bool ta, tb;
    int64_t m, n, k, lda, ldb, ldc;
    const void *a, *b;
    void *c;
    float alpha, beta;
    cublasComputeType_t compute;
    int64_t count, step_a, step_b, step_c;
    cudaDataType type = CUDA_R_32F, type_c = CUDA_R_32F;
    bool in_parts = false;

    int64_t rows_a() const { return ta ? k : m; }
    int64_t cols_a() const { return ta ? m : k; }
    int64_t rows_b() const { return tb ? n : k; }
    int64_t cols_b() const { return tb ? k : n; }
};
/* Sizes that cuBLAS accepts. A matrix that does not lie in one allocation is an illegal access on a
 * GPU; here the process ends. */
bool is_good(const product &p);
/* The combinations of types of CUDA's table that this program may ask for. */
bool is_supported(const product &p);
/* Elements of a matrix of type t; put rounds to it. */
size_t bytes_of(cudaDataType t);
float element(const void *a, int64_t at, cudaDataType t);
void put_element(void *a, int64_t at, cudaDataType t, float x);
void multiply(const product &p);
/* Stands for the kernel that does it: an address for each combination of magnitudes. */
const void *kernel_of(const product &p);
} // namespace emulate

#endif
