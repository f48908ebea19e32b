/* Cases of `bench kernels`: U-Net, diffusion, TedRec. */
#include "cli/bench_kernels.h"

enum { GROUPS = 8 };

static void convolution(mr_kb *b)
{
    const mr_kb_sizes *z = &b->z;
    int64_t n = z->B, S = z->K, c = 2 * z->C; /* as in the middle of the U-Net */
    mr_conv cv = {n, S, S, c, c, 1, c, false, false};
    int64_t m = n * S * c;
    void *x = mr_kb_reals(b, m), *y = mr_kb_reals(b, m), *w = mr_kb_reals(b, 3 * c * c);
    void *bias = mr_kb_reals(b, c), *ctx = mr_kb_reals(b, n * c);
    void *dx = mr_kb_reals(b, m), *dw = mr_kb_reals(b, 3 * c * c);
    mr_conv_acc acc = {0};
    double flop = 6.0 * (double)(n * S) * (double)(c * c);
    BENCH(conv3_fwd, "", SHAPE(n, S, c, c), flop, 2 * m + 3 * c * c, y, x, w, bias, NULL, ctx, &cv);
    BENCH(conv3_bwd, "dx", SHAPE(n, S, c, c), flop, 2 * m + 3 * c * c, x, NULL, NULL, NULL, NULL, y,
          x, w, &cv, &acc);
    BENCH(conv3_bwd, "dw", SHAPE(n, S, c, c), flop, 2 * m + 3 * c * c, NULL, w, NULL, NULL, NULL, y,
          x, w, &cv, &acc);
    BENCH(conv3_bwd, "all", SHAPE(n, S, c, c), 2 * flop, 4 * m + 6 * c * c, dx, dw, bias, NULL, ctx,
          y, x, w, &cv, &acc);
    BENCH(conv3_bwd_add, "", SHAPE(n, S, c), 0, 2 * m, bias, x, ctx, y, n, S, c, c, 0, 0, 0);
    mr_conv_begin begin = {
        cv, acc, mr_kb_reals(b, 3 * m), bias, NULL, ctx, mr_kb_reals(b, mr_conv_sums(&cv))};
    BENCH(conv3_bwd_begin, "", SHAPE(n, S, c), 0, 4 * m, &begin, y);
    BENCH(frame_add, "", SHAPE(n, S, c), 0, 2 * m, y, x, ctx, n, S, c);
    mr_kb_release(b);
}

static void unet(mr_kb *b)
{
    const mr_kb_sizes *z = &b->z;
    int64_t n = z->B, S = z->K, S2 = (S + 1) / 2, c = z->C, m = n * S * c;
    mr_gn gn = {.n = n, .S = S, .c = c, .groups = GROUPS, .film_ld = 2 * c, .eps = 1e-5};
    void *x = mr_kb_reals(b, m), *y = mr_kb_reals(b, 2 * m), *film = mr_kb_reals(b, 2 * n * c);
    void *mean = mr_kb_reals(b, n * GROUPS), *rstd = mr_kb_reals(b, n * GROUPS);
    void *gamma = mr_kb_reals(b, c), *beta = mr_kb_reals(b, c), *dg = mr_kb_reals(b, c);
    void *db = mr_kb_reals(b, c), *dfilm = mr_kb_reals(b, 2 * n * c), *dx = mr_kb_reals(b, m);
    BENCH(group_norm_fwd, "film, silu", SHAPE(n, S, c), 0, 2 * m, y, mean, rstd, x, gamma, beta,
          film, &gn);
    mr_conv cv = {n, S, S, c, c, 1, c, false, false};
    void *w = mr_kb_reals(b, 3 * c * c), *framed = mr_kb_reals(b, mr_framed_rows(n, S) * c);
    BENCH(group_norm_conv3_fwd, "film, silu", SHAPE(n, S, c, c), 6.0 * (double)(m * c),
          4 * m + 3 * c * c, y, framed, mean, rstd, x, gamma, beta, film, &gn, w, gamma, NULL, NULL,
          &cv);
    BENCH(group_norm_bwd, "film, silu", SHAPE(n, S, c), 0, 3 * m, dx, dg, db, dfilm, y, x, mean,
          rstd, gamma, beta, film, &gn, 0, 0, 0, 0, NULL);
    BENCH(upsample_fwd, "", SHAPE(n, S, c), 0, 2 * m, y, x, n, S2, S, c);
    BENCH(upsample_bwd, "", SHAPE(n, S, c), 0, 2 * m, x, y, n, S2, S, c, 0, NULL);
    BENCH(concat_fwd, "", SHAPE(n * S, c, c), 0, 4 * m, y, x, dx, NULL, n * S, c, c);
    BENCH(concat_bwd, "", SHAPE(n * S, c, c), 0, 4 * m, x, dx, y, n * S, c, c, 0, 0, NULL);
    BENCH(time_embed, "", SHAPE(n, c), 0, n * c, film, b->rid, n, c, MR_RNG_T_TCD, z->T, NULL);
    mr_kb_release(b);
}

