/* Values of the ops against formulas written out naively: softmax cross-entropy by brute force,
 * NT-Xent, the adaptor with its own dropout and noise draws, the fusion by a complex Fourier
 * transform. */
#include <complex.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/mem.h"
#include "base/rng.h"
#include "graph/ops.h"
#include "kernels/shared/dropout.h"
#include "op_check.h"
#include "op_rig.h"

enum { D = 6, SEED = OP_RIG_SEED };

/* A graph with one node of interest, run once in float64. */
typedef struct value_rig {
    op_rig r;
    int node;
} value_rig;

static void rig_run(value_rig *v, const op_sizes *s, bool train,
                    int (*build)(mr_graph *, const void *), const void *arg, bool is_loss)
{
    op_rig_start(&v->r, s, "cpu64", train);
    v->node = build(v->r.g, arg);
    if (is_loss)
        mr_graph_loss(v->r.g, v->node, 1.0, "loss");
    else
        mr_graph_output(v->r.g, v->node, "out");
    op_rig_compile(&v->r, false, true);
    assert_int_equal(mr_run_forward(v->r.run), MR_OK);
}

static const double *param(const value_rig *v, const char *name)
{
    return (const double *)v->r.ps.value + v->r.ps.p[mr_param_find(&v->r.ps, name)].offset;
}

static void assert_close(double got, double want, const char *what)
{
    if (!(fabs(got - want) <= 1e-12 * fmax(1.0, fabs(want))))
        fail_msg("%s: %.17g, written out %.17g", what, got, want);
}

/* ---- cross-entropy ---- */
static double dot(const double *a, const double *b)
{
    double s = 0;
    for (int k = 0; k < D; k++) s += a[k] * b[k];
    return s;
}

typedef struct loss_args {
    bool cosine, has_mask;
} loss_args;

static int build_item_loss(mr_graph *g, const void *arg)
{
    const loss_args *a = arg;
    int x = op_leaf(g, "x", MR_SPACE_ROWS, 2, D, 1, 1, 1.0);
    int t = op_param(g, "table", 2, g->dims.n_items + 1 + a->has_mask, D, 1, 0.8, MR_PARAM_SHARDED);
    return mr_g_item_loss(g, x, t, a->cosine, 0.07);
}

static void test_cross_entropy(void **state)
{
    (void)state;
    const op_sizes s = {.rows = 9, .L = 3, .n_items = 25};
    for (int c = 0; c < 4; c++) {
        loss_args a = {c & 1, c & 2};
        value_rig v;
        double got[MR_MAX_LOSSES], want = 0;
        rig_run(&v, &s, true, build_item_loss, &a, true);
        const double *x = param(&v, "x"), *e = param(&v, "table");
        for (int64_t b = 0; b < s.rows; b++) {
            double z = 0, t = 0;
            for (int64_t i = 0; i <= s.n_items; i++) {
                double l = dot(x + b * D, e + i * D);
                if (a.cosine)
                    l /= 0.07 * sqrt(dot(x + b * D, x + b * D)) * sqrt(dot(e + i * D, e + i * D));
                z += exp(l);
                if (i == v.r.w.batch.target[b]) t = l;
            }
            want += (log(z) - t) / (double)s.rows;
        }
        assert_int_equal(mr_run_losses(v.r.run, got), MR_OK);
        assert_close(got[0], want, "cross-entropy");
        op_rig_stop(&v.r);
    }
}

/* Logits of +-1e4 neither overflow nor lose the loss, in float too. */
static void test_large_logits(void **state)
{
    (void)state;
    enum { V = 3000 };
    static double raw[2 * V];
    static float raw32[2 * V];
    double stats[6], ce[2], coef[2];
    float coef32[2];
    int32_t target[2] = {7, 11};
    mr_step_state st = {.rows_global = 2};
    mr_exec ex = {.state = &st};
    for (int i = 0; i < 2 * V; i++) raw[i] = (i % 2 ? -1e4 : 1e4) + (i % 3);
    for (int i = 0; i < 2 * V; i++) raw32[i] = (float)raw[i];
    mr_kernels_cpu32.ce_rows(raw32, stats, target, NULL, NULL, 2, V, 0, 1.0, INFINITY, &ex);
    mr_kernels_cpu32.ce_combine(coef32, ce, NULL, stats, target, NULL, 2, 1, 1, 0, 1.0, &ex);
    /* row 0: every third even column has 1e4 + 2, + 1, + 0, 500 each; 7 is odd */
    double z = 500.0 * (1.0 + exp(-1.0) + exp(-2.0)), want = 1e4 + 2 + log(z) - (-1e4 + 1);
    if (fabs(ce[0] - want) > 1e-3) fail_msg("float: %.9g, expected %.9g", ce[0], want);
    mr_kernels_cpu64.ce_rows(raw, stats, target, NULL, NULL, 2, V, 0, 1.0, INFINITY, &ex);
    mr_kernels_cpu64.ce_combine(coef, ce, NULL, stats, target, NULL, 2, 1, 1, 0, 1.0, &ex);
    assert_close(ce[0], want, "large logits");
    assert_close(coef[0], 0.5 / z, "coefficient");
}

