/* CUDA kernels against the CPU's, activations in float32 and in bf16, on the same random inputs. No
 * GPU: exit 77.
 * With the argument `dry` the CPU table stands in for the CUDA table: that checks the cases.
 * Entries that have no case are named; docs/gpu.md keeps the list of what is open. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "twin.h"

/* Sizes that suit a library's fused kernels, and some that do not. */
static void linear_layer(twin_world *w)
{
    static const int64_t size[][3] = {{37, 29, 53}, {64, 32, 128}, {300, 96, 64}, {1, 8, 4}};
    for (int i = 0; i < 4; i++)
        for (int act = MR_ACT_NONE; act <= MR_ACT_SILU; act++) {
            int64_t n = size[i][0], o = size[i][1], k = size[i][2];
            twin *x = twin_acts(w, n * k), *m = twin_acts(w, o * k), *b = twin_acts(w, o);
            twin *y = twin_acts(w, n * o), *pre = twin_acts(w, n * o), *db = twin_reals(w, o);
            twin *dm = twin_reals(w, o * k);
            BOTH(linear_fwd, A(y), A(pre), A(x), A(m), act ? A(b) : NULL, n, o, k, act, EX);
            twin_same(w, "linear_fwd", "y", y, k);
            twin_same(w, "linear_fwd", "pre", pre, k);
            BOTH(linear_fwd, A(y), NULL, A(x), A(m), A(b), n, o, k, act, EX);
            twin_same(w, "linear_fwd", "y, biased", y, k);
            BOTH(linear_bwd_w, A(dm), A(db), A(y), A(x), n, o, k, act & 1, act >> 1, EX);
            twin_same(w, "linear_bwd_w", "dw", dm, n);
            twin_same(w, "linear_bwd_w", "db", db, n);
            BOTH(linear_bwd_w, A(dm), NULL, A(y), A(x), n, o, k, 0, 0, EX);
            twin_same(w, "linear_bwd_w", "dw alone", dm, n);
            twin_release(w);
        }
}

/* What may be of an activation's type or not, on either side. */
static void both_sides(twin_world *w, mr_sides sides)
{
    enum { M = 37, N = 29, K = 53 };
    bool to = sides == MR_ACT_ACT || sides == MR_ACT_REAL;
    bool of = sides == MR_ACT_ACT || sides == MR_REAL_ACT;
    twin *a = twin_of(w, M * K, of), *b = twin_of(w, K * N, of), *c = twin_of(w, M * N, to);
    twin *row = twin_ints(w, M, 7, 1, K), *start = twin_ints(w, M + 1, 1, 0, M + 1);
    twin *out = twin_of(w, M * N, to);
    for (int t = 0; t < 4 && sides != MR_ACT_REAL; t++) {
        BOTH(gemm, A(c), A(a), A(b), M, N, K, t & 1, t >> 1, t & 1 ? M : K, t >> 1 ? K : N, N, 0.5,
             t ? 0.3 : 0.0, sides, EX);
        twin_same(w, "gemm", "c", c, K);
    }
    /* three products into columns that lie between each other, one operand shared */
    mr_gemm_batch batch = {3, 7, 2 * K, 0};
    if (sides != MR_ACT_REAL) {
        BOTH(gemm_batch, A(c), A(a), A(b), &batch, M - 10, 7, K, 0, 1, K, K, N, 0.5, 0.3, sides,
             EX);
        twin_same(w, "gemm_batch", "c", c, K);
    }
    for (int acc = 0; acc < 2; acc++) {
        BOTH(axpy, A(c), A(a), M * N, 0.7, acc, sides, EX);
        twin_same(w, "axpy", "y", c, 1);
        /* row i of the result gets row[start[i]] of the operand */
        BOTH(add_rows, A(out), A(b), NULL, A(start), A(row), M, N, M, acc, 4, NULL, NULL, 0, sides,
             EX);
        twin_same(w, "add_rows", "out", out, 1);
    }
    BOTH(gather_rows, A(out), A(b), A(row), NULL, NULL, M, N, sides, EX);
    twin_equal(w, "gather_rows", "out", out);
    twin_release(w);
}

