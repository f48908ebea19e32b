/* Full ranking: scores with bits that do not depend on tiles, counting, best-k lists.
 * Invariant: every score is the sum over k = 0, 1, .. of fused (or, without FMA, separate)
 * multiply-adds in that order, whichever row block, panel or lane computes it. OpenBLAS promises
 * nothing of the kind (its Haswell kernels give a column other bits at other places), hence the
 * product of its own. */
#include <omp.h>

#include "kernels/cpu/real.h"

/* Lanes of one register and the register tile: ROWS x VECS accumulators. */
#if defined(__AVX512F__)
enum { VEC_BYTES = 64, ROWS = 6, VECS = 4 };
#elif defined(__AVX2__)
enum { VEC_BYTES = 32, ROWS = 4, VECS = 2 };
#else
enum { VEC_BYTES = 16, ROWS = 4, VECS = 2 };
#endif
enum { LANES = VEC_BYTES / (int)sizeof(REAL), WIDTH = LANES * VECS };
typedef REAL vec __attribute__((vector_size(VEC_BYTES), aligned(sizeof(REAL)), may_alias));

_Static_assert(MR_SCORE_PANEL % WIDTH == 0, "a panel holds whole register tiles");

/* panel[w][MR_SCORE_PANEL]: rows of e as columns, missing ones zero. */
static void pack(REAL *panel, const REAL *e, int64_t rows, int64_t w)
{
    for (int64_t k = 0; k < w; k++)
        for (int64_t c = 0; c < MR_SCORE_PANEL; c++)
            panel[k * MR_SCORE_PANEL + c] = c < rows ? e[c * w + k] : 0;
}

/* ROWS rows of x against WIDTH columns of a panel. Rows beyond the end are passed as repeats. */
static void tile(REAL *out, const REAL *const *x, const REAL *panel, int64_t w)
{
    vec acc[ROWS][VECS];
    for (int i = 0; i < ROWS; i++)
        for (int v = 0; v < VECS; v++) acc[i][v] = (vec){0};
    for (int64_t k = 0; k < w; k++) {
        const vec *e = (const vec *)(panel + k * MR_SCORE_PANEL);
        for (int i = 0; i < ROWS; i++)
            for (int v = 0; v < VECS; v++) acc[i][v] += x[i][k] * e[v];
    }
    memcpy(out, acc, sizeof acc);
}

static void store(REAL *s, const REAL *out, const REAL *cs, int64_t cols)
{
    for (int64_t c = 0; c < cols; c++) s[c] = cs ? out[c] * cs[c] : out[c];
}

static void score_panel(REAL *s, const REAL *x, const REAL *panel, const REAL *cs, int64_t n,
                        int64_t cols, int64_t ld, int64_t w)
{
    REAL out[ROWS * WIDTH];
    for (int64_t i0 = 0; i0 < n; i0 += ROWS) {
        const REAL *row[ROWS];
        for (int64_t i = 0; i < ROWS; i++) row[i] = x + (i0 + i < n ? i0 + i : n - 1) * w;
        for (int64_t c0 = 0; c0 < cols; c0 += WIDTH) {
            tile(out, row, panel + c0, w);
            int64_t m = cols - c0 < WIDTH ? cols - c0 : WIDTH;
            for (int64_t i = 0; i < ROWS && i0 + i < n; i++)
                store(s + (i0 + i) * ld + c0, out + i * WIDTH, cs ? cs + c0 : NULL, m);
        }
    }
}

/* Ids that rank before the target among cols scores, the first of which has the id c0. */
static int32_t count_before(const REAL *s, REAL t, int64_t at, int64_t c0, int64_t cols)
{
    int64_t cut = at - c0 < 0 ? 0 : (at - c0 > cols ? cols : at - c0);
    int32_t c = 0; /* columns before the target win a tie, those after it lose it */
#pragma omp simd reduction(+ : c)
    for (int64_t j = 0; j < cut; j++) c += !(s[j] < t);
#pragma omp simd reduction(+ : c)
    for (int64_t j = cut; j < cols; j++) c += !(s[j] <= t);
    if (at >= c0 && at < c0 + cols) c -= !(s[at - c0] <= t);
    return c;
}

