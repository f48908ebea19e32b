/* Values of the ops without gradients (noise at a step, posterior, time), recomputed on the host
 * from the public draws as dump-step does; and what the builders refuse. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/mem.h"
#include "kernels/shared/draw.h"
#include "op_check.h"
#include "op_rig.h"

enum { ROWS = 5, W = 70, T = 6, SEED = OP_RIG_SEED };

static void begin(op_rig *q)
{
    op_rig_start(q, &(op_sizes){.rows = ROWS, .L = 2, .n_items = 9, .T = T}, "cpu64", true);
}

static void run(op_rig *q)
{
    op_rig_compile(q, false, false);
    assert_int_equal(mr_run_forward(q->run), MR_OK);
}

static double *output(op_rig *q, const char *name, int64_t n)
{
    double *x = NULL;
    assert_int_equal(MR_ALLOC(&x, n, "output"), MR_OK);
    assert_int_equal(mr_run_output(q->run, name, x), MR_OK);
    return x;
}

static void expect(op_rig *q, const char *name, double (*want)(const op_rig *, int64_t i))
{
    double *x = output(q, name, ROWS * W);
    for (int64_t i = 0; i < ROWS * W; i++)
        if (!(fabs(x[i] - want(q, i)) < 1e-12))
            fail_msg("%s[%lld] is %.15g, not %.15g", name, (long long)i, x[i], want(q, i));
    MR_FREE(x);
}

static double value(const op_rig *q, const char *param, int64_t i)
{
    const mr_param *p = &q->ps.p[mr_param_find(&q->ps, param)];
    return ((const double *)q->ps.value)[p->offset + i];
}

static double eps(const op_rig *q, uint32_t purpose, int64_t i)
{
    return mr_draw_normal(SEED, purpose, q->w.batch.step, q->w.batch.rid[i / W], i % W);
}

static double noised(const op_rig *q, int64_t t, uint32_t purpose, int64_t i)
{
    return sqrt(q->w.abar[t]) * value(q, "a", i) + sqrt(1 - q->w.abar[t]) * eps(q, purpose, i);
}

static int64_t drawn(const op_rig *q, uint32_t purpose, int64_t row)
{
    return mr_draw_t(SEED, purpose, q->w.batch.step, q->w.batch.rid[row], T, NULL);
}

static double want_tcd(const op_rig *q, int64_t i)
{
    return noised(q, drawn(q, MR_RNG_T_TCD, i / W), MR_RNG_EPS_TCD, i);
}

static double want_npd(const op_rig *q, int64_t i)
{
    return noised(q, drawn(q, MR_RNG_T_NPD, i / W), MR_RNG_EPS_NPD, i);
}

static double want_start(const op_rig *q, int64_t i) { return noised(q, T, MR_RNG_EPS_NPD, i); }
static double want_pure(const op_rig *q, int64_t i) { return eps(q, MR_RNG_EPS_TCD, i); }

static double mean_at(const op_rig *q, int64_t t, int64_t i)
{
    return q->w.c1[t] * value(q, "a", i) + q->w.c2[t] * value(q, "b", i);
}

static double want_post_tcd(const op_rig *q, int64_t i)
{
    return mean_at(q, 3, i) + sqrt(q->w.s2[3]) * eps(q, MR_RNG_POST_TCD + 3, i);
}

static double want_post_npd(const op_rig *q, int64_t i)
{
    return mean_at(q, T, i) + sqrt(q->w.s2[T]) * eps(q, MR_RNG_POST_NPD + T, i);
}

static double want_post_quiet(const op_rig *q, int64_t i) { return mean_at(q, 4, i); }
static double want_post_last(const op_rig *q, int64_t i) { return mean_at(q, 1, i); }
static double want_mix(const op_rig *q, int64_t i)
{
    return 0.3 * value(q, "a", i) + 0.7 * value(q, "b", i);
}

static void test_values(void **state)
{
    (void)state;
    op_rig q;
    begin(&q);
    q.w.s2[1] = 9.0; /* must not be used: the last step draws nothing */
    int a = op_leaf(q.g, "a", MR_SPACE_ROWS, 2, W, 1, 1, 1.0);
    int b = op_leaf(q.g, "b", MR_SPACE_ROWS, 2, W, 1, 1, 1.0);
    mr_graph_output(q.g, mr_g_noise(q.g, a, MR_DIFF_TCD, 0, false), "tcd");
    mr_graph_output(q.g, mr_g_noise(q.g, a, MR_DIFF_NPD, 0, false), "npd");
    mr_graph_output(q.g, mr_g_noise(q.g, a, MR_DIFF_NPD, T, false), "start");
    mr_graph_output(q.g, mr_g_noise(q.g, a, MR_DIFF_TCD, T, true), "pure");
    mr_graph_output(q.g, mr_g_posterior(q.g, a, b, MR_DIFF_TCD, 3, true), "post_tcd");
    mr_graph_output(q.g, mr_g_posterior(q.g, a, b, MR_DIFF_NPD, T, true), "post_npd");
    mr_graph_output(q.g, mr_g_posterior(q.g, a, b, MR_DIFF_NPD, 4, false), "post_quiet");
    mr_graph_output(q.g, mr_g_posterior(q.g, a, b, MR_DIFF_TCD, 1, true), "post_last");
    mr_graph_output(q.g, mr_g_mix(q.g, a, b, 0.3), "mix");
    run(&q);
    expect(&q, "tcd", want_tcd);
    expect(&q, "npd", want_npd);
    expect(&q, "start", want_start);
    expect(&q, "pure", want_pure);
    expect(&q, "post_tcd", want_post_tcd);
    expect(&q, "post_npd", want_post_npd);
    expect(&q, "post_quiet", want_post_quiet);
    expect(&q, "post_last", want_post_last);
    expect(&q, "mix", want_mix);
    op_rig_stop(&q);
}

