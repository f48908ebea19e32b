/* Kernels of the families loss (without ranking and the softmax rows) and optim against plain
 * double loops. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "kernel_ways.h"
#include "kernels/shared/bf16.h"

static const int64_t sizes[][2] = {{1, 1}, {0, 5}, {3, 7}, {131, 13}, {5, 64}, {2, 1031}};
static mr_step_state state = {.step = 11, .rows = 3, .rows_global = 37};
static const mr_exec ex = {.seed = 5, .state = &state};

static void test_mse(void **unused)
{
    (void)unused;
    for (int i = 0; i < COUNT(sizes); i++)
        for (int t = 0; t < 32; t++) {
            bool has_l = t & 16;
            int64_t n = sizes[i][0], w = sizes[i][1], nw = n * w;
            bool acc_p = t & 1, acc_t = t & 2, has_p = !(t & 4), has_t = !(t & 8);
            state.rows = t & 2 ? n + 5 : n - n / 3; /* the others are of no batch */
            pair x = pair_make(nw, 1), y = pair_make(nw, 2), loss = pair_make(1, 0);
            pair dx = pair_make(nw, acc_p ? 3 : 0), dy = pair_make(nw, acc_t ? 4 : 0);
            pair wx = pair_copy(&dx), wy = pair_copy(&dy);
            double sum = 0, div = 37.0 * (double)w;
            for (int64_t j = 0; j < nw; j++) {
                bool is_row = j / w < state.rows;
                double d = is_row ? x.d[j] - y.d[j] : 0, g = 2 * 0.3 / div * d;
                sum += d * d / div;
                wx.d[j] = (acc_p ? wx.d[j] : 0) + g;
                wy.d[j] = (acc_t ? wy.d[j] : 0) - g;
            }
            outputs o = outputs_of(3, &loss, &dx, &dy);
            EVERY_WAY(o, k->mse(has_l ? P(loss) : NULL, has_p ? P(dx) : NULL, has_t ? P(dy) : NULL,
                                P(x), P(y), n, w, w, 0.3, acc_p, acc_t, &ex));
            if (has_l) pair_compare("mse", &loss, &sum, nw);
            if (has_p) pair_compare("dpred", &dx, wx.d, 1);
            if (has_t) pair_compare("dtarget", &dy, wy.d, 1);
            FREE_ALL(&x, &y, &loss, &dx, &dy, &wx, &wy);
        }
}

/* Row 2 of x, where there is one, is all 0: the clamped norm. */
static void check_rows(int64_t n, int64_t w, bool acc, bool has_s0)
{
    pair x = pair_make(n * w, 1), b = pair_make(n * w, 2), inv = pair_make(n, 0);
    pair winv = pair_make(n, 0), s0 = pair_make(n, 6), dot = pair_make(n, 0);
    pair wdot = pair_make(n, 0), wy = pair_make(n * w, 0), y = pair_make(n * w, 0);
    pair g = pair_make(n * w, acc ? 3 : 0), wg = pair_copy(&g), same = pair_copy(&b);
    for (int64_t j = 0; n > 2 && j < w; j++) x.d[2 * w + j] = x.f[2 * w + j] = 0;
    for (int64_t i = 0; i < n; i++) {
        double q = 0, d = 0;
        for (int64_t j = i * w; j < (i + 1) * w; j++) {
            q += x.d[j] * x.d[j];
            d += x.d[j] * b.d[j];
        }
        winv.d[i] = q > 0 ? 1 / sqrt(q) : 1e12;
        wdot.d[i] = d;
        for (int64_t j = i * w; j < (i + 1) * w; j++) {
            double c = q > 0 ? (d - (has_s0 ? s0.d[i] : 0)) / q : 0;
            wy.d[j] = s0.d[i] * x.d[j];
            wg.d[j] = (acc ? wg.d[j] : 0) + b.d[j] - c * x.d[j];
        }
    }
    outputs o = outputs_of(4, &inv, &dot, &y, &g), os = outputs_of(1, &same);
    EVERY_WAY(o, k->row_inv_norm(P(inv), P(x), n, w, &ex);
              k->row_dot(P(dot), P(x), P(b), n, w, &ex); k->row_scale(P(y), P(x), P(s0), n, w, &ex);
              k->norm_project(P(g), P(b), P(x), P(inv), has_s0 ? P(s0) : NULL, n, w, acc, &ex));
    EVERY_WAY(os,
              k->norm_project(P(same), P(same), P(x), P(inv), has_s0 ? P(s0) : NULL, n, w, 0, &ex));
    for (int64_t i = 0; i < n; i++) { /* row by row: the clamped one would hide the others */
        pair one = {1, inv.d + i, inv.f + i};
        pair_compare("inv", &one, winv.d + i, w);
    }
    pair_compare("dot", &dot, wdot.d, w);
    pair_compare("scale", &y, wy.d, 1);
    if (w == 1 && !has_s0) /* the direction of a number is constant: nothing but rounding is left */
        for (int64_t i = 0; i < n && !acc; i++)
            assert_true(fabs(g.d[i]) <= 1e-15 && fabsf(g.f[i]) <= 1e-6f);
    else
        pair_compare("project", &g, wg.d, w);
    if (!acc && w > 1) pair_compare("project over h", &same, wg.d, w);
    FREE_ALL(&x, &b, &inv, &winv, &s0, &dot, &wdot, &wy, &y, &g, &wg, &same);
}

