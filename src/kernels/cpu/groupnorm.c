/* Group norm + FiLM + SiLU + dropout on the CPU, forward and backward.
 * A sample (S x c) fits the first-level cache, so each is finished before the next is begun: memory is
 * read once and written once. Only mean and 1/std are kept; u, v, SiLU and the mask are recomputed.
 * Invariant: sums over samples go through blocks of MR_GN_BLOCK samples, whatever the threads. */
#include "kernels/cpu/real.h"
#include "kernels/shared/act.h"

enum { PIECE = 64 }; /* channels handled together */

/* Mean and 1/std of channels [c0, c0 + w) over S frames of one sample. */
static void group_stats(REAL *mean, REAL *rstd, const REAL *x, int64_t S, int64_t c, int64_t c0,
                        int64_t w, double eps)
{
    REAL sum = 0, var = 0, inv = (REAL)(1.0 / (double)(S * w));
    for (int64_t p = c0; p < c0 + w; p += PIECE) {
        int64_t m = c0 + w - p < PIECE ? c0 + w - p : PIECE;
        REAL s[PIECE] = {0}, t = 0;
        for (int64_t f = 0; f < S; f++)
            for (int64_t j = 0; j < m; j++) s[j] += x[f * c + p + j];
#pragma omp simd reduction(+ : t)
        for (int64_t j = 0; j < m; j++) t += s[j];
        sum += t;
    }
    REAL mu = sum * inv;
    for (int64_t p = c0; p < c0 + w; p += PIECE) {
        int64_t m = c0 + w - p < PIECE ? c0 + w - p : PIECE;
        REAL s[PIECE] = {0}, t = 0;
        for (int64_t f = 0; f < S; f++)
            for (int64_t j = 0; j < m; j++) {
                REAL d = x[f * c + p + j] - mu;
                s[j] += d * d;
            }
#pragma omp simd reduction(+ : t)
        for (int64_t j = 0; j < m; j++) t += s[j];
        var += t;
    }
    *mean = mu;
    *rstd = 1 / mr_sqrt(var * inv + (REAL)eps);
}