static void diffusion(mr_kb *b)
{
    const mr_kb_sizes *z = &b->z;
    int64_t n = z->B, w = z->K > 0 && z->D > 0 ? z->K * z->D : z->d, m = n * w;
    int64_t d = z->d, K = z->K > 0 ? z->K : 1;
    mr_noise nz = {.purpose_t = MR_RNG_T_TCD, .purpose_eps = MR_RNG_EPS_TCD, .t_max = z->T};
    void *x = mr_kb_reals(b, m), *y = mr_kb_reals(b, m);
    void *row = mr_kb_reals(b, n * d), *frames = mr_kb_reals(b, n * K * d);
    void *text = mr_kb_reals(b, n * d), *out = mr_kb_reals(b, 3 * n * d);
    double *abar = mr_kb_doubles(b, z->T + 1);
    BENCH(noise_fwd, "", SHAPE(n, w), 0, 2 * m, y, x, abar, b->rid, n, w, &nz);
    BENCH(noise_bwd, "", SHAPE(n, w), 0, 2 * m, x, y, abar, b->rid, n, w, &nz, 0);
    BENCH(posterior, "with noise", SHAPE(n, w), 0, 3 * m, y, x, y, b->rid, n, w, w, w, 0.5, 0.4,
          0.1, MR_RNG_POST_TCD);
    BENCH(pool_concat_fwd, "", SHAPE(n, K, d), 0, n * (K + 5) * d, out, row, frames, text, n, K, d,
          d, 3 * d);
    BENCH(pool_concat_bwd, "", SHAPE(n, K, d), 0, n * (K + 5) * d, row, frames, text, out, n, K, d,
          d, 3 * d, 0, 0, 0);
    mr_kb_release(b);
}

static void experts(mr_kb *b)
{
    const mr_kb_sizes *z = &b->z;
    int64_t B = z->B, L = z->L, N = z->N, d = z->d;
    int E = (int)z->E;
    mr_rows_of rows = {b->tok_rid, b->tok_pos};
    void *x = mr_kb_reals(b, N * z->dh), *y = mr_kb_reals(b, N * z->dh);
    void *p = mr_kb_reals(b, B * L * E), *factor = mr_kb_reals(b, N * E);
    void *clean = mr_kb_reals(b, N * E), *noisy = mr_kb_reals(b, N * E);
    void *each = mr_kb_reals(b, N * E * d), *t = mr_kb_reals(b, E * L * d);
    void *u = mr_kb_reals(b, B * L * d), *one = mr_kb_reals(b, N * d);
    void *tables = mr_kb_reals(b, E * L * z->dh), *w = mr_kb_reals(b, E * d * z->dh);
    mr_gemm_batch batch = {E, L * d, L * z->dh, d * z->dh};
    BENCH(gemm_batch, "t = b W^T", SHAPE(E, L, d, z->dh), 2.0 * (double)(E * L * d * z->dh),
          E * (L + d) * z->dh + E * L * d, t, tables, w, &batch, L, d, z->dh, 0, 1, z->dh, z->dh, d,
          1.0, 0.0, MR_ACT_ACT);
    BENCH(moe_drop, "", SHAPE(N, z->dh), 0, 2 * N * z->dh, y, x, rows, N, z->dh, 1, 1, E, 0.2,
          MR_RNG_OP + 3);
    BENCH(moe_gate_fwd, "noise", SHAPE(B, L, E), 0, B * L * E + 3 * N * E, p, factor, clean, noisy,
          b->start, b->rid, B, L, E, 1, MR_RNG_OP + 4);
    BENCH(moe_mix_fwd, "", SHAPE(B, L, E, d), 0, N * E * d + B * L * d, u, each, p, t, b->start, B,
          L, E, d);
    BENCH(moe_gate_bwd, "", SHAPE(N, E, d), 0, N * E * d + N * d, clean, noisy, u, each, p, t,
          factor, b->start, B, N, L, E, d);
    BENCH(moe_weigh, "", SHAPE(N, d), 0, 2 * N * d, one, u, p, b->tok_row, b->tok_pos, N, L, E, 0,
          1, d);
    mr_kb_release(b);
}

static void fusion(mr_kb *b)
{
    const mr_kb_sizes *z = &b->z;
    int64_t B = z->B, L = z->L, d = z->d, m = B * L * d, half = L / 2 + 1;
    void *a = mr_kb_reals(b, m), *u = mr_kb_reals(b, m), *h = mr_kb_reals(b, z->N * d);
    void *k = mr_kb_reals(b, L * d), *filter = mr_kb_reals(b, half * d * 2);
    void *wp = mr_kb_reals(b, d), *wf = mr_kb_reals(b, d), *bias = mr_kb_reals(b, 1);
    void *da = mr_kb_reals(b, m), *du = mr_kb_reals(b, m), *sums = mr_kb_reals(b, (L + 2) * d + 2);
    void *one = mr_kb_reals(b, 1);
    double flop = 4.0 * (double)m * (double)L; /* two circular convolutions */
    BENCH(fuse_filter_fwd, "", SHAPE(L, d), 0, L * d + 2 * half * d, k, filter, L, d);
    BENCH(fuse_params_bwd, "", SHAPE(L, d), 0, L * d + 2 * half * d, filter, wp, wf, bias, one,
          sums, L, d, 0);
    BENCH(fuse_fwd, "", SHAPE(B, L, d), flop, 2 * m + z->N * d, h, a, u, k, wp, bias, wf, bias,
          b->start, B, z->N, L, d);
    BENCH(fuse_bwd, "", SHAPE(B, L, d), 3 * flop, 4 * m + z->N * d, da, du, sums, h, a, u, k, wp,
          bias, wf, bias, b->start, B, L, d, 0, 0);
    mr_kb_release(b);
}

void mr_kb_content(mr_kb *b)
{
    if (b->z.K * b->z.D > 0) {
        convolution(b);
        unet(b);
    }
    diffusion(b);
    if (b->z.dh > 0) {
        experts(b);
        fusion(b);
    }
}
