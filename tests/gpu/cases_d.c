/* Cases at the edges of the CUDA kernels: more columns than threads, more queries than fit
 * shared memory, rows too large for shared memory, a second tile of scores, half precision, nothing
 * at all. */
#include "twin.h"

#include <math.h>

/* S keys, causal, with and without room for all queries at once; q, k and v are columns of one. */
static void long_attention(twin_world *w, int64_t S, int64_t D)
{
    enum { B = 2 };
    twin *len = twin_ints(w, B, 1, 0, 2), *rid = twin_ints(w, B, 3, 7, 1000);
    for (int i = 0; i < B; i++) ((int32_t *)len->host)[i] = (int32_t)S - i;
    w->dev->to_device(w->dev, len->dev, len->host, B * 4);
    twin *start = twin_starts(w, len), *pos = twin_ints(w, B, 0, 0, 1);
    int64_t T = ((int32_t *)start->host)[B] + 1, ALL = 3 * D + 2;
    mr_att_shape s[2];
    mr_drop drop[2];
    for (int side_ = 0; side_ < 2; side_++) {
        s[side_] = (mr_att_shape){.mode = MR_ATT_CAUSAL,
                                  .B = B,
                                  .S = S,
                                  .heads = 1,
                                  .d = D,
                                  .start = A(start),
                                  .len = A(len),
                                  .N = T,
                                  .kv_w = ALL - D,
                                  .out_w = D + 2,
                                  .q_ld = ALL,
                                  .kv_ld = ALL};
        drop[side_] = (mr_drop){0.3, 5, {A(rid), A(pos)}, 1};
    }
    twin *x = twin_acts(w, T * ALL), *dx = twin_acts(w, T * ALL), *prob = twin_reals(w, T * S);
    twin *out = twin_acts(w, T * (D + 2)), *dout = twin_acts(w, T * (D + 2));
    BOTH(attention_fwd, A(out), A(prob), A(x), COLUMN(x, D), NULL, &s[side_], &drop[side_], EX);
    twin_same(w, "attention_fwd, long", "out", out, S);
    BOTH(attention_bwd, A(dx), COLUMN(dx, D), NULL, A(dout), A(prob), A(x), COLUMN(x, D), NULL,
         &s[side_], 0, 0, 0, &drop[side_], EX);
    twin_same(w, "attention_bwd, long", "dq and dkv", dx, S);
    twin_release(w);
}

/* More columns than four times the threads of a block, more rows than parts. */
static void wide_norm(twin_world *w, int64_t N, int64_t W)
{
    twin *x = twin_acts(w, N * W), *y = twin_acts(w, N * W), *mean = twin_reals(w, N);
    twin *rstd = twin_reals(w, N), *dx = twin_acts(w, N * W);
    twin *gamma = twin_reals(w, W), *dg = twin_reals(w, W), *db = twin_reals(w, W);
    BOTH(layer_norm_fwd, A(y), A(mean), A(rstd), A(x), NULL, A(gamma), NULL, N, W, W, 1e-5, NULL,
         NULL, EX);
    twin_same(w, "layer_norm_fwd, wide", "y", y, W);
    BOTH(layer_norm_bwd, A(dx), NULL, A(dg), A(db), A(y), A(x), NULL, A(gamma), A(mean), A(rstd), N,
         W, W, 0, 0, 0, 1, NULL, NULL, EX);
    twin_same(w, "layer_norm_bwd, wide", "dx", dx, W);
    twin_same(w, "layer_norm_bwd, wide", "dgamma", dg, N);
    twin_same(w, "layer_norm_bwd, wide", "dbeta", db, N);
    /* in place: dx where dy was, and a residual that is x */
    BOTH(layer_norm_bwd, A(y), A(y), A(dg), NULL, A(y), A(x), A(x), A(gamma), A(mean), A(rstd), N,
         W, W, 0, 1, 1, 0, NULL, NULL, EX);
    twin_same(w, "layer_norm_bwd, in place", "dx", y, W);
    twin_same(w, "layer_norm_bwd, in place", "dgamma", dg, N);
    twin_release(w);
}

