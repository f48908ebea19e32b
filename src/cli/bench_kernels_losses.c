/* Cases of `bench kernels`: losses, softmax over the items, ranking, optimizer. */
#include "cli/bench_kernels.h"
#include "graph/op_softmax.h"
#include "kernels/shared/bf16.h"

static void small_losses(mr_kb *b)
{
    const mr_kb_sizes *z = &b->z;
    int64_t B = z->B, d = z->d, n = B * d;
    void *x = mr_kb_reals(b, n), *t = mr_kb_reals(b, n), *y = mr_kb_reals(b, n);
    void *u = mr_kb_reals(b, n), *s = mr_kb_reals(b, B), *inv = mr_kb_reals(b, B);
    void *one = mr_kb_reals(b, 1);
    BENCH(zero, "", SHAPE(B, d), 0, n, y, n);
    BENCH(mse, "loss", SHAPE(B, d), 0, 2 * n, one, NULL, NULL, x, t, B, d, d, 0.1, 0, 0);
    BENCH(mse, "all", SHAPE(B, d), 0, 4 * n, one, y, u, x, t, B, d, d, 0.1, 0, 0);
    BENCH(row_inv_norm, "", SHAPE(B, d), 0, n, inv, x, B, d);
    BENCH(row_scale, "", SHAPE(B, d), 0, 2 * n, y, x, inv, B, d);
    BENCH(row_dot, "", SHAPE(B, d), 0, 2 * n, s, x, t, B, d);
    BENCH(norm_project, "", SHAPE(B, d), 0, 3 * n, u, y, x, inv, s, B, d, 0);
    mr_kb_release(b);
}

static void softmax(mr_kb *b)
{
    const mr_kb_sizes *z = &b->z;
    int64_t d = z->d, V = z->V, real = mr_dtype_bytes(b->dev->real);
    int64_t M = mr_softmax_chunk(V, d, real, mr_softmax_way_of(b->dev->whole_products, MR_FP32));
    if (M > z->B) M = z->B;
    void *raw = mr_kb_reals(b, M * V), *norm = mr_kb_reals(b, V), *coef = mr_kb_reals(b, M);
    void *table = mr_kb_reals(b, V * d), *dtable = mr_kb_reals(b, V * d), *one = mr_kb_reals(b, 1);
    void *x = mr_kb_reals(b, M * d), *dx = mr_kb_reals(b, M * d);
    double *stats = mr_kb_doubles(b, 3 * M), *ce = mr_kb_doubles(b, M);
    int32_t *target = mr_kb_ints(b, M, 7919, V);
    int32_t *pair = mr_kb_ints(b, 2 * z->B, 1, 9), *skip = mr_kb_ints(b, 2 * z->B, 1, 9);
    BENCH(ce_rows, "", SHAPE(M, V), 0, 2 * M * V, raw, stats, target, NULL, NULL, M, V, 0, 1.0,
          INFINITY);
    BENCH(ce_rows, "cosine", SHAPE(M, V), 0, 2 * M * V, raw, stats, target, NULL, norm, M, V, 0,
          1.0, 1.0);
    BENCH(ce_combine, "", SHAPE(M, d), 0, 2 * M * d, coef, ce, dx, stats, target, x, M, d, 1, 0,
          1.0);
    BENCH(leave_out, "", SHAPE(M, V), 0, M * V, raw, target, M, V, V, 1, 0.0);
    BENCH(ce_target, "", SHAPE(M, d), 0, 6 * M * d, dtable, dx, table, x, target, NULL, NULL, coef,
          M, V, d, 0, 1.0, 1.0);
    BENCH(pair_ids, "", SHAPE(z->B), 0, 2 * z->B, pair, skip, z->B, 0, z->B);
    BENCH(ce_sum, "", SHAPE(M), 0, M, one, ce, M, 1.0);
    mr_kb_release(b);
}

/* The products and rows of the same in bf16, at the sizes that it takes at once. reals: two
 * elements of bf16 are one of float32. */
