/* Products of the emulated GPU: OpenBLAS on a CPU, column-major as cuBLAS, with operands rounded as
 * the asked arithmetic rounds them, or widened where they are bf16.
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

/* The operand, [cols][ld] with `rows` of a column in use, as the products take it. */
std::vector<float> operand(const void *a, int64_t rows, int64_t cols, int64_t ld, const product &p)
{
    std::vector<float> r((size_t)(cols * ld));
    int bits = p.compute == CUBLAS_COMPUTE_32F_FAST_16BF   ? 7
               : p.compute == CUBLAS_COMPUTE_32F_FAST_TF32 ? 10
                                                           : 23;
    for (int64_t j = 0; j < cols; j++)
        for (int64_t i = 0; i < rows; i++) {
            float x = element(a, j * ld + i, p.type);
            r[(size_t)(j * ld + i)] = bits < 23 ? rounded(x, bits) : x;
        }
    return r;
}

const void *moved(const void *a, int64_t elements, cudaDataType t)
{
    return (const char *)a + elements * (int64_t)bytes_of(t);
}

/* c = alpha op(a) op(b) + beta c over `k` of the sum's terms, from k0 on. */
void add_terms(const product &p, float *c, const float *a, const float *b, int64_t k0, int64_t k,
               float beta)
{
    a += p.ta ? k0 : k0 * p.lda;
    b += p.tb ? k0 * p.ldb : k0;
    cblas_sgemm(CblasColMajor, p.ta ? CblasTrans : CblasNoTrans, p.tb ? CblasTrans : CblasNoTrans,
                (blasint)p.m, (blasint)p.n, (blasint)k, p.alpha, a, (blasint)p.lda, b,
                (blasint)p.ldb, beta, c, (blasint)p.ldc);
}

/* The result in bf16. */
void multiply_to_bf16(const product &p, uint16_t *c, const float *a, const float *b)
{
    std::vector<float> whole((size_t)(p.n * p.ldc)), part(whole.size());
    for (int64_t j = 0; p.beta != 0 && j < p.n; j++)
        for (int64_t i = 0; i < p.m; i++)
            whole[(size_t)(j * p.ldc + i)] = element(c, j * p.ldc + i, CUDA_R_16BF);
    int64_t half = p.in_parts ? p.k / 2 : 0;
    if (half) add_terms(p, part.data(), a, b, 0, half, 0);
    add_terms(p, whole.data(), a, b, half, p.k - half, p.beta);
    for (int64_t j = 0; j < p.n; j++)
        for (int64_t i = 0; i < p.m; i++) {
            size_t at = (size_t)(j * p.ldc + i);
            float x = half ? rounded(part[at], 7) + rounded(whole[at], 7) : whole[at];
            put_element(c, (int64_t)at, CUDA_R_16BF, x);
        }
}

int magnitude(int64_t n)
{
    int bits = 0;
    for (; n > 0; n >>= 1) bits++;
    return bits;
}

bool is_matrix(const void *p, int64_t rows, int64_t cols, int64_t ld, cudaDataType t)
{
    if (!rows || !cols) return true;
    return where_is(p, (size_t)((cols - 1) * ld + rows) * bytes_of(t)) == DEVICE &&
           (uintptr_t)p % bytes_of(t) == 0;
}

} // namespace

size_t emulate::bytes_of(cudaDataType t) { return t == CUDA_R_16BF ? 2 : 4; }

float emulate::element(const void *a, int64_t at, cudaDataType t)
{
    uint32_t u;
    float x;
    if (t == CUDA_R_32F) return ((const float *)a)[at];
    u = (uint32_t)((const uint16_t *)a)[at] << 16;
    memcpy(&x, &u, sizeof x);
    return x;
}

void emulate::put_element(void *a, int64_t at, cudaDataType t, float x)
{
    uint32_t u;
    if (t == CUDA_R_32F) {
        ((float *)a)[at] = x;
        return;
    }
    x = rounded(x, 7);
    memcpy(&u, &x, sizeof u);
    ((uint16_t *)a)[at] = (uint16_t)(u >> 16);
}

bool emulate::is_supported(const product &p)
{
    bool is_float = p.compute == CUBLAS_COMPUTE_32F || p.compute == CUBLAS_COMPUTE_32F_PEDANTIC ||
                    p.compute == CUBLAS_COMPUTE_32F_FAST_16BF ||
                    p.compute == CUBLAS_COMPUTE_32F_FAST_TF32;
    if (p.type == CUDA_R_32F) return is_float && p.type_c == CUDA_R_32F;
    return p.type == CUDA_R_16BF && p.compute == CUBLAS_COMPUTE_32F &&
           (p.type_c == CUDA_R_16BF || p.type_c == CUDA_R_32F);
}

