/* Cases of `bench kernels`: matrix products, norm, dropout, attention, look-ups. */
#include "cli/bench_kernels.h"
#include "graph/op_softmax.h"

static void products(mr_kb *b)
{
    const mr_kb_sizes *z = &b->z;
    int64_t N = z->N, d = z->d, w = z->inner, V = z->V;
    mr_softmax_way way = mr_softmax_way_of(b->dev->whole_products, MR_FP32);
    int64_t M = mr_softmax_chunk(V, d, mr_dtype_bytes(b->dev->real), way);
    if (M > z->B) M = z->B;
    void *x = mr_kb_reals(b, N * d), *y = mr_kb_reals(b, N * w), *weight = mr_kb_reals(b, w * d);
    void *bias = mr_kb_reals(b, w);
    void *table = mr_kb_reals(b, V * d), *logits = mr_kb_reals(b, M * V);
    double flop = 2.0 * (double)(N * d * w), moved = (double)(N * d + N * w + w * d);
    double big = 2.0 * (double)(M * d * V), all = (double)(M * d + V * d + M * V);
    BENCH(gemm, "y = x W^T", SHAPE(N, w, d), flop, moved, y, x, weight, N, w, d, 0, 1, d, d, w, 1.0,
          0.0, MR_ACT_ACT);
    BENCH(gemm, "dx = dy W", SHAPE(N, d, w), flop, moved, x, y, weight, N, d, w, 0, 0, w, d, d, 1.0,
          0.0, MR_ACT_ACT);
    BENCH(gemm, "dW = dy^T x", SHAPE(w, d, N), flop, moved, weight, y, x, w, d, N, 1, 0, w, d, d,
          1.0, 0.0, MR_REAL_ACT);
    BENCH(linear_fwd, "", SHAPE(N, w, d), flop, moved, y, NULL, x, weight, bias, N, w, d,
          MR_ACT_NONE);
    BENCH(linear_bwd_w, "", SHAPE(N, w, d), flop, moved, weight, bias, y, x, N, w, d, 0, 0);
    BENCH(gemm, "logits", SHAPE(M, V, d), big, all, logits, x, table, M, V, d, 0, 1, d, d, V, 1.0,
          0.0, MR_REAL_REAL);
    BENCH(gemm, "dtable", SHAPE(V, d, M), big, all, table, logits, x, V, d, M, 1, 0, V, d, d, 1.0,
          0.0, MR_REAL_REAL);
    mr_kb_release(b);
}

static void elementwise(mr_kb *b)
{
    const mr_kb_sizes *z = &b->z;
    int64_t N = z->N, d = z->d, w = z->inner;
    void *y = mr_kb_reals(b, N * w), *pre = mr_kb_reals(b, N * w), *bias = mr_kb_reals(b, w);
    void *x = mr_kb_reals(b, N * d), *v = mr_kb_reals(b, N * d), *one = mr_kb_reals(b, 1);
    void *h = mr_kb_reals(b, N * w);
    BENCH(bias_act_fwd, "gelu", SHAPE(N, w), 0, 3 * N * w, y, pre, bias, N, w, MR_ACT_GELU);
    BENCH(act_fwd, "gelu", SHAPE(N, w), 0, 2 * N * w, y, pre, N * w, MR_ACT_GELU);
    BENCH(act_bwd, "gelu", SHAPE(N, w), 0, 3 * N * w, y, NULL, y, pre, N, w, MR_ACT_GELU);
    BENCH(act_bwd, "gelu, with y", SHAPE(N, w), 0, 4 * N * w, y, h, y, pre, N, w, MR_ACT_GELU);
    BENCH(col_sum, "", SHAPE(N, w), 0, N * w, bias, y, N, w, 0);
    BENCH(add_row_bwd, "", SHAPE(N, w), 0, 2 * N * w, pre, bias, y, N, w, 0, w, 0, 0);
    BENCH(axpy, "+=", SHAPE(N, d), 0, 3 * N * d, v, x, N * d, 1e-6, 1, MR_ACT_ACT);
    BENCH(probe_fwd, "", SHAPE(N, d), 0, N * d, one, x, N * d, d, d);
    BENCH(probe_bwd, "", SHAPE(N, d), 0, N * d, v, N * d, d, d, 0.5, 0);
    BENCH(silu_fwd, "", SHAPE(N, w), 0, 2 * N * w, y, pre, N * w);
    BENCH(silu_bwd, "", SHAPE(N, w), 0, 3 * N * w, y, y, pre, N * w, 0);
    mr_kb_release(b);
}

