/* cuBLASLt on the emulated GPU: a product with its bias or the gradient of one, as one kernel.
 * What it is not: as able as the real one, nor less. It has kernels for widths that are multiples
 * of 4 only, and one that was chosen for other sizes sometimes does not fit, so that a program must
 * do without as well. */
#include "blas.h"

#include "cublasLt.h"

#include <cstring>
#include <vector>

using namespace emulate;

namespace
{
enum { ALGO = 0x4c54, LEAST = 16, WIDTH = 4 }; /* LEAST: bytes, of operands and of the bias */

struct layout {
    uint64_t rows, cols;
    int64_t ld;
    cudaDataType type;
};
struct desc {
    cublasComputeType_t compute;
    cudaDataType scale;
    cublasOperation_t ta, tb;
    cublasLtEpilogue_t end;
    void *bias;
};
struct wish {
    uint64_t space;
    uint32_t sums, align[4];
};
static_assert(sizeof(layout) <= sizeof(cublasLtMatrixLayoutOpaque_t), "room");
static_assert(sizeof(desc) <= sizeof(cublasLtMatmulDescOpaque_t), "room");
static_assert(sizeof(wish) <= sizeof(cublasLtMatmulPreferenceOpaque_t), "room");

template <class T, class O> T take(const O *opaque)
{
    T t;
    memcpy(&t, opaque->data, sizeof t);
    return t;
}

template <class T, class O> cublasStatus_t keep(O *opaque, const T &t)
{
    memcpy(opaque->data, &t, sizeof t);
    return CUBLAS_STATUS_SUCCESS;
}

template <class T> cublasStatus_t set(T *out, const void *value, size_t bytes)
{
    if (!value || bytes != sizeof *out) return CUBLAS_STATUS_INVALID_VALUE;
    memcpy(out, value, bytes);
    return CUBLAS_STATUS_SUCCESS;
}

/* Do the matrices fit each other? The product without addresses. */
bool fits(product *p, const desc &d, const layout &a, const layout &b, const layout &out)
{
    *p = {d.ta == CUBLAS_OP_T,
          d.tb == CUBLAS_OP_T,
          (int64_t)out.rows,
          (int64_t)out.cols,
          (int64_t)(d.ta == CUBLAS_OP_T ? a.rows : a.cols),
          a.ld,
          b.ld,
          out.ld,
          nullptr,
          nullptr,
          nullptr,
          1,
          0,
          d.compute,
          1,
          0,
          0,
          0,
          a.type,
          out.type,
          false};
    return a.type == b.type && is_supported(*p) && d.scale == CUDA_R_32F &&
           a.ld >= (int64_t)a.rows && b.ld >= (int64_t)b.rows && out.ld >= (int64_t)out.rows &&
           p->rows_a() == (int64_t)a.rows && p->cols_a() == (int64_t)a.cols &&
           p->rows_b() == (int64_t)b.rows && p->cols_b() == (int64_t)b.cols;
}

/* The length of the bias: rows of the result, or columns where it is b's gradient. */
int64_t bias_length(const desc &d, const product &p)
{
    return d.end == CUBLASLT_EPILOGUE_BGRADB ? p.n : p.m;
}

bool is_aligned(const void *p, uint64_t bytes) { return (uintptr_t)p % bytes == 0; }

/* The product, and what comes at its end. The bias is of the result's type. */
void run(const desc &d, const product &p)
{
    touch({d.bias, p.c});
    if (d.end == CUBLASLT_EPILOGUE_BIAS) {
        std::vector<float> c((size_t)(p.n * p.ldc));
        product whole = p; /* rounded once, with its bias */
        whole.c = c.data();
        whole.type_c = CUDA_R_32F;
        multiply(whole);
        for (int64_t j = 0; j < p.n; j++)
            for (int64_t i = 0; i < p.m; i++)
                put_element(p.c, j * p.ldc + i, p.type_c,
                            c[(size_t)(j * p.ldc + i)] + element(d.bias, i, p.type_c));
        return;
    }
    multiply(p);
    for (int64_t j = 0; d.end == CUBLASLT_EPILOGUE_BGRADB && j < p.n; j++) {
        float s = 0;
        for (int64_t i = 0; i < p.k; i++)
            s += element(p.b, p.tb ? i * p.ldb + j : j * p.ldb + i, p.type);
        put_element(d.bias, j, p.type_c, s);
    }
}
} // namespace