/* The time embedding of a row is that of the t its noise was drawn with. */
static void test_time(void **state)
{
    (void)state;
    enum { C = 8 };
    op_rig q;
    begin(&q);
    mr_graph_output(q.g, mr_g_time_rows(q.g, C), "rows");
    mr_graph_output(q.g, mr_g_time_all(q.g, C, T), "all");
    run(&q);
    double *rows = output(&q, "rows", ROWS * C), *all = output(&q, "all", T * C);
    for (int64_t t = 1; t <= T; t++)
        for (int i = 0; i < C; i++) {
            double w = pow(10000, -(double)(i % 4) / 3);
            double want = i < 4 ? sin((double)t * w) : cos((double)t * w);
            assert_true(fabs(all[(t - 1) * C + i] - want) < 1e-13);
        }
    for (int64_t r = 0; r < ROWS; r++)
        assert_memory_equal(rows + r * C, all + (drawn(&q, MR_RNG_T_TCD, r) - 1) * C,
                            C * sizeof(double));
    MR_FREE(rows);
    MR_FREE(all);
    op_rig_stop(&q);
}

/* One FiLM row of a table for all samples is the same as that row given to each sample. */
static void test_film_row(void **state)
{
    (void)state;
    op_rig q;
    begin(&q);
    int x = op_leaf(q.g, "x", MR_SPACE_ROWS, 3, 3, 8, 1, 1.0);
    int gamma = op_param(q.g, "gamma", 1, 8, 1, 1, 1.0, 0);
    int beta = op_param(q.g, "beta", 1, 8, 1, 1, 1.0, 0);
    int table = mr_g_leaf(q.g, op_param(q.g, "table", 2, T, 16, 1, 1.0, 0), MR_SPACE_FIXED);
    int each = op_leaf(q.g, "each", MR_SPACE_ROWS, 2, 16, 1, 1, 1.0);
    mr_graph_output(q.g, mr_g_group_norm(q.g, x, 2, gamma, beta, table, 4, 0.0), "one");
    mr_graph_output(q.g, mr_g_group_norm(q.g, x, 2, gamma, beta, each, -1, 0.0), "each");
    run(&q);
    double *v = q.ps.value, *t = v + q.ps.p[mr_param_find(&q.ps, "table")].offset;
    double *e = v + q.ps.p[mr_param_find(&q.ps, "each")].offset;
    for (int r = 0; r < ROWS; r++) memcpy(e + r * 16, t + 4 * 16, 16 * sizeof *e);
    assert_int_equal(mr_run_forward(q.run), MR_OK);
    double *a = output(&q, "one", ROWS * 24), *b = output(&q, "each", ROWS * 24);
    assert_memory_equal(a, b, ROWS * 24 * sizeof *a);
    MR_FREE(a);
    MR_FREE(b);
    op_rig_stop(&q);
}

