/* Cases of look-ups, losses and TedRec. Odd sizes. */
#include "twin.h"

enum { B = 37, L = 6, D = 30, ITEMS = 23 };

/* width: of rows that fall into pieces of 16 bytes, and of ones that do not */
static void embed(twin_world *w, int64_t width)
{
    twin *table = twin_reals(w, ITEMS * width), *row = twin_ints(w, B * L, 7, 1, ITEMS);
    twin *out = twin_acts(w, B * L * width), *len = twin_ints(w, B, 5, 1, L);
    for (int i = 0; i < B; i++) ((int32_t *)len->host)[i] += !((int32_t *)len->host)[i];
    w->dev->to_device(w->dev, len->dev, len->host, B * 4);
    twin *start = twin_starts(w, len), *pos = twin_ints(w, B * L, 1, 0, L);
    twin *y = twin_acts(w, B * width), *dt = twin_reals(w, L * width),
         *x = twin_acts(w, B * L * width);
    BOTH(gather_rows, A(out), A(table), A(row), NULL, NULL, B * L, width, MR_ACT_REAL, EX);
    twin_equal(w, "gather_rows", "out", out);
    BOTH(gather_rows, A(out), A(table), A(row), A(table), A(pos), B * L, width, MR_ACT_REAL, EX);
    twin_equal(w, "gather_rows", "plus more", out);
    BOTH(gather_padded, A(out), A(table), A(row), A(start), A(len), B, L, width, 0, EX);
    twin_equal(w, "gather_padded", "out", out);
    BOTH(position_fwd, A(out), A(out), A(table), A(pos), B * L, width, EX);
    twin_same(w, "position_fwd", "y", out, 1);
    BOTH(position_bwd, A(x), A(dt), A(out), A(start), A(len), B * L, B, L, width, 0, 1, EX);
    twin_same(w, "position_bwd", "dx", x, 1);
    twin_same(w, "position_bwd", "dtable", dt, B);
    BOTH(position_bwd, NULL, A(dt), A(out), A(start), A(len), B * L, B, L, width, 0, 0, EX);
    twin_same(w, "position_bwd", "dtable alone", dt, B);
    BOTH(last_fwd, A(y), A(out), A(start), A(len), B, width, EX);
    twin_same(w, "last_fwd", "y", y, 1);
    for (int acc = 0; acc < 2; acc++) {
        BOTH(last_bwd, A(out), A(y), A(start), A(len), B, B * L, width, acc, EX);
        twin_same(w, "last_bwd", "dx", out, 1);
    }
    BOTH(feature_gather, A(out), A(table), MR_F32, A(row), NULL, B * L, 1, width, width, ITEMS - 3,
         EX);
    twin_equal(w, "feature_gather", "out", out);
    BOTH(feature_gather, A(out), A(table), MR_F32, A(row), A(table), B * 2, 3, width, width,
         ITEMS / 3 - 2, EX);
    twin_equal(w, "feature_gather", "plus more", out);
    BOTH(context, A(y), A(table), MR_F32, A(row), A(start), A(len), B, width, width, ITEMS - 3, 0.4,
         EX);
    twin_same(w, "context", "out", y, L);
    /* an inverse index with the rows' own starts, distinct rows, one of them skipped */
    twin *big = twin_reals(w, B * width), *to = twin_ints(w, B, 1, 0, B);
    for (int acc = 0; acc < 2; acc++) {
        BOTH(add_rows, A(big), A(out), A(to), A(start), A(row), B, width, B, acc, 4, NULL, NULL, 0,
             MR_REAL_ACT, EX);
        twin_same(w, "add_rows", "out", big, L);
        BOTH(add_rows, A(big), A(out), NULL, A(start), A(row), B, width, B, acc, 4, NULL, NULL, 0,
             MR_REAL_ACT, EX);
        twin_same(w, "add_rows to every row", "out", big, L);
        BOTH(add_rows, A(big), A(out), NULL, A(start), A(row), B - 3, width, B, acc, -1, NULL, NULL,
             0, MR_REAL_ACT, EX);
        twin_same(w, "add_rows to the first rows", "out", big, L);
    }
    twin_release(w);
}

