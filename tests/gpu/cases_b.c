/* Cases of U-Net and diffusion. Odd sizes; every dropout on. */
#include "twin.h"

enum { B = 37 };

/* n samples of F frames; as wide in as out: then the residual is x itself. */
static void convolution(twin_world *w, int64_t n, int64_t F, int stride, int64_t ci, int64_t co)
{
    bool is_same = ci == co;
    int64_t LD = co % 8 ? co + 3 : co + 8;
    mr_conv cv = {n, F, (F + stride - 1) / stride, ci, co, stride, LD, false, false};
    twin *x = twin_acts(w, n * F * ci), *wt = twin_acts(w, co * 3 * ci);
    twin *y = twin_acts(w, n * cv.So * co), *dx = twin_acts(w, n * F * ci);
    twin *dw = twin_reals(w, 3 * ci * co), *bias = twin_reals(w, co), *ctx = twin_acts(w, n * LD);
    twin *dres = twin_acts(w, n * cv.So * co), *res = twin_acts(w, n * cv.So * co);
    mr_conv_acc acc = {stride == 2, stride == 1, 1, 1, stride == 2};
    BOTH(conv3_fwd, A(y), A(x), A(wt), A(bias), A(res), A(ctx), &cv, EX);
    twin_same(w, "conv3_fwd", "y", y, 18);
    BOTH(conv3_bwd, A(dx), A(dw), A(bias), is_same ? A(dx) : A(dres), A(ctx), A(y), A(x), A(wt),
         &cv, &acc, EX);
    twin_same(w, "conv3_bwd", "dx", dx, 30);
    twin_same(w, "conv3_bwd", "dw", dw, n * F);
    twin_same(w, "conv3_bwd", "dbias", bias, n * F);
    twin_same(w, "conv3_bwd", "dres", dres, 1);
    twin_same(w, "conv3_bwd", "dctx", ctx, F);
    acc = (mr_conv_acc){1, 0, 0, 0, 0};
    BOTH(conv3_bwd, A(dx), NULL, NULL, NULL, NULL, A(y), A(x), A(wt), &cv, &acc, EX);
    twin_same(w, "conv3_bwd", "dx alone", dx, 30);
    BOTH(conv3_bwd, NULL, A(dw), NULL, NULL, NULL, A(y), A(x), A(wt), &cv, &acc, EX);
    twin_same(w, "conv3_bwd", "dw alone", dw, n * F);
    BOTH(conv3_bwd_add, A(bias), A(dres), A(ctx), A(y), n, cv.So, co, LD, 1, 1, 0, EX);
    twin_same(w, "conv3_bwd_add", "dbias", bias, n * F);
    twin_same(w, "conv3_bwd_add", "dres", dres, 1);
    twin_same(w, "conv3_bwd_add", "dctx", ctx, F);
    twin_release(w);
}