static void test_rows(void **unused)
{
    (void)unused;
    for (int i = 0; i < COUNT(sizes); i++)
        for (int t = 0; t < 4; t++) check_rows(sizes[i][0], sizes[i][1], t & 1, t & 2);
}

static void test_pair_ids(void **unused)
{
    (void)unused;
    enum { B = 5, FIRST = 3, G = 11 };
    int32_t target[2 * B], skip[2 * B];
    for (state.rows = 3; state.rows < 8; state.rows += 4) {
        BOTH_TABLES k->pair_ids(target, skip, B, FIRST, G, &ex);
        for (int i = 0; i < 2 * B; i++) {
            int view = i >= B, id = FIRST + i % B;
            bool is_row = i % B < state.rows;
            assert_int_equal(skip[i], is_row ? view * G + id : -1);
            assert_int_equal(target[i], is_row ? !view * G + id : -1);
        }
    }
}

/* Two views of the rows of three ranks, which have 2, 0 and 4 of 4. */
static void test_leave_out(void **unused)
{
    (void)unused;
    enum { N = 3, B = 4, RANKS = 3, V = 2 * RANKS * B };
    const int32_t rank_rows[RANKS] = {2, 0, 4};
    pair raw = pair_make(N * V, 1), want = pair_copy(&raw);
    for (int i = 0; i < N * V; i++)
        if (i % V % B >= rank_rows[i % V / B % RANKS]) want.d[i] = -3;
    outputs o = outputs_of(1, &raw);
    EVERY_WAY(o, k->leave_out(P(raw), rank_rows, N, V, B, RANKS, -3.0, &ex));
    pair_compare("leave_out", &raw, want.d, 1);
    assert_true(want.d[0] != -3 && want.d[2] == -3);
    FREE_ALL(&raw, &want);
}

/* ce_sum and ce_target, with and without the targets' share of the softmax; rows share a target,
 * one has its target on another rank. */
static void test_ce_parts(void **unused)
{
    (void)unused;
    enum { N = 7, V = 5, W = 13, LO = 4 };
    const int32_t target[N] = {4, 8, 9, 3, 6, 8, 8};
    for (int t = 0; t < 32; t++) {
        pair table = pair_make(V * W, 1), x = pair_make(N * W, 2), cs = pair_make(V, 3);
        pair dt = pair_make(V * W, 4), dx = pair_make(N * W, 5), loss = pair_make(1, 0);
        pair coef = pair_make(N, 6);
        pair wt = pair_copy(&dt), wx = pair_copy(&dx);
        double ce[N], sum = 0;
        for (int b = 0; b < N; b++) {
            sum += 1.5 * (ce[b] = 0.1 * b * b + 1) / 37;
            for (int j = 0; t & 16 && t & 4 && j < W; j++) wx.d[b * W + j] *= coef.d[b];
            int c = target[b] - LO;
            if (c < 0 || c >= V) continue;
            double g = 0.3 / 37 * 14 * (t & 1 ? cs.d[c] : 1) * (t & 8 ? 1 - exp(-ce[b]) : 1);
            for (int j = 0; j < W; j++) {
                if (t & 2) wt.d[c * W + j] -= g * x.d[b * W + j];
                if (t & 4) wx.d[b * W + j] -= g * table.d[c * W + j];
            }
        }
        outputs o = outputs_of(3, &dt, &dx, &loss);
        EVERY_WAY(o, k->ce_target(t & 2 ? P(dt) : NULL, t & 4 ? P(dx) : NULL, P(table), P(x),
                                  target, t & 1 ? P(cs) : NULL, t & 8 ? ce : NULL,
                                  t & 16 ? P(coef) : NULL, N, V, W, LO, 14, 0.3, &ex);
                  k->ce_sum(P(loss), ce, N, 1.5, &ex));
        pair_compare("dtable", &dt, wt.d, N);
        pair_compare("dx", &dx, wx.d, 1);
        pair_compare("ce_sum", &loss, &sum, N);
        FREE_ALL(&coef, &table, &x, &cs, &dt, &dx, &loss, &wt, &wx);
    }
}

