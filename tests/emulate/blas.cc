/* Products of the emulated GPU: OpenBLAS on a CPU, column-major as cuBLAS, with operands rounded as
 * the asked arithmetic rounds them.
 * What it is not: cuBLAS's order of additions. The kernel that a real one chooses depends on sizes;
 * here their magnitudes name it, so that a recorded step sometimes cannot take over a new one. */
#include "blas.h"

#include <cblas.h>
#include <cstring>
#include <vector>

using namespace emulate;

namespace
{
enum { MAGNITUDES = 64 };

/* Round to `bits` behind the point, to nearest, ties to even. */
float rounded(float x, int bits)
{
    uint32_t u, drop = 23u - (uint32_t)bits;
    memcpy(&u, &x, sizeof u);
    if ((u & 0x7f800000u) == 0x7f800000u) return x;
    u += (1u << (drop - 1)) - 1u + (u >> drop & 1u);
    u &= ~((1u << drop) - 1u);
    memcpy(&x, &u, sizeof x);
    return x;
}

/* The operand, [cols][ld] with `rows` of a column in use, rounded; empty: not to be rounded. */
std::vector<float> operand(const float *a, int64_t rows, int64_t cols, int64_t ld,
                           cublasComputeType_t compute)
{
    std::vector<float> r;
    int bits = compute == CUBLAS_COMPUTE_32F_FAST_16BF   ? 7
               : compute == CUBLAS_COMPUTE_32F_FAST_TF32 ? 10
                                                         : 0;
    if (!bits) return r;
    r.resize((size_t)(cols * ld));
    for (int64_t j = 0; j < cols; j++)
        for (int64_t i = 0; i < rows; i++) r[(size_t)(j * ld + i)] = rounded(a[j * ld + i], bits);
    return r;
}

int magnitude(int64_t n)
{
    int bits = 0;
    for (; n > 0; n >>= 1) bits++;
    return bits;
}

bool is_matrix(const void *p, int64_t rows, int64_t cols, int64_t ld)
{
    if (!rows || !cols) return true;
    return where_is(p, (size_t)((cols - 1) * ld + rows) * sizeof(float)) == DEVICE &&
           (uintptr_t)p % sizeof(float) == 0;
}
} // namespace

bool emulate::is_good(const product &p)
{
    if (p.m < 0 || p.n < 0 || p.k < 0 || p.count < 0 || p.lda < (p.rows_a() > 1 ? p.rows_a() : 1) ||
        p.ldb < (p.rows_b() > 1 ? p.rows_b() : 1) || p.ldc < (p.m > 1 ? p.m : 1))
        return false;
    if (!p.m || !p.n) return true;
    for (int64_t q = 0; q < p.count; q++)
        if (!is_matrix(p.a + q * p.step_a, p.rows_a(), p.cols_a(), p.lda) ||
            !is_matrix(p.b + q * p.step_b, p.rows_b(), p.cols_b(), p.ldb) ||
            !is_matrix(p.c + q * p.step_c, p.m, p.n, p.ldc))
            stop(
                "product %lld of %lld x %lld x %lld reaches outside an allocation of device memory",
                (long long)q, (long long)p.m, (long long)p.n, (long long)p.k);
    return true;
}

void emulate::multiply(const product &p)
{
    for (int64_t q = 0; q < p.count; q++) {
        const float *a = p.a + q * p.step_a, *b = p.b + q * p.step_b;
        std::vector<float> ra = operand(a, p.rows_a(), p.cols_a(), p.lda, p.compute);
        std::vector<float> rb = operand(b, p.rows_b(), p.cols_b(), p.ldb, p.compute);
        cblas_sgemm(CblasColMajor, p.ta ? CblasTrans : CblasNoTrans,
                    p.tb ? CblasTrans : CblasNoTrans, (blasint)p.m, (blasint)p.n, (blasint)p.k,
                    p.alpha, ra.empty() ? a : ra.data(), (blasint)p.lda, rb.empty() ? b : rb.data(),
                    (blasint)p.ldb, p.beta, p.c + q * p.step_c, (blasint)p.ldc);
    }
}

const void *emulate::kernel_of(const product &p)
{
    static const char kernels[4 * MAGNITUDES * MAGNITUDES] = {};
    return kernels + ((p.ta ? 2 : 0) + (p.tb ? 1 : 0)) * MAGNITUDES * MAGNITUDES +
           magnitude(p.n) * MAGNITUDES + magnitude(p.m);
}