/* v = (x - mean) a + b of channels p .. p + m: a = rstd gamma (1 + scale), b = beta (1 + scale) + shift */
static void affine_piece(REAL *a, REAL *b, REAL rstd, const REAL *gamma, const REAL *beta,
                         const REAL *film, int64_t c, int64_t p, int64_t m)
{
    if (film)
        for (int64_t j = 0; j < m; j++) {
            REAL f = 1 + film[p + j];
            a[j] = rstd * gamma[p + j] * f;
            b[j] = beta[p + j] * f + film[c + p + j];
        }
    else
        for (int64_t j = 0; j < m; j++) {
            a[j] = rstd * gamma[p + j];
            b[j] = beta[p + j];
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

void MR_FN(group_norm_fwd)(void *yv, void *meanv, void *rstdv, const void *xv, const void *gammav,
                           const void *betav, const void *filmv, const mr_gn *gn, const mr_exec *ex)
{
    REAL *y = yv, *mean = meanv, *rstd = rstdv;
    const REAL *x = xv, *gamma = gammav, *beta = betav, *film = filmv;
    int64_t c = gn->c, S = gn->S, G = gn->groups, cg = c / G;
#pragma omp parallel for schedule(static)
    for (int64_t n = 0; n < gn->n; n++) {
        const REAL *xs = x + n * S * c, *fs = film ? film + n * gn->film_ld : NULL;
        REAL *ys = y + n * S * c, a[PIECE], b[PIECE];
        for (int64_t g = 0; g < G; g++) {
            REAL *mu = mean + n * G + g, *rs = rstd + n * G + g;
            group_stats(mu, rs, xs, S, c, g * cg, cg, gn->eps);
            for (int64_t p = g * cg; p < (g + 1) * cg; p += PIECE) {
                int64_t m = (g + 1) * cg - p < PIECE ? (g + 1) * cg - p : PIECE;
                REAL mn = *mu;
                affine_piece(a, b, *rs, gamma, beta, fs, c, p, m);
                for (int64_t f = 0; f < S; f++)
                    for (int64_t j = 0; j < m; j++)
                        ys[f * c + p + j] = mr_silu((xs[f * c + p + j] - mn) * a[j] + b[j]);
            }
        }
        if (gn->drop.p > 0) drop_sample(ys, ys, S * c, gn, n, ex);
    }
}

/* What one sample's backward pass reads and writes; rows are already offset to the sample. */
typedef struct gn_sample {
    REAL *dx, *dgamma, *dbeta, *dfilm;    /* dgamma, dbeta: partial sums, += */
    REAL *dv;                             /* [S,c] work: masked dy in, gradient of v out */
    const REAL *x, *mean, *rstd, *gamma, *beta, *film;
    int acc_x, acc_film;
} gn_sample;

/* Channels p .. p + m: gradient of v, and its sums over frames P = sum dv, Q = sum dv xhat. */
static void piece_sums(REAL *P, REAL *Q, const gn_sample *s, REAL mu, REAL rs, const REAL *a,
                       const REAL *b, int64_t S, int64_t c, int64_t p, int64_t m)
{
    for (int64_t j = 0; j < m; j++) P[j] = Q[j] = 0;
    for (int64_t f = 0; f < S; f++) {
        const REAL *x = s->x + f * c + p;
        REAL *dv = s->dv + f * c + p;
        for (int64_t j = 0; j < m; j++) {
            REAL d = x[j] - mu, t = dv[j] * mr_silu_grad(d * a[j] + b[j]);
            dv[j] = t;
            P[j] += t;
            Q[j] += t * (d * rs);
        }
    }
}

/* Parameter and FiLM gradients of a piece from P and Q; adds the group's two means to sums. */
static void piece_params(REAL sums[2], const gn_sample *s, const REAL *P, const REAL *Q, int64_t c,
                         int64_t p, int64_t m)
{
    REAL s0 = 0, s1 = 0;
#pragma omp simd reduction(+ : s0, s1)
    for (int64_t j = 0; j < m; j++) {
        REAL f = s->film ? 1 + s->film[p + j] : 1;
        s->dgamma[p + j] += f * Q[j];
        s->dbeta[p + j] += f * P[j];
        s0 += s->gamma[p + j] * f * P[j];
        s1 += s->gamma[p + j] * f * Q[j];
    }
    sums[0] += s0;
    sums[1] += s1;
    if (!s->dfilm) return;
    REAL *dscale = s->dfilm + p, *dshift = s->dfilm + c + p;
    if (s->acc_film)
        for (int64_t j = 0; j < m; j++) {
            dscale[j] += s->gamma[p + j] * Q[j] + s->beta[p + j] * P[j];
            dshift[j] += P[j];
        }
    else
        for (int64_t j = 0; j < m; j++) {
            dscale[j] = s->gamma[p + j] * Q[j] + s->beta[p + j] * P[j];
            dshift[j] = P[j];
        }
}

static void sample_bwd(const gn_sample *s, const mr_gn *gn)
{
    int64_t c = gn->c, S = gn->S, cg = c / gn->groups;
    REAL a[PIECE], b[PIECE], P[PIECE], Q[PIECE];
    for (int64_t g = 0; g < gn->groups; g++) {
        REAL mu = s->mean[g], rs = s->rstd[g], sums[2] = {0, 0};
        for (int64_t p = g * cg; p < (g + 1) * cg; p += PIECE) {
            int64_t m = (g + 1) * cg - p < PIECE ? (g + 1) * cg - p : PIECE;
            affine_piece(a, b, rs, s->gamma, s->beta, s->film, c, p, m);
            piece_sums(P, Q, s, mu, rs, a, b, S, c, p, m);
            piece_params(sums, s, P, Q, c, p, m);
        }
        if (!s->dx) continue;
        REAL inv = (REAL)(1.0 / (double)(S * cg)), m0 = rs * inv * sums[0];
        REAL m1 = rs * rs * inv * sums[1];
        for (int64_t p = g * cg; p < (g + 1) * cg; p += PIECE) {
            int64_t m = (g + 1) * cg - p < PIECE ? (g + 1) * cg - p : PIECE;
            affine_piece(a, b, rs, s->gamma, s->beta, s->film, c, p, m);
            for (int64_t f = 0; f < S; f++) {
                int64_t o = f * c + p;
                if (s->acc_x)
                    for (int64_t j = 0; j < m; j++)
                        s->dx[o + j] += a[j] * s->dv[o + j] - m0 - (s->x[o + j] - mu) * m1;
                else
                    for (int64_t j = 0; j < m; j++)
                        s->dx[o + j] = a[j] * s->dv[o + j] - m0 - (s->x[o + j] - mu) * m1;
            }
        }
    }
}

void MR_FN(group_norm_bwd)(void *dxv, void *dgamma, void *dbeta, void *dfilmv, const void *dyv,
                           const void *xv, const void *meanv, const void *rstdv, const void *gamma,
                           const void *beta, const void *filmv, const mr_gn *gn, int acc_x,
                           int acc_gamma, int acc_beta, int acc_film, const mr_exec *ex)
{
    REAL *dx = dxv, *dfilm = dfilmv;
    const REAL *dy = dyv, *x = xv, *mean = meanv, *rstd = rstdv, *film = filmv;
    int64_t c = gn->c, S = gn->S, G = gn->groups, w = S * c;
    int64_t n_blocks = (gn->n + MR_GN_BLOCK - 1) / MR_GN_BLOCK;
    REAL *part_g = ex->scratch, *part_b = part_g + n_blocks * c, *work = part_b + n_blocks * c;
#pragma omp parallel for schedule(static)
    for (int64_t k = 0; k < n_blocks; k++) {
        int64_t end = (k + 1) * MR_GN_BLOCK < gn->n ? (k + 1) * MR_GN_BLOCK : gn->n;
        REAL *dv = work + k * w;
        memset(part_g + k * c, 0, (size_t)c * sizeof *part_g);
        memset(part_b + k * c, 0, (size_t)c * sizeof *part_b);
        for (int64_t n = k * MR_GN_BLOCK; n < end; n++) {
            if (gn->drop.p > 0)
                drop_sample(dv, dy + n * w, w, gn, n, ex);
            else
                memcpy(dv, dy + n * w, (size_t)w * sizeof *dv);
            gn_sample s = {dx ? dx + n * w : NULL, part_g + k * c, part_b + k * c,
                           dfilm ? dfilm + n * 2 * c : NULL, dv, x + n * w, mean + n * G,
                           rstd + n * G, gamma, beta, film ? film + n * gn->film_ld : NULL, acc_x,
                           acc_film};
            sample_bwd(&s, gn);
        }
    }
    MR_FN(col_sum)(dgamma, part_g, n_blocks, c, acc_gamma, ex);
    MR_FN(col_sum)(dbeta, part_b, n_blocks, c, acc_beta, ex);
}
