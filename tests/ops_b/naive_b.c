/* Reference loops of the U-Net kernels. Slow and plain on purpose. */
#include "naive_b.h"

#include <math.h>
#include <string.h>

void naive_conv(double *y, const double *x, const double *w, const double *bias, const double *res,
                const double *ctx, const mr_conv *cv)
{
    for (int64_t b = 0; b < cv->n; b++)
        for (int64_t u = 0; u < cv->So; u++)
            for (int64_t o = 0; o < cv->co; o++) {
                double sum = bias ? bias[o] : 0;
                if (res) sum += res[(b * cv->So + u) * cv->co + o];
                if (ctx) sum += ctx[b * cv->ctx_ld + o];
                for (int j = 0; j < 3; j++) {
                    int64_t s = u * cv->stride + j - 1;
                    if (s < 0 || s >= cv->S) continue;
                    for (int64_t i = 0; i < cv->ci; i++)
                        sum += w[(o * 3 + j) * cv->ci + i] * x[(b * cv->S + s) * cv->ci + i];
                }
                y[(b * cv->So + u) * cv->co + o] = sum;
            }
}

void naive_conv_bwd(double *dx, double *dw, const double *dy, const double *x, const double *w,
                    const mr_conv *cv)
{
    memset(dx, 0, (size_t)(cv->n * cv->S * cv->ci) * sizeof *dx);
    memset(dw, 0, (size_t)(3 * cv->co * cv->ci) * sizeof *dw);
    for (int64_t b = 0; b < cv->n; b++)
        for (int64_t u = 0; u < cv->So; u++)
            for (int64_t o = 0; o < cv->co; o++)
                for (int j = 0; j < 3; j++) {
                    int64_t s = u * cv->stride + j - 1;
                    if (s < 0 || s >= cv->S) continue;
                    double g = dy[(b * cv->So + u) * cv->co + o];
                    for (int64_t i = 0; i < cv->ci; i++) {
                        dx[(b * cv->S + s) * cv->ci + i] += g * w[(o * 3 + j) * cv->ci + i];
                        dw[(o * 3 + j) * cv->ci + i] += g * x[(b * cv->S + s) * cv->ci + i];
                    }
                }
}

void naive_rows(double *rows, const double *x, int64_t c, const mr_conv *cv)
{
    int64_t P = cv->x_framed ? mr_framed_period(cv->S) : cv->S, w = cv->S * c;
    for (int64_t i = 0; i < cv->n * w; i++) rows[(i / w * P + cv->x_framed) * c + i % w] = x[i];
}

void naive_unfold(double *unfolded, double *dbias, const double *dy, const mr_conv *cv)
{
    int64_t co = cv->co, P = cv->x_framed ? mr_framed_period(cv->S) : cv->S;
    for (int64_t i = 0; i < cv->n * cv->So * co; i++) {
        int64_t b = i / (cv->So * co), u = i / co % cv->So;
        dbias[i % co] += dy[i];
        for (int tap = 0; tap < 3; tap++) { /* of y's frame u: it lies on x's frame s */
            int64_t s = u * cv->stride + tap - 1, row = b * P + s + cv->x_framed;
            if (s >= 0 && s < cv->S) unfolded[(row * co + i % co) * 3 + tap] = dy[i];
        }
    }
}

void naive_mask(double *mask, const mr_gn *gn, uint64_t seed, uint32_t step)
{
    int64_t w = gn->S * gn->c;
    for (int64_t i = 0; i < gn->n * w; i++) {
        uint32_t bits = 0, thr = mr_drop_threshold(gn->drop.p);
        if (gn->drop.p > 0)
            bits =
                mr_drop_bits_at(seed, gn->drop.purpose, step, gn->drop.rows.rid[i / w], 0, i % w);
        mask[i] = gn->drop.p > 0 ? bits >= thr ? mr_drop_scale(gn->drop.p) : 0 : 1;
    }
}

/* Element e (of S * c / groups) of group g of sample b. */
static int64_t at(const mr_gn *gn, int64_t b, int64_t g, int64_t e, int64_t *channel)
{
    int64_t cg = gn->c / gn->groups;
    *channel = g * cg + e % cg;
    return (b * gn->S + e / cg) * gn->c + *channel;
}

