/* Group norm + FiLM + SiLU + dropout on the CPU, forward and backward.
 * A sample (S x c) fits the first-level cache, so each is finished before the next is begun: memory
 * is read once and written once. Only mean and 1/std are kept; u, v, SiLU and the mask are
 * recomputed. Invariant: sums over samples go through blocks of MR_GN_BLOCK samples, whatever the
 * threads. */
#include "kernels/cpu/real.h"
#include "kernels/shared/act.h"

enum { PIECE = 128 }; /* channels handled together: long inner loops, whatever the group width */

/* Adds the sum of s[m] (channels p .. p + m) to the totals of their groups. */
static void add_groups(REAL *total, const REAL *s, int64_t p, int64_t m, int64_t cg)
{
    for (int64_t g = p / cg, j = 0, end = (g + 1) * cg - p; j < m; g++, end += cg) {
        int64_t stop = end < m ? end : m;
        REAL t = 0;
#pragma omp simd reduction(+ : t)
        for (int64_t q = j; q < stop; q++) t += s[q];
        total[g] += t;
        j = stop;
    }
}

/* out[j] = value of the group of channel p + j */
static void spread_groups(REAL *out, const REAL *value, int64_t p, int64_t m, int64_t cg)
{
    for (int64_t g = p / cg, j = 0, end = (g + 1) * cg - p; j < m; g++, end += cg) {
        int64_t stop = end < m ? end : m;
        REAL v = value[g];
        for (; j < stop; j++) out[j] = v;
    }
}

/* mean[G], rstd[G] of one sample x[S,c]; mean first, then the squares of the differences. */
static void sample_stats(REAL *mean, REAL *rstd, const REAL *restrict x, const mr_gn *gn)
{
    int64_t c = gn->c, G = gn->groups, cg = c / G;
    REAL inv = (REAL)(1.0 / (double)(gn->S * cg)), s[PIECE], mu[PIECE];
    for (int64_t g = 0; g < G; g++) mean[g] = rstd[g] = 0;
    for (int64_t p = 0; p < c; p += PIECE) {
        int64_t m = c - p < PIECE ? c - p : PIECE;
        for (int64_t j = 0; j < m; j++) s[j] = x[p + j];
        for (int64_t f = 1; f < gn->S; f++)
            for (int64_t j = 0; j < m; j++) s[j] += x[f * c + p + j];
        add_groups(mean, s, p, m, cg);
    }
    for (int64_t g = 0; g < G; g++) mean[g] *= inv;
    for (int64_t p = 0; p < c; p += PIECE) {
        int64_t m = c - p < PIECE ? c - p : PIECE;
        spread_groups(mu, mean, p, m, cg);
        for (int64_t j = 0; j < m; j++) s[j] = 0;
        for (int64_t f = 0; f < gn->S; f++)
            for (int64_t j = 0; j < m; j++) {
                REAL d = x[f * c + p + j] - mu[j];
                s[j] += d * d;
            }
        add_groups(rstd, s, p, m, cg);
    }
    for (int64_t g = 0; g < G; g++) rstd[g] = 1 / mr_sqrt(rstd[g] * inv + (REAL)gn->eps);
}

/* v = (x - mu) a + b of channels p .. p + m: a = rstd gamma (1 + scale), b = beta (1 + scale) +
 * shift */
typedef struct affine {
    REAL mu[PIECE], rs[PIECE], a[PIECE], b[PIECE];
} affine;

static void affine_piece(affine *t, const REAL *mean, const REAL *rstd, const REAL *gamma,
                         const REAL *beta, const REAL *film, const mr_gn *gn, int64_t p, int64_t m)
{
    int64_t cg = gn->c / gn->groups;
    spread_groups(t->mu, mean, p, m, cg);
    spread_groups(t->rs, rstd, p, m, cg);
    if (film)
        for (int64_t j = 0; j < m; j++) {
            REAL f = 1 + film[p + j];
            t->a[j] = t->rs[j] * gamma[p + j] * f;
            t->b[j] = beta[p + j] * f + film[gn->c + p + j];
        }
    else
        for (int64_t j = 0; j < m; j++) {
            t->a[j] = t->rs[j] * gamma[p + j];
            t->b[j] = beta[p + j];
        }
}