/* A row that shared memory does not hold; more positions than are added up at once. */
static void wide_fusion(twin_world *w, int64_t L, int64_t D)
{
    enum { B = 3 };
    twin *len = twin_ints(w, B, 37, 2, L + 1), *start = twin_starts(w, len);
    int64_t N = ((int32_t *)start->host)[B], sums = (L + 2) * D + 2;
    twin *a = twin_acts(w, B * L * D), *u = twin_acts(w, B * L * D), *k = twin_reals(w, L * D);
    twin *wp = twin_reals(w, D), *wf = twin_reals(w, D), *bp = twin_reals(w, 1);
    twin *h = twin_acts(w, N * D), *da = twin_acts(w, B * L * D), *du = twin_acts(w, B * L * D);
    twin *out = twin_reals(w, sums);
    BOTH(fuse_fwd, A(h), A(a), A(u), A(k), A(wp), A(bp), A(wf), A(bp), A(start), B, N, L, D, EX);
    twin_same(w, "fuse_fwd, wide", "h", h, D);
    BOTH(fuse_bwd, A(da), A(du), A(out), A(h), A(a), A(u), A(k), A(wp), A(bp), A(wf), A(bp),
         A(start), B, L, D, 1, 0, EX);
    twin_same(w, "fuse_bwd, wide", "da", da, D);
    twin_same(w, "fuse_bwd, wide", "du", du, D);
    twin_same(w, "fuse_bwd, wide", "sums", out, N * D);
    twin_release(w);
}

/* More positions than are read at once, and more than their sums have room for. */
static void many_positions(twin_world *w, int64_t L, int64_t D)
{
    enum { B = 9 };
    twin *len = twin_ints(w, B, L / 2 + 3, 1, L), *start = twin_starts(w, len);
    int64_t N = ((int32_t *)start->host)[B] + 3;
    twin *dx = twin_acts(w, N * D), *dy = twin_acts(w, N * D), *dt = twin_reals(w, L * D);
    for (int acc = 0; acc < 2; acc++) {
        BOTH(position_bwd, A(dx), A(dt), A(dy), A(start), A(len), N, B, L, D, acc, acc, EX);
        twin_same(w, "position_bwd, many", "dx", dx, 1);
        twin_same(w, "position_bwd, many", "dtable", dt, B);
    }
    twin *id = twin_ints(w, N, 7, 0, B), *table = twin_reals(w, B * D), *out = twin_acts(w, B * D);
    BOTH(context, A(out), A(table), MR_F32, A(id), A(start), A(len), B, D, D, B, 0.01, EX);
    twin_same(w, "context, many", "out", out, L);
    twin_release(w);
}

/* Every lane has two experts; gates without noise. */
static void many_experts(twin_world *w)
{
    enum { B = 4, L = 3, D = 7, E = MR_MOE_MAX_EXPERTS };
    twin *len = twin_ints(w, B, 1, 0, L + 1), *start = twin_starts(w, len);
    int64_t N = ((int32_t *)start->host)[B];
    twin *rid = twin_ints(w, B, 3, 7, 1000), *clean = twin_reals(w, N * E);
    twin *p = twin_acts(w, B * L * E), *u = twin_acts(w, B * L * D), *t = twin_acts(w, E * L * D);
    twin *y = twin_acts(w, N * E * D);
    BOTH(moe_gate_fwd, A(p), NULL, A(clean), NULL, A(start), A(rid), B, L, E, 0, 9, EX);
    twin_same(w, "moe_gate_fwd, 64 experts", "p", p, E);
    twin *dclean = twin_acts(w, N * E);
    BOTH(moe_gate_bwd, A(dclean), NULL, A(u), A(y), A(p), A(t), NULL, A(start), B, N, L, E, D, EX);
    twin_same(w, "moe_gate_bwd, 64 experts", "dclean", dclean, D);
    twin_release(w);
}