/* ---- refusals: one wrong argument each ---- */
static int bad(mr_graph *g, int i)
{
    int x = op_leaf(g, "x", MR_SPACE_ROWS, 3, 5, 6, 1, 1.0);
    int v = op_leaf(g, "v", MR_SPACE_ROWS, 2, 6, 1, 1, 1.0);
    int odd = op_leaf(g, "odd", MR_SPACE_ROWS, 2, 7, 1, 1, 1.0);
    int fixed = mr_g_leaf(g, op_param(g, "fixed", 2, 3, 6, 1, 1.0, 0), MR_SPACE_FIXED);
    int w = op_param(g, "w", 3, 4, 3, 6, 1.0, 0), wide = op_param(g, "wide", 3, 4, 3, 7, 1.0, 0);
    int one = op_param(g, "one", 1, 6, 1, 1, 1.0, 0),
        type = op_param(g, "type", 2, 3, 6, 1, 1.0, 0);
    switch (i) {
    case 0: return mr_g_conv3(g, x, wide, -1, 1, -1, -1);
    case 1: return mr_g_conv3(g, x, w, -1, 3, -1, -1);
    case 2: return mr_g_conv3(g, x, w, one, 1, -1, -1);
    case 3: return mr_g_conv3(g, x, w, -1, 2, x, -1);
    case 4: return mr_g_conv3(g, x, w, -1, 1, -1, odd);
    case 5: return mr_g_conv3(g, x, -1, -1, 1, -1, -1);
    case 6: return mr_g_group_norm(g, x, 4, one, one, -1, -1, 0);
    case 7: return mr_g_group_norm(g, x, 2, one, one, v, -1, 0);
    case 8: return mr_g_group_norm(g, x, 2, one, one, fixed, 9, 0);
    case 9: return mr_g_add_context(g, x, odd);
    case 10: return mr_g_upsample(g, v, 5);
    case 11: return mr_g_concat(g, x, mr_g_upsample(g, x, 4));
    case 12: return mr_g_time_rows(g, 7);
    case 13: return mr_g_time_all(g, 0, 3);
    case 14: return mr_g_noise(g, fixed, MR_DIFF_TCD, 0, false);
    case 15: return mr_g_noise(g, v, MR_DIFF_TCD, 0, true);
    case 16: return mr_g_posterior(g, v, odd, MR_DIFF_TCD, 1, true);
    case 17: return mr_g_posterior(g, v, v, MR_DIFF_TCD, 0, true);
    case 18: return mr_g_posterior(g, v, v, MR_DIFF_TCD, 4096, true);
    case 19: return mr_g_mix(g, v, odd, 0.5);
    case 20: return mr_g_condition_tokens(g, x, v, type); /* 3 rows, 7 needed */
    case 21: return mr_g_add_row(g, v, type, 3);
    case 22: return mr_g_pool_concat(g, v, x, odd);
    case 23: return mr_g_upsample(g, x, 0);
    default: return -2;
    }
}

static void test_refusals(void **state)
{
    (void)state;
    int n = 0;
    mr_errors_to_log(false);
    for (;; n++) {
        op_rig q;
        begin(&q);
        int id = bad(q.g, n);
        mr_status st = mr_graph_status(q.g);
        op_rig_stop(&q);
        if (id == -2) break;
        if (id != -1 || st != MR_ERR_CONFIG) fail_msg("wrong use %d was accepted", n);
    }
    mr_errors_to_log(true);
    assert_int_equal(n, 24);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_values),
        cmocka_unit_test(test_time),
        cmocka_unit_test(test_film_row),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