static void losses(twin_world *w)
{
    enum { V = 41, LO = 3 };
    twin *x = twin_reals(w, B * D), *t = twin_reals(w, B * D), *y = twin_reals(w, B * D);
    twin *z = twin_reals(w, B * D), *s = twin_reals(w, B), *inv = twin_reals(w, B);
    twin *one = twin_reals(w, 1), *raw = twin_reals(w, B * V), *stats = twin_doubles(w, 3 * B);
    twin *target = twin_ints(w, B, 11, 0, V + 6), *skip = twin_ints(w, B, 7, 1, V + 6);
    twin *coef = twin_reals(w, B), *ce = twin_doubles(w, B), *cs = twin_positive(w, V);
    twin *ids = twin_ints(w, 2 * (B + 4), 1, 0, 9), *more = twin_ints(w, 2 * (B + 4), 1, 0, 9);
    twin *nobody = twin_ints(w, B, 3, -2, 9), *rank_rows = twin_ints(w, 3, 1, 0, 3);
    twin *table = twin_reals(w, V * D), *dtable = twin_reals(w, V * D);
    twin *pred = twin_acts(w, B * D), *aim = twin_acts(w, B * D);
    twin *dpred = twin_acts(w, B * D), *daim = twin_acts(w, B * D);
    BOTH(mse, A(one), A(dpred), A(daim), A(pred), A(aim), B, D, D, 0.3, 1, 0, EX);
    twin_same(w, "mse", "loss", one, 1);
    twin_same(w, "mse", "dpred", dpred, 1);
    twin_same(w, "mse", "dtarget", daim, 1);
    BOTH(mse, A(one), NULL, A(daim), A(dpred), A(aim), B - 3, D, D, 0.3, 0, 1, EX);
    twin_same(w, "mse", "loss and dtarget", one, 1);
    BOTH(mse, NULL, A(dpred), NULL, A(pred), A(aim), B, D, D, 0.7, 0, 1, EX);
    twin_same(w, "mse", "dpred alone", dpred, 1);
    BOTH(mse, A(one), A(dpred), A(daim), A(pred), A(aim), 2 * B, D / 2, D / 2, 0.3, 1, 0, EX);
    twin_same(w, "mse with rows of no batch", "loss", one, 1);
    twin_same(w, "mse with rows of no batch", "dpred", dpred, 1);
    twin_same(w, "mse with rows of no batch", "dtarget", daim, 1);
    BOTH(row_inv_norm, A(inv), A(x), B, D, EX);
    twin_same(w, "row_inv_norm", "inv", inv, D);
    BOTH(row_scale, A(y), A(x), A(inv), B, D, EX);
    twin_same(w, "row_scale", "y", y, 1);
    BOTH(row_dot, A(s), A(x), A(t), B, D, EX);
    twin_same(w, "row_dot", "s", s, D);
    BOTH(norm_project, A(z), A(y), A(x), A(inv), A(s), B, D, 1, EX);
    twin_same(w, "norm_project", "y", z, D);
    BOTH(ce_rows, A(raw), A(stats), A(target), A(skip), A(cs), B, V, LO, 2.0, (double)INFINITY, EX);
    twin_same(w, "ce_rows", "q", raw, V);
    twin_same(w, "ce_rows", "stats", stats, V);
    BOTH(ce_rows, A(raw), A(stats), A(target), NULL, A(cs), B, V, LO, 2.0, 9.5, EX);
    twin_same(w, "ce_rows of a known maximum", "q", raw, V);
    twin_same(w, "ce_rows of a known maximum", "stats", stats, V);
    BOTH(ce_combine, A(coef), A(ce), NULL, A(stats), A(target), NULL, B, 1, 1, 0, 0.5, EX);
    twin_same(w, "ce_combine", "coef", coef, V);
    twin_same(w, "ce_combine", "ce", ce, V);
    BOTH(ce_combine, A(coef), A(ce), A(y), A(stats), A(nobody), A(x), B / 2, D, 2, 1, 0.5, EX);
    twin_same(w, "ce_combine, two ranks", "coef", coef, V);
    twin_same(w, "ce_combine, two ranks", "ce", ce, V);
    twin_same(w, "ce_combine, two ranks", "xs", y, V);
    BOTH(ce_target, A(dtable), A(z), A(table), A(x), A(target), A(cs), NULL, A(coef), B, V, D, LO,
         2.0, 0.5, EX);
    twin_same(w, "ce_target", "dtable", dtable, B);
    twin_same(w, "ce_target", "dx", z, 1);
    BOTH(ce_sum, A(one), A(ce), B, 0.5, EX);
    twin_same(w, "ce_sum", "loss", one, B);
    BOTH(pair_ids, A(target), A(skip), B / 2, 3, B, EX);
    twin_equal(w, "pair_ids", "target", target);
    twin_equal(w, "pair_ids", "skip", skip);
    BOTH(pair_ids, A(ids), A(more), B + 4, 3, 3 * B, EX);
    twin_equal(w, "pair_ids with rows of no batch", "target", ids);
    twin_equal(w, "pair_ids with rows of no batch", "skip", more);
    BOTH(leave_out, A(raw), A(rank_rows), B, V, 2, 3, -1e30, EX);
    twin_same(w, "leave_out", "raw", raw, 1);
    BOTH(zero, A(z), B * D, EX);
    twin_equal(w, "zero", "y", z);
    twin_release(w);
}