/* A norm of C channels joined to a convolution of CO, and backward from its framed rows. */
static void norm_conv(twin_world *w, int64_t n, int64_t F, int stride, int64_t C, int64_t G,
                      int64_t CO, int64_t LD)
{
    twin *rid = twin_ints(w, n, 3, 7, 1000), *pos = twin_ints(w, n, 0, 0, 1);
    mr_conv cv = {n, F, (F + stride - 1) / stride, C, CO, stride, LD, false, false};
    mr_conv_acc acc = {0, 1, 0, 0, 0};
    mr_gn gn[2];
    for (int side_ = 0; side_ < 2; side_++)
        gn[side_] = (mr_gn){n, F, C, G, 0, 1e-5, {0.2, 9, {A(rid), A(pos)}, 1}};
    twin *x = twin_acts(w, n * F * C), *y = twin_acts(w, n * cv.So * CO);
    twin *framed = twin_acts(w, mr_framed_rows(n, F) * C), *film = twin_acts(w, 2 * C);
    twin *gamma = twin_reals(w, C), *beta = twin_reals(w, C), *mean = twin_reals(w, n * G);
    twin *rstd = twin_reals(w, n * G), *wt = twin_acts(w, CO * 3 * C), *bias = twin_reals(w, CO);
    twin *res = twin_acts(w, n * cv.So * CO), *ctx = twin_acts(w, n * LD);
    twin *dw = twin_reals(w, CO * 3 * C), *db = twin_reals(w, CO), *du = twin_acts(w, n * F * C);
    BOTH(group_norm_conv3_fwd, A(y), A(framed), A(mean), A(rstd), A(x), A(gamma), A(beta), A(film),
         &gn[side_], A(wt), A(bias), A(res), A(ctx), &cv, EX);
    twin_same(w, "group_norm_conv3_fwd", "y", y, 3 * C);
    twin_same(w, "group_norm_conv3_fwd", "framed", framed, F * C);
    twin_same(w, "group_norm_conv3_fwd", "rstd", rstd, F * C);
    cv.x_framed = true;
    BOTH(conv3_bwd, A(du), A(dw), A(db), NULL, NULL, A(y), A(framed), A(wt), &cv, &acc, EX);
    twin_same(w, "conv3_bwd, framed", "dx", du, 3 * CO);
    twin_same(w, "conv3_bwd, framed", "dw", dw, n * F);
    twin_same(w, "conv3_bwd, framed", "dbias", db, n * F);
    BOTH(conv3_fwd, A(y), A(framed), A(wt), NULL, A(res), NULL, &cv, EX);
    twin_same(w, "conv3_fwd, framed", "y", y, 3 * C);
    twin_release(w);
}

/* Whoever writes dy[n,So,co] of a convolution takes along what its backward begins with. */
static void begun(twin_world *w, int64_t n, int64_t F, int64_t co, int stride, bool is_framed)
{
    enum { CI = 7 };
    int64_t G = co % 16 ? 3 : 4, WB = co % 8 ? 17 : 24, ld = co % 8 ? co + 2 : co + 4;
    int64_t So = (F + stride - 1) / stride, S2 = 2 * So + 1, ny = n * So * co;
    twin *rid = twin_ints(w, n, 3, 7, 1000), *pos = twin_ints(w, n, 0, 0, 1);
    mr_conv cv = {n, F, So, CI, co, stride, ld, is_framed, false};
    int64_t rows = mr_conv_rows(&cv);
    twin *unfolded = twin_acts(w, rows * co * 3), *sums = twin_reals(w, mr_conv_sums(&cv));
    twin *x = twin_acts(w, rows * CI), *wt = twin_acts(w, co * 3 * CI);
    twin *dx = twin_acts(w, n * F * CI), *dw = twin_reals(w, co * 3 * CI);
    twin *db = twin_reals(w, co), *dres = twin_acts(w, ny), *dctx = twin_acts(w, n * ld);
    twin *dy = twin_acts(w, ny), *in = twin_acts(w, ny), *mean = twin_reals(w, n * G);
    twin *rstd = twin_reals(w, n * G), *gamma = twin_reals(w, co), *beta = twin_reals(w, co);
    twin *dg = twin_reals(w, co), *dbeta = twin_reals(w, co), *from = twin_acts(w, ny);
    twin *wide = twin_acts(w, n * So * (co + WB)), *other = twin_acts(w, n * So * WB);
    twin *more = twin_acts(w, n * S2 * co);
    mr_conv_acc acc = {1, 0, stride == 1, stride == 2, is_framed};
    db->is_summed = true;
    mr_conv_begin next[2];
    mr_gn gn[2];
    for (int side_ = 0; side_ < 2; side_++) {
        next[side_] = (mr_conv_begin){cv, acc, A(unfolded), A(db), A(dres), A(dctx), A(sums)};
        gn[side_] = (mr_gn){n, So, co, G, 0, 1e-5, {0.2, 9, {A(rid), A(pos)}, 1}};
    }
#define SAME(who)                                                                                  \
    twin_same(w, who, "dy", dy, So *co);                                                           \
    twin_same(w, who, "unfolded", unfolded, So *co);                                               \
    twin_same(w, who, "dbias", db, n *So);                                                         \
    twin_same(w, who, "dres", dres, So *co);                                                       \
    twin_same(w, who, "dctx", dctx, 1000 * So)
    BOTH(conv3_bwd_begin, &next[side_], A(dy), EX);
    SAME("conv3_bwd_begin");
    BOTH(group_norm_fwd, A(from), A(mean), A(rstd), A(in), A(gamma), A(beta), NULL, &gn[side_], EX);
    twin_same(w, "group_norm_fwd", "y", from, So * co);
    twin_same(w, "group_norm_fwd", "rstd", rstd, So * co);
    BOTH(group_norm_bwd, A(dy), A(dg), A(dbeta), NULL, A(from), A(in), A(mean), A(rstd), A(gamma),
         A(beta), NULL, &gn[side_], 1, 0, 1, 0, &next[side_], EX);
    SAME("group_norm_bwd, next");
    twin_same(w, "group_norm_bwd, next", "dgamma", dg, n * So);
    twin_same(w, "group_norm_bwd, next", "dbeta", dbeta, n * So);
    BOTH(upsample_bwd, A(dy), A(more), n, So, S2, co, 1, &next[side_], EX);
    SAME("upsample_bwd, next");
    BOTH(concat_bwd, A(dy), A(other), A(wide), n * So, co, WB, 0, 1, &next[side_], EX);
    SAME("concat_bwd, next");
    twin_same(w, "concat_bwd, next", "db", other, 1);
#undef SAME
    cv.is_begun = true;
    BOTH(conv3_bwd, A(dx), A(dw), NULL, NULL, NULL, A(unfolded), A(x), A(wt), &cv, &acc, EX);
    twin_same(w, "conv3_bwd, begun", "dx", dx, 3 * co);
    twin_same(w, "conv3_bwd, begun", "dw", dw, n * So);
    twin_release(w);
}

