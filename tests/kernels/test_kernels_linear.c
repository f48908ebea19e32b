/* Kernels of the family linear except the single matrix product (OpenBLAS; the op tests cover its
 * use): against plain double loops, both precisions, both accumulate bits, 1 and 3 threads. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "kernel_ways.h"

static const int64_t sizes[][2] = {{1, 1},  {0, 5},    {3, 7},   {131, 13},
                                   {5, 64}, {67, 257}, {2, 1031}};

static double act_of(int act, double x)
{
    if (act == MR_ACT_GELU) return 0.5 * x * erfc(-x / sqrt(2.0));
    if (act == MR_ACT_SILU) return x / (1 + exp(-x));
    return x;
}

static double act_slope(int act, double x)
{
    double s = 1 / (1 + exp(-x));
    if (act == MR_ACT_GELU)
        return 0.5 * erfc(-x / sqrt(2.0)) + x * exp(-x * x / 2) / sqrt(2 * acos(-1.0));
    return act == MR_ACT_SILU ? s + x * s * (1 - s) : 1;
}

/* Numbers over [-6, 6): both tails of the activations. */
static pair wide_pair(int64_t n, uint32_t stream)
{
    pair p = pair_make(n, stream);
    for (int64_t i = 0; i < n; i++) {
        p.f[i] *= 6;
        p.d[i] = (double)p.f[i];
    }
    return p;
}

static void check_act(int64_t n, int64_t w, int act, bool has_bias, bool has_pre)
{
    mr_exec ex = {0};
    pair y = wide_pair(n * w, 1), pre = pair_make(n * w, 0), bias = pair_make(w, 2);
    pair wy = pair_copy(&y), wpre = pair_copy(&y);
    for (int64_t i = 0; i < n * w; i++) {
        wpre.d[i] = y.d[i] + (has_bias ? bias.d[i % w] : 0);
        wy.d[i] = act_of(act, wpre.d[i]);
    }
    outputs o = outputs_of(2, &y, &pre);
    EVERY_WAY(o, k->bias_act_fwd(P(y), has_pre ? P(pre) : NULL, has_bias ? P(bias) : NULL, n, w,
                                 act, &ex));
    pair_compare("y", &y, wy.d, 1);
    if (has_pre && act != MR_ACT_NONE) pair_compare("pre", &pre, wpre.d, 1);
    for (int64_t i = 0; i < n * w; i++)
        if (!has_pre) assert_true(isnan(pre.d[i]) && isnan(pre.f[i]));

    pair dy = pair_make(n * w, 3), x = wide_pair(n * w, 4), dx = pair_make(n * w, 0);
    pair same = pair_copy(&dy), want = pair_copy(&dy);
    for (int64_t i = 0; i < n * w; i++) want.d[i] = dy.d[i] * act_slope(act, x.d[i]);
    outputs od = outputs_of(2, &dx, &same);
    EVERY_WAY(od, k->act_bwd(P(dx), NULL, P(dy), P(x), n, w, act, &ex);
              k->act_bwd(P(same), NULL, P(same), P(x), n, w, act, &ex));
    pair_compare("dpre", &dx, want.d, 1);
    pair_compare("dpre over dy", &same, want.d, 1);
    pair over = pair_copy(&x), both = pair_copy(&dy), of_both = pair_make(n * w, 0);
    outputs ob = outputs_of(3, &dx, &both, &of_both);
    EVERY_WAY(ob, k->act_bwd(P(both), P(of_both), P(both), P(x), n, w, act, &ex);
              k->act_bwd(P(dx), P(of_both), P(dy), P(x), n, w, act, &ex));
    pair_compare("dpre beside y", &dx, want.d, 1);
    pair_compare("dpre over dy beside y", &both, want.d, 1);
    for (int64_t i = 0; i < n * w; i++) want.d[i] = act_of(act, x.d[i]);
    outputs of = outputs_of(2, &dx, &over);
    EVERY_WAY(of, k->act_fwd(P(dx), P(x), n * w, act, &ex);
              k->act_fwd(P(over), P(over), n * w, act, &ex));
    pair_compare("act", &dx, want.d, 1);
    pair_compare("act over x", &over, want.d, 1);
    pair_compare("y of act_bwd", &of_both, want.d, 1);
    FREE_ALL(&y, &pre, &bias, &wy, &wpre, &dy, &x, &dx, &same, &over, &both, &of_both, &want);
}

static void test_activation(void **state)
{
    (void)state;
    for (int i = 0; i < COUNT(sizes); i++)
        for (int t = 0; t < 12; t++)
            check_act(sizes[i][0], sizes[i][1], t / 4, (t & 1) != 0, (t & 2) != 0);
}