static void group_moments(double *mean, double *rstd, const double *x, const mr_gn *gn, int64_t b,
                          int64_t g)
{
    int64_t m = gn->S * gn->c / gn->groups, ch;
    double sum = 0, square = 0;
    for (int64_t e = 0; e < m; e++) sum += x[at(gn, b, g, e, &ch)];
    *mean = sum / (double)m;
    for (int64_t e = 0; e < m; e++) square += pow(x[at(gn, b, g, e, &ch)] - *mean, 2);
    *rstd = 1 / sqrt(square / (double)m + gn->eps);
}

static double scale_of(const double *film, const mr_gn *gn, int64_t b, int64_t ch)
{
    return film ? 1 + film[b * gn->film_ld + ch] : 1;
}

static double shift_of(const double *film, const mr_gn *gn, int64_t b, int64_t ch)
{
    return film ? film[b * gn->film_ld + gn->c + ch] : 0;
}

void naive_gn(double *y, double *mean, double *rstd, const double *x, const double *gamma,
              const double *beta, const double *film, const double *mask, const mr_gn *gn)
{
    int64_t m = gn->S * gn->c / gn->groups, ch;
    for (int64_t b = 0; b < gn->n; b++)
        for (int64_t g = 0; g < gn->groups; g++) {
            double mu, rs;
            group_moments(&mu, &rs, x, gn, b, g);
            mean[b * gn->groups + g] = mu;
            rstd[b * gn->groups + g] = rs;
            for (int64_t e = 0; e < m; e++) {
                int64_t i = at(gn, b, g, e, &ch);
                double u = (x[i] - mu) * rs * gamma[ch] + beta[ch];
                double v = u * scale_of(film, gn, b, ch) + shift_of(film, gn, b, ch);
                y[i] = v / (1 + exp(-v)) * mask[i];
            }
        }
}

static void group_bwd(double *dx, double *dgamma, double *dbeta, double *dfilm, const double *dy,
                      const double *x, const double *gamma, const double *beta, const double *film,
                      const double *mask, const mr_gn *gn, int64_t b, int64_t g)
{
    int64_t m = gn->S * gn->c / gn->groups, cj, ci;
    double mu, rs;
    group_moments(&mu, &rs, x, gn, b, g);
    for (int64_t e = 0; e < m; e++) dx[at(gn, b, g, e, &ci)] = 0;
    for (int64_t e = 0; e < m; e++) {
        int64_t j = at(gn, b, g, e, &cj);
        double xh = (x[j] - mu) * rs, u = xh * gamma[cj] + beta[cj], sc = scale_of(film, gn, b, cj);
        double v = u * sc + shift_of(film, gn, b, cj), s = 1 / (1 + exp(-v));
        double dv = dy[j] * mask[j] * (s + v * s * (1 - s));
        dgamma[cj] += dv * sc * xh;
        dbeta[cj] += dv * sc;
        if (dfilm) {
            dfilm[b * gn->film_ld + cj] += dv * u;
            dfilm[b * gn->film_ld + gn->c + cj] += dv;
        }
        for (int64_t q = 0; q < m; q++) {
            int64_t i = at(gn, b, g, q, &ci);
            double dxh = rs * ((q == e) - 1 / (double)m - xh * (x[i] - mu) * rs / (double)m);
            dx[i] += dv * sc * gamma[cj] * dxh;
        }
    }
}

void naive_gn_bwd(double *dx, double *dgamma, double *dbeta, double *dfilm, const double *dy,
                  const double *x, const double *gamma, const double *beta, const double *film,
                  const double *mask, const mr_gn *gn)
{
    memset(dgamma, 0, (size_t)gn->c * sizeof *dgamma);
    memset(dbeta, 0, (size_t)gn->c * sizeof *dbeta);
    if (dfilm) memset(dfilm, 0, (size_t)(gn->n * gn->film_ld) * sizeof *dfilm);
    for (int64_t b = 0; b < gn->n; b++)
        for (int64_t g = 0; g < gn->groups; g++)
            group_bwd(dx, dgamma, dbeta, dfilm, dy, x, gamma, beta, film, mask, gn, b, g);
}