/* n samples of S frames and C channels; with thousands, more blocks than groups of sixteen. */
static void group_norm(twin_world *w, int64_t n, int64_t S, int64_t C, int64_t G, int64_t film_ld)
{
    twin *rid = twin_ints(w, n, 3, 7, 1000), *pos = twin_ints(w, n, 0, 0, 1);
    mr_gn gn[2];
    for (int side_ = 0; side_ < 2; side_++)
        gn[side_] = (mr_gn){n, S, C, G, film_ld, 1e-5, {0.2, 9, {A(rid), A(pos)}, 1}};
    twin *x = twin_acts(w, n * S * C), *y = twin_acts(w, n * S * C);
    twin *film = twin_acts(w, n * film_ld);
    twin *gamma = twin_reals(w, C), *beta = twin_reals(w, C), *mean = twin_reals(w, n * G);
    twin *rstd = twin_reals(w, n * G), *dx = twin_acts(w, n * S * C);
    twin *dy = twin_acts(w, n * S * C);
    twin *dg = twin_reals(w, C), *db = twin_reals(w, C), *dfilm = twin_acts(w, n * film_ld);
    BOTH(group_norm_fwd, A(y), A(mean), A(rstd), A(x), A(gamma), A(beta), A(film), &gn[side_], EX);
    BOTH(group_norm_bwd, A(dx), A(dg), A(db), A(dfilm), A(dy), A(x), A(mean), A(rstd), A(gamma),
         A(beta), A(film), &gn[side_], 1, 0, 1, 0, NULL, EX);
    twin_same(w, "group_norm_fwd", "y", y, S * C);
    twin_same(w, "group_norm_fwd", "mean", mean, S * C);
    twin_same(w, "group_norm_fwd", "rstd", rstd, S * C);
    twin_same(w, "group_norm_bwd", "dx", dx, S * C);
    twin_same(w, "group_norm_bwd", "dgamma", dg, n * S);
    twin_same(w, "group_norm_bwd", "dbeta", db, n * S);
    twin_same(w, "group_norm_bwd", "dfilm", dfilm, S);
    twin_release(w);
}