/* ---- NT-Xent ---- */
static int build_ntxent(mr_graph *g, const void *arg)
{
    int a = op_leaf(g, "z1", MR_SPACE_ROWS, 2, D, 1, 1, 0.7);
    int b = op_leaf(g, "z2", MR_SPACE_ROWS, 2, D, 1, 1, 0.7);
    return mr_g_ntxent(g, a, b, *(const double *)arg);
}

static void test_ntxent(void **state)
{
    (void)state;
    const double tau = 0.8;
    const op_sizes s = {.rows = 7, .L = 3, .n_items = 5};
    value_rig v;
    double got[MR_MAX_LOSSES], want = 0;
    rig_run(&v, &s, true, build_ntxent, &tau, true);
    int64_t B = s.rows;
    for (int64_t i = 0; i < 2 * B; i++) {
        double z = 0, t = 0;
        for (int64_t j = 0; j < 2 * B; j++) {
            const double *zi = param(&v, i < B ? "z1" : "z2") + i % B * D;
            const double *zj = param(&v, j < B ? "z1" : "z2") + j % B * D;
            double l = dot(zi, zj) / tau;
            if (j != i) z += exp(l);
            if (j == (i + B) % (2 * B)) t = l;
        }
        want += (log(z) - t) / (double)(2 * B);
    }
    assert_int_equal(mr_run_losses(v.r.run, got), MR_OK);
    assert_close(got[0], want, "NT-Xent");
    op_rig_stop(&v.r);
}

/* ---- adaptor ---- */
enum { E = 6, DH = 21 };

static int build_moe(mr_graph *g, const void *arg)
{
    int text = op_leaf(g, "text", MR_SPACE_TOK0, 2, DH, 1, 1, 1.0);
    int w = op_param(g, "w", 3, E, D, DH, 0.5, 0);
    int b = op_param(g, "bias", 3, E, g->dims.L, DH, 0.5, 0);
    int gate = op_param(g, "gate", 2, E, DH, 1, 0.5, 0);
    int noise = op_param(g, "noise", 2, E, DH, 1, 0.5, 0);
    return mr_g_moe(g, mr_g_detach(g, text), w, b, gate, noise, *(const double *)arg);
}

/* u of one position from the definition; x = NULL at PAD. */
static void moe_naive(const value_rig *v, double drop, const double *x, int64_t l, uint32_t rid,
                      double *u)
{
    const double *w = param(v, "w"), *bias = param(v, "bias"), *gate = param(v, "gate");
    const double *noise = param(v, "noise");
    double g[E], sum = 0, y[E][D] = {{0}};
    uint32_t purpose = MR_RNG_OP + (uint32_t)v->node, step = v->r.w.batch.step;
    for (int j = 0; j < E; j++) {
        double z = 0;
        g[j] = 0;
        for (int c = 0; x && c < DH; c++) {
            g[j] += x[c] * gate[j * DH + c];
            z += x[c] * noise[j * DH + c];
        }
        if (v->r.g->train) {
            uint32_t block = 0x80000000u + (uint32_t)(l * ((E + 3) / 4) + j / 4);
            mr_u32x4 r = mr_philox(SEED, purpose, step, rid, block);
            double n[2];
            mr_normal2(r.v[j % 4 / 2 * 2], r.v[j % 4 / 2 * 2 + 1], &n[0], &n[1]);
            g[j] += n[j % 2] * (log1p(exp(z)) + 0.01);
        }
        sum += exp(g[j]);
        uint32_t first = (uint32_t)((l * E + j) * ((DH + 7) / 8));
        for (int c = 0; c < DH; c++) {
            double xc = x ? x[c] : 0;
            if (v->r.g->train && drop > 0) {
                bool kept =
                    mr_drop_bits_at(SEED, purpose, step, rid, first, c) >= mr_drop_threshold(drop);
                xc = kept ? xc * mr_drop_scale(drop) : 0;
            }
            for (int k = 0; k < D; k++)
                y[j][k] += w[(j * D + k) * DH + c] * (xc - bias[(j * v->r.w.s.L + l) * DH + c]);
        }
    }
    for (int k = 0; k < D; k++) {
        u[k] = 0;
        for (int j = 0; j < E; j++) u[k] += exp(g[j]) / sum * y[j][k];
    }
}

