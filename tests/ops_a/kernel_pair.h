/* Buffers held twice, as double and as float with the same numbers, and their comparison. */
#ifndef MR_TESTS_KERNEL_PAIR_H
#define MR_TESTS_KERNEL_PAIR_H

#include "kernels/kernels.h"

typedef struct pair {
    int64_t n;
    double *d;
    float *f;
} pair;

/* n numbers of a stream, in [-1, 1); stream 0: NaN, for outputs. */
pair pair_make(int64_t n, uint32_t stream);
pair pair_copy(const pair *p);
void pair_free(pair *p);
/* The float64 kernel against a reference (1e-12 of the largest), the float32 kernel against float64
 * (worst difference by RMS at most 1e-5 sqrt(max(1, K / 1000)), K = reduction length). */
void pair_compare(const char *what, const pair *got, const double *want, int64_t K);

/* State for kernels: seed, step, scratch for this many real elements of either type. */
typedef struct pair_exec {
    mr_step_state state;
    mr_exec ex;
} pair_exec;
void pair_exec_make(pair_exec *e, int64_t scratch);
void pair_exec_free(pair_exec *e);

/* The definition of dropout, one element at a time. 1 when off. */
double drop_factor(const mr_drop *d, const mr_exec *ex, int64_t row, int64_t w, int64_t col);

/* A loop over both tables: inside, `k` is the table and P(pair) the pointer of its type. */
#define BOTH_TABLES                                                                                \
    for (int wide = 0; wide < 2; wide++)                                                           \
        for (const mr_kernels *k = wide ? &mr_kernels_cpu64 : &mr_kernels_cpu32; k; k = NULL)
#define P(pair) (wide ? (void *)(pair).d : (void *)(pair).f)

#endif