static void linear(twin_world *w)
{
    enum { M = 37, N = 29 };
    twin *c = twin_acts(w, M * N), *pre = twin_acts(w, M * N), *bias = twin_reals(w, N);
    twin *d = twin_acts(w, M * N), *e = twin_acts(w, M * N);
    for (int act = MR_ACT_NONE; act <= MR_ACT_SILU; act++) {
        BOTH(bias_act_fwd, A(c), A(pre), A(bias), M, N, act, EX);
        twin_same(w, "bias_act_fwd", "y", c, 1);
        twin_same(w, "bias_act_fwd", "pre", pre, 1);
        BOTH(act_fwd, A(d), A(c), M * N, act, EX);
        twin_same(w, "act_fwd", "y", d, 1);
        for (int has_y = 0; has_y < 2; has_y++) {
            BOTH(act_bwd, A(d), has_y ? A(e) : NULL, A(c), A(pre), M, N, act, EX);
            twin_same(w, "act_bwd", "dpre", d, 1);
            twin_same(w, "act_bwd", "y", e, 1);
        }
    }
    BOTH(col_sum, A(bias), A(c), M, N, 1, EX);
    twin_same(w, "col_sum", "out", bias, M);
    twin *table = twin_reals(w, 4 * N);
    for (int t = 0; t < 4; t++) {
        BOTH(add_row_bwd, t == 1 ? NULL : A(d), A(table), A(c), t == 3 ? 0 : M, N, t * N, 4 * N,
             t & 1, t > 1, EX);
        twin_same(w, "add_row_bwd", "dx", d, 1);
        twin_same(w, "add_row_bwd", "dtable", table, M);
    }
    BOTH(probe_fwd, A(bias), A(c), M * N, N, N, EX);
    twin_same(w, "probe_fwd", "out", bias, M * N);
    BOTH(probe_bwd, A(d), M * N, N, N, 0.5, 0, EX);
    twin_same(w, "probe_bwd", "dx", d, 1);
    BOTH(silu_fwd, A(d), A(c), M * N, EX);
    twin_same(w, "silu_fwd", "y", d, 1);
    BOTH(silu_bwd, A(d), A(c), A(pre), M * N, 1, EX);
    twin_same(w, "silu_bwd", "dx", d, 1);
    twin_release(w);
}

static void optim(twin_world *w)
{
    enum { N = 100003 };
    twin *p = twin_reals(w, N), *m = twin_reals(w, N), *v = twin_positive(w, N);
    twin *g = twin_reals(w, N), *stats = twin_doubles(w, 4), *told = twin_reals(w, 3);
    const mr_ranges all = {1, {0}, {N}}, two = {2, {0, 70013}, {69997, N}}, none = {2, {5}, {5}};
    twin *p16 = twin_halves(w, N, 1);
    BOTH(adam, A(p), A(m), A(v), A(g), &two, A(p16), 69990, 0.9, 0.99, 1e-8, 0.01, EX);
    twin_near(w, "adam", "p16", p16);
    twin_same(w, "adam", "p", p, 1);
    twin_same(w, "adam", "m", m, 1);
    twin_same(w, "adam", "v", v, 1);
    BOTH(adam, A(p), A(m), A(v), A(g), &all, NULL, 0, 0.9, 0.99, 1e-8, 0.0, EX);
    twin_same(w, "adam", "p, one range", p, 1);
    BOTH(adam, A(p), A(m), A(v), A(g), &none, NULL, 0, 0.9, 0.99, 1e-8, 0.0, EX);
    BOTH(grad_stats, A(stats), A(g), &two, EX);
    twin_same(w, "grad_stats", "out", stats, 1);
    BOTH(grad_stats, A(stats), A(g), &none, EX);
    twin_same(w, "grad_stats", "out, nothing", stats, 1);
    /* The state as doubles: step and skip are the first, grad_scale is the last. */
    enum { STATE = sizeof(mr_step_state) / sizeof(double) };
    twin *bad = twin_positive(w, 4); /* two doubles > 0: bad elements */
    twin *a = twin_doubles(w, 2), *b = twin_doubles(w, 2), *loss = twin_reals(w, 3);
    const mr_loss_weights weights = {.n = 3, .w = {1, 0.5, 2}};
    for (int i = 0; i < 3; i++) {
        twin *s = twin_doubles(w, STATE);
        const mr_ranges most = {1, {i}, {N}};
        BOTH(grad_stats, A(a), A(g), &most, EX);
        BOTH(grad_stats, A(b), A(p), &most, EX);
        BOTH(step_decide, A(s), A(told), A(a), A(b), A(loss), &weights,
             i ? 1e9 * (i - 1) + 3.0 : 0.0, EX);
        twin_same(w, "step_decide", "told", told, 1);
        twin_same(w, "step_decide", "grad_scale", s, 1);
        BOTH(step_decide, A(s), NULL, A(a), A(bad), A(loss), &weights, 0.0, EX);
        twin_equal(w, "step_decide", "skip", s);
    }
    twin_release(w);
}