/* Rows of two ranks put together: factor, loss, and the row times its factor. */
static void test_ce_combine(void **unused)
{
    (void)unused;
    enum { N = 5, W = 13, RANKS = 2 };
    const int32_t target[N] = {0, 9, -1, 3, 1}; /* one of no batch */
    double stats[RANKS * N * 3], want[N], ce[N], want_ce[N];
    pair x = pair_make(N * W, 1), xs = pair_make(N * W, 0), coef = pair_make(N, 0);
    pair wxs = pair_copy(&xs);
    for (int i = 0; i < RANKS * N; i++) { /* largest, sum, logit of the target on one of them */
        stats[3 * i] = 0.3 * i - 1;
        stats[3 * i + 1] = 1 + 0.1 * i;
        stats[3 * i + 2] = i < N ? 0.25 * i : 0;
    }
    for (int b = 0; b < N; b++) {
        const double *p = stats + 3 * b, *q = p + 3 * N;
        double all = p[1] * exp(p[0]) + q[1] * exp(q[0]);
        want_ce[b] = b == 2 ? 0 : log(all) - p[2];
        want[b] = b == 2 ? 0 : 0.3 / 37 * exp(q[0]) / all;
        for (int j = 0; j < W; j++) wxs.d[b * W + j] = want[b] * x.d[b * W + j];
    }
    for (int has_xs = 0; has_xs < 2; has_xs++) {
        outputs o = outputs_of(2, &coef, &xs);
        EVERY_WAY(o, k->ce_combine(P(coef), ce, has_xs ? P(xs) : NULL, stats, target, P(x), N, W,
                                   RANKS, 1, 0.3, &ex));
        pair_compare("coef", &coef, want, 1);
        if (has_xs) pair_compare("xs", &xs, wxs.d, 1);
        for (int b = 0; b < N; b++) assert_true(fabs(ce[b] - want_ce[b]) <= 1e-12);
    }
    FREE_ALL(&x, &xs, &coef, &wxs);
}

static void test_adam(void **unused)
{
    (void)unused;
    const int64_t n_of[] = {0, 1, 7, 64, 1031};
    for (int i = 0; i < COUNT(n_of) * 4; i++) {
        int64_t n = n_of[i / 4];
        double decay = i & 1 ? 0.01 : 0;
        mr_step_state s = {
            .skip = i & 2 ? 1 : 0, .lr = 2e-2, .bias1 = 0.19, .bias2 = 0.003, .grad_scale = 0.5};
        mr_exec e = {.state = &s};
        pair p = pair_make(n, 1), m = pair_make(n, 2), v = pair_make(n, 3), g = pair_make(n, 4);
        for (int64_t j = 0; j < n; j++) v.d[j] = v.f[j] = v.f[j] * v.f[j];
        pair wp = pair_copy(&p), wm = pair_copy(&m), wv = pair_copy(&v);
        mr_ranges ranges = {2, {0, n / 2}, {n / 3, n}}; /* what lies between them stays */
        if (n < 3) ranges = (mr_ranges){1, {0}, {n}};
        for (int64_t j = 0; !s.skip && j < n; j++) {
            if (n >= 3 && j >= n / 3 && j < n / 2) continue;
            double gj = 0.5 * g.d[j] + decay * p.d[j];
            wm.d[j] = 0.9 * m.d[j] + 0.1 * gj;
            wv.d[j] = 0.999 * v.d[j] + 0.001 * gj * gj;
            wp.d[j] -= 2e-2 * (wm.d[j] / 0.19) / (sqrt(wv.d[j] / 0.003) + 1e-8);
        }
        outputs o = outputs_of(3, &p, &m, &v);
        uint16_t p16[1031];
        memset(p16, 0x5a, sizeof p16);
        EVERY_WAY(
            o, k->adam(P(p), P(m), P(v), P(g), &ranges, p16, n / 3, 0.9, 0.999, 1e-8, decay, &e));
        for (int64_t j = 0; j < n; j++) /* rounded from double last, to a neighbour at most */
            assert_true(j < n / 3 && !s.skip
                            ? abs((int)p16[j] - (int)mr_float_to_bf16((float)wp.d[j])) <= 1
                            : p16[j] == 0x5a5a);
        pair_compare("p", &p, wp.d, 1);
        pair_compare("m", &m, wm.d, 1);
        pair_compare("v", &v, wv.d, 1);
        FREE_ALL(&p, &m, &v, &g, &wp, &wm, &wv);
    }
}