static void norm(mr_kb *b)
{
    const mr_kb_sizes *z = &b->z;
    int64_t N = z->N, w = z->d;
    mr_drop in = {0.5, MR_RNG_OP + 1, {b->tok_rid, b->tok_pos}, 1}, off = {0};
    void *x = mr_kb_reals(b, N * w), *res = mr_kb_reals(b, N * w), *y = mr_kb_reals(b, N * w);
    void *gamma = mr_kb_reals(b, w), *beta = mr_kb_reals(b, w), *mean = mr_kb_reals(b, N);
    void *rstd = mr_kb_reals(b, N), *dx = mr_kb_reals(b, N * w), *dr = mr_kb_reals(b, N * w);
    void *dg = mr_kb_reals(b, w), *db = mr_kb_reals(b, w);
    BENCH(layer_norm_fwd, "+ res", SHAPE(N, w), 0, 3 * N * w, y, mean, rstd, x, res, gamma, beta, N,
          w, w, 1e-12, &off, &off);
    BENCH(layer_norm_fwd, "+ res, drop", SHAPE(N, w), 0, 3 * N * w, y, mean, rstd, x, res, gamma,
          beta, N, w, w, 1e-12, &in, &off);
    BENCH(layer_norm_bwd, "+ res", SHAPE(N, w), 0, 5 * N * w, dx, dr, dg, db, y, x, res, gamma,
          mean, rstd, N, w, w, 0, 0, 0, 0, &off, &off);
    BENCH(layer_norm_bwd, "+ res, drop", SHAPE(N, w), 0, 5 * N * w, dx, dr, dg, db, y, x, res,
          gamma, mean, rstd, N, w, w, 0, 0, 0, 0, &in, &off);
    BENCH(dropout, "", SHAPE(N, w), 0, 2 * N * w, y, x, N, w, 0, &in);
    mr_kb_release(b);
}

/* Pairs of query and key, and rows of q and kv, of one way to look. */
typedef struct look {
    const char *name;
    int mode;
    int64_t S, heads, d, q, kv, pairs;
} look;

static void *column(const mr_kb *b, void *x, int64_t at)
{
    return x ? (char *)x + at * (int64_t)b->element : NULL;
}

static void one_look(mr_kb *b, const look *l)
{
    const mr_kb_sizes *z = &b->z;
    mr_att_shape shape = {.mode = l->mode,
                          .B = z->B,
                          .S = l->S,
                          .heads = l->heads,
                          .d = l->d,
                          .start = b->start,
                          .len = b->len};
    mr_drop drop = {0.5, MR_RNG_OP + 2, {b->rid, b->tok_pos}, 1};
    int64_t q = l->q * l->d, kv = l->kv * 2 * l->d, p = l->q * l->heads * l->S;
    void *out = mr_kb_reals(b, q), *prob = mr_kb_reals(b, p);
    bool of_one = l->mode == MR_ATT_CAUSAL || l->mode == MR_ATT_FULL; /* columns of [N,3d] */
    void *x = mr_kb_reals(b, of_one ? q + kv : q), *dq = mr_kb_reals(b, of_one ? q + kv : q);
    void *keys = of_one ? column(b, x, l->d) : mr_kb_reals(b, kv);
    void *dkv = of_one ? column(b, dq, l->d) : mr_kb_reals(b, kv);
    if (of_one) shape.q_ld = shape.kv_ld = 3 * l->d;
    double flop = 4.0 * (double)(l->pairs * l->d);
    BENCH(attention_fwd, l->name, SHAPE(l->q, l->S, l->heads, l->d), flop, 2 * q + kv + p, out,
          prob, x, keys, NULL, &shape, &drop);
    BENCH(attention_bwd, l->name, SHAPE(l->q, l->S, l->heads, l->d), 2 * flop, 3 * q + 2 * kv + p,
          dq, dkv, NULL, out, prob, x, keys, NULL, &shape, 0, 0, 0, &drop);
    mr_kb_release(b);
}