static void norm(twin_world *w)
{
    enum { N = 301, W = 61 };
    twin *rid = twin_ints(w, N, 3, 7, 1000), *pos = twin_ints(w, N, 1, 0, 5);
    mr_drop in[2], out[2];
    for (int side_ = 0; side_ < 2; side_++) {
        in[side_] = (mr_drop){0.2, 5, {A(rid), A(pos)}, 1};
        out[side_] = (mr_drop){0.4, 6, {A(rid), A(pos)}, 7};
    }
    twin *x = twin_acts(w, N * W), *res = twin_acts(w, N * W), *y = twin_acts(w, N * W);
    twin *gamma = twin_reals(w, W), *beta = twin_reals(w, W), *mean = twin_reals(w, N);
    twin *rstd = twin_reals(w, N), *dx = twin_acts(w, N * W), *dr = twin_acts(w, N * W);
    twin *dg = twin_reals(w, W), *db = twin_reals(w, W);
    BOTH(layer_norm_fwd, A(y), A(mean), A(rstd), A(x), A(res), A(gamma), A(beta), N, W, W, 1e-5,
         &in[side_], &out[side_], EX);
    twin_same(w, "layer_norm_fwd", "y", y, W);
    twin_same(w, "layer_norm_fwd", "rstd", rstd, W);
    BOTH(layer_norm_bwd, A(dx), A(dr), A(dg), A(db), A(y), A(x), A(res), A(gamma), A(mean), A(rstd),
         N, W, W, 0, 1, 1, 0, &in[side_], &out[side_], EX);
    twin_same(w, "layer_norm_bwd", "dx", dx, W);
    twin_same(w, "layer_norm_bwd", "dres", dr, W);
    twin_same(w, "layer_norm_bwd", "dgamma", dg, N);
    twin_same(w, "layer_norm_bwd", "dbeta", db, N);
    BOTH(dropout, A(y), A(x), N, W, 1, &out[side_], EX);
    twin_same(w, "dropout", "y", y, 1);
    twin_release(w);
}

/* [n + 1] int64 starts and the ids they speak of, ascending for each row: row i skips i % 5 ids
 * that lie before, in and after the tile, among them the target of some rows. */
static void skip_lists(twin_world *w, int64_t n, twin **start_p, twin **id_p)
{
    twin *start = twin_doubles(w, n + 1), *id = twin_ints(w, 5 * n, 1, 0, 9);
    int64_t *s = start->host, at = 0;
    for (int64_t i = 0; i < n; i++) {
        s[i] = at;
        for (int64_t j = 0; j < i % 5; j++)
            ((int32_t *)id->host)[at++] = (int32_t)((11 * i + 3) % 60 + 70 * j);
    }
    s[n] = at;
    w->dev->to_device(w->dev, start->dev, start->host, (size_t)(n + 1) * 8);
    w->dev->to_device(w->dev, id->dev, id->host, (size_t)(5 * n) * 4);
    *start_p = start;
    *id_p = id;
}

/* n integers from -2 to 2 instead of what is in t, and a NaN now and then: many equal scores. */
static void make_equal(twin_world *w, twin *t, int64_t n)
{
    float *v = t->host;
    for (int64_t i = 0; i < n; i++) v[i] = i % 977 == 500 ? NAN : (float)((i * 7 + i / 5) % 5 - 2);
    w->dev->to_device(w->dev, t->dev, v, (size_t)n * sizeof *v);
}

