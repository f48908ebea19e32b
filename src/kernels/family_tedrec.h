/* Kernel family: TedRec's mixture-of-experts adaptor and frequency fusion. See kernels.h for the
 * rules that hold for all entries. Row b of a batch has the packed tokens start[b] .. start[b+1]-1
 * at its positions 0 .. len-1; the positions after them are PAD. E experts, L positions.
 *
 * Random draws of the adaptor, all with counter {block, rid, step, purpose}:
 *   dropout of expert j, column c of x[.., w]: element (pos * E + j) * ceil8(w) + c, as in rng.h;
 *   gate noise of expert j: word j % 4 of block MR_MOE_NOISE + pos * ceil(E / 4) + j / 4,
 *   where each pair of words gives two normals. */
#ifndef MR_KERNELS_FAMILY_TEDREC_H
#define MR_KERNELS_FAMILY_TEDREC_H

#define MR_MOE_NOISE 0x80000000u
#define MR_MOE_MAX_EXPERTS 64

#define MR_KERNELS_TEDREC(X)                                                                       \
    /* y[count,n,w] = x[n,w] with the dropout masks of experts j .. j+count-1, kept values scaled; \
     * rows: the n tokens */                                                                       \
    X(moe_drop, (mr_act * y, const mr_act *x, mr_rows_of rows, int64_t n, int64_t w, int j,        \
                 int count, int E, double p, uint32_t purpose, const mr_exec *ex))                 \
    /* At every position, softmax over the experts:                                                \
     *   p[B,L,E] = softmax_j(clean + eps * (softplus(noisy) + 0.01))                              \
     *   factor[N,E] = eps * sigmoid(noisy), the derivative by noisy                               \
     * clean[N,E], noisy[N,E] at tokens, both 0 at PAD; rid[B].                                    \
     * use_noise = 0: eps = 0, noisy and factor are not touched. */                                \
    X(moe_gate_fwd, (mr_act * p, mr_real * factor, const mr_real *clean, const mr_real *noisy,     \
                     const int32_t *start, const uint32_t *rid, int64_t B, int64_t L, int E,       \
                     int use_noise, uint32_t purpose, const mr_exec *ex))                          \
    /* u[B,L,d] = sum_j p[.,.,j] (y[n,j,d] - t[j,l,d])                                             \
     * y = 0 at PAD; y row 0 is token start[0] */                                                  \
    X(moe_mix_fwd,                                                                                 \
      (mr_act * u, const mr_act *y, const mr_act *p, const mr_act *t, const int32_t *start,        \
       int64_t B, int64_t L, int E, int64_t d, const mr_exec *ex))                                 \
    /* Gradient of the softmax at tokens:                                                          \
     *   a_j = du . (y_j - t_j[l])                                                                 \
     *   dclean[n,j] = p_j (a_j - sum_i p_i a_i)                                                   \
     *   dnoisy[n,j] = dclean[n,j] * factor[n,j]   (dnoisy, factor NULL = no noise)                \
     * Arrays start at token start[0]; those of N tokens are zero behind the tokens of the rows */ \
    X(moe_gate_bwd,                                                                                \
      (mr_act * dclean, mr_act * dnoisy, const mr_act *du, const mr_act *y, const mr_act *p,       \
       const mr_act *t, const mr_real *factor, const int32_t *start, int64_t B, int64_t N,         \
       int64_t L, int E, int64_t d, const mr_exec *ex))                                            \
    /* z[n,count,d] = p[r,l,j .. j+count-1] du[r,l,d] of n tokens at position l = pos[.] of row    \
     * r = row[.] of p[.,L,E] and du[.,L,d]; row[.] < 0 gives zeros */                             \
    X(moe_weigh,                                                                                   \
      (mr_act * z, const mr_act *du, const mr_act *p, const int32_t *row, const int32_t *pos,      \
       int64_t n, int64_t L, int E, int j, int count, int64_t d, const mr_exec *ex))               \
    /* Time-domain kernel of the filter: k[L,d] = irfft(filter[L/2+1,d,2]) with 1/L.               \
     * The imaginary parts of bin 0 and (L even) L/2 count for nothing. */                         \
    X(fuse_filter_fwd,                                                                             \
      (mr_real * k, const mr_real *filter, int64_t L, int64_t d, const mr_exec *ex))               \
    /* From the sums of fuse_bwd: dfilter[L/2+1,d,2] (+)= its adjoint of dk[L,d], and              \
     * dwp[d], dwf[d], dbp[1], dbf[1] (+)= what is in the sums. acc: bit 0 dfilter, 1 dwp, 2 dwf,  \
     * 3 dbp, 4 dbf */                                                                             \
    X(fuse_params_bwd,                                                                             \
      (mr_real * dfilter, mr_real * dwp, mr_real * dwf, mr_real * dbp, mr_real * dbf,              \
       const mr_real *sums, int64_t L, int64_t d, unsigned acc, const mr_exec *ex))                \
    /* At tokens, with circular convolutions over all positions of a[B,L,d], u[B,L,d]:             \
     *   p[n] = sum_m a[m] k[(n-m) mod L]                                                          \
     *   f[n] = sum_m a[m] u[(n-m) mod L] / sqrt(L)                                                \
     *   h[N,d] = 2 (p sigmoid(p . wp + bp) + f sigmoid(f . wf + bf))                              \
     * wp[d], bp[1], wf[d], bf[1]; rows start[B]..N-1 of h = 0.                                    \
     * Scratch: mr_fuse_scratch(B, L, d) reals */                                                  \
    X(fuse_fwd,                                                                                    \
      (mr_act * h, const mr_act *a, const mr_act *u, const mr_real *k, const mr_real *wp,          \
       const mr_real *bp, const mr_real *wf, const mr_real *bf, const int32_t *start, int64_t B,   \
       int64_t N, int64_t L, int64_t d, const mr_exec *ex))                                        \
    /* dh[N,d] -> da, du [B,L,d] (either may be NULL) and, summed over the rows in fixed order,    \
     *   sums[(L+2)*d+2] = dk[L,d], dwp[d], dwf[d], dbp, dbf                                       \
     * p and f are computed again. Same scratch */                                                 \
    X(fuse_bwd, (mr_act * da, mr_act * du, mr_real * sums, const mr_act *dh, const mr_act *a,      \
                 const mr_act *u, const mr_real *k, const mr_real *wp, const mr_real *bp,          \
                 const mr_real *wf, const mr_real *bf, const int32_t *start, int64_t B, int64_t L, \
                 int64_t d, int acc_a, int acc_u, const mr_exec *ex))

/* Blocks of rows whose sums are kept apart, and the scratch they need: per block the sums, then
 * p, f, dp, df of one row. */
#define MR_FUSE_BLOCK 32
static inline int64_t mr_fuse_block_reals(int64_t L, int64_t d) { return (5 * L + 2) * d + 16; }
static inline int64_t mr_fuse_scratch(int64_t B, int64_t L, int64_t d)
{
    return (B + MR_FUSE_BLOCK - 1) / MR_FUSE_BLOCK * mr_fuse_block_reals(L, d);
}

#endif