static void frames(twin_world *w)
{
    enum { S = 4, S2 = 7 };
    twin *x = twin_acts(w, B * S * D), *y = twin_acts(w, B * S2 * D), *v = twin_acts(w, B * D);
    twin *o = twin_acts(w, B * 3 * D), *t = twin_acts(w, B * D), *bias = twin_reals(w, 2 * D);
    BOTH(upsample_fwd, A(y), A(x), B, S, S2, D, EX);
    twin_equal(w, "upsample_fwd", "y", y);
    BOTH(upsample_bwd, A(x), A(y), B, S, S2, D, 1, NULL, EX);
    twin_same(w, "upsample_bwd", "dx", x, 2);
    BOTH(frame_add, A(x), A(x), A(v), B, S, D, EX);
    twin_same(w, "frame_add", "y", x, 1);
    BOTH(pool_concat_fwd, A(o), A(v), A(x), A(t), B, S, D, D, 3 * D, EX);
    twin_same(w, "pool_concat_fwd", "out", o, S);
    BOTH(pool_concat_bwd, A(v), A(x), A(t), A(o), B, S, D, D, 3 * D, 1, 0, 1, EX);
    twin_same(w, "pool_concat_bwd", "dx0", v, 1);
    twin_same(w, "pool_concat_bwd", "dframes", x, 1);
    twin_same(w, "pool_concat_bwd", "dtext", t, 1);
    BOTH(concat_fwd, A(o), A(v), A(t), A(bias), B, D, D, EX);
    twin_same(w, "concat_fwd", "y", o, 1);
    BOTH(concat_bwd, A(v), A(t), A(o), B, D, D, 1, 0, NULL, EX);
    twin_same(w, "concat_bwd", "da", v, 1);
    twin_same(w, "concat_bwd", "db", t, 1);
    twin_release(w);
}