/* out[e] = in[e] * (kept ? scale : 0) of one sample, e < w. out may be in. */
static void drop_sample(REAL *out, const REAL *in, int64_t w, const mr_gn *gn, int64_t row,
                        const mr_exec *ex)
{
    const mr_drop *d = &gn->drop;
    uint16_t bits[MR_DROP_CHUNK];
    uint32_t thr = mr_drop_threshold(d->p);
    REAL scale = (REAL)mr_drop_scale(d->p);
    uint32_t first = mr_drop_first_block(d->rows.pos[row], w);
    for (int64_t e = 0; e < w; e += MR_DROP_CHUNK) {
        int64_t m = w - e < MR_DROP_CHUNK ? w - e : MR_DROP_CHUNK;
        mr_drop_chunk(bits, ex->seed, d->purpose, ex->state->step, d->rows.rid[row],
                      first + (uint32_t)(e / 8));
        for (int64_t j = 0; j < m; j++) out[e + j] = bits[j] >= thr ? in[e + j] * scale : 0;
    }
}

/* rows: from a sample of y to the next. */
static void norm_samples(REAL *y, int64_t rows, REAL *mean, REAL *rstd, const REAL *x,
                         const REAL *gamma, const REAL *beta, const REAL *film, const mr_gn *gn,
                         const mr_exec *ex)
{
    int64_t c = gn->c, S = gn->S, G = gn->groups;
#pragma omp parallel for schedule(static)
    for (int64_t n = 0; n < gn->n; n++) {
        const REAL *restrict xs = x + n * S * c;
        REAL *restrict ys = y + n * rows * c;
        affine t;
        sample_stats(mean + n * G, rstd + n * G, xs, gn);
        for (int64_t p = 0; p < c; p += PIECE) {
            int64_t m = c - p < PIECE ? c - p : PIECE;
            affine_piece(&t, mean + n * G, rstd + n * G, gamma, beta,
                         film ? film + n * gn->film_ld : NULL, gn, p, m);
            for (int64_t f = 0; f < S; f++)
                for (int64_t j = 0; j < m; j++)
                    ys[f * c + p + j] = mr_silu((xs[f * c + p + j] - t.mu[j]) * t.a[j] + t.b[j]);
        }
        if (gn->drop.p > 0) drop_sample(ys, ys, S * c, gn, n, ex);
    }
}

void MR_FN(group_norm_fwd)(void *y, void *mean, void *rstd, const void *x, const void *gamma,
                           const void *beta, const void *film, const mr_gn *gn, const mr_exec *ex)
{
    norm_samples(y, gn->S, mean, rstd, x, gamma, beta, film, gn, ex);
}

void MR_FN(group_norm_conv3_fwd)(void *y, void *framed, void *mean, void *rstd, const void *x,
                                 const void *gamma, const void *beta, const void *film,
                                 const mr_gn *gn, const void *w, const void *bias,
                                 const void *residual, const void *context, const mr_conv *cv,
                                 const mr_exec *ex)
{
    int64_t c = gn->c, rows = mr_framed_period(gn->S);
    mr_conv q = *cv;
    q.x_framed = true;
    memset(framed, 0, (size_t)(mr_framed_rows(gn->n, gn->S) * c) * sizeof(REAL));
    norm_samples((REAL *)framed + c, rows, mean, rstd, x, gamma, beta, film, gn, ex);
    MR_FN(conv3_fwd)(y, framed, w, bias, residual, context, &q, ex);
}

