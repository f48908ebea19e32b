/* Kernel family: full ranking. See kernels.h for the rules that hold for all entries. */
#ifndef MR_KERNELS_FAMILY_RANK_H
#define MR_KERNELS_FAMILY_RANK_H

#define MR_KERNELS_RANK(X)                                                                         \
    /* s[n,m] = (x[n,w] . e[m,w]) * col_scale[m] (NULL = 1)                                        \
     * The bits of a score depend on its row of x and of e alone, not on n, m or the place: ranks  \
     * and tiles split the items freely. Scratch: mr_score_scratch(w, bytes of a real) */          \
    X(score_tile, (mr_real * s, const mr_real *x, const mr_real *e, const mr_real *col_scale,      \
                   int64_t n, int64_t m, int64_t w, const mr_exec *ex))                            \
    /* s[n] = the same score of x[n] and row target[n] - lo of e[v,w]; 0 when it is not there */   \
    X(score_target,                                                                                \
      (mr_real * s, const mr_real *x, const mr_real *e, const mr_real *col_scale,                  \
       const int32_t *target, int64_t n, int64_t v, int64_t w, int64_t lo, const mr_exec *ex))     \
    /* s[n,m] = -inf at the ids skip_id[skip_start[n] .. skip_start[n+1]) (ascending) that lie in  \
     * lo .. lo+m-1, except target[n] */                                                           \
    X(score_skip, (mr_real * s, const int64_t *skip_start, const int32_t *skip_id,                 \
                   const int32_t *target, int64_t n, int64_t m, int64_t lo, const mr_exec *ex))    \
    /* count[n] += ids lo .. lo+m-1 that rank before the target: not (score < score of the target, \
     * or equal with a higher id), the target itself aside. A NaN ranks before everything, so that \
     * a diverged model never looks good */                                                        \
    X(rank_count, (int32_t * count, const mr_real *s, const mr_real *target_score,                 \
                   const int32_t *target, int64_t n, int64_t m, int64_t lo, const mr_exec *ex))    \
    /* score_tile and rank_count one after the other, with the scores nowhere in memory:           \
     * count[n] += ids lo .. lo+m-1 (rows of e[m,w]) that rank before the target, whose score is   \
     * target_score[n]. Scratch: mr_score_scratch */                                               \
    X(score_count, (int32_t * count, const mr_real *x, const mr_real *e, const mr_real *col_scale, \
                    const mr_real *target_score, const int32_t *target, int64_t n, int64_t m,      \
                    int64_t w, int64_t lo, const mr_exec *ex))                                     \
    /* Merge s[n,m] (ids lo ..) into the best k so far: ids[n,k], scores[n,k], best first, ties    \
     * lower id first; an empty place has id -1 and score -inf; NaN counts as -inf. Blocks must    \
     * come in ascending order of ids. first != 0: nothing so far */                               \
    X(topk_merge, (int32_t * ids, mr_real * scores, const mr_real *s, int64_t n, int64_t m,        \
                   int64_t k, int64_t lo, int first, const mr_exec *ex))

/* Scratch of products of scores in bytes: one packed panel of e a thread. */
#define MR_SCORE_PANEL 64
#define MR_SCORE_THREADS 64
static inline int64_t mr_score_scratch(int64_t w, int64_t real_bytes)
{
    return MR_SCORE_THREADS * MR_SCORE_PANEL * w * real_bytes;
}

#endif