/* Two tiles into one list, with equal scores, NaN, and more places than columns. */
static void ranking(twin_world *w)
{
    enum { N = 3, M = 5, K = 7 };
    twin *s = twin_reals(w, N * M), *id = twin_ints(w, N * K, 1, 0, 9),
         *best = twin_reals(w, N * K);
    float *h = s->host;
    h[0] = h[3] = 0.5f;
    h[M] = NAN;
    h[M + 1] = -INFINITY;
    w->dev->to_device(w->dev, s->dev, s->host, N * M * 4);
    for (int first = 1; first >= 0; first--) {
        BOTH(topk_merge, A(id), A(best), A(s), N, M, K, first ? 0 : M, first, EX);
        twin_equal(w, "topk_merge, two tiles", "ids", id);
        twin_equal(w, "topk_merge, two tiles", "scores", best);
    }
    twin_release(w);
}

/* Features of half precision: all finite ones, subnormal numbers among them. */
static void halves(twin_world *w)
{
    enum { ROWS = 2048, W = 31 };
    twin *data = twin_ints(w, ROWS * W / 2, 0, 0, 1), *id = twin_ints(w, ROWS, 7, 0, ROWS + 5);
    twin *out = twin_acts(w, ROWS * W);
    for (int i = 0; i < ROWS * W; i++) {
        uint16_t bits = (uint16_t)(i * 3), e = bits >> 10 & 31;
        ((uint16_t *)data->host)[i] = e == 31 ? 0x0001 : bits; /* features are finite */
    }
    w->dev->to_device(w->dev, data->dev, data->host, ROWS * W * 2);
    BOTH(feature_gather, A(out), A(data), MR_F16, A(id), NULL, ROWS, 1, W, W, ROWS, EX);
    twin_equal(w, "feature_gather of halves", "out", out);
    twin_release(w);
}

/* Both inputs of a concatenation are one tensor: its gradient gets two terms. */
static void one_input_twice(twin_world *w)
{
    enum { N = 9, W = 13 };
    twin *dx = twin_acts(w, N * W), *dy = twin_acts(w, N * 2 * W);
    BOTH(concat_bwd, A(dx), A(dx), A(dy), N, W, W, 0, 1, NULL, EX);
    twin_same(w, "concat_bwd, one input twice", "dx", dx, 1);
    twin_release(w);
}

/* Rows that are read several elements at once. */
static void whole_loads(twin_world *w)
{
    enum { N = 21, W = 24, E = 5, L = 3 };
    twin *x = twin_acts(w, N * W), *y = twin_acts(w, N * W), *pre = twin_acts(w, N * W);
    twin *bias = twin_reals(w, W), *one = twin_reals(w, 1), *p = twin_acts(w, N * E);
    twin *rid = twin_ints(w, N, 3, 7, 1000), *pos = twin_ints(w, N, 1, 0, L);
    twin *row = twin_ints(w, N, 1, 0, N / L), *two = twin_acts(w, 2 * N * W);
    for (int acc = 0; acc < 2; acc++) {
        BOTH(mse, A(one), A(x), A(y), A(x), A(pre), N, W, W, 0.3, acc, acc, EX);
        twin_same(w, "mse, whole loads", "loss", one, N * W);
        twin_same(w, "mse, whole loads", "dpred", x, 1);
        twin_same(w, "mse, whole loads", "dtarget", y, 1);
        BOTH(bias_act_fwd, A(x), A(pre), A(bias), N, W, acc ? MR_ACT_GELU : MR_ACT_NONE, EX);
        twin_same(w, "bias_act_fwd, whole loads", "y", x, 1);
        twin_same(w, "bias_act_fwd, whole loads", "pre", pre, 1);
        BOTH(act_bwd, A(y), acc ? A(two) : NULL, A(x), A(pre), N, W,
             acc ? MR_ACT_SILU : MR_ACT_NONE, EX);
        twin_same(w, "act_bwd, whole loads", "dpre", y, 1);
        twin_same(w, "act_bwd, whole loads", "y", two, 1);
    }
    mr_drop drop[2];
    mr_rows_of rows[2];
    for (int side_ = 0; side_ < 2; side_++) {
        rows[side_] = (mr_rows_of){A(rid), A(pos)};
        drop[side_] = (mr_drop){0.3, 5, rows[side_], 1};
    }
    for (int acc = 0; acc < 2; acc++) {
        BOTH(dropout, A(y), A(x), N, W, acc, &drop[side_], EX);
        twin_same(w, "dropout, whole loads", "y", y, 1);
    }
    BOTH(moe_drop, A(two), A(x), rows[side_], N, W, 2, 2, E, 0.3, 8, EX);
    twin_same(w, "moe_drop, whole loads", "y", two, 1);
    ((int32_t *)row->host)[4] = -1;
    w->dev->to_device(w->dev, row->dev, row->host, N * 4);
    BOTH(moe_weigh, A(two), A(x), A(p), A(row), A(pos), N, L, E, 3, 2, W, EX);
    twin_same(w, "moe_weigh, whole loads", "z", two, 1);
    twin_release(w);
}