/* A row that was added to all rows: its elements of the table, and zeros around them. */
static void test_add_row_bwd(void **state)
{
    (void)state;
    mr_exec ex = {0};
    enum { N = 37, W = 13, FIRST = 5, TOTAL = 40 };
    for (int t = 0; t < 16; t++) {
        int64_t n = t & 8 ? N : 0, first = t & 8 ? FIRST : TOTAL - W;
        bool has_x = t & 1, acc_x = t & 2, acc = t & 4;
        pair dy = pair_make(N * W, 1), dx = pair_make(N * W, 2), dt = pair_make(TOTAL, 3);
        pair wx = pair_copy(&dx), wt = pair_copy(&dt);
        for (int64_t j = 0; !acc && j < TOTAL; j++) wt.d[j] = 0;
        for (int64_t i = 0; i < n * W; i++) {
            wt.d[first + i % W] += dy.d[i];
            if (has_x) wx.d[i] = (acc_x ? wx.d[i] : 0) + dy.d[i];
        }
        outputs o = outputs_of(2, &dx, &dt);
        EVERY_WAY(o, k->add_row_bwd(has_x ? P(dx) : NULL, P(dt), P(dy), n, W, first, TOTAL, acc_x,
                                    acc, &ex));
        pair_compare("dx", &dx, wx.d, 1);
        pair_compare("dtable", &dt, wt.d, N);
        FREE_ALL(&dy, &dx, &dt, &wx, &wt);
    }
}

static void test_col_sum(void **state)
{
    (void)state;
    mr_exec ex = {0};
    for (int i = 0; i < COUNT(sizes); i++)
        for (int acc = 0; acc < 2; acc++) {
            int64_t n = sizes[i][0], w = sizes[i][1];
            pair x = pair_make(n * w, 1), out = pair_make(w, acc ? 2 : 0), want = pair_copy(&out);
            for (int64_t j = 0; j < w; j++) {
                if (!acc) want.d[j] = 0;
                for (int64_t r = 0; r < n; r++) want.d[j] += x.d[r * w + j];
            }
            outputs o = outputs_of(1, &out);
            EVERY_WAY(o, k->col_sum(P(out), P(x), n, w, acc, &ex));
            pair_compare("col_sum", &out, want.d, n);
            FREE_ALL(&x, &out, &want);
        }
}

/* c[r,j] of product q of a batch, by its definition. */
static double product(const double *a, const double *b, int64_t k, int ta, int tb, int64_t lda,
                      int64_t ldb, int64_t r, int64_t j)
{
    double s = 0;
    for (int64_t i = 0; i < k; i++)
        s += a[ta ? i * lda + r : r * lda + i] * b[tb ? j * ldb + i : i * ldb + j];
    return s;
}

static void test_gemm_batch(void **state)
{
    (void)state;
    mr_exec ex = {0};
    enum { M = 5, N = 3, K = 7, COUNT_ = 4 };
    for (int t = 0; t < 16; t++) {
        int ta = t & 1, tb = t >> 1 & 1, acc = t >> 2 & 1, interleaved = t >> 3;
        int64_t lda = ta ? M + 1 : K, ldb = tb ? K : N, ldc = interleaved ? COUNT_ * N + 2 : N;
        mr_gemm_batch batch = {COUNT_, interleaved ? N : M * N, 3, tb ? 0 : K * N};
        pair a = pair_make(64, 1), b = pair_make(COUNT_ * K * N, 2);
        pair c = pair_make(interleaved ? M * ldc : COUNT_ * M * N, 3), want = pair_copy(&c);
        for (int64_t e = 0; e < COUNT_ * M * N; e++) {
            int64_t q = e / (M * N), r = e / N % M, j = e % N;
            double *w = &want.d[q * batch.stride_c + r * ldc + j];
            *w = (acc ? 0.5 * *w : 0) + 2 * product(a.d + q * batch.stride_a,
                                                    b.d + q * batch.stride_b, K, ta, tb, lda, ldb,
                                                    r, j);
        }
        outputs o = outputs_of(1, &c);
        EVERY_WAY(o, k->gemm_batch(P(c), P(a), P(b), &batch, M, N, K, ta, tb, lda, ldb, ldc, 2.0,
                                   acc ? 0.5 : 0.0, MR_ACT_ACT, &ex));
        pair_compare("gemm_batch", &c, want.d, K);
        FREE_ALL(&a, &b, &c, &want);
    }
}