static void test_moe(void **state)
{
    (void)state;
    const op_sizes s = {.rows = 230, .L = 9, .n_items = 5}; /* three chunks of rows */
    for (int c = 0; c < 3; c++) {
        double drop = c == 0 ? 0.0 : 0.25;
        value_rig v;
        rig_run(&v, &s, c < 2, build_moe, &drop, false);
        double *out, u[D];
        assert_int_equal(MR_ALLOC(&out, s.rows * s.L * D, "out"), MR_OK);
        assert_int_equal(mr_run_output(v.r.run, "out", out), MR_OK);
        const mr_seq *q = &v.r.w.batch.seq[0];
        for (int64_t b = 0; b < s.rows; b++)
            for (int64_t l = 0; l < s.L; l++) {
                const double *x = l < q->len[b] ? param(&v, "text") + (q->start[b] + l) * DH : NULL;
                moe_naive(&v, drop, x, l, v.r.w.batch.rid[b], u);
                for (int k = 0; k < D; k++) assert_close(out[(b * s.L + l) * D + k], u[k], "moe");
            }
        MR_FREE(out);
        op_rig_stop(&v.r);
    }
}

/* ---- fusion ---- */
static int build_fuse(mr_graph *g, const void *arg)
{
    (void)arg;
    int64_t L = g->dims.L;
    int a = op_leaf(g, "a", MR_SPACE_ROWS, 3, L, D, 1, 1.0);
    int u = op_leaf(g, "u", MR_SPACE_ROWS, 3, L, D, 1, 1.0);
    int f = op_param(g, "filter", 3, L / 2 + 1, D, 2, 0.5, 0);
    int pw = op_param(g, "pw", 2, 1, D, 1, 0.5, 0), pb = op_param(g, "pb", 1, 1, 1, 1, 0.5, 0);
    int fw = op_param(g, "fw", 2, 1, D, 1, 0.5, 0), fb = op_param(g, "fb", 1, 1, 1, 1, 0.5, 0);
    return mr_g_freq_fuse(g, a, u, f, pw, pb, fw, fb);
}

/* Ortho real transform of one channel, and back: the inverse takes bins 0..L/2 and uses the real
 * part of bins 0 and L/2 alone. */
static void forward_ft(double complex *out, const double *x, int64_t L, int64_t stride)
{
    for (int64_t k = 0; k <= L / 2; k++) {
        out[k] = 0;
        for (int64_t m = 0; m < L; m++)
            out[k] += x[m * stride] * cexp(-I * 2 * M_PI * (double)(k * m) / (double)L);
        out[k] /= sqrt((double)L);
    }
}

static double inverse_ft(const double complex *in, int64_t L, int64_t m)
{
    double s = 0;
    for (int64_t k = 0; k <= L / 2; k++) {
        double complex t = in[k] * cexp(I * 2 * M_PI * (double)(k * m) / (double)L);
        bool alone = k == 0 || 2 * k == L;
        s += alone ? creal(in[k]) * creal(cexp(I * 2 * M_PI * (double)(k * m) / (double)L))
                   : 2 * creal(t);
    }
    return s / sqrt((double)L);
}

static void fuse_naive(const value_rig *v, int64_t b, int64_t n, double *h)
{
    int64_t L = v->r.w.s.L;
    double p[D], f[D], gp = *param(v, "pb"), gf = *param(v, "fb");
    const double *c = param(v, "filter");
    for (int k = 0; k < D; k++) {
        double complex A[8], U[8], P[8], F[8];
        forward_ft(A, param(v, "a") + b * L * D + k, L, D);
        forward_ft(U, param(v, "u") + b * L * D + k, L, D);
        for (int64_t i = 0; i <= L / 2; i++) {
            P[i] = A[i] * (c[(i * D + k) * 2] + I * c[(i * D + k) * 2 + 1]);
            F[i] = A[i] * U[i];
        }
        p[k] = inverse_ft(P, L, n);
        f[k] = inverse_ft(F, L, n);
    }
    gp += dot(p, param(v, "pw"));
    gf += dot(f, param(v, "fw"));
    for (int k = 0; k < D; k++) h[k] = 2 * (p[k] / (1 + exp(-gp)) + f[k] / (1 + exp(-gf)));
}

