/* Kernel family: optimizer and checks over flat buffers. See kernels.h for the common rules. */
#ifndef MR_KERNELS_FAMILY_OPTIM_H
#define MR_KERNELS_FAMILY_OPTIM_H

/* Loss terms of a step and their weights. */
enum { MR_WEIGHTED_LOSSES = 8 };
typedef struct mr_loss_weights {
    int n;
    double w[MR_WEIGHTED_LOSSES];
} mr_loss_weights;

/* Elements lo .. hi - 1 of flat buffers that are laid out alike, one range or two. */
enum { MR_MAX_RANGES = 2 };
typedef struct mr_ranges {
    int n;
    int64_t lo[MR_MAX_RANGES], hi[MR_MAX_RANGES];
} mr_ranges;

#define MR_KERNELS_OPTIM(X)                                                                        \
    /* Adam over the elements of the ranges, as torch.optim.Adam; nothing if state.skip:           \
     *   g *= state.grad_scale                                                                     \
     *   g += decay * p                       if decay (L2)                                        \
     *   m = beta1 m + (1 - beta1) g                                                               \
     *   v = beta2 v + (1 - beta2) g^2                                                             \
     *   p -= state.lr * (m / state.bias1) / (sqrt(v / state.bias2) + eps)                         \
     *   p16 = p rounded to bf16, of the first n16 elements (NULL, 0: not wanted) */               \
    X(adam, (mr_real * p, mr_real * m, mr_real * v, const mr_real *g, const mr_ranges *ranges,     \
             uint16_t *p16, int64_t n16, double beta1, double beta2, double eps, double decay,     \
             const mr_exec *ex))                                                                   \
    /* Of each range q:                                                                            \
     *   out[2 q] = sum g^2 (fixed order, accumulated in double)                                   \
     *   out[2 q + 1] = number of non-finite elements                                              \
     * out is double device memory [2 ranges->n] */                                                \
    X(grad_stats, (double *out, const mr_real *g, const mr_ranges *ranges, const mr_exec *ex))     \
    /* What becomes of a step. a, b as from grad_stats, of the two parts of the gradients;         \
     * losses[n] of all terms; norm = sqrt(a[0] + b[0]):                                           \
     *   state.skip = a[1] + b[1] > 0, or norm or sum_i weights.w[i] losses[i] is not finite       \
     *   state.grad_scale = clip / norm if 0 < clip < norm, else 1                                 \
     *   told[n] = losses (may be NULL)                                                            \
     * state is ex->state, a, b double device memory */                                            \
    X(step_decide,                                                                                 \
      (mr_step_state * state, mr_real * told, const double *a, const double *b,                    \
       const mr_real *losses, const mr_loss_weights *weights, double clip, const mr_exec *ex))

#endif