/* Ranges of Adam that are multiples of a load; the copy in bf16 ends within one. */
static void whole_ranges(twin_world *w)
{
    enum { N = 9000 };
    const mr_ranges two = {2, {0, 4016}, {4000, N}};
    twin *p = twin_reals(w, N), *m = twin_reals(w, N), *v = twin_positive(w, N);
    twin *g = twin_reals(w, N), *p16 = twin_halves(w, N, 1);
    BOTH(adam, A(p), A(m), A(v), A(g), &two, A(p16), 3998, 0.9, 0.99, 1e-8, 0.01, EX);
    twin_near(w, "adam, whole loads", "p16", p16);
    twin_same(w, "adam, whole loads", "p", p, 1);
    twin_same(w, "adam, whole loads", "m", m, 1);
    twin_same(w, "adam, whole loads", "v", v, 1);
    twin_release(w);
}

/* A rank without rows adds nothing to gradients, or sets them to 0. */
static void products_of_nothing(twin_world *w)
{
    enum { M = 7, N = 5 };
    mr_gemm_batch batch = {2, 3, 0, 0};
    twin *real = twin_reals(w, M * N), *x = twin_acts(w, M * N), *bias = twin_reals(w, M);
    for (int t = 0; t < 3; t++) {
        const double beta = t == 2 ? 0.0 : 0.5 + 0.5 * t;
        BOTH(gemm, A(real), A(x), A(x), M, N, 0, 1, 0, M, N, N, 1.0, beta, MR_REAL_ACT, EX);
        twin_same(w, "gemm of no terms", "c", real, 1);
    }
    BOTH(gemm_batch, A(x), A(x), A(x), &batch, M, 2, 0, 1, 0, M, 2, N, 1.0, 0.0, MR_ACT_ACT, EX);
    twin_same(w, "gemm_batch of no terms", "c", x, 1);
    BOTH(linear_bwd_w, A(real), A(bias), A(x), A(x), 0, M, N, 0, 0, EX);
    twin_same(w, "linear_bwd_w of no rows", "dw", real, 1);
    twin_same(w, "linear_bwd_w of no rows", "db", bias, 1);
    twin_release(w);
}

