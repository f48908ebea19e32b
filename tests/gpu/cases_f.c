/* Cases of rows with columns behind those that count (kernels.h): 0 in what is read, and 0 in what
 * is written over anything. All cases of attention, with such columns and without. */
#include <stdio.h>

#include "twin.h"

enum { B = 37, K = 3, COLS = 13, W = 16 };

/* Reals or acts [n,w] in rows whose columns from cols on are 0. */
static twin *rows(twin_world *w, int64_t n, int64_t cols, int64_t width, bool is_act)
{
    twin *t = twin_of(w, n * width, is_act);
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = cols; j < width; j++) ((float *)t->host)[i * width + j] = 0;
    twin_send(w, t);
    return t;
}

static void same(twin_world *w, const char *kernel, const char *what, const twin *t, int64_t cols,
                 int64_t width, int64_t length)
{
    twin_same(w, kernel, what, t, length);
    for (int64_t i = 0; i < t->n; i++)
        if (i % width >= cols && ((float *)t->host)[i] != 0.0f) {
            printf("%s, %s: element %lld is behind its columns and not 0\n", kernel, what,
                   (long long)i);
            w->failed++;
            return;
        }
}

/* Rows of COLS in W, or as wide as a warp's lanes keep, and wider. */
static void norm(twin_world *w, bool has_gamma, int64_t N, int64_t cols, int64_t width)
{
    twin *rid = twin_ints(w, N, 3, 7, 1000), *pos = twin_ints(w, N, 1, 0, 5);
    mr_drop in[2], out[2];
    for (int side_ = 0; side_ < 2; side_++) {
        in[side_] = (mr_drop){0.2, 5, {A(rid), A(pos)}, 1};
        out[side_] = (mr_drop){0.4, 6, {A(rid), A(pos)}, 7};
    }
    twin *x = rows(w, N, cols, width, true), *res = rows(w, N, cols, width, true);
    twin *dy = rows(w, N, cols, width, true), *gamma = rows(w, 1, cols, width, false);
    twin *beta = rows(w, 1, cols, width, false), *mean = twin_reals(w, N), *rstd = twin_reals(w, N);
    twin *y = twin_acts(w, N * width), *dx = twin_acts(w, N * width),
         *dr = rows(w, N, cols, width, true);
    twin *dg = twin_reals(w, width), *db = twin_reals(w, width);
    BOTH(layer_norm_fwd, A(y), A(mean), A(rstd), A(x), A(res), has_gamma ? A(gamma) : NULL,
         has_gamma ? A(beta) : NULL, N, width, cols, 1e-5, &in[side_], &out[side_], EX);
    same(w, "layer_norm_fwd", "y", y, cols, width, width);
    BOTH(layer_norm_bwd, A(dx), A(dr), A(dg), A(db), A(dy), A(x), A(res),
         has_gamma ? A(gamma) : NULL, A(mean), A(rstd), N, width, cols, 0, 1, 0, 0, &in[side_],
         &out[side_], EX);
    same(w, "layer_norm_bwd", "dx", dx, cols, width, width);
    same(w, "layer_norm_bwd", "dres", dr, cols, width, width);
    same(w, "layer_norm_bwd", "dgamma", dg, cols, width, N);
    same(w, "layer_norm_bwd", "dbeta", db, cols, width, N);
    twin_release(w);
}

/* Of B rows, 1 to L. */
static twin *lengths(twin_world *w, int64_t L)
{
    twin *len = twin_ints(w, B, 5, 2, L);
    for (int i = 0; i < B; i++) ((int32_t *)len->host)[i] += 1;
    w->dev->to_device(w->dev, len->dev, len->host, B * 4);
    return len;
}

/* Two heads of D / 2; q, k and v are columns of rows of ALL, from column `at` on; out has rows of
 * OUT. dq is added to what is there (acc 1), dkv (acc 2). */