/* What one sample's backward pass reads and writes; rows are already offset to the sample. */
typedef struct gn_sample {
    REAL *dx, *dgamma, *dbeta, *dfilm;                      /* dgamma, dbeta: partial sums, += */
    REAL *dv;                                               /* [S,c] work: gradient of v */
    REAL *sum0, *sum1;                                      /* [G] work */
    const REAL *dy, *x, *mean, *rstd, *gamma, *beta, *film; /* dy: the mask is applied */
    int acc_x, acc_film;
} gn_sample;

/* Channels p .. p + m: gradient of v, and its sums over frames P = sum dv, Q = sum dv xhat. */
static void piece_sums(REAL *P, REAL *Q, const gn_sample *s, const affine *t, int64_t S, int64_t c,
                       int64_t p, int64_t m)
{
    for (int64_t j = 0; j < m; j++) P[j] = Q[j] = 0;
    for (int64_t f = 0; f < S; f++) {
        const REAL *x = s->x + f * c + p, *dy = s->dy + f * c + p;
        REAL *dv = s->dv + f * c + p;
#pragma omp simd
        for (int64_t j = 0; j < m; j++) {
            REAL d = x[j] - t->mu[j], g = dy[j] * mr_silu_grad(d * t->a[j] + t->b[j]);
            dv[j] = g;
            P[j] += g;
            Q[j] += g * d;
        }
    }
    for (int64_t j = 0; j < m; j++) Q[j] *= t->rs[j];
}

/* Parameter and FiLM gradients of a piece from P and Q, which become the terms of the group means.
 */
static void piece_params(REAL *restrict P, REAL *restrict Q, const gn_sample *s, int64_t c,
                         int64_t p, int64_t m)
{
    const REAL *gamma = s->gamma + p, *beta = s->beta + p, *film = s->film ? s->film + p : NULL;
    if (s->dfilm) {
        REAL *dscale = s->dfilm + p, *dshift = s->dfilm + c + p, keep = s->acc_film ? 1 : 0;
        if (!s->acc_film) /* may hold anything, NaN included */
            for (int64_t j = 0; j < m; j++) dscale[j] = dshift[j] = 0;
#pragma omp simd
        for (int64_t j = 0; j < m; j++) {
            dscale[j] = keep * dscale[j] + gamma[j] * Q[j] + beta[j] * P[j];
            dshift[j] = keep * dshift[j] + P[j];
        }
    }
    REAL *dgamma = s->dgamma + p, *dbeta = s->dbeta + p;
#pragma omp simd
    for (int64_t j = 0; j < m; j++) {
        REAL f = film ? 1 + film[j] : 1, q = f * Q[j], r = f * P[j];
        dgamma[j] += q;
        dbeta[j] += r;
        P[j] = gamma[j] * r;
        Q[j] = gamma[j] * q;
    }
}

/* dx = a dv - rstd (mean of P) - xhat rstd (mean of Q), means over the group */
static void piece_dx(const gn_sample *s, const affine *t, const mr_gn *gn, int64_t p, int64_t m)
{
    int64_t c = gn->c, cg = c / gn->groups;
    REAL m0[PIECE], m1[PIECE], inv = (REAL)(1.0 / (double)(gn->S * cg));
    spread_groups(m0, s->sum0, p, m, cg);
    spread_groups(m1, s->sum1, p, m, cg);
    for (int64_t j = 0; j < m; j++) {
        m0[j] *= inv * t->rs[j];
        m1[j] *= inv * t->rs[j] * t->rs[j];
    }
    for (int64_t f = 0; f < gn->S; f++) {
        REAL *dx = s->dx + f * c + p;
        const REAL *dv = s->dv + f * c + p, *x = s->x + f * c + p;
        if (s->acc_x) {
#pragma omp simd
            for (int64_t j = 0; j < m; j++)
                dx[j] += t->a[j] * dv[j] - m0[j] - (x[j] - t->mu[j]) * m1[j];
        } else {
#pragma omp simd
            for (int64_t j = 0; j < m; j++)
                dx[j] = t->a[j] * dv[j] - m0[j] - (x[j] - t->mu[j]) * m1[j];
        }
    }
}