/* Ranks without rows and tables without tokens: no launch may have an empty grid. */
static void nothing(twin_world *w)
{
    enum { D = 6 };
    twin *x = twin_reals(w, 4 * D), *i = twin_ints(w, D, 1, 0, 3), *d = twin_doubles(w, D);
    mr_att_shape s = {.mode = MR_ATT_CAUSAL, .S = 4, .heads = 1, .d = D};
    mr_conv cv = {0, 3, 3, 2, 2, 1, 2, false, false};
    mr_conv_acc acc = {0, 1, 1, 1, 1};
    mr_gn gn = {0, 3, D, 2, 2 * D, 1e-5, {0, 9, {NULL, NULL}, 1}};
    BOTH(gemm, A(x), A(x), A(x), 0, D, D, 0, 0, D, D, D, 1.0, 0.0, MR_ACT_ACT, EX);
    BOTH(attention_fwd, A(x), A(x), A(x), A(x), NULL, &s, NULL, EX);
    BOTH(attention_bwd, A(x), A(x), NULL, A(x), A(x), A(x), A(x), NULL, &s, 1, 1, 0, NULL, EX);
    BOTH(layer_norm_fwd, A(x), A(x), A(x), A(x), NULL, NULL, NULL, 0, D, D, 1e-5, NULL, NULL, EX);
    BOTH(layer_norm_bwd, A(x), NULL, A(x), NULL, A(x), A(x), NULL, NULL, A(x), A(x), 0, D, D, 0, 0,
         1, 0, NULL, NULL, EX);
    BOTH(gather_rows, A(x), A(x), A(i), NULL, NULL, 0, D, MR_ACT_ACT, EX);
    BOTH(last_fwd, A(x), A(x), A(i), A(i), 0, D, EX);
    BOTH(row_dot, A(x), A(x), A(x), 0, D, EX);
    BOTH(conv3_fwd, A(x), A(x), A(x), NULL, NULL, NULL, &cv, EX);
    BOTH(conv3_bwd, A(x), NULL, NULL, NULL, NULL, A(x), A(x), A(x), &cv, &acc, EX);
    BOTH(group_norm_fwd, A(x), A(x), A(x), A(x), A(x), A(x), NULL, &gn, EX);
    BOTH(group_norm_conv3_fwd, A(x), A(x), A(x), A(x), A(x), A(x), A(x), NULL, &gn, A(x), NULL,
         NULL, NULL, &cv, EX);
    BOTH(score_tile, A(x), A(x), A(x), NULL, 0, D, D, EX);
    BOTH(score_target, A(x), A(x), A(x), NULL, A(i), 0, D, D, 0, EX);
    BOTH(topk_merge, A(i), A(x), A(x), 0, D, 2, 0, 1, EX);
    BOTH(rank_count, A(i), A(x), A(x), A(i), 0, D, 0, EX);
    BOTH(score_count, A(i), A(x), A(x), NULL, A(x), A(i), 0, D, D, 0, EX);
    BOTH(score_count, A(i), A(x), A(x), NULL, A(x), A(i), D, 0, D, 0, EX);
    BOTH(mse, NULL, A(x), NULL, A(x), A(x), 0, D, D, 0.3, 0, 0, EX);
    twin_same(w, "kernels of no rows", "x", x, 1);
    twin_equal(w, "kernels of no rows", "i", i);
    BOTH(ce_sum, A(x), A(d), 0, 0.5, EX);
    twin_same(w, "ce_sum of no rows", "loss", x, 1);
    BOTH(col_sum, A(x), A(x), 0, D, 0, EX);
    twin_same(w, "col_sum of no rows", "out", x, 1);
    twin_release(w);
}

void cases_d(twin_world *w)
{
    long_attention(w, 40, 6);
    long_attention(w, 512, 6);
    long_attention(w, 72, 301);
    wide_norm(w, 3, 1501);
    wide_norm(w, 700, 5);
    wide_norm(w, 2600, 37);
    wide_norm(w, 20, 5300);
    wide_fusion(w, 10, 516);
    wide_fusion(w, 70, 37);
    wide_fusion(w, 70, 61);
    many_positions(w, 13, 37);
    many_positions(w, 700, 50);
    many_experts(w);
    ranking(w);
    halves(w);
    one_input_twice(w);
    whole_loads(w);
    whole_ranges(w);
    products_of_nothing(w);
    nothing(w);
}