static void attention_of_one(twin_world *w, int mode, int64_t D, int64_t OUT, int64_t ALL,
                             int64_t at, int acc)
{
    enum { L = 6 };
    twin *len = lengths(w, L), *rid = twin_ints(w, B, 3, 7, 1000);
    twin *start = twin_starts(w, len), *pos = twin_ints(w, B, 0, 0, 1);
    int64_t T = mode == MR_ATT_CAUSAL ? ((int32_t *)start->host)[B] + 5 : B * L;
    mr_att_shape s[2];
    mr_drop drop[2];
    for (int side_ = 0; side_ < 2; side_++) {
        s[side_] = (mr_att_shape){.mode = mode,
                                  .B = B,
                                  .S = L,
                                  .heads = 2,
                                  .d = D,
                                  .start = A(start),
                                  .len = A(len),
                                  .N = mode == MR_ATT_CAUSAL ? T : 0,
                                  .kv_w = ALL - at - D,
                                  .out_w = OUT,
                                  .q_ld = ALL,
                                  .kv_ld = ALL};
        drop[side_] = (mr_drop){0.3, 5, {A(rid), A(pos)}, 1};
    }
    int64_t end = at + 3 * D;
    twin *x = rows(w, T, end, ALL, true), *dx = rows(w, T, acc & 2 ? end : ALL, ALL, true);
    twin *dout = rows(w, T, D, OUT, true), *out = twin_acts(w, T * OUT);
    twin *prob = twin_reals(w, T * 2 * L);
    BOTH(attention_fwd, A(out), A(prob), COLUMN(x, at), COLUMN(x, at + D), NULL, &s[side_],
         &drop[side_], EX);
    same(w, "attention_fwd, columns of one", "out", out, D, OUT, D);
    twin_same(w, "attention_fwd, columns of one", "prob", prob, D);
    BOTH(attention_bwd, COLUMN(dx, at), COLUMN(dx, at + D), NULL, A(dout), A(prob), COLUMN(x, at),
         COLUMN(x, at + D), NULL, &s[side_], acc & 1, acc & 2, 0, &drop[side_], EX);
    same(w, "attention_bwd, columns of one", "dq and dkv", dx, end, ALL, D);
    twin_release(w);
}

/* Two heads of D / 2 in rows of QW, k and v in rows of KVW, at most L keys; dq is added to what is
 * there, or not. */
static void attention(twin_world *w, int mode, bool has_first, int64_t L, int64_t D, int64_t QW,
                      int64_t KVW, int acc_q)
{
    twin *len = lengths(w, L), *rid = twin_ints(w, B, 3, 7, 1000);
    twin *start = twin_starts(w, len), *pos = twin_ints(w, B, 0, 0, 1);
    bool ragged = mode == MR_ATT_CAUSAL || mode == MR_ATT_LAST;
    int64_t T = ragged ? ((int32_t *)start->host)[B] + 5 : B * (L - has_first);
    int64_t Q = mode == MR_ATT_CAUSAL ? T : mode == MR_ATT_FULL ? B * L : B;
    mr_att_shape s[2];
    mr_drop drop[2];
    for (int side_ = 0; side_ < 2; side_++) {
        s[side_] = (mr_att_shape){.mode = mode,
                                  .B = B,
                                  .S = L,
                                  .heads = 2,
                                  .d = D,
                                  .start = A(start),
                                  .len = A(len),
                                  .N = ragged ? T : 0,
                                  .q_w = QW,
                                  .kv_w = KVW,
                                  .out_w = QW};
        drop[side_] = (mr_drop){0.3, 5, {A(rid), A(pos)}, 1};
    }
    twin *q = rows(w, Q, D, QW, true), *kv = rows(w, T, 2 * D, KVW, true);
    twin *first = rows(w, B, 2 * D, KVW, true), *dout = rows(w, Q, D, QW, true);
    twin *out = twin_acts(w, Q * QW), *prob = twin_reals(w, Q * 2 * L);
    twin *dq = rows(w, Q, acc_q ? D : QW, QW, true), *dkv = rows(w, T, 2 * D, KVW, true);
    twin *df = twin_acts(w, B * KVW);
    BOTH(attention_fwd, A(out), A(prob), A(q), A(kv), has_first ? A(first) : NULL, &s[side_],
         &drop[side_], EX);
    same(w, "attention_fwd", "out", out, D, QW, D);
    twin_same(w, "attention_fwd", "prob", prob, D);
    BOTH(attention_bwd, A(dq), A(dkv), has_first ? A(df) : NULL, A(dout), A(prob), A(q), A(kv),
         has_first ? A(first) : NULL, &s[side_], acc_q, mode & 1, 0, &drop[side_], EX);
    same(w, "attention_bwd", "dq", dq, D, QW, D);
    same(w, "attention_bwd", "dkv", dkv, 2 * D, KVW, D);
    if (has_first) same(w, "attention_bwd", "dkv_first", df, 2 * D, KVW, D);
    twin_release(w);
}