void MR_FN(score_tile)(void *sv, const void *xv, const void *ev, const void *csv, int64_t n,
                       int64_t m, int64_t w, const mr_exec *ex)
{
    REAL *s = sv;
    const REAL *e = ev, *cs = csv;
    int64_t panels = (m + MR_SCORE_PANEL - 1) / MR_SCORE_PANEL;
    int threads = omp_get_max_threads();
    if (n == 0) return;
#pragma omp parallel num_threads(threads < MR_SCORE_THREADS ? threads : MR_SCORE_THREADS)
    {
        REAL *panel = (REAL *)ex->scratch + omp_get_thread_num() * MR_SCORE_PANEL * w;
#pragma omp for schedule(static)
        for (int64_t p = 0; p < panels; p++) {
            int64_t c0 = p * MR_SCORE_PANEL;
            int64_t cols = m - c0 < MR_SCORE_PANEL ? m - c0 : MR_SCORE_PANEL;
            pack(panel, e + c0 * w, cols, w);
            score_panel(s + c0, xv, panel, cs ? cs + c0 : NULL, n, cols, m, w);
        }
    }
}

/* Counts of n rows against a panel, whose first column is c0. */
static void count_panel(int32_t *count, const REAL *x, const REAL *panel, const REAL *cs,
                        const REAL *ts, const int32_t *target, int64_t n, int64_t c0, int64_t cols,
                        int64_t w, int64_t lo)
{
    REAL out[ROWS * WIDTH], scaled[WIDTH];
    for (int64_t i0 = 0; i0 < n; i0 += ROWS) {
        const REAL *row[ROWS];
        for (int64_t i = 0; i < ROWS; i++) row[i] = x + (i0 + i < n ? i0 + i : n - 1) * w;
        for (int64_t c = 0; c < cols; c += WIDTH) {
            int64_t m = cols - c < WIDTH ? cols - c : WIDTH;
            tile(out, row, panel + c, w);
            for (int64_t i = i0; i < i0 + ROWS && i < n; i++) {
                store(scaled, out + (i - i0) * WIDTH, cs ? cs + c : NULL, m);
                count[i] += count_before(scaled, ts[i], target[i] - lo, c0 + c, m);
            }
        }
    }
}

enum { COUNT_ROWS = 256 }; /* of a thread at a time: they stay in a core's cache */

void MR_FN(score_count)(int32_t *count, const void *xv, const void *ev, const void *csv,
                        const void *tsv, const int32_t *target, int64_t n, int64_t m, int64_t w,
                        int64_t lo, const mr_exec *ex)
{
    const REAL *x = xv, *e = ev, *cs = csv, *ts = tsv;
    int threads = omp_get_max_threads();
#pragma omp parallel for schedule(static)                                                          \
    num_threads(threads < MR_SCORE_THREADS ? threads : MR_SCORE_THREADS)
    for (int64_t i = 0; i < n; i += COUNT_ROWS) {
        REAL *panel = (REAL *)ex->scratch + omp_get_thread_num() * MR_SCORE_PANEL * w;
        int64_t rows = n - i < COUNT_ROWS ? n - i : COUNT_ROWS;
        for (int64_t c0 = 0; c0 < m; c0 += MR_SCORE_PANEL) {
            int64_t cols = m - c0 < MR_SCORE_PANEL ? m - c0 : MR_SCORE_PANEL;
            pack(panel, e + c0 * w, cols, w);
            count_panel(count + i, x + i * w, panel, cs ? cs + c0 : NULL, ts + i, target + i, rows,
                        c0, cols, w, lo);
        }
    }
}

/* As `tile` adds: what a compiler makes of one element is not always what it makes of a vector. */
static inline REAL multiply_add(REAL a, REAL b, REAL sum)
{
#ifdef __FMA__
    return (REAL)(sizeof(REAL) == 4 ? fmaf((float)a, (float)b, (float)sum) : fma(a, b, sum));
#else
    REAL product = a * b;
    return sum + product;
#endif
}

