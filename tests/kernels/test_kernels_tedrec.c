/* Kernels of the family tedrec against their definitions. */
#include <complex.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "kernel_ways.h"

enum { MAX_B = 67, PURPOSE = 41 };
typedef struct moe_case {
    int64_t B, L, d;
    int E;
} moe_case;
static const moe_case cases[] = {{1, 1, 1, 1}, {0, 3, 2, 3}, {3, 5, 7, 3}, {67, 4, 13, 5}};
enum { BEHIND = 2 }; /* tokens that belong to no row */
static int32_t start[MAX_B + 1], pos[MAX_B * 5 + BEHIND], row[MAX_B * 5 + BEHIND];
static uint32_t rid[MAX_B], token_rid[MAX_B * 5];

/* Row b has b % (L + 1) tokens but the first, which has L; returns the number of tokens. */
static int64_t lay_out(const moe_case *c)
{
    start[0] = 0;
    for (int b = 0; b < (int)c->B; b++) {
        int len = b ? b % ((int)c->L + 1) : (int)c->L;
        rid[b] = (uint32_t)(1000 + 7 * b);
        for (int l = 0; l < len; l++) {
            pos[start[b] + l] = l;
            row[start[b] + l] = b;
            token_rid[start[b] + l] = rid[b];
        }
        start[b + 1] = start[b] + len;
    }
    for (int i = 0; i < BEHIND; i++) row[start[c->B] + i] = -1;
    return start[c->B];
}

static void check_drop(const moe_case *c, double p)
{
    pair_exec e;
    pair_exec_make(&e, 0);
    e.ex.state = &e.state;
    int64_t n = lay_out(c), w = c->d;
    pair x = pair_make(n * w, 1), y = pair_make(n * w, 0), want = pair_make(n * w, 0);
    mr_rows_of rows = {token_rid, pos};
    mr_drop drop = {p, PURPOSE, rows, c->E};
    for (int j = 0; j < c->E; j++) {
        for (int64_t i = 0; i < n * w; i++)
            want.d[i] = x.d[i] * drop_factor(&drop, &e.ex, i / w * c->E + j, w, i % w);
        outputs o = outputs_of(1, &y);
        EVERY_WAY(o, k->moe_drop(P(y), P(x), rows, n, w, j, 1, c->E, p, PURPOSE, &e.ex));
        pair_compare("moe_drop", &y, want.d, 1);
    }
    int count = c->E > 1 ? c->E - 1 : 1, first = c->E - count;
    pair all = pair_make(count * n * w, 0), each = pair_make(count * n * w, 0);
    for (int64_t i = 0; i < count * n * w; i++)
        each.d[i] = x.d[i % (n * w)] *
                    drop_factor(&drop, &e.ex, i / w % n * c->E + first + i / (n * w), w, i % w);
    outputs oa = outputs_of(1, &all);
    EVERY_WAY(oa, k->moe_drop(P(all), P(x), rows, n, w, first, count, c->E, p, PURPOSE, &e.ex));
    pair_compare("moe_drop, several", &all, each.d, 1);
    FREE_ALL(&x, &y, &want, &all, &each);
    pair_exec_free(&e);
}

