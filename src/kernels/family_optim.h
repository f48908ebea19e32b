/* Kernel family: optimizer and checks over flat buffers. See kernels.h for the common rules. */
#ifndef MR_KERNELS_FAMILY_OPTIM_H
#define MR_KERNELS_FAMILY_OPTIM_H

#define MR_KERNELS_OPTIM(X)                                                                        \
    /* Adam over n elements: g *= state.grad_scale; if decay: g += decay * p (L2, as               \
     * torch.optim.Adam); m = b1 m + (1-b1) g; v = b2 v + (1-b2) g^2; p -= state.lr * (m /         \
     * state.bias1) / (sqrt(v / state.bias2) + eps). Nothing if state.skip. */                     \
    X(adam, (void *p, void *m, void *v, const void *g, int64_t n, double beta1, double beta2,      \
             double eps, double decay, const mr_exec *ex))                                         \
    /* out[0] = sum g^2 (fixed order, accumulated in double), out[1] = number of non-finite        \
     * elements; out is double device memory [2] */                                                \
    X(grad_stats, (double *out, const void *g, int64_t n, const mr_exec *ex))

#endif