enum { ABREAST = 8 }; /* sums that do not wait for each other */

/* acc[i] = x[i,w] . e[at[i],w], in the order of a tile; rows whose at is below 0 are not looked at.
 */
static void sums_of_pairs(REAL *acc, const REAL *x, const REAL *e, const int64_t *at, int64_t w)
{
    const REAL *a[ABREAST], *b[ABREAST];
    for (int i = 0; i < ABREAST; i++) {
        a[i] = at[i] < 0 ? x : x + i * w; /* x has a first row */
        b[i] = at[i] < 0 ? x : e + at[i] * w;
    }
    for (int64_t k = 0; k < w; k++)
        for (int i = 0; i < ABREAST; i++) acc[i] = multiply_add(a[i][k], b[i][k], acc[i]);
}

void MR_FN(score_target)(void *sv, const void *xv, const void *ev, const void *csv,
                         const int32_t *target, int64_t n, int64_t v, int64_t w, int64_t lo,
                         const mr_exec *ex)
{
    (void)ex;
    REAL *s = sv;
    const REAL *x = xv, *e = ev, *cs = csv;
#pragma omp parallel for schedule(static)
    for (int64_t i0 = 0; i0 < n; i0 += ABREAST) {
        int64_t rows = n - i0 < ABREAST ? n - i0 : ABREAST, at[ABREAST];
        REAL acc[ABREAST] = {0};
        for (int64_t i = 0; i < rows; i++) {
            int64_t t = target[i0 + i] - lo;
            at[i] = t >= 0 && t < v ? t : -1;
        }
        for (int64_t i = rows; i < ABREAST; i++) at[i] = -1;
        sums_of_pairs(acc, x + i0 * w, e, at, w);
        for (int64_t i = 0; i < rows; i++)
            s[i0 + i] = at[i] < 0 ? 0 : (cs ? acc[i] * cs[at[i]] : acc[i]);
    }
}

void MR_FN(score_skip)(void *sv, const int64_t *skip_start, const int32_t *skip_id,
                       const int32_t *target, int64_t n, int64_t m, int64_t lo, const mr_exec *ex)
{
    (void)ex;
    REAL *s = sv;
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = skip_start[i]; j < skip_start[i + 1]; j++) {
            int64_t c = skip_id[j] - lo;
            if (c >= m) break;
            if (c >= 0 && skip_id[j] != target[i]) s[i * m + c] = -(REAL)HUGE_VAL;
        }
}

void MR_FN(rank_count)(int32_t *count, const void *sv, const void *target_score,
                       const int32_t *target, int64_t n, int64_t m, int64_t lo, const mr_exec *ex)
{
    (void)ex;
    const REAL *ts = target_score;
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < n; i++) {
        count[i] += count_before((const REAL *)sv + i * m, ts[i], target[i] - lo, 0, m);
    }
}

/* Does (score, id) come before (score2, id2)? */
static inline bool is_before(REAL a, int32_t ia, REAL b, int32_t ib)
{
    return a > b || (a == b && ia < ib);
}

void MR_FN(topk_merge)(int32_t *ids, void *scoresv, const void *sv, int64_t n, int64_t m, int64_t k,
                       int64_t lo, int first, const mr_exec *ex)
{
    (void)ex;
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < n; i++) {
        REAL *best = (REAL *)scoresv + i * k;
        int32_t *id = ids + i * k;
        const REAL *s = (const REAL *)sv + i * m;
        for (int64_t q = 0; first && q < k; q++) {
            best[q] = -(REAL)HUGE_VAL;
            id[q] = -1;
        }
        /* ids ascend, so a later equal score never displaces an earlier one; -inf never enters */
        for (int64_t j = 0; j < m; j++) {
            if (!(s[j] > best[k - 1])) continue;
            int64_t q = k - 1;
            for (; q > 0 && is_before(s[j], (int32_t)(lo + j), best[q - 1], id[q - 1]); q--) {
                best[q] = best[q - 1];
                id[q] = id[q - 1];
            }
            best[q] = s[j];
            id[q] = (int32_t)(lo + j);
        }
    }
}