static void check_moe(const moe_case *c, bool has_noise)
{
    pair_exec e;
    pair_exec_make(&e, 0);
    e.ex.state = &e.state;
    int E = c->E;
    int64_t B = c->B, L = c->L, d = c->d, N = lay_out(c), M = N + BEHIND;
    pair clean = pair_make(N * E, 1), noisy = pair_make(N * E, 2), y = pair_make(N * E * d, 3);
    pair t = pair_make(E * L * d, 4), du = pair_make(B * L * d, 5), p = pair_make(B * L * E, 0);
    pair fac = pair_make(N * E, 0), u = pair_make(B * L * d, 0), dc = pair_make(M * E, 0);
    int first = E > 2 ? 1 : 0, some = E - first;
    pair dn = pair_make(M * E, 0), z = pair_make(M * some * d, 0), wp = pair_copy(&p),
         wz = pair_copy(&z);
    pair wf = pair_copy(&fac), wu = pair_copy(&u), wc = pair_copy(&dc), wn = pair_copy(&dn);
    for (int64_t i = N * E; i < M * E; i++) wc.d[i] = wn.d[i] = 0;
    for (int64_t i = N * some * d; i < M * some * d; i++) wz.d[i] = 0;
    for (int64_t r = 0; r < B * L; r++) {
        int64_t b = r / L, l = r % L, n = start[b] + l;
        bool is_token = n < start[b + 1];
        double g[5], a[5] = {0}, sum = 0, mean = 0, eps[8];
        for (int j = 0; j < E; j += 4) {
            mr_u32x4 v = mr_philox(e.ex.seed, PURPOSE, 11, rid[b],
                                   MR_MOE_NOISE + (uint32_t)(l * ((E + 3) / 4) + j / 4));
            mr_normal2(v.v[0], v.v[1], &eps[j], &eps[j + 1]);
            mr_normal2(v.v[2], v.v[3], &eps[j + 2], &eps[j + 3]);
        }
        for (int j = 0; j < E; j++) {
            double s = is_token ? noisy.d[n * E + j] : 0;
            g[j] = is_token ? clean.d[n * E + j] : 0;
            if (has_noise) g[j] += eps[j] * (log(1 + exp(s)) + 0.01);
            if (has_noise && is_token) wf.d[n * E + j] = eps[j] / (1 + exp(-s));
            sum += exp(g[j]);
        }
        for (int64_t q = 0; q < d; q++) wu.d[r * d + q] = 0;
        for (int j = 0; j < E; j++) {
            double pj = wp.d[r * E + j] = exp(g[j]) / sum;
            for (int64_t q = 0; q < d; q++) {
                double v = (is_token ? y.d[(n * E + j) * d + q] : 0) - t.d[(j * L + l) * d + q];
                wu.d[r * d + q] += pj * v;
                a[j] += du.d[r * d + q] * v;
                if (is_token && j >= first)
                    wz.d[(n * some + j - first) * d + q] = pj * du.d[r * d + q];
            }
            mean += pj * a[j];
        }
        for (int j = 0; j < E && is_token; j++) {
            wc.d[n * E + j] = wp.d[r * E + j] * (a[j] - mean);
            wn.d[n * E + j] = wc.d[n * E + j] * wf.d[n * E + j];
        }
    }
    outputs o = outputs_of(4, &p, &u, &dc, &z), on = outputs_of(2, &fac, &dn);
    EVERY_WAY(on, k->moe_gate_fwd(P(p), P(fac), P(clean), P(noisy), start, rid, B, L, E, has_noise,
                                  PURPOSE, &e.ex);
              k->moe_gate_bwd(P(dc), has_noise ? P(dn) : NULL, P(du), P(y), P(p), P(t), P(fac),
                              start, B, M, L, E, d, &e.ex));
    EVERY_WAY(o, k->moe_gate_fwd(P(p), P(fac), P(clean), P(noisy), start, rid, B, L, E, has_noise,
                                 PURPOSE, &e.ex);
              k->moe_mix_fwd(P(u), P(y), P(p), P(t), start, B, L, E, d, &e.ex); k->moe_gate_bwd(
                  P(dc), NULL, P(du), P(y), P(p), P(t), NULL, start, B, M, L, E, d, &e.ex);
              k->moe_weigh(P(z), P(du), P(p), row, pos, M, L, E, first, some, d, &e.ex));
    pair_compare("p", &p, wp.d, E);
    pair_compare("u", &u, wu.d, E);
    if (E > 1) pair_compare("dclean", &dc, wc.d, d); /* E = 1: zero up to rounding */
    pair_compare("z", &z, wz.d, 1);
    if (has_noise) pair_compare("factor", &fac, wf.d, 1);
    if (has_noise && E > 1) pair_compare("dnoisy", &dn, wn.d, d);
    FREE_ALL(&clean, &noisy, &y, &t, &du, &p, &fac, &u, &dc, &dn, &z, &wp, &wz, &wf, &wu, &wc, &wn);
    pair_exec_free(&e);
}

