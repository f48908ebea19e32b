/* Kernels fuse_fwd and fuse_bwd of TedRec against the formulas written out, element by element. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include "kernel_ways.h"

static const mr_exec no_scratch = {.seed = 5};

/* A case: B rows of L positions and width d; row b has the lengths[b % 4] capped to L. */
typedef struct fuse {
    int64_t B, L, d, N;
    int32_t *start;
    pair a, u, k, wp, bp, wf, bf, dh;
    double *p, *f, *h, *da, *du, *sums; /* wanted */
} fuse;

enum { BEHIND = 2 }; /* rows of h that belong to no token */

static double *zeros(int64_t n) { return calloc((size_t)n + 1, sizeof(double)); }

static fuse fuse_make(int64_t B, int64_t L, int64_t d)
{
    static const int lengths[] = {3, 1, 100, 2};
    fuse c = {.B = B, .L = L, .d = d, .start = calloc((size_t)B + 1, sizeof(int32_t))};
    for (int64_t b = 0; b < B; b++) {
        int64_t len = lengths[b % 4] < L ? lengths[b % 4] : L;
        c.start[b + 1] = c.start[b] + (int32_t)len;
    }
    c.N = c.start[B];
    c.a = pair_make(B * L * d, 1), c.u = pair_make(B * L * d, 2), c.k = pair_make(L * d, 3);
    c.wp = pair_make(d, 4), c.bp = pair_make(1, 5), c.wf = pair_make(d, 6);
    c.bf = pair_make(1, 7), c.dh = pair_make(c.N * d, 8);
    c.p = zeros(d), c.f = zeros(d), c.h = zeros((c.N + BEHIND) * d), c.da = zeros(B * L * d);
    c.du = zeros(B * L * d), c.sums = zeros((L + 2) * d + 2);
    return c;
}

static void fuse_free(fuse *c)
{
    double *all[] = {c->p, c->f, c->h, c->da, c->du, c->sums};
    for (int i = 0; i < COUNT(all); i++) free(all[i]);
    free(c->start);
    FREE_ALL(&c->a, &c->u, &c->k, &c->wp, &c->bp, &c->wf, &c->bf, &c->dh);
}

/* h of one gated half, and the gradient of v[d] back through it: dv[d], dw[d], *db. */
static void gate(fuse *c, const double *v, const pair *w, const pair *b, int64_t token, double *dv,
                 double *dw, double *db)
{
    const double *dh = c->dh.d + token * c->d;
    double z = b->d[0], through = 0;
    for (int64_t e = 0; e < c->d; e++) z += v[e] * w->d[e];
    double s = 1 / (1 + exp(-z));
    for (int64_t e = 0; e < c->d; e++) {
        c->h[token * c->d + e] += 2 * v[e] * s;
        through += 2 * dh[e] * v[e] * s * (1 - s);
    }
    for (int64_t e = 0; e < c->d; e++) {
        dv[e] = 2 * dh[e] * s + through * w->d[e];
        dw[e] += through * v[e];
    }
    *db += through;
}

static void token_of(fuse *c, int64_t b, int64_t n)
{
    int64_t L = c->L, d = c->d, row = b * L * d, token = c->start[b] + n;
    double *dwp = c->sums + L * d, *dwf = dwp + d, *bias = dwf + d, root = sqrt((double)L);
    double *dp = zeros(d), *df = zeros(d);
    for (int64_t e = 0; e < d; e++) {
        c->p[e] = c->f[e] = 0;
        for (int64_t m = 0; m < L; m++) {
            int64_t o = (n - m + L) % L;
            c->p[e] += c->a.d[row + m * d + e] * c->k.d[o * d + e];
            c->f[e] += c->a.d[row + m * d + e] * c->u.d[row + o * d + e] / root;
        }
    }
    gate(c, c->p, &c->wp, &c->bp, token, dp, dwp, &bias[0]);
    gate(c, c->f, &c->wf, &c->bf, token, df, dwf, &bias[1]);
    for (int64_t e = 0; e < d; e++)
        for (int64_t m = 0; m < L; m++) {
            int64_t o = (n - m + L) % L, at_m = row + m * d + e, at_o = row + o * d + e;
            c->da[at_m] += dp[e] * c->k.d[o * d + e] + df[e] * c->u.d[at_o] / root;
            c->sums[o * d + e] += dp[e] * c->a.d[at_m];
            c->du[at_o] += df[e] * c->a.d[at_m] / root;
        }
    free(dp);
    free(df);
}

static void check(int64_t B, int64_t L, int64_t d, bool acc, bool has_a, bool has_u)
{
    fuse c = fuse_make(B, L, d);
    int64_t n = B * L * d;
    int64_t N = c.N + BEHIND;
    pair h = pair_make(N * d, 0), sums = pair_make((L + 2) * d + 2, 0);
    pair da = pair_make(n, acc ? 9 : 0), du = pair_make(n, acc ? 10 : 0);
    for (int64_t e = 0; acc && e < n; e++) {
        c.da[e] = da.d[e];
        c.du[e] = du.d[e];
    }
    for (int64_t b = 0; b < B; b++)
        for (int64_t t = 0; t < c.start[b + 1] - c.start[b]; t++) token_of(&c, b, t);
    pair scratch = pair_make(mr_fuse_scratch(B, L, d), 0);
    outputs o = outputs_of(4, &h, &sums, &da, &du);
    EVERY_WAY(o, mr_exec ex = no_scratch; ex.scratch = P(scratch);
              ex.scratch_bytes = (size_t)scratch.n * (wide ? 8 : 4);
              k->fuse_fwd(P(h), P(c.a), P(c.u), P(c.k), P(c.wp), P(c.bp), P(c.wf), P(c.bf), c.start,
                          B, N, L, d, &ex);
              k->fuse_bwd(has_a ? P(da) : NULL, has_u ? P(du) : NULL, P(sums), P(c.dh), P(c.a),
                          P(c.u), P(c.k), P(c.wp), P(c.bp), P(c.wf), P(c.bf), c.start, B, L, d, acc,
                          acc, &ex));
    pair_compare("h", &h, c.h, L + d);
    pair_compare("dk, dwp, dwf, dbp, dbf", &sums, c.sums, c.N * d);
    if (has_a) pair_compare("da", &da, c.da, L * d);
    if (has_u) pair_compare("du", &du, c.du, L * d);
    FREE_ALL(&h, &sums, &da, &du, &scratch);
    fuse_free(&c);
}

/* More rows than one block of sums; even, odd and single positions; widths around a vector. */
static void test_fuse(void **unused)
{
    (void)unused;
    static const int64_t sizes[][3] = {{1, 1, 1},  {2, 2, 5},   {5, 10, 17}, {33, 3, 4},
                                       {70, 7, 6}, {4, 10, 64}, {3, 21, 33}};
    for (int i = 0; i < COUNT(sizes); i++)
        for (int t = 0; t < 8; t++)
            check(sizes[i][0], sizes[i][1], sizes[i][2], t & 1, !(t & 2), !(t & 4));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_fuse)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