bool emulate::is_good(const product &p)
{
    if (p.m < 0 || p.n < 0 || p.k < 0 || p.count < 0 || p.lda < (p.rows_a() > 1 ? p.rows_a() : 1) ||
        p.ldb < (p.rows_b() > 1 ? p.rows_b() : 1) || p.ldc < (p.m > 1 ? p.m : 1))
        return false;
    if (!p.m || !p.n) return true;
    for (int64_t q = 0; q < p.count; q++)
        if (!is_matrix(moved(p.a, q * p.step_a, p.type), p.rows_a(), p.cols_a(), p.lda, p.type) ||
            !is_matrix(moved(p.b, q * p.step_b, p.type), p.rows_b(), p.cols_b(), p.ldb, p.type) ||
            !is_matrix(moved(p.c, q * p.step_c, p.type_c), p.m, p.n, p.ldc, p.type_c))
            stop(
                "product %lld of %lld x %lld x %lld reaches outside an allocation of device memory",
                (long long)q, (long long)p.m, (long long)p.n, (long long)p.k);
    return true;
}

void emulate::multiply(const product &p)
{
    for (int64_t q = 0; q < p.count; q++) {
        const void *a = moved(p.a, q * p.step_a, p.type), *b = moved(p.b, q * p.step_b, p.type);
        void *c = (void *)moved(p.c, q * p.step_c, p.type_c);
        bool is_plain = p.type == CUDA_R_32F && p.compute != CUBLAS_COMPUTE_32F_FAST_16BF &&
                        p.compute != CUBLAS_COMPUTE_32F_FAST_TF32;
        touch({a, b, c});
        std::vector<float> ra, rb;
        if (!is_plain) {
            ra = operand(a, p.rows_a(), p.cols_a(), p.lda, p);
            rb = operand(b, p.rows_b(), p.cols_b(), p.ldb, p);
        }
        const float *fa = is_plain ? (const float *)a : ra.data();
        const float *fb = is_plain ? (const float *)b : rb.data();
        if (p.type_c == CUDA_R_16BF)
            multiply_to_bf16(p, (uint16_t *)c, fa, fb);
        else
            add_terms(p, (float *)c, fa, fb, 0, p.k, p.beta);
    }
}

const void *emulate::kernel_of(const product &p)
{
    static const char kernels[12 * MAGNITUDES * MAGNITUDES] = {};
    int types = p.type == CUDA_R_32F ? 0 : p.type_c == CUDA_R_32F ? 4 : 8;
    return kernels + (types + (p.ta ? 2 : 0) + (p.tb ? 1 : 0)) * MAGNITUDES * MAGNITUDES +
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
    *h = new cublasContext{nullptr, CUBLAS_DEFAULT_MATH, false};
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
    h->has_space = false; /* back to the library's own, as its manual says */
    return CUBLAS_STATUS_SUCCESS;
}

extern "C" cublasStatus_t cublasSetWorkspace(cublasHandle_t h, void *space, size_t bytes)
{
    locked l(lock);
    if (!h) return CUBLAS_STATUS_NOT_INITIALIZED;
    bool is_good = where_is(space, bytes) == DEVICE && (uintptr_t)space % 256 == 0;
    h->has_space = is_good;
    return is_good ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_INVALID_VALUE;
}

extern "C" cublasStatus_t cublasSetMathMode(cublasHandle_t h, cublasMath_t mode)
{
    if (!h) return CUBLAS_STATUS_NOT_INITIALIZED;
    h->mode = mode;
    return CUBLAS_STATUS_SUCCESS;
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
    if (!alpha || !beta) return CUBLAS_STATUS_INVALID_VALUE;
    product p = {ta == CUBLAS_OP_T,
                 tb == CUBLAS_OP_T,
                 m,
                 n,
                 k,
                 lda,
                 ldb,
                 ldc,
                 a,
                 b,
                 c,
                 *(const float *)alpha,
                 *(const float *)beta,
                 compute,
                 count,
                 step_a,
                 step_b,
                 step_c,
                 type_a,
                 type_c,
                 h->mode != CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION};
    if (type_a != type_b || !is_supported(p)) return CUBLAS_STATUS_NOT_SUPPORTED;
    if (!is_good(p)) return CUBLAS_STATUS_INVALID_VALUE;
    if (!m || !n || !count) return CUBLAS_STATUS_SUCCESS;
    if (!h->has_space)
        stop("a product in the library's own workspace: cublasSetStream has taken the other away");
    if (!k) stop("a product of no terms: cuBLAS may leave the result as it was");
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