/* width: of rows that fall into pieces of 16 bytes, and of ones that do not */
static void diffusion(twin_world *w, int64_t width)
{
    mr_int_list set = {2, {2, 5}};
    mr_noise nz[] = {{4, 6, 0, 7, &set, false, 0, 0}, {5, 7, 3, 7, NULL, false, 0, 0}};
    twin *x0 = twin_acts(w, B * width), *xt = twin_acts(w, B * width);
    twin *out = twin_acts(w, B * width), *te = twin_acts(w, B * 16);
    twin *abar = twin_doubles(w, 8), *rid = twin_ints(w, B, 3, 7, 1000);
    for (int k = 0; k < 2; k++) { /* each row's t, one of all rows */
        BOTH(noise_fwd, A(xt), A(x0), A(abar), A(rid), B, width, &nz[k], EX);
        twin_same(w, "noise_fwd", "xt", xt, 1);
        BOTH(noise_bwd, A(out), A(x0), A(abar), A(rid), B, width, &nz[k], k == 0, EX);
        twin_same(w, "noise_bwd", "dx0", out, 1);
    }
    BOTH(posterior, A(out), A(x0), A(xt), A(rid), B, width, width, width, 0.3, 0.6, 0.1, 8, EX);
    twin_same(w, "posterior", "out", out, 1);
    BOTH(time_embed, A(te), A(rid), B, 16, 4, 7, &set, EX);
    twin_same(w, "time_embed", "out", te, 1);
    twin_release(w);
}

/* Every number of channels and frames for which a warp does a sample, and what a block does: pieces
 * of channels that do not fit, too many frames, too many channels. */
static void group_norms(twin_world *w)
{
    static const int64_t by_warps[][3] = {{3, 32, 8},  {3, 256, 8}, {3, 384, 8}, {2, 512, 4},
                                          {5, 128, 8}, {4, 200, 5}, {1, 64, 4}};
    for (int k = 0; k < 7; k++) {
        int64_t S = by_warps[k][0], C = by_warps[k][1];
        group_norm(w, B, S, C, by_warps[k][2], 2 * C + 8);
    }
    group_norm(w, 4000, 3, 16, 4, 32);
    group_norm(w, 0, 3, 16, 4, 32);
    group_norm(w, B, 8, 12, 3, 27);
    group_norm(w, B, 5, 36, 6, 72);
    group_norm(w, B, 8, 32, 4, 64);
    group_norm(w, 5, 5, 264, 3, 528);
    group_norm(w, 5, 3, 520, 4, 1040);
    group_norm(w, 300, 8, 12, 3, 27);
    group_norm(w, 4000, 8, 12, 3, 27);
}

void cases_b(twin_world *w)
{
    convolution(w, B, 8, 1, 6, 10);
    convolution(w, B, 8, 2, 6, 10);
    convolution(w, 300, 5, 2, 6, 10);
    convolution(w, B, 1, 2, 6, 10);
    convolution(w, B, 8, 1, 10, 10);
    convolution(w, 0, 8, 1, 6, 10);
    convolution(w, B, 5, 1, 16, 24);
    convolution(w, B, 5, 2, 24, 16);
    convolution(w, 3, 9, 1, 24, 24);
    norm_conv(w, B, 8, 1, 12, 3, 7, 9);
    norm_conv(w, B, 5, 2, 12, 3, 7, 9);
    norm_conv(w, 3, 1, 1, 12, 3, 7, 9);
    norm_conv(w, B, 5, 1, 128, 8, 24, 32);
    norm_conv(w, B, 3, 1, 256, 8, 40, 40);
    norm_conv(w, B, 5, 2, 32, 4, 20, 20);
    norm_conv(w, 3, 1, 1, 32, 4, 12, 12);
    begun(w, B, 5, 12, 1, true);
    begun(w, B, 5, 9, 2, true);
    begun(w, 3, 1, 3, 1, true);
    begun(w, 3, 4, 15, 2, false);
    begun(w, 300, 3, 300, 1, false);
    begun(w, 4000, 2, 12, 1, true);
    begun(w, B, 5, 128, 1, true);
    begun(w, B, 5, 24, 2, false);
    begun(w, B, 6, 64, 2, true);
    begun(w, 3, 9, 32, 1, true);
    begun(w, 5, 3, 640, 1, true);
    group_norms(w);
    diffusion(w, 30);
    diffusion(w, 3 * 304);
}