static void fusion(twin_world *w)
{
    twin *len = twin_ints(w, B, 5, 1, L), *start = twin_starts(w, len);
    int64_t N = ((int32_t *)start->host)[B] + 3, sums = (L + 2) * D + 2;
    twin *a = twin_acts(w, B * L * D), *u = twin_acts(w, B * L * D), *k = twin_reals(w, L * D);
    twin *filter = twin_reals(w, (L / 2 + 1) * D * 2), *wp = twin_reals(w, D);
    twin *bp = twin_reals(w, 1);
    twin *h = twin_acts(w, N * D), *da = twin_acts(w, B * L * D), *du = twin_acts(w, B * L * D);
    twin *out = twin_reals(w, sums), *wf = twin_reals(w, D);
    BOTH(fuse_filter_fwd, A(k), A(filter), L, D, EX);
    twin_same(w, "fuse_filter_fwd", "k", k, L);
    BOTH(fuse_fwd, A(h), A(a), A(u), A(k), A(wp), A(bp), A(wf), A(bp), A(start), B, N, L, D, EX);
    twin_same(w, "fuse_fwd", "h", h, D);
    BOTH(fuse_bwd, A(da), A(du), A(out), A(h), A(a), A(u), A(k), A(wp), A(bp), A(wf), A(bp),
         A(start), B, L, D, 0, 1, EX);
    twin_same(w, "fuse_bwd", "da", da, D);
    twin_same(w, "fuse_bwd", "du", du, D);
    twin_same(w, "fuse_bwd", "sums", out, N);
    twin *bf = twin_reals(w, 1);
    BOTH(fuse_params_bwd, A(filter), A(wp), A(wf), A(bp), A(bf), A(out), L, D, 21, EX);
    twin_same(w, "fuse_params_bwd", "dfilter", filter, N);
    twin_same(w, "fuse_params_bwd", "dwp", wp, 1);
    twin_same(w, "fuse_params_bwd", "dwf", wf, 1);
    twin_same(w, "fuse_params_bwd", "dbp", bp, 1);
    twin_same(w, "fuse_params_bwd", "dbf", bf, 1);
    twin_release(w);
}

static void experts(twin_world *w)
{
    enum { E = 5 };
    twin *len = twin_ints(w, B, 5, 1, L), *start = twin_starts(w, len);
    int64_t N = ((int32_t *)start->host)[B] + 3; /* the last ones belong to no row */
    twin *row = twin_ints(w, N, 1, 0, B);
    for (int i = 1; i < 4; i++) ((int32_t *)row->host)[N - i] = -1;
    w->dev->to_device(w->dev, row->dev, row->host, (size_t)N * 4);
    twin *rid = twin_ints(w, N + B, 3, 7, 1000), *pos = twin_ints(w, N, 1, 0, L);
    mr_rows_of rows[2];
    for (int side_ = 0; side_ < 2; side_++) rows[side_] = (mr_rows_of){A(rid), A(pos)};
    twin *clean = twin_reals(w, N * E), *noisy = twin_reals(w, N * E);
    twin *p = twin_acts(w, B * L * E);
    twin *factor = twin_reals(w, N * E), *y = twin_acts(w, N * E * D);
    twin *u = twin_acts(w, B * L * D);
    twin *t = twin_acts(w, E * L * D), *z = twin_acts(w, N * D);
    twin *two = twin_acts(w, 2 * N * D);
    BOTH(moe_gate_fwd, A(p), A(factor), A(clean), A(noisy), A(start), A(rid), B, L, E, 1, 9, EX);
    twin_same(w, "moe_gate_fwd", "p", p, E);
    twin_same(w, "moe_gate_fwd", "factor", factor, 1);
    BOTH(moe_mix_fwd, A(u), A(y), A(p), A(t), A(start), B, L, E, D, EX);
    twin_same(w, "moe_mix_fwd", "u", u, E);
    twin *dclean = twin_acts(w, N * E), *dnoisy = twin_acts(w, N * E);
    BOTH(moe_gate_bwd, A(dclean), A(dnoisy), A(u), A(y), A(p), A(t), A(factor), A(start), B, N, L,
         E, D, EX);
    twin_same(w, "moe_gate_bwd", "dclean", dclean, D);
    twin_same(w, "moe_gate_bwd", "dnoisy", dnoisy, D);
    BOTH(moe_weigh, A(two), A(u), A(p), A(row), A(pos), N, L, E, 3, 2, D, EX);
    twin_same(w, "moe_weigh", "z", two, 1);
    BOTH(moe_drop, A(two), A(z), rows[side_], N, D, 2, 2, E, 0.3, 8, EX);
    twin_same(w, "moe_drop", "y", two, 1);
    twin_release(w);
}

void cases_c(twin_world *w)
{
    embed(w, D);
    embed(w, 48);
    losses(w);
    frames(w);
    fusion(w);
    experts(w);
}