static void check_linear(int64_t n, int64_t o, int64_t i, int act, bool has_bias, bool has_pre,
                         int acc)
{
    mr_exec ex = {0};
    pair x = pair_make(n * i, 1), w = pair_make(o * i, 2), b = pair_make(o, 3);
    pair y = pair_make(n * o, 0), pre = pair_make(n * o, 0), dy = pair_make(n * o, 4);
    pair dw = pair_make(o * i, acc ? 5 : 0), db = pair_make(o, acc ? 6 : 0);
    pair wy = pair_copy(&y), wpre = pair_copy(&y), wdw = pair_copy(&dw), wdb = pair_copy(&db);
    for (int64_t e = 0; e < n * o; e++) {
        wpre.d[e] = product(x.d, w.d, i, 0, 1, i, i, e / o, e % o) + (has_bias ? b.d[e % o] : 0);
        wy.d[e] = act_of(act, wpre.d[e]);
    }
    for (int64_t e = 0; e < o * i; e++)
        wdw.d[e] = (acc ? wdw.d[e] : 0) + product(dy.d, x.d, n, 1, 0, o, i, e / i, e % i);
    for (int64_t j = 0; j < o; j++) {
        if (!acc) wdb.d[j] = 0;
        for (int64_t r = 0; r < n; r++) wdb.d[j] += dy.d[r * o + j];
    }
    outputs f = outputs_of(2, &y, &pre), g = outputs_of(2, &dw, &db);
    EVERY_WAY(f, k->linear_fwd(P(y), has_pre ? P(pre) : NULL, P(x), P(w), has_bias ? P(b) : NULL, n,
                               o, i, act, &ex));
    pair_compare("y", &y, wy.d, i);
    if (has_pre && act != MR_ACT_NONE) pair_compare("pre", &pre, wpre.d, i);
    EVERY_WAY(g,
              k->linear_bwd_w(P(dw), has_bias ? P(db) : NULL, P(dy), P(x), n, o, i, acc, acc, &ex));
    pair_compare("dw", &dw, wdw.d, n);
    if (has_bias) pair_compare("db", &db, wdb.d, n);
    FREE_ALL(&x, &w, &b, &y, &pre, &dy, &dw, &db, &wy, &wpre, &wdw, &wdb);
}

static void test_linear(void **state)
{
    (void)state;
    static const int64_t n_o_i[][3] = {{1, 1, 1}, {0, 5, 3}, {3, 7, 5}, {131, 13, 17}, {5, 64, 33}};
    for (int i = 0; i < COUNT(n_o_i); i++)
        for (int t = 0; t < 12; t++)
            check_linear(n_o_i[i][0], n_o_i[i][1], n_o_i[i][2], t / 4, (t & 1) != 0, (t & 2) != 0,
                         t & 1);
}

static void test_flat(void **state)
{
    (void)state;
    mr_exec ex = {0};
    const int64_t n_of[] = {0, 1, 7, 64, 1031, 20011};
    for (int i = 0; i < COUNT(n_of); i++)
        for (int acc = 0; acc < 2; acc++) {
            int64_t n = n_of[i];
            pair x = pair_make(n, 1), y = pair_make(n, acc ? 2 : 0), want = pair_copy(&y);
            pair dx = pair_make(n, acc ? 3 : 0), wdx = pair_copy(&dx), same = pair_copy(&x);
            pair wsame = pair_copy(&x), sum = pair_make(1, 0), clear = pair_make(n, 4);
            double probe = 0;
            for (int64_t j = 0; j < n; j++) {
                double c = cos(0.37 * (double)j + 1);
                want.d[j] = (acc ? want.d[j] : 0) - 1.75 * x.d[j];
                wsame.d[j] = 0.3 * x.d[j];
                wdx.d[j] = (acc ? wdx.d[j] : 0) + 0.7 * c;
                probe += x.d[j] * c;
            }
            outputs o = outputs_of(4, &y, &dx, &sum, &same), oz = outputs_of(1, &clear);
            EVERY_WAY(o, k->axpy(P(y), P(x), n, -1.75, acc, MR_ACT_ACT, &ex);
                      k->axpy(P(same), P(same), n, 0.3, 0, MR_ACT_ACT, &ex);
                      k->probe_fwd(P(sum), P(x), n, n, n, &ex);
                      k->probe_bwd(P(dx), n, n, n, 0.7, acc, &ex));
            EVERY_WAY(oz, k->zero(P(clear), n, &ex));
            pair_compare("axpy", &y, want.d, 1);
            pair_compare("axpy in place", &same, wsame.d, 1);
            pair_compare("probe_fwd", &sum, &probe, n);
            pair_compare("probe_bwd", &dx, wdx.d, 1);
            for (int64_t j = 0; j < n; j++) assert_true(clear.d[j] == 0 && clear.f[j] == 0);
            FREE_ALL(&x, &y, &want, &dx, &wdx, &same, &wsame, &sum, &clear);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_activation),  cmocka_unit_test(test_col_sum),
        cmocka_unit_test(test_add_row_bwd), cmocka_unit_test(test_gemm_batch),
        cmocka_unit_test(test_linear),      cmocka_unit_test(test_flat),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