extern "C" const char *cublasGetStatusString(cublasStatus_t s)
{
    switch (s) {
    case CUBLAS_STATUS_SUCCESS: return "success";
    case CUBLAS_STATUS_NOT_INITIALIZED: return "the library was not initialized";
    case CUBLAS_STATUS_ALLOC_FAILED: return "the resource allocation failed";
    case CUBLAS_STATUS_INVALID_VALUE: return "an invalid value was used as an argument";
    case CUBLAS_STATUS_EXECUTION_FAILED: return "the function failed to launch on the GPU";
    default: return "the requested functionality is not supported";
    }
}

extern "C" cublasStatus_t cublasCreate(cublasHandle_t *h)
{
    locked l(lock);
    if (forbidden_in_capture() || refused()) return CUBLAS_STATUS_NOT_INITIALIZED;
    *h = new cublasContext{nullptr};
    return CUBLAS_STATUS_SUCCESS;
}

extern "C" cublasStatus_t cublasDestroy(cublasHandle_t h)
{
    delete h;
    return CUBLAS_STATUS_SUCCESS;
}

extern "C" cublasStatus_t cublasSetStream(cublasHandle_t h, cudaStream_t s)
{
    if (!h) return CUBLAS_STATUS_NOT_INITIALIZED;
    h->stream = s;
    return CUBLAS_STATUS_SUCCESS;
}

extern "C" cublasStatus_t cublasSetWorkspace(cublasHandle_t h, void *space, size_t bytes)
{
    locked l(lock);
    if (!h) return CUBLAS_STATUS_NOT_INITIALIZED;
    bool is_good = where_is(space, bytes) == DEVICE && (uintptr_t)space % 256 == 0;
    return is_good ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_INVALID_VALUE;
}

extern "C" cublasStatus_t cublasSetMathMode(cublasHandle_t h, cublasMath_t)
{
    return h ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_INITIALIZED;
}

extern "C" cublasStatus_t cublasSetAtomicsMode(cublasHandle_t h, cublasAtomicsMode_t)
{
    return h ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_INITIALIZED;
}

extern "C" cublasStatus_t
cublasGemmStridedBatchedEx_64(cublasHandle_t h, cublasOperation_t ta, cublasOperation_t tb,
                              int64_t m, int64_t n, int64_t k, const void *alpha, const void *a,
                              cudaDataType type_a, int64_t lda, long long step_a, const void *b,
                              cudaDataType type_b, int64_t ldb, long long step_b, const void *beta,
                              void *c, cudaDataType type_c, int64_t ldc, long long step_c,
                              int64_t count, cublasComputeType_t compute, cublasGemmAlgo_t)
{
    locked l(lock);
    if (!h) return CUBLAS_STATUS_NOT_INITIALIZED;
    if (type_a != CUDA_R_32F || type_b != CUDA_R_32F || type_c != CUDA_R_32F)
        return CUBLAS_STATUS_NOT_SUPPORTED;
    if (!alpha || !beta) return CUBLAS_STATUS_INVALID_VALUE;
    product p = {ta == CUBLAS_OP_T,
                 tb == CUBLAS_OP_T,
                 m,
                 n,
                 k,
                 lda,
                 ldb,
                 ldc,
                 (const float *)a,
                 (const float *)b,
                 (float *)c,
                 *(const float *)alpha,
                 *(const float *)beta,
                 compute,
                 count,
                 step_a,
                 step_b,
                 step_c};
    if (!is_good(p)) return CUBLAS_STATUS_INVALID_VALUE;
    if (!m || !n || !count) return CUBLAS_STATUS_SUCCESS;
    cudaError_t e = enqueue(h->stream, {kernel_of(p), "product", [p] { multiply(p); }});
    return e ? CUBLAS_STATUS_EXECUTION_FAILED : CUBLAS_STATUS_SUCCESS;
}

extern "C" cublasStatus_t cublasGemmEx_64(cublasHandle_t h, cublasOperation_t ta,
                                          cublasOperation_t tb, int64_t m, int64_t n, int64_t k,
                                          const void *alpha, const void *a, cudaDataType type_a,
                                          int64_t lda, const void *b, cudaDataType type_b,
                                          int64_t ldb, const void *beta, void *c,
                                          cudaDataType type_c, int64_t ldc,
                                          cublasComputeType_t compute, cublasGemmAlgo_t algo)
{
    return cublasGemmStridedBatchedEx_64(h, ta, tb, m, n, k, alpha, a, type_a, lda, 0, b, type_b,
                                         ldb, 0, beta, c, type_c, ldc, 0, 1, compute, algo);
}
