/* Linear layers by cuBLASLt. What it is not: a cache of descriptions; those are small structs on
 * the stack. Only the library's choice of a kernel is kept, because asking takes tens of
 * microseconds. Invariants: the choice is a function of the layer's sizes, with the rows rounded
 * up, so that it depends neither on the batches before nor on their order; no kernel may add up
 * parts of a sum in the order in which they are done. */
#include "kernels/cuda/lt.h"

#include <string.h>

enum { ALIGN = 16 }; /* bytes: every operand starts at a multiple */

typedef struct setup {
    cublasLtMatmulDescOpaque_t desc;
    cublasLtMatrixLayoutOpaque_t a, b, out;
} setup;

/* Column-major, as the library counts: out^T. False when the library refuses the combination. */
static bool describe(setup *s, const mr_lt_layer *l, int64_t n)
{
    bool is_forward = l->way == MR_LT_FORWARD;
    cublasOperation_t ta = is_forward ? CUBLAS_OP_T : CUBLAS_OP_N;
    cublasOperation_t tb = is_forward ? CUBLAS_OP_N : CUBLAS_OP_T;
    cublasLtEpilogue_t end = is_forward ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_BGRADB;
    uint64_t i = (uint64_t)l->i, o = (uint64_t)l->o, rows = (uint64_t)n;
    cublasStatus_t st = cublasLtMatmulDescInit(&s->desc, l->arithmetic, CUDA_R_32F);
#define SET(key, value)                                                                            \
    if (st == CUBLAS_STATUS_SUCCESS)                                                               \
    st = cublasLtMatmulDescSetAttribute(&s->desc, CUBLASLT_MATMUL_DESC_##key, &(value),            \
                                        sizeof(value))
    SET(TRANSA, ta);
    SET(TRANSB, tb);
    SET(EPILOGUE, end);
    SET(BIAS_POINTER, l->bias);
#undef SET
    /* forward: [i,o]^T [i,n] -> [o,n]; backward: [i,n] [o,n]^T -> [i,o] */
    if (st == CUBLAS_STATUS_SUCCESS)
        st = cublasLtMatrixLayoutInit(&s->a, l->type, i, is_forward ? o : rows, l->i);
    if (st == CUBLAS_STATUS_SUCCESS)
        st = cublasLtMatrixLayoutInit(&s->b, l->type, is_forward ? i : o, rows,
                                      is_forward ? l->i : l->o);
    if (st == CUBLAS_STATUS_SUCCESS)
        st =
            cublasLtMatrixLayoutInit(&s->out, is_forward ? l->type : CUDA_R_32F, is_forward ? o : i,
                                     is_forward ? rows : o, is_forward ? l->o : l->i);
    return st == CUBLAS_STATUS_SUCCESS;
}

/* The least of 2^k and 3 * 2^k that is not less: few choices, whatever the batches. */
static int64_t rounded(int64_t n)
{
    int64_t p = 1;
    while (p < n) p *= 2;
    return p >= 4 && p / 4 * 3 >= n ? p / 4 * 3 : p;
}

static void ask(mr_cuda_queue *q, mr_lt_choice *c, const mr_lt_layer *l)
{
    setup s;
    cublasLtMatmulPreferenceOpaque_t wish;
    cublasLtMatmulHeuristicResult_t found;
    size_t space = MR_CUDA_BLAS_BYTES;
    uint32_t align = ALIGN, sums = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
    int n_found = 0;
    c->works = false;
    if (!describe(&s, l, c->rows)) return;
    cublasStatus_t st = cublasLtMatmulPreferenceInit(&wish);
#define SET(key, value)                                                                            \
    if (st == CUBLAS_STATUS_SUCCESS)                                                               \
    st = cublasLtMatmulPreferenceSetAttribute(&wish, CUBLASLT_MATMUL_PREF_##key, &(value),         \
                                              sizeof(value))
    SET(MAX_WORKSPACE_BYTES, space);
    SET(REDUCTION_SCHEME_MASK, sums);
    SET(MIN_ALIGNMENT_A_BYTES, align);
    SET(MIN_ALIGNMENT_B_BYTES, align);
    SET(MIN_ALIGNMENT_C_BYTES, align);
    SET(MIN_ALIGNMENT_D_BYTES, align);
#undef SET
    if (st == CUBLAS_STATUS_SUCCESS)
        st = cublasLtMatmulAlgoGetHeuristic((cublasLtHandle_t)q->blas, &s.desc, &s.a, &s.b, &s.out,
                                            &s.out, &wish, 1, &found, &n_found);
    if (st != CUBLAS_STATUS_SUCCESS || n_found < 1 || found.state != CUBLAS_STATUS_SUCCESS) return;
    c->works = true;
    c->algo = found.algo;
}

/* The choice for these sizes, asked for when it is not known; a full table forgets one. */
static const mr_lt_choice *choice_of(mr_cuda_queue *q, const mr_lt_layer *l)
{
    mr_lt_choice key = {.rows = rounded(l->n),
                        .o = l->o,
                        .i = l->i,
                        .way = (int)l->way,
                        .arithmetic = (int)l->arithmetic,
                        .is_known = true};
    uint64_t h = (uint64_t)(key.rows * 31 + key.o) * 1000003u + (uint64_t)key.i * 7 +
                 (uint64_t)key.way * 3 + (uint64_t)key.arithmetic;
    mr_lt_choice *c = NULL;
    for (uint64_t k = 0; k < 8; k++) {
        c = &q->lt[(h + k) % MR_LT_CHOICES];
        if (!c->is_known) break;
        if (c->rows == key.rows && c->o == key.o && c->i == key.i && c->way == key.way &&
            c->arithmetic == key.arithmetic)
            return c;
    }
    *c = key;
    ask(q, c, l);
    return c;
}

static bool is_aligned(const void *p) { return (uintptr_t)p % ALIGN == 0; }

bool mr_lt_run(mr_cuda_queue *q, const mr_lt_layer *l)
{
    setup s;
    cublasLtMatmulHeuristicResult_t fits;
    cublasLtHandle_t lt = (cublasLtHandle_t)q->blas;
    float one = 1.0f;
    bool is_forward = l->way == MR_LT_FORWARD;
    if (!is_aligned(l->out) || !is_aligned(l->bias) || !is_aligned(l->x) || !is_aligned(l->m))
        return false;
    const mr_lt_choice *c = choice_of(q, l);
    if (!c->works || !describe(&s, l, l->n)) return false;
    /* It was chosen for more rows. */
    if (cublasLtMatmulAlgoCheck(lt, &s.desc, &s.a, &s.b, &s.out, &s.out, &c->algo, &fits) !=
            CUBLAS_STATUS_SUCCESS ||
        fits.workspaceSize > MR_CUDA_BLAS_BYTES)
        return false;
    q->counts->launches++;
    cublasStatus_t st = cublasLtMatmul(
        lt, &s.desc, &one, is_forward ? l->m : l->x, &s.a, is_forward ? l->x : l->m, &s.b, &l->beta,
        l->out, &s.out, l->out, &s.out, &c->algo, q->blas_space, MR_CUDA_BLAS_BYTES, q->stream);
    if (q->blas_status == CUBLAS_STATUS_SUCCESS) q->blas_status = st;
    return true;
}