static void test_fuse(void **state)
{
    (void)state;
    for (int64_t L = 1; L <= 11; L++) {
        const op_sizes s = {.rows = 35, .L = L, .n_items = 5};
        value_rig v;
        rig_run(&v, &s, true, build_fuse, NULL, false);
        double *out, h[D];
        const mr_seq *q = &v.r.w.batch.seq[0];
        assert_int_equal(MR_ALLOC(&out, q->tokens * D, "out"), MR_OK);
        assert_int_equal(mr_run_output(v.r.run, "out", out), MR_OK);
        for (int64_t b = 0; b < s.rows; b++)
            for (int64_t n = 0; n < q->len[b]; n++) {
                fuse_naive(&v, b, n, h);
                for (int k = 0; k < D; k++)
                    assert_close(out[(q->start[b] + n) * D + k], h[k], "freq_fuse");
            }
        MR_FREE(out);
        op_rig_stop(&v.r);
    }
}

/* ---- refusals: one sentence, no crash ---- */
static void refused(int (*build)(mr_graph *, const void *), const void *arg, const char *word)
{
    op_world w;
    mr_params ps = {0};
    mr_graph *g;
    mr_errors_to_log(false);
    op_world_make(&w, &(op_sizes){.rows = 3, .L = 4, .n_items = 5});
    assert_int_equal(mr_graph_create(&g, &w.dims, &ps, 8, true), MR_OK);
    assert_int_equal(build(g, arg), -1);
    assert_int_equal(mr_graph_status(g), MR_ERR_CONFIG);
    if (!strstr(mr_last_error(), word)) fail_msg("'%s' does not say %s", mr_last_error(), word);
    mr_graph_free(&g);
    op_world_free(&w);
    mr_errors_to_log(true);
}

static int bad_width(mr_graph *g, const void *arg)
{
    (void)arg;
    int x = op_leaf(g, "x", MR_SPACE_ROWS, 2, D + 1, 1, 1, 1.0);
    return mr_g_item_loss(g, x, op_param(g, "table", 2, 6, D, 1, 1.0, 0), false, 1.0);
}

static int bad_rows(mr_graph *g, const void *arg)
{
    (void)arg;
    int x = op_leaf(g, "x", MR_SPACE_ROWS, 2, D, 1, 1, 1.0);
    return mr_g_item_loss(g, x, op_param(g, "table", 2, 5, D, 1, 1.0, 0), false, 1.0);
}

static int bad_filter(mr_graph *g, const void *arg)
{
    (void)arg;
    int a = op_leaf(g, "a", MR_SPACE_ROWS, 3, 4, D, 1, 1.0);
    int f = op_param(g, "filter", 3, 2, D, 2, 1.0, 0), w = op_param(g, "w", 1, D, 1, 1, 1.0, 0);
    return mr_g_freq_fuse(g, a, a, f, w, w, w, w);
}

static int bad_text(mr_graph *g, const void *arg)
{
    (void)arg;
    int t = op_leaf(g, "text", MR_SPACE_TOK0, 2, DH + 1, 1, 1, 1.0);
    int w = op_param(g, "w", 3, E, D, DH, 1, 0), b = op_param(g, "b", 3, E, 4, DH, 1, 0);
    int q = op_param(g, "g", 2, E, DH, 1, 1, 0);
    return mr_g_moe(g, t, w, b, q, q, 0.0);
}

static void test_refusals(void **state)
{
    (void)state;
    static const double zero = 0.0, one = 1.0;
    refused(build_moe, &one, "dropout 1");
    refused(bad_width, NULL, "width");
    refused(bad_rows, NULL, "rows for 5 items");
    refused(bad_filter, NULL, "must be [3,6,2]");
    refused(bad_text, NULL, "do not fit");
    refused(build_ntxent, &zero, "temperature");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cross_entropy), cmocka_unit_test(test_large_logits),
        cmocka_unit_test(test_ntxent),        cmocka_unit_test(test_moe),
        cmocka_unit_test(test_fuse),          cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
