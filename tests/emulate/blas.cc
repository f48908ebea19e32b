/* Products of the emulated GPU: OpenBLAS on a CPU, column-major as cuBLAS, with operands rounded as
 * the asked arithmetic rounds them.
 * What it is not: cuBLAS's order of additions. The kernel that a real one chooses depends on sizes;
 * here their magnitudes name it, so that a recorded step sometimes cannot take over a new one. */
#include "core.h"

#include "cublas_v2.h"

#include <cblas.h>
#include <cstring>
#include <vector>

using namespace emulate;

struct cublasContext {
    cudaStream_t stream;
};

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

/* c[m,n] = alpha op(a) op(b) + beta c, all column-major. A matrix that does not lie in one
 * allocation is an illegal access on a GPU; here the process ends. */
extern "C" cublasStatus_t
cublasGemmEx_64(cublasHandle_t h, cublasOperation_t ta, cublasOperation_t tb, int64_t m, int64_t n,
                int64_t k, const void *alpha, const void *a, cudaDataType type_a, int64_t lda,
                const void *b, cudaDataType type_b, int64_t ldb, const void *beta, void *c,
                cudaDataType type_c, int64_t ldc, cublasComputeType_t compute, cublasGemmAlgo_t)
{
    static const char kernels[4 * MAGNITUDES * MAGNITUDES] = {};
    locked l(lock);
    if (!h) return CUBLAS_STATUS_NOT_INITIALIZED;
    if (type_a != CUDA_R_32F || type_b != CUDA_R_32F || type_c != CUDA_R_32F)
        return CUBLAS_STATUS_NOT_SUPPORTED;
    int64_t rows_a = ta ? k : m, cols_a = ta ? m : k, rows_b = tb ? n : k, cols_b = tb ? k : n;
    if (m < 0 || n < 0 || k < 0 || lda < (rows_a > 1 ? rows_a : 1) ||
        ldb < (rows_b > 1 ? rows_b : 1) || ldc < (m > 1 ? m : 1) || !alpha || !beta)
        return CUBLAS_STATUS_INVALID_VALUE;
    if (!m || !n) return CUBLAS_STATUS_SUCCESS;
    if (!is_matrix(a, rows_a, cols_a, lda) || !is_matrix(b, rows_b, cols_b, ldb) ||
        !is_matrix(c, m, n, ldc))
        stop("a product of %lld x %lld x %lld reaches outside an allocation of device memory",
             (long long)m, (long long)n, (long long)k);
    float al = *(const float *)alpha, be = *(const float *)beta;
    const float *fa = (const float *)a, *fb = (const float *)b;
    float *fc = (float *)c;
    const char *kernel = kernels + ((ta ? 2 : 0) + (tb ? 1 : 0)) * MAGNITUDES * MAGNITUDES +
                         magnitude(n) * MAGNITUDES + magnitude(m);
    cudaError_t e =
        enqueue(h->stream, {kernel, "product", [=] {
                                std::vector<float> ra = operand(fa, rows_a, cols_a, lda, compute);
                                std::vector<float> rb = operand(fb, rows_b, cols_b, ldb, compute);
                                cblas_sgemm(CblasColMajor, ta ? CblasTrans : CblasNoTrans,
                                            tb ? CblasTrans : CblasNoTrans, (blasint)m, (blasint)n,
                                            (blasint)k, al, ra.empty() ? fa : ra.data(),
                                            (blasint)lda, rb.empty() ? fb : rb.data(), (blasint)ldb,
                                            be, fc, (blasint)ldc);
                            }});
    return e ? CUBLAS_STATUS_EXECUTION_FAILED : CUBLAS_STATUS_SUCCESS;
}