/* Columns of which a Philox block is cut by the end of a row, and of which none is. */
static void diffusion(twin_world *w, int64_t cols)
{
    mr_int_list set = {2, {2, 5}};
    mr_noise nz = {4, 6, 0, 7, &set, false, W, cols}, pure = {4, 6, 3, 7, NULL, true, W, cols};
    twin *x0 = rows(w, B * K, cols, W, true), *x1 = rows(w, B * K, cols, W, true);
    twin *xt = twin_acts(w, B * K * W), *out = twin_acts(w, B * K * W);
    twin *abar = twin_doubles(w, 8), *rid = twin_ints(w, B, 3, 7, 1000);
    BOTH(noise_fwd, A(xt), A(x0), A(abar), A(rid), B, K * W, &nz, EX);
    same(w, "noise_fwd", "xt", xt, cols, W, 1);
    BOTH(noise_fwd, A(xt), A(x0), A(abar), A(rid), B, K * W, &pure, EX);
    same(w, "noise_fwd", "noise alone", xt, cols, W, 1);
    BOTH(posterior, A(out), A(x0), A(x1), A(rid), B, K * W, W, cols, 0.3, 0.6, 0.1, 8, EX);
    same(w, "posterior", "out", out, cols, W, 1);
    BOTH(posterior, A(xt), A(x0), A(x1), A(rid), B, K * W, W, cols, 0.3, 0.6, 0.0, 8, EX);
    same(w, "posterior", "no noise", xt, cols, W, 1);
    twin_release(w);
}

static void pooling(twin_world *w, int64_t cols)
{
    enum { OUT = 40 }; /* 3 cols at most */
    twin *x = rows(w, B, cols, W, true), *f = rows(w, B * K, cols, W, true);
    twin *t = rows(w, B, cols, W, true), *out = twin_acts(w, B * OUT);
    BOTH(pool_concat_fwd, A(out), A(x), A(f), A(t), B, K, cols, W, OUT, EX);
    same(w, "pool_concat_fwd", "out", out, 3 * cols, OUT, K);
    twin *dx = twin_acts(w, B * W), *df = rows(w, B * K, cols, W, true), *dt = twin_acts(w, B * W);
    BOTH(pool_concat_bwd, A(dx), A(df), A(dt), A(out), B, K, cols, W, OUT, 0, 1, 0, EX);
    same(w, "pool_concat_bwd", "dx0", dx, cols, W, 1);
    same(w, "pool_concat_bwd", "dframes", df, cols, W, 1);
    same(w, "pool_concat_bwd", "dtext", dt, cols, W, 1);
    twin_release(w);
}

static void features(twin_world *w, mr_dtype dtype, int64_t cols)
{
    enum { ITEMS = 9, L = 6 };
    twin *data =
        dtype == MR_F16 ? twin_halves(w, ITEMS * K * cols, 1) : twin_reals(w, ITEMS * K * cols);
    for (int i = 0; dtype == MR_F16 && i < ITEMS * K * cols; i++)
        ((uint16_t *)data->host)[i] &= 0xbbff; /* features are finite */
    w->dev->to_device(w->dev, data->dev, data->host, (size_t)data->n * data->width);
    twin *id = twin_ints(w, B * L, 7, 0, ITEMS + 2), *len = twin_ints(w, B, 5, 1, L);
    for (int i = 0; i < B; i++) ((int32_t *)len->host)[i] += !((int32_t *)len->host)[i];
    w->dev->to_device(w->dev, len->dev, len->host, B * 4);
    twin *start = twin_starts(w, len), *out = twin_acts(w, B * K * W), *c = twin_acts(w, B * W);
    BOTH(feature_gather, A(out), A(data), dtype, A(id), NULL, B, K, cols, W, ITEMS, EX);
    same(w, "feature_gather", "out", out, cols, W, 1);
    twin *more = rows(w, K, cols, W, false);
    BOTH(feature_gather, A(out), A(data), dtype, A(id), A(more), B, K, cols, W, ITEMS, EX);
    same(w, "feature_gather", "plus more", out, cols, W, 1);
    BOTH(context, A(c), A(data), dtype, A(id), A(start), A(len), B, cols, W, ITEMS, 0.4, EX);
    same(w, "context", "out", c, cols, W, L);
    twin_release(w);
}