extern "C" cublasStatus_t cublasLtMatrixLayoutInit(cublasLtMatrixLayout_t l, cudaDataType type,
                                                   uint64_t rows, uint64_t cols, int64_t ld)
{
    return keep(l, layout{rows, cols, ld, type});
}

extern "C" cublasStatus_t cublasLtMatmulDescInit(cublasLtMatmulDesc_t d,
                                                 cublasComputeType_t compute, cudaDataType scale)
{
    return keep(d,
                desc{compute, scale, CUBLAS_OP_N, CUBLAS_OP_N, CUBLASLT_EPILOGUE_DEFAULT, nullptr});
}

extern "C" cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t opaque,
                                                         cublasLtMatmulDescAttributes_t key,
                                                         const void *value, size_t bytes)
{
    desc d = take<desc>(opaque);
    cublasStatus_t st = CUBLAS_STATUS_INVALID_VALUE;
    switch (key) {
    case CUBLASLT_MATMUL_DESC_TRANSA: st = set(&d.ta, value, bytes); break;
    case CUBLASLT_MATMUL_DESC_TRANSB: st = set(&d.tb, value, bytes); break;
    case CUBLASLT_MATMUL_DESC_EPILOGUE: st = set(&d.end, value, bytes); break;
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER: st = set(&d.bias, value, bytes); break;
    }
    keep(opaque, d);
    return st;
}

extern "C" cublasStatus_t cublasLtMatmulPreferenceInit(cublasLtMatmulPreference_t w)
{
    return keep(w, wish{0, 7, {256, 256, 256, 256}});
}

extern "C" cublasStatus_t
cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t opaque,
                                     cublasLtMatmulPreferenceAttributes_t key, const void *value,
                                     size_t bytes)
{
    wish w = take<wish>(opaque);
    cublasStatus_t st = CUBLAS_STATUS_INVALID_VALUE;
    if (key == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES) st = set(&w.space, value, bytes);
    if (key == CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK) st = set(&w.sums, value, bytes);
    if (key >= CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES)
        st = set(&w.align[key - CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES], value, bytes);
    keep(opaque, w);
    return st;
}

extern "C" cublasStatus_t cublasLtMatmulAlgoGetHeuristic(
    cublasLtHandle_t h, cublasLtMatmulDesc_t opaque, cublasLtMatrixLayout_t la,
    cublasLtMatrixLayout_t lb, cublasLtMatrixLayout_t, cublasLtMatrixLayout_t lo,
    cublasLtMatmulPreference_t lw, int wanted, cublasLtMatmulHeuristicResult_t *found, int *n_found)
{
    desc d = take<desc>(opaque);
    wish w = take<wish>(lw);
    product p;
    *n_found = 0;
    if (!h || wanted < 1) return CUBLAS_STATUS_INVALID_VALUE;
    if (!fits(&p, d, take<layout>(la), take<layout>(lb), take<layout>(lo)))
        return CUBLAS_STATUS_INVALID_VALUE;
    if (w.sums & CUBLASLT_REDUCTION_SCHEME_INPLACE)
        stop("a product asks for sums in the order in which their parts are done");
    uint32_t most = 0;
    for (uint32_t a : w.align) {
        if (a < LEAST) return CUBLAS_STATUS_NOT_SUPPORTED;
        most = a > most ? a : most;
    }
    if (p.lda % WIDTH || p.ldb % WIDTH || p.ldc % WIDTH) return CUBLAS_STATUS_NOT_SUPPORTED;
    *found = {};
    found->algo.data[0] = ALGO;
    found->algo.data[1] = (uint64_t)d.end;
    found->algo.data[3] = most; /* what was promised of all operands */
    found->algo.data[2] = p.tb ? (uint64_t)p.k : (uint64_t)p.n; /* the rows of the layer */
    found->workspaceSize = w.space;
    *n_found = 1;
    return CUBLAS_STATUS_SUCCESS;
}