/* Rows in whole loads of four elements, and not; one, two and three tiles each way. */
static void count_scores(twin_world *w, twin *x, twin *e, twin *cs, twin *ts, twin *target,
                         twin *count)
{
    static const int64_t sizes[][3] = {
        {141, 301, 61}, {141, 301, 60}, {1, 1, 4}, {141, 128, 8}, {20, 301, 3}};
    make_equal(w, x, 141 * 61);
    make_equal(w, e, 301 * 61);
    make_equal(w, ts, 141);
    for (int i = 0; i < 5; i++)
        for (int lo = 0; lo < 12; lo += 11) {
            int64_t n = sizes[i][0], m = sizes[i][1], d = sizes[i][2];
            BOTH(score_count, A(count), A(x), A(e), lo ? A(cs) : NULL, A(ts), A(target), n, m, d,
                 lo, EX);
            twin_equal(w, "score_count", "count", count);
        }
}

static void ranking(twin_world *w)
{
    enum { N = 141, M = 301, W = 61, K = 9 };
    twin *x = twin_reals(w, N * W), *e = twin_reals(w, M * W), *cs = twin_reals(w, M);
    twin *s = twin_reals(w, N * M), *ts = twin_reals(w, N), *count = twin_ints(w, N, 1, 0, 9);
    twin *target = twin_ints(w, N, 11, 3, M), *id = twin_ints(w, N * K, 1, 0, 9);
    twin *best = twin_reals(w, N * K);
    BOTH(score_tile, A(s), A(x), A(e), A(cs), N, M, W, EX);
    twin_same(w, "score_tile", "s", s, W);
    BOTH(score_target, A(ts), A(x), A(e), A(cs), A(target), N, M, W, 0, EX);
    twin_same(w, "score_target", "s", ts, W);
    /* The same bits on both sides, so that what follows is exact. */
    w->dev->to_device(w->dev, s->dev, s->host, N * M * 4);
    w->dev->to_device(w->dev, ts->dev, ts->host, N * 4);
    twin *start, *skip;
    skip_lists(w, N, &start, &skip);
    BOTH(score_skip, A(s), A(start), A(skip), A(target), N, M, 20, EX);
    twin_equal(w, "score_skip", "s", s);
    BOTH(rank_count, A(count), A(s), A(ts), A(target), N, M, 0, EX);
    twin_equal(w, "rank_count", "count", count);
    BOTH(topk_merge, A(id), A(best), A(s), N, M, K, 0, 1, EX);
    twin_equal(w, "topk_merge", "ids", id);
    count_scores(w, x, e, cs, ts, target, count);
    twin_release(w);
}

/* All cases with a table; is_bf16: whose activations are bf16. True: no difference, none missing.
 */
static bool compare(mr_device *dev, const mr_kernels *tested, bool is_bf16)
{
    twin_world w;
    int open = 0;
    twin_world_make(&w, dev, tested, is_bf16);
    for (int sides = MR_ACT_ACT; sides <= MR_REAL_REAL; sides++) both_sides(&w, (mr_sides)sides);
    linear(&w);
    linear_layer(&w);
    optim(&w);
    norm(&w);
    ranking(&w);
    cases_b(&w);
    cases_c(&w);
    cases_d(&w);
    cases_e(&w);
    cases_f(&w);
    for (int i = 0; i < mr_kernels_count(); i++)
        if (!w.covered[i]) printf("%s%s", open++ ? ", " : "no case yet: ", mr_kernels_name(i));
    printf("%s%s: %d kernels compared, %d without a case, %d differences\n", open ? "\n" : "",
           is_bf16 ? "bf16" : "float32", mr_kernels_count() - open, open, w.failed);
    bool good = !w.failed && !open;
    twin_world_free(&w);
    return good;
}

int main(int argc, char **argv)
{
    mr_device *dev = NULL;
    bool is_dry = argc > 1 && !strcmp(argv[1], "dry");
    const mr_kernels *table = NULL;
    if (is_dry ? mr_device_open_cpu(&dev, MR_F32) : mr_device_open_cuda(&dev, 0)) return 77;
    bool good = mr_kernels_for(&table, dev->name, MR_F32) == MR_OK && compare(dev, table, false);
    if (!is_dry)
        good &= mr_kernels_for(&table, dev->name, MR_BF16) == MR_OK && compare(dev, table, true);
    mr_device_close(&dev);
    return good ? 0 : 1;
}
