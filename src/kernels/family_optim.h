/* Kernel family: optimizer and checks over flat buffers. See kernels.h for the common rules. */
#ifndef MR_KERNELS_FAMILY_OPTIM_H
#define MR_KERNELS_FAMILY_OPTIM_H

#define MR_KERNELS_OPTIM(X)                                                                        \
    /* Adam over n elements, as torch.optim.Adam; nothing if state.skip:                           \
     *   g *= state.grad_scale                                                                     \
     *   g += decay * p                       if decay (L2)                                        \
     *   m = beta1 m + (1 - beta1) g                                                               \
     *   v = beta2 v + (1 - beta2) g^2                                                             \
     *   p -= state.lr * (m / state.bias1) / (sqrt(v / state.bias2) + eps) */                      \
    X(adam, (void *p, void *m, void *v, const void *g, int64_t n, double beta1, double beta2,      \
             double eps, double decay, const mr_exec *ex))                                         \
    /* out[0] = sum g^2 (fixed order, accumulated in double)                                       \
     * out[1] = number of non-finite elements                                                      \
     * out is double device memory [2] */                                                          \
    X(grad_stats, (double *out, const void *g, int64_t n, const mr_exec *ex))

#endif