extern "C" cublasStatus_t cublasLtMatmulAlgoCheck(cublasLtHandle_t h, cublasLtMatmulDesc_t opaque,
                                                  cublasLtMatrixLayout_t la,
                                                  cublasLtMatrixLayout_t lb, cublasLtMatrixLayout_t,
                                                  cublasLtMatrixLayout_t lo,
                                                  const cublasLtMatmulAlgo_t *algo,
                                                  cublasLtMatmulHeuristicResult_t *result)
{
    desc d = take<desc>(opaque);
    product p;
    if (!h || algo->data[0] != ALGO || algo->data[1] != (uint64_t)d.end)
        return CUBLAS_STATUS_INVALID_VALUE;
    if (!fits(&p, d, take<layout>(la), take<layout>(lb), take<layout>(lo)))
        return CUBLAS_STATUS_INVALID_VALUE;
    uint64_t rows = p.tb ? (uint64_t)p.k : (uint64_t)p.n;
    if (rows != algo->data[2] && rows % 5 == 2) return CUBLAS_STATUS_NOT_SUPPORTED;
    *result = {};
    return CUBLAS_STATUS_SUCCESS;
}

extern "C" cublasStatus_t
cublasLtMatmul(cublasLtHandle_t h, cublasLtMatmulDesc_t opaque, const void *alpha, const void *a,
               cublasLtMatrixLayout_t la, const void *b, cublasLtMatrixLayout_t lb,
               const void *beta, const void *c, cublasLtMatrixLayout_t, void *out,
               cublasLtMatrixLayout_t lo, const cublasLtMatmulAlgo_t *algo, void *space,
               size_t bytes, cudaStream_t stream)
{
    locked l(lock);
    desc d = take<desc>(opaque);
    product p;
    cublasLtMatmulHeuristicResult_t result;
    if (cublasLtMatmulAlgoCheck(h, opaque, la, lb, lo, lo, algo, &result) != CUBLAS_STATUS_SUCCESS)
        return CUBLAS_STATUS_NOT_SUPPORTED;
    fits(&p, d, take<layout>(la), take<layout>(lb), take<layout>(lo));
    p.a = a;
    p.b = b;
    p.c = out;
    p.alpha = *(const float *)alpha;
    p.beta = *(const float *)beta;
    if (c != out || where_is(space, bytes) != DEVICE) return CUBLAS_STATUS_INVALID_VALUE;
    /* A real kernel goes on, and faults. */
    for (const void *q : {a, b, (const void *)out})
        if (!is_aligned(q, algo->data[3]))
            stop("a product's operand at %p is no multiple of the %d bytes that its kernel was "
                 "chosen for",
                 q, (int)algo->data[3]);
    if (!is_aligned(d.bias, LEAST)) stop("a bias at %p is no multiple of %d bytes", d.bias, LEAST);
    if (d.end != CUBLASLT_EPILOGUE_DEFAULT &&
        where_is(d.bias, (size_t)bias_length(d, p) * bytes_of(p.type_c)) != DEVICE)
        stop("a bias of %lld elements reaches outside an allocation of device memory",
             (long long)bias_length(d, p));
    if (!is_good(p)) return CUBLAS_STATUS_INVALID_VALUE;
    cudaError_t e = enqueue(stream, {kernel_of(p), "layer", [p, d] { run(d, p); }});
    return e ? CUBLAS_STATUS_EXECUTION_FAILED : CUBLAS_STATUS_SUCCESS;
}