static void attention(mr_kb *b)
{
    const mr_kb_sizes *z = &b->z;
    int64_t BK = z->B * z->K, square = z->N * (z->N / z->B + 1) / 2; /* about: rows are ragged */
    const look looks[] = {
        {"causal", MR_ATT_CAUSAL, z->L, z->heads, z->d, z->N, z->N, square},
        {"last", MR_ATT_LAST, z->L, z->heads, z->d, z->B, z->N, z->N},
        {"full, frames", MR_ATT_FULL, z->K, z->tcd_heads, z->D, BK, BK, BK * z->K},
        {"one, frames", MR_ATT_ONE, z->K, z->tcd_heads, z->D, z->B, BK, BK},
    };
    for (int i = 0; i < (z->K * z->D > 0 ? 4 : 2); i++) one_look(b, &looks[i]);
}

static void look_ups(mr_kb *b)
{
    const mr_kb_sizes *z = &b->z;
    int64_t N = z->N, B = z->B, L = z->L, d = z->d, V = z->V;
    void *table = mr_kb_reals(b, V * d), *x = mr_kb_reals(b, B * L * d), *y = mr_kb_reals(b, N * d);
    void *pos = mr_kb_reals(b, L * d), *rows = mr_kb_reals(b, B * d);
    int32_t *id = mr_kb_ints(b, N, 7919, V), *each = mr_kb_ints(b, N + 1, 1, N + 2);
    int32_t *row = mr_kb_ints(b, N, 1, N + 1);
    BENCH(gather_rows, "", SHAPE(N, d), 0, 2 * N * d, y, table, id, pos, b->tok_pos, N, d,
          MR_ACT_REAL);
    BENCH(gather_padded, "", SHAPE(B, L, d), 0, N * d + B * L * d, x, table, id, b->start, b->len,
          B, L, d, 0);
    BENCH(add_rows, "", SHAPE(N, d), 0, 2 * N * d, y, x, row, each, row, N, d, N, 0, -1, NULL, NULL,
          L, MR_REAL_ACT);
    BENCH(position_fwd, "", SHAPE(N, d), 0, 2 * N * d, y, y, pos, b->tok_pos, N, d);
    BENCH(position_bwd, "", SHAPE(N, d), 0, N * d, NULL, pos, y, b->start, b->len, N, B, L, d, 0,
          0);
    BENCH(last_fwd, "", SHAPE(B, d), 0, 2 * B * d, rows, y, b->start, b->len, B, d);
    BENCH(last_bwd, "", SHAPE(N, d), 0, N * d + B * d, y, rows, b->start, b->len, B, N, d, 0);
    mr_kb_release(b);
}

static void features(mr_kb *b)
{
    const mr_kb_sizes *z = &b->z;
    int64_t B = z->B, I = z->V - 1, w = z->K * z->D;
    if (w == 0) return;
    void *out = mr_kb_reals(b, B * w), *mean = mr_kb_reals(b, B * z->D);
    float *data = mr_kb_floats(b, I * w); /* features are stored in float32 or float16 */
    int32_t *id = mr_kb_ints(b, z->N, 7919, I);
    BENCH(feature_gather, "frames", SHAPE(B, w), 0, 2 * B * w, out, data, MR_F32, id, NULL, B, z->K,
          z->D, z->D, I);
    BENCH(context, "", SHAPE(z->N, z->D), 0, z->N * z->D + B * z->D, mean, data, MR_F32, id,
          b->start, b->len, B, z->D, z->D, I, 0.9);
    mr_kb_release(b);
}

void mr_kb_encoder(mr_kb *b)
{
    products(b);
    elementwise(b);
    norm(b);
    attention(b);
    look_ups(b);
    features(b);
}