static void losses(twin_world *w)
{
    twin *x = rows(w, B, COLS, W, true), *y = rows(w, B, COLS, W, true), *one = twin_reals(w, 1);
    twin *dx = twin_acts(w, B * W), *dy = twin_acts(w, B * W);
    BOTH(mse, A(one), A(dx), A(dy), A(x), A(y), B, W, COLS, 0.3, 0, 0, EX);
    twin_same(w, "mse", "loss", one, 1);
    same(w, "mse", "dpred", dx, COLS, W, 1);
    same(w, "mse", "dtarget", dy, COLS, W, 1);
    BOTH(probe_fwd, A(one), A(x), B * W, COLS, W, EX);
    twin_same(w, "probe_fwd", "out", one, B * W);
    BOTH(probe_bwd, A(dx), B * W, COLS, W, 0.5, 0, EX);
    same(w, "probe_bwd", "dx", dx, COLS, W, 1);
    twin_release(w);
}

void cases_f(twin_world *w)
{
    static const int64_t widths[][3] = {{101, COLS, W}, {3001, COLS, W},  {70, 300, 304},
                                        {37, 768, 768}, {21, 1001, 1008}, {9, 1030, 1032}};
    for (int i = 0; i < 6; i++) {
        norm(w, true, widths[i][0], widths[i][1], widths[i][2]);
        norm(w, false, widths[i][0], widths[i][1], widths[i][2]);
    }
    /* by one column, two, four and eight, in one turn of a warp and in several; keys whose dropout
     * is one Philox block, several, and more than a warp draws at once */
    static const int64_t heads[][4] = {{6, 12, 16, 32},     {13, 30, 30, 60},   {6, 100, 104, 208},
                                       {11, 148, 148, 296}, {5, 168, 168, 336}, {6, 304, 304, 608},
                                       {10, 400, 400, 800}, {3, 300, 304, 600}};
    for (int k = 0; k < 8; k++) {
        const int64_t *h = heads[k];
        for (int mode = 0; mode < 4; mode++)
            attention(w, mode, false, h[0], h[1], h[2], h[3], k % 2);
        attention(w, MR_ATT_ONE, true, h[0], h[1], h[2], h[3], k % 2);
    }
    /* By two columns; by one: heads of 15, rows of an odd width, an odd first column; by as many as
     * 16 bytes have, and by four: rows or a first column that are multiples of four alone. */
    static const int64_t of_one[][4] = {{12, 16, 40, 0},    {300, 304, 904, 0}, {30, 32, 96, 0},
                                        {12, 16, 37, 0},    {12, 16, 40, 1},    {304, 304, 912, 0},
                                        {304, 304, 916, 0}, {304, 304, 920, 4}};
    for (int k = 0; k < 8; k++)
        for (int acc = 0; acc < 4; acc++)
            attention_of_one(w, acc % 2 ? MR_ATT_CAUSAL : MR_ATT_FULL, of_one[k][0], of_one[k][1],
                             of_one[k][2], of_one[k][3], (k + acc) % 4);
    diffusion(w, COLS);
    diffusion(w, COLS - 1);
    pooling(w, COLS);
    pooling(w, COLS - 1);
    for (int64_t cols = COLS; cols >= 8; cols -= 5) { /* cut into pieces of 16 bytes: 8 alone */
        features(w, MR_F32, cols);
        features(w, MR_F16, cols);
    }
    losses(w);
}