static void test_moe(void **state)
{
    (void)state;
    for (int i = 0; i < COUNT(cases) * 2; i++) {
        check_moe(&cases[i / 2], i & 1);
        check_drop(&cases[i / 2], i & 1 ? 0.5 : 0.1);
    }
}

/* irfft by its definition: the full spectrum with its mirrored half. */
static double irfft_at(const double *re, const double *im, int64_t step, int64_t L, int64_t m)
{
    double s = 0;
    for (int64_t k = 0; k < L; k++) {
        int64_t b = k <= L / 2 ? k : L - k;
        double i = b == 0 || 2 * b == L ? 0 : k <= L / 2 ? im[b * step] : -im[b * step];
        s += creal((re[b * step] + I * i) * cexp(I * 2 * acos(-1.0) * (double)(k * m) / (double)L));
    }
    return s / (double)L;
}

static void test_filter(void **state)
{
    (void)state;
    const int64_t size[][2] = {{1, 1}, {2, 3}, {5, 7}, {8, 1}, {13, 5}, {20, 17}};
    mr_exec ex = {0};
    for (int i = 0; i < COUNT(size) * 2; i++) {
        int acc = i & 1;
        int64_t L = size[i / 2][0], d = size[i / 2][1], H = L / 2 + 1;
        pair f = pair_make(H * d * 2, 1), kk = pair_make(L * d, 0);
        pair dk = pair_make((L + 2) * d + 2, 2); /* the sums: dk, dwp, dwf, dbp, dbf */
        pair gate[4], wg[4];
        for (int q = 0; q < 4; q++) {
            gate[q] = pair_make(q < 2 ? d : 1, acc ? 4 + (uint32_t)q : 0);
            wg[q] = pair_copy(&gate[q]);
            for (int64_t j = 0; j < (q < 2 ? d : 1); j++)
                wg[q].d[j] =
                    (acc ? wg[q].d[j] : 0) + dk.d[L * d + (q < 2 ? q * d : 2 * d + q - 2) + j];
        }
        pair df = pair_make(H * d * 2, acc ? 3 : 0), wf = pair_copy(&df), wk = pair_copy(&kk);
        for (int64_t j = 0; j < L * d; j++)
            wk.d[j] = irfft_at(f.d + j % d * 2, f.d + j % d * 2 + 1, 2 * d, L, j / d);
        for (int64_t j = 0; j < H * d * 2; j++) { /* the adjoint by unit vectors */
            double unit[21] = {0}, none[21] = {0}, s = 0;
            unit[j / (2 * d)] = 1;
            for (int64_t m = 0; m < L; m++)
                s += dk.d[m * d + j / 2 % d] *
                     irfft_at(j % 2 ? none : unit, j % 2 ? unit : none, 1, L, m);
            wf.d[j] = (acc ? wf.d[j] : 0) + s;
        }
        outputs o = outputs_of(6, &kk, &df, &gate[0], &gate[1], &gate[2], &gate[3]);
        EVERY_WAY(o, k->fuse_filter_fwd(P(kk), P(f), L, d, &ex); k->fuse_params_bwd(
            P(df), P(gate[0]), P(gate[1]), P(gate[2]), P(gate[3]), P(dk), L, d, acc ? 31 : 0, &ex));
        for (int q = 0; q < 4; q++) pair_compare("gate", &gate[q], wg[q].d, 1);
        pair_compare("k", &kk, wk.d, L);
        pair_compare("dfilter", &df, wf.d, L);
        FREE_ALL(&f, &kk, &dk, &df, &wf, &wk);
        for (int q = 0; q < 4; q++) FREE_ALL(&gate[q], &wg[q]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_moe),
        cmocka_unit_test(test_filter),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
