/* Check of one op (or a small composition) in every way the tape can use it:
 *  - every gradient element (or 200 of a large tensor) against central differences in float64, step
 * 1e-5;
 *  - the same with the op built twice over the same inputs, so that both values of every accumulate
 *    bit are used;
 *  - private poisoned memory gives the same bits as shared memory; no gradient element is left
 * unwritten;
 *  - float32 against float64; the guard device against the CPU, bit for bit;
 *  - a batch of 0 rows runs and gives finite gradients.
 * Failures are cmocka failures that name the case, the parameter and the element. */
#ifndef MR_TESTS_OP_CHECK_H
#define MR_TESTS_OP_CHECK_H

#include "graph/ops.h"
#include "op_world.h"

typedef struct op_case {
    const char *name;
    op_sizes s;
    /* Build the op; inputs by op_leaf, parameters by op_param (or mr_param_declare). Returns the
     * node to check. Called again on the same graph for the second use. arg: whatever the case
     * needs. */
    int (*build)(mr_graph *g, const void *arg);
    const void *arg;
    bool is_loss;          /* the node is a scalar loss; otherwise a probe is put behind it */
    bool is_eval;          /* dropout and gate noise off */
    const char *no_row0;   /* parameter whose row 0 is not compared (PAD row of a look-up) */
    const char *zero_grad; /* parameter whose gradient is zero in theory (key bias): compared with
                            * differences, but not required to be non-zero */
    const char *detached;  /* parameter that must have exactly zero gradient although it matters */
    double tol;            /* relative, 0 = 5e-6 */
    double tol32;          /* worst float32 difference by RMS, 0 = 2e-5 */
} op_case;

void op_check(const op_case *c);

/* A random input node: leaf of a parameter [capacity, d1, d2, d3], N(0, scale). The same name gives
 * the same node again. */
int op_leaf(mr_graph *g, const char *name, mr_space space, int ndim, int64_t d1, int64_t d2,
            int64_t d3, double scale);
/* A random parameter, N(0, scale). */
int op_param(mr_graph *g, const char *name, int ndim, int64_t d0, int64_t d1, int64_t d2,
             double scale, unsigned flags);

#endif
