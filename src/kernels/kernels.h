/* THE kernel interface: one table of leaf functions on raw device pointers, one implementation for
 * the CPU (float and double) and one for CUDA. Kernels know no graph, no model, no MPI.
 *
 * The list is split by family; each family header holds, above each entry, the contract: formula,
 * shapes (slowest first), `=` or `+=`, aliasing, scratch.
 * Rules for all entries
 *  - outputs first, then inputs, sizes, scalars, `const mr_exec *ex` last;
 *  - all pointers are device memory, contiguous, row-major. What they point to:
 *      mr_real   float; double on cpu64: parameters, their gradients, statistics, scratch
 *      mr_act    values and gradients of nodes (activations): as mr_real, or bf16 on a GPU that
 *                stores them so (mr_device.act)
 *      mr_mat    parameters as operands of products: as mr_act (mr_params.value16)
 *      void      either of them, as `sides` says
 *      uint16_t  bf16 on every device (kernels/shared/bf16.h)
 *    Arithmetic is real everywhere; what goes into an mr_act is rounded once;
 *  - rows may end in columns that count for nothing (mr_graph_dims.row_unit): they are 0 in values,
 *    gradients and parameters. Most entries do not know of them, as 0 gives 0; those that do are
 *    told cols, the columns that count, and write 0 behind them;
 *  - `acc` != 0 means `+=` into that output, else `=`: the planner decides, and nothing is zeroed
 *    first;
 *  - kernels never allocate: scratch comes from ex->scratch;
 *  - deterministic: no floating-point atomics; the result does not depend on the number of threads;
 *  - random numbers by base/rng.h from (ex->seed, purpose, ex->state->step, global row, element);
 *  - n = 0 rows is allowed everywhere. */
#ifndef MR_KERNELS_KERNELS_H
#define MR_KERNELS_KERNELS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "kernels/exec.h"
#include "tensor/dtype.h"

typedef void mr_real, mr_act, mr_mat;
/* What the result of a kernel is, and what its operands are. */
typedef enum mr_sides { MR_ACT_ACT, MR_ACT_REAL, MR_REAL_ACT, MR_REAL_REAL } mr_sides;

#include "kernels/family_linear.h"
#include "kernels/family_norm.h"
#include "kernels/family_attention.h"
#include "kernels/family_embed.h"
#include "kernels/family_unet.h"
#include "kernels/family_diffusion.h"
#include "kernels/family_tedrec.h"
#include "kernels/family_loss.h"
#include "kernels/family_rank.h"
#include "kernels/family_optim.h"

#define MR_KERNEL_LIST(X)                                                                          \
    MR_KERNELS_LINEAR(X)                                                                           \
    MR_KERNELS_NORM(X)                                                                             \
    MR_KERNELS_ATTENTION(X)                                                                        \
    MR_KERNELS_EMBED(X)                                                                            \
    MR_KERNELS_UNET(X)                                                                             \
    MR_KERNELS_DIFFUSION(X)                                                                        \
    MR_KERNELS_TEDREC(X)                                                                           \
    MR_KERNELS_LOSS(X)                                                                             \
    MR_KERNELS_RANK(X)                                                                             \
    MR_KERNELS_OPTIM(X)

typedef struct mr_kernels {
#define X(name, args) void(*name) args;
    MR_KERNEL_LIST(X)
#undef X
} mr_kernels;

/* Table of a device ("cpu", "cpu64", "guard", "cuda") for what it stores in mr_act: MR_BF16, which
 * cuda alone has, or else its real type. ERR_DEVICE when the backend is not compiled in. */
mr_status mr_kernels_for(const mr_kernels **out_p, const char *device, mr_dtype act);
int mr_kernels_count(void);
const char *mr_kernels_name(int i);
/* Name of the first entry that is NULL, or NULL when the table is complete. */
const char *mr_kernels_missing(const mr_kernels *k);

extern const mr_kernels mr_kernels_cpu32, mr_kernels_cpu64;
#ifdef MR_HAVE_CUDA
extern const mr_kernels mr_kernels_cuda, mr_kernels_cuda_bf16; /* by type of mr_act */
#endif

#endif