static void test_grad_stats(void **unused)
{
    (void)unused;
    const int64_t n_of[] = {0, 1, 7, 4096, 4097, 20011};
    for (int i = 0; i < COUNT(n_of); i++) {
        int64_t n = n_of[i];
        pair g = pair_make(n, 1);
        double want[2] = {0, 0}, out[4];
        mr_ranges ranges = {2, {0, n / 2}, {n / 3, n}};
        for (int64_t j = 0; j < n; j++)
            if (j < n / 3 || j >= n / 2) want[j >= n / 2] += g.d[j] * g.d[j];
        BOTH_TABLES
        {
            k->grad_stats(out, P(g), &ranges, &ex);
            for (int q = 0; q < 2; q++)
                assert_true(fabs(out[2 * q] - want[q]) <= 1e-12 * want[q] && out[2 * q + 1] == 0);
        }
        ranges = (mr_ranges){1, {0}, {n}};
        const double bad[] = {NAN, INFINITY, -INFINITY};
        for (int64_t j = 0; j < 3 && j < n; j++) {
            int64_t at = j * (n - 1) / 2;
            g.d[at] = bad[j];
            g.f[at] = (float)bad[j];
        }
        BOTH_TABLES
        {
            k->grad_stats(out, P(g), &ranges, &ex);
            assert_true(out[1] == (double)(n < 3 ? n : 3));
        }
        pair_free(&g);
    }
}

typedef struct verdict {
    double a[2], b[2], loss[2], clip;
    uint32_t skip;
    double grad_scale;
} verdict;

static void test_step_decide(void **unused)
{
    (void)unused;
    static const verdict cases[] = {
        {{9, 0}, {16, 0}, {1, 2}, 0, 0, 1},   /* no clipping */
        {{9, 0}, {16, 0}, {1, 2}, 2, 0, 0.4}, /* norm 5 */
        {{9, 0}, {16, 0}, {1, 2}, 5, 0, 1},   /* just not */
        {{0, 0}, {0, 0}, {0, 0}, 2, 0, 1},    /* no gradient */
        {{9, 1}, {16, 0}, {1, 2}, 2, 1, 0.4}, /* bad elements in either part */
        {{9, 0}, {16, 3}, {1, 2}, 0, 1, 1},
        {{INFINITY, 0}, {16, 0}, {1, 2}, 0, 1, 1}, /* a sum that is too large */
        {{9, 0}, {NAN, 0}, {1, 2}, 0, 1, 1},
        {{9, 0}, {16, 0}, {NAN, 2}, 0, 1, 1},
        {{9, 0}, {16, 0}, {1, -INFINITY}, 0, 1, 1},
    };
    const mr_loss_weights weights = {.n = 2, .w = {1, 0.25}};
    for (int i = 0; i < COUNT(cases); i++) {
        const verdict *c = &cases[i];
        BOTH_TABLES
        {
            mr_step_state s = {.step = 7, .rows = 3, .lr = 0.5, .grad_scale = 9};
            float small[2] = {(float)c->loss[0], (float)c->loss[1]};
            bool is_double = k == &mr_kernels_cpu64;
            double told[2] = {0};
            k->step_decide(&s, i ? told : NULL, c->a, c->b,
                           is_double ? (const void *)c->loss : small, &weights, c->clip, &ex);
            assert_int_equal(s.skip, c->skip);
            const void *want = is_double ? (const void *)c->loss : small;
            if (i) assert_memory_equal(told, want, is_double ? sizeof told : sizeof small);
            assert_true(s.grad_scale == c->grad_scale);
            assert_true(s.step == 7 && s.rows == 3 && s.lr == 0.5);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_mse),         cmocka_unit_test(test_rows),
        cmocka_unit_test(test_pair_ids),    cmocka_unit_test(test_leave_out),
        cmocka_unit_test(test_ce_parts),    cmocka_unit_test(test_ce_combine),
        cmocka_unit_test(test_adam),        cmocka_unit_test(test_grad_stats),
        cmocka_unit_test(test_step_decide),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