static void softmax_bf16(mr_kb *b)
{
    const mr_kb_sizes *z = &b->z;
    int64_t d = z->d, V = z->V, pd = mr_bf16_pitch(d), pv = mr_bf16_pitch(V);
    int64_t M = mr_softmax_chunk(V, d, mr_dtype_bytes(b->dev->real), MR_SOFTMAX_BF16);
    if (M > z->B) M = z->B;
    double flop = 2.0 * (double)(M * d * V), share = 2.0 / (double)mr_dtype_bytes(b->dev->real);
    double in = share * (double)(M * pv), xs = share * (double)(M * pd);
    double rows = share * (double)(V * pd);
    void *table = mr_kb_reals(b, V * d), *dx = mr_kb_reals(b, M * d), *inv = mr_kb_reals(b, V);
    uint16_t *half = mr_kb_halves(b, pv * pd), *x = mr_kb_halves(b, M * pd);
    uint16_t *raw = mr_kb_halves(b, M * pv);
    double *stats = mr_kb_doubles(b, 3 * M);
    int32_t *target = mr_kb_ints(b, M, 7919, V);
    BENCH(rows_to_bf16, "and norms", SHAPE(V, d), 0, (double)(V * d) + rows, half, inv, table, NULL,
          V, d);
    BENCH(gemm_bf16, "logits", SHAPE(M, V, d), flop, xs + rows + in, raw, 1, x, half, M, V, pd, 0,
          1, pd, pd, pv, 1.0, 0.0);
    BENCH(gemm_bf16, "dtable", SHAPE(V, d, M), flop, in + xs + (double)(V * d), table, 0, raw, x, V,
          d, M, 1, 0, pv, pd, d, 1.0, 0.0);
    BENCH(gemm_bf16, "dx", SHAPE(M, d, V), flop, in + rows + (double)(M * d), dx, 0, raw, half, M,
          d, pv, 0, 0, pv, pd, d, 1.0, 0.0);
    BENCH(ce_rows_bf16, "", SHAPE(M, V), 0, 2 * in, raw, stats, target, NULL, M, V, 0, 1.0,
          INFINITY);
    BENCH(ce_rows_bf16, "cosine", SHAPE(M, V), 0, 2 * in, raw, stats, target, inv, M, V, 0, 1.0,
          1.0);
    mr_kb_release(b);
}

/* n + 1 starts with `each` ids a row. */
static int64_t *even_starts(mr_kb *b, int64_t n, int64_t each)
{
    int64_t host[1025];
    for (int64_t i = 0; i <= n; i++) host[i] = i * each;
    return mr_kb_copy(b, host, (n + 1) * 8);
}

static void ranking(mr_kb *b)
{
    enum { ROWS = 256, ITEMS = 2048, SEEN = 8 }; /* a tile of train/rank.c */
    const mr_kb_sizes *z = &b->z;
    int64_t n = z->B < ROWS ? z->B : ROWS, m = z->V < ITEMS ? z->V : ITEMS, d = z->d, k = z->topk;
    void *x = mr_kb_reals(b, n * d), *e = mr_kb_reals(b, m * d), *s = mr_kb_reals(b, n * m);
    void *ts = mr_kb_reals(b, n), *best = mr_kb_reals(b, n * k);
    int32_t *target = mr_kb_ints(b, n, 7919, m), *count = mr_kb_ints(b, n, 0, 1);
    int32_t *id = mr_kb_ints(b, n * k, 1, 9), *seen = mr_kb_ints(b, n * SEEN, 1, m);
    int64_t *start = even_starts(b, n, SEEN);
    BENCH(score_tile, "", SHAPE(n, m, d), 2.0 * (double)(n * m * d), n * d + m * d + n * m, s, x, e,
          NULL, n, m, d);
    BENCH(score_target, "", SHAPE(n, d), 0, 2 * n * d, ts, x, e, NULL, target, n, m, d, 0);
    BENCH(score_skip, "", SHAPE(n, SEEN), 0, 2 * n * SEEN, s, start, seen, target, n, m, 0);
    BENCH(rank_count, "", SHAPE(n, m), 0, n * m, count, s, ts, target, n, m, 0);
    BENCH(score_count, "", SHAPE(n, m, d), 2.0 * (double)(n * m * d), n * d + m * d, count, x, e,
          NULL, ts, target, n, m, d, 0);
    BENCH(topk_merge, "", SHAPE(n, m, k), 0, n * m, id, best, s, n, m, k, 0, 1);
    mr_kb_release(b);
}

static void optimizer(mr_kb *b)
{
    int64_t n = b->z.params;
    void *p = mr_kb_reals(b, n), *m = mr_kb_reals(b, n), *v = mr_kb_reals(b, n);
    void *g = mr_kb_reals(b, n);
    double *stats = mr_kb_doubles(b, 2);
    mr_ranges ranges = {1, {0}, {n}};
    if (b->st == MR_OK) /* second moments are not negative */
        b->st = b->dev->fill(b->dev, v, 0, (size_t)n * mr_dtype_bytes(b->dev->real));
    BENCH(adam, "", SHAPE(n), 0, 7 * n, p, m, v, g, &ranges, NULL, 0, 0.9, 0.999, 1e-8, 0.0);
    BENCH(grad_stats, "", SHAPE(n), 0, n, stats, g, &ranges);
    const mr_loss_weights weights = {.n = 3, .w = {1, 1, 1}};
    mr_step_state *state = (mr_step_state *)mr_kb_doubles(b, sizeof *state / sizeof(double));
    BENCH(step_decide, "", SHAPE(1), 0, 8, state, NULL, stats, stats, g, &weights, 5.0);
    mr_kb_release(b);
}

void mr_kb_losses(mr_kb *b)
{
    small_losses(b);
    softmax(b);
    softmax_bf16(b);
    ranking(b);
    optimizer(b);
}