static void sample_bwd(const gn_sample *s, const mr_gn *gn)
{
    int64_t c = gn->c, cg = c / gn->groups;
    affine t;
    REAL P[PIECE], Q[PIECE];
    for (int64_t g = 0; g < gn->groups; g++) s->sum0[g] = s->sum1[g] = 0;
    for (int64_t p = 0; p < c; p += PIECE) {
        int64_t m = c - p < PIECE ? c - p : PIECE;
        affine_piece(&t, s->mean, s->rstd, s->gamma, s->beta, s->film, gn, p, m);
        piece_sums(P, Q, s, &t, gn->S, c, p, m);
        piece_params(P, Q, s, c, p, m);
        add_groups(s->sum0, P, p, m, cg);
        add_groups(s->sum1, Q, p, m, cg);
    }
    for (int64_t p = 0; s->dx && p < c; p += PIECE) {
        int64_t m = c - p < PIECE ? c - p : PIECE;
        if (c > PIECE) /* else it is still there */
            affine_piece(&t, s->mean, s->rstd, s->gamma, s->beta, s->film, gn, p, m);
        piece_dx(s, &t, gn, p, m);
    }
}

void MR_FN(group_norm_bwd)(void *dxv, void *dgamma, void *dbeta, void *dfilmv, const void *dyv,
                           const void *xv, const void *meanv, const void *rstdv, const void *gamma,
                           const void *beta, const void *filmv, const mr_gn *gn, int acc_x,
                           int acc_gamma, int acc_beta, int acc_film, const mr_conv_begin *next,
                           const mr_exec *ex)
{
    REAL *dx = dxv, *dfilm = dfilmv;
    const REAL *dy = dyv, *x = xv, *mean = meanv, *rstd = rstdv, *film = filmv;
    int64_t c = gn->c, S = gn->S, G = gn->groups, w = S * c;
    int64_t n_blocks = (gn->n + MR_GN_BLOCK - 1) / MR_GN_BLOCK;
    REAL *part_g = ex->scratch, *part_b = part_g + n_blocks * c, *sums = part_b + n_blocks * c;
    REAL *work = sums + n_blocks * 2 * c;
#pragma omp parallel for schedule(static)
    for (int64_t k = 0; k < n_blocks; k++) {
        int64_t end = (k + 1) * MR_GN_BLOCK < gn->n ? (k + 1) * MR_GN_BLOCK : gn->n;
        REAL *dv = work + k * w, *sum = sums + k * 2 * c;
        memset(part_g + k * c, 0, (size_t)c * sizeof *part_g);
        memset(part_b + k * c, 0, (size_t)c * sizeof *part_b);
        for (int64_t n = k * MR_GN_BLOCK; n < end; n++) {
            bool drop = gn->drop.p > 0;
            if (drop) drop_sample(dv, dy + n * w, w, gn, n, ex);
            gn_sample s = {.dx = dx ? dx + n * w : NULL,
                           .dgamma = part_g + k * c,
                           .dbeta = part_b + k * c,
                           .dfilm = dfilm ? dfilm + n * gn->film_ld : NULL,
                           .dv = dv,
                           .sum0 = sum,
                           .sum1 = sum + c,
                           .dy = drop ? dv : dy + n * w,
                           .x = x + n * w,
                           .mean = mean + n * G,
                           .rstd = rstd + n * G,
                           .gamma = gamma,
                           .beta = beta,
                           .film = film ? film + n * gn->film_ld : NULL,
                           .acc_x = acc_x,
                           .acc_film = acc_film};
            sample_bwd(&s, gn);
        }
    }
    MR_FN(col_sum)(dgamma, part_g, n_blocks, c, acc_gamma, ex);
    MR_FN(col_sum)(dbeta, part_b, n_blocks, c, acc_beta, ex);
    if (next) MR_FN(conv3_bwd_begin)(next, dx, ex);
}
