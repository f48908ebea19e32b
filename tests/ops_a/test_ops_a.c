/* Ops of norm, dropout, attention and embedding: every case through the op harness, and the
 * equalities between modes that inference relies on. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "op_check.h"
#include "op_rig.h"

#define COUNT(a) ((int)(sizeof(a) / sizeof *(a)))

/* ---- the harness itself, on the linear layer ---- */
static int build_linear(mr_graph *g, const void *arg)
{
    (void)arg;
    int x = op_leaf(g, "x", MR_SPACE_ROWS, 2, 5, 1, 1, 1.0);
    int w = op_param(g, "w", 2, 3, 5, 1, 0.5, 0);
    int b = op_param(g, "b", 1, 3, 1, 1, 0.5, 0);
    return mr_g_linear(g, x, w, b, MR_ACT_GELU);
}

/* Twice on one input: its gradient is written once and added to once. */
static int build_act_linear(mr_graph *g, const void *arg)
{
    (void)arg;
    int x = op_leaf(g, "x", MR_SPACE_ROWS, 3, 2, 5, 1, 1.0);
    int w = op_param(g, "w", 2, 3, 5, 1, 0.5, 0);
    int b = op_param(g, "b", 1, 3, 1, 1, 0.5, 0);
    return mr_g_add(g, mr_g_act_linear(g, x, MR_ACT_GELU, w, b),
                    mr_g_act_linear(g, x, MR_ACT_SILU, w, -1));
}

static void test_linear(void **state)
{
    (void)state;
    op_check(&(op_case){"linear", {.rows = 4, .L = 3, .n_items = 9}, .build = build_linear});
    op_check(
        &(op_case){"act_linear", {.rows = 4, .L = 3, .n_items = 9}, .build = build_act_linear});
}

/* ---- dropout ---- */
typedef struct drop_arg {
    mr_space space;
    int64_t d1, d2;
    double p;
} drop_arg;

static int build_dropout(mr_graph *g, const void *arg)
{
    const drop_arg *a = arg;
    int x = op_leaf(g, "x", a->space, a->d2 > 1 ? 3 : 2, a->d1, a->d2, 1, 1.0);
    return mr_g_dropout(g, x, a->p);
}

static void test_dropout(void **state)
{
    (void)state;
    drop_arg a[] = {{MR_SPACE_ROWS, 3, 5, 0.5},
                    {MR_SPACE_TOK0, 13, 1, 0.1},
                    {MR_SPACE_ROWS, 131, 1, 0.3},
                    {MR_SPACE_TOK0, 13, 1, 0.0}};
    for (int i = 0; i < COUNT(a); i++)
        op_check(&(op_case){
            "dropout", {.rows = 5, .L = 4, .n_items = 9}, .build = build_dropout, .arg = &a[i]});
}

/* ---- layer_norm ---- */
typedef struct norm_arg {
    mr_space space;
    int64_t d1, d2; /* d2 = 1: [.,d1] */
    int residual;   /* 0 none, 1 another node, 2 the input itself */
    bool affine;
    double drop_in, drop_out;
} norm_arg;

static int build_norm(mr_graph *g, const void *arg)
{
    const norm_arg *a = arg;
    int nd = a->d2 > 1 ? 3 : 2;
    int64_t w = a->d2 > 1 ? a->d2 : a->d1;
    int x = op_leaf(g, "x", a->space, nd, a->d1, a->d2, 1, 1.0), r = -1, ga = -1, be = -1;
    if (a->residual == 1) r = op_leaf(g, "r", a->space, nd, a->d1, a->d2, 1, 1.0);
    if (a->residual == 2) r = x;
    if (a->affine) ga = op_param(g, "gamma", 1, w, 1, 1, 1.0, 0);
    if (a->affine) be = op_param(g, "beta", 1, w, 1, 1, 1.0, 0);
    return mr_g_layer_norm(g, x, r, ga, be, 1e-12, a->drop_in, a->drop_out);
}

static void test_layer_norm(void **state)
{
    (void)state;
    norm_arg a[] = {
        {MR_SPACE_TOK0, 9, 1, 1, true, 0.5, 0.0},  {MR_SPACE_TOK0, 16, 1, 0, true, 0.0, 0.4},
        {MR_SPACE_ROWS, 3, 10, 1, true, 0.1, 0.2}, {MR_SPACE_ROWS, 3, 7, 0, false, 0.0, 0.0},
        {MR_SPACE_ROWS, 37, 1, 2, true, 0.3, 0.0}, {MR_SPACE_ROWS, 11, 1, 1, false, 0.0, 0.0},
    };
    for (int i = 0; i < COUNT(a); i++)
        op_check(&(op_case){
            "layer_norm", {.rows = 5, .L = 4, .n_items = 9}, .build = build_norm, .arg = &a[i]});
}

/* ---- attention ---- */
typedef struct att_arg {
    int mode, heads;
    int64_t d, S; /* S: rows of kv (uniform modes) */
    bool first;
    double p;
    int seq;
    bool of_one; /* q and kv are slices of one input */
} att_arg;

static int build_attention(mr_graph *g, const void *arg)
{
    const att_arg *a = arg;
    bool ragged = a->mode == MR_ATT_CAUSAL || a->mode == MR_ATT_LAST;
    mr_space tok = mr_space_tok(a->seq), qs = a->mode == MR_ATT_CAUSAL ? tok : MR_SPACE_ROWS;
    int nd = a->mode == MR_ATT_FULL ? 3 : 2, kv, first = -1;
    if (a->of_one) {
        int64_t d = a->d;
        int x = nd == 3 ? op_leaf(g, "qkv", qs, 3, a->S, 3 * d, 1, 1.0)
                        : op_leaf(g, "qkv", qs, 2, 3 * d, 1, 1, 1.0);
        return mr_g_attention(g, mr_g_slice(g, x, 0, d), mr_g_slice(g, x, d, 2 * d), -1, a->heads,
                              a->mode, a->seq, a->p);
    }
    int q = nd == 3 ? op_leaf(g, "q", qs, 3, a->S, a->d, 1, 1.0)
                    : op_leaf(g, "q", qs, 2, a->d, 1, 1, 1.0);
    kv = ragged ? op_leaf(g, "kv", tok, 2, 2 * a->d, 1, 1, 1.0)
                : op_leaf(g, "kv", MR_SPACE_ROWS, 3, a->S, 2 * a->d, 1, 1.0);
    if (a->first) first = op_leaf(g, "first", MR_SPACE_ROWS, 2, 2 * a->d, 1, 1, 1.0);
    return mr_g_attention(g, q, kv, first, a->heads, a->mode, a->seq, a->p);
}

static void test_attention(void **state)
{
    (void)state;
    att_arg a[] = {
        {MR_ATT_CAUSAL, 2, 6, 0, false, 0.0, 0, false},
        {MR_ATT_CAUSAL, 3, 15, 0, false, 0.5, 1, false},
        {MR_ATT_CAUSAL, 3, 15, 0, false, 0.5, 1, true},
        {MR_ATT_CAUSAL, 1, 7, 0, false, 0.0, 0, true},
        {MR_ATT_LAST, 2, 6, 0, false, 0.3, 0, false},
        {MR_ATT_FULL, 4, 12, 5, false, 0.1, 0, false},
        {MR_ATT_FULL, 1, 5, 9, false, 0.5, 0, false},
        {MR_ATT_FULL, 1, 5, 9, false, 0.5, 0, true},
        {MR_ATT_FULL, 2, 6, 1, false, 0.0, 0, true},
        {MR_ATT_ONE, 2, 6, 4, true, 0.2, 0, false},
        {MR_ATT_ONE, 1, 7, 3, false, 0.0, 0, false},
    };
    int32_t len[] = {1, 4, 9, 2, 9};
    for (int i = 0; i < COUNT(a); i++)
        op_check(&(op_case){"attention",
                            {.rows = 5, .L = 9, .n_items = 9, .n_seq = 2, .len = len},
                            .build = build_attention,
                            .arg = &a[i],
                            .tol32 = 5e-5});
}

/* ---- embedding ---- */
static int build_lookup(mr_graph *g, const void *arg)
{
    int table = op_param(g, "item", 2, g->dims.n_items + 1, 5, 1, 1.0, MR_PARAM_SHARDED);
    return *(const bool *)arg ? mr_g_lookup_padded(g, table) : mr_g_lookup(g, table, 1);
}

static int build_position(mr_graph *g, const void *arg)
{
    (void)arg;
    int x = op_leaf(g, "x", MR_SPACE_TOK1, 2, 5, 1, 1, 1.0);
    return mr_g_add_position(g, x, op_param(g, "pos", 2, g->dims.L, 5, 1, 1.0, 0), 1);
}

/* On a GPU one step; twice over the same tokens. */
static int build_placed(mr_graph *g, const void *arg)
{
    (void)arg;
    int table = op_param(g, "item", 2, g->dims.n_items + 1, 5, 1, 1.0, MR_PARAM_SHARDED);
    int x = mr_g_add_position(g, mr_g_lookup(g, table, 1),
                              op_param(g, "pos", 2, g->dims.L, 5, 1, 1.0, 0), 1);
    return mr_g_layer_norm(g, x, x, -1, -1, 1e-5, 0, 0);
}

static int build_last(mr_graph *g, const void *arg)
{
    (void)arg;
    return mr_g_last(g, op_leaf(g, "x", MR_SPACE_TOK1, 2, 5, 1, 1, 1.0), 1);
}

static int build_spread(mr_graph *g, const void *arg)
{
    (void)arg;
    return mr_g_spread(g, op_leaf(g, "x", MR_SPACE_LAST, 3, 2, 5, 1, 1.0));
}

static void test_embedding(void **state)
{
    (void)state;
    bool no = false, yes = true;
    op_sizes s = {.rows = 7, .L = 4, .n_items = 6, .n_seq = 2};
    op_check(&(op_case){"lookup", s, build_lookup, &no, .no_row0 = "item"});
    op_check(&(op_case){"lookup_padded", s, build_lookup, &yes, .no_row0 = "item"});
    op_check(&(op_case){"add_position", s, .build = build_position});
    for (int whole = 0; whole < 2; whole++) {
        s.whole_products = whole;
        op_check(&(op_case){"lookup, add_position", s, build_placed, .no_row0 = "item"});
    }
    op_check(&(op_case){"last", s, .build = build_last});
    op_sizes few = {.rows = 9, .L = 4, .n_items = 4};
    op_check(&(op_case){"spread", few, .build = build_spread});
}

/* ---- a graph without gradient: values of outputs ---- */
static void rig_run(op_rig *r)
{
    op_rig_compile(r, false, false);
    assert_int_equal(mr_run_forward(r->run), MR_OK);
}

/* The pruned last query gives the bits of the full causal attention's last row, dropout included.
 * The purpose of the draws is the node number, so both graphs put the attention at the same place.
 */
static void test_last_is_causal(void **state)
{
    (void)state;
    const char *dev[] = {"cpu", "cpu64"};
    int32_t len[] = {1, 12, 5, 7, 12, 3};
    enum { D = 30, ROWS = 6 };
    for (int k = 0; k < 2; k++) {
        op_rig r[2];
        double full[ROWS * D], last[ROWS * D];
        op_sizes s = {.rows = ROWS, .L = 12, .n_items = 9, .len = len};
        for (int i = 0; i < 2; i++) {
            op_rig_start(&r[i], &s, dev[k], true);
            int q = op_leaf(r[i].g, "q", MR_SPACE_TOK0, 2, D, 1, 1, 1.0);
            int kv = op_leaf(r[i].g, "kv", MR_SPACE_TOK0, 2, 2 * D, 1, 1, 1.0);
            int ql = mr_g_last(r[i].g, q, 0);
            int y = i ? mr_g_attention(r[i].g, ql, kv, -1, 2, MR_ATT_LAST, 0, 0.4)
                      : mr_g_last(r[i].g,
                                  mr_g_attention(r[i].g, q, kv, -1, 2, MR_ATT_CAUSAL, 0, 0.4), 0);
            mr_graph_output(r[i].g, y, "y");
            rig_run(&r[i]);
            assert_int_equal(mr_run_output(r[i].run, "y", i ? last : full), MR_OK);
        }
        assert_memory_equal(full, last, ROWS * D * mr_dtype_bytes(r[0].dev->real));
        op_rig_stop(&r[0]);
        op_rig_stop(&r[1]);
    }
}

/* Query 0 alone over [first ; rest] gives the bits of row 0 of full attention. */
static void test_one_is_full(void **state)
{
    (void)state;
    enum { D = 48, ROWS = 5, S = 7, H = 3 };
    op_rig r[2];
    float full[(ROWS + 1) * S * D], one[(ROWS + 1) * D];
    op_sizes s = {.rows = ROWS, .L = 3, .n_items = 9};
    for (int i = 0; i < 2; i++) {
        op_rig_start(&r[i], &s, "cpu", true);
        int q, kv, first = -1;
        if (i) {
            q = op_leaf(r[i].g, "q", MR_SPACE_ROWS, 2, D, 1, 1, 1.0);
            first = op_leaf(r[i].g, "first", MR_SPACE_ROWS, 2, 2 * D, 1, 1, 1.0);
            kv = op_leaf(r[i].g, "kv", MR_SPACE_ROWS, 3, S - 1, 2 * D, 1, 1.0);
        } else {
            q = op_leaf(r[i].g, "q", MR_SPACE_ROWS, 3, S, D, 1, 1.0);
            kv = op_leaf(r[i].g, "kv", MR_SPACE_ROWS, 3, S, 2 * D, 1, 1.0);
            op_leaf(r[i].g, "pad", MR_SPACE_ROWS, 2, 1, 1, 1, 1.0); /* same node numbers */
        }
        mr_graph_output(
            r[i].g, mr_g_attention(r[i].g, q, kv, first, H, i ? MR_ATT_ONE : MR_ATT_FULL, 0, 0.4),
            "y");
        rig_run(&r[i]);
    }
    /* Same numbers in both: take the separate parts from the whole ones, then run again. */
    float *fq = (float *)r[0].ps.value + r[0].ps.p[mr_param_find(&r[0].ps, "q")].offset;
    float *fkv = (float *)r[0].ps.value + r[0].ps.p[mr_param_find(&r[0].ps, "kv")].offset;
    float *oq = (float *)r[1].ps.value + r[1].ps.p[mr_param_find(&r[1].ps, "q")].offset;
    float *okv = (float *)r[1].ps.value + r[1].ps.p[mr_param_find(&r[1].ps, "kv")].offset;
    float *of = (float *)r[1].ps.value + r[1].ps.p[mr_param_find(&r[1].ps, "first")].offset;
    for (int b = 0; b < ROWS; b++) {
        memcpy(oq + b * D, fq + b * S * D, D * sizeof(float));
        memcpy(of + b * 2 * D, fkv + b * S * 2 * D, 2 * D * sizeof(float));
        memcpy(okv + b * (S - 1) * 2 * D, fkv + (b * S + 1) * 2 * D,
               (S - 1) * 2 * D * sizeof(float));
    }
    assert_int_equal(mr_run_forward(r[1].run), MR_OK);
    assert_int_equal(mr_run_output(r[0].run, "y", full), MR_OK);
    assert_int_equal(mr_run_output(r[1].run, "y", one), MR_OK);
    for (int b = 0; b < ROWS; b++)
        assert_memory_equal(full + b * S * D, one + b * D, D * sizeof(float));
    op_rig_stop(&r[0]);
    op_rig_stop(&r[1]);
}

/* ---- features ---- */
static double feature_at(const mr_feature *f, int64_t item, int64_t e)
{
    if (item == 0) return 0;
    int64_t i = (item - 1) * f->count * f->width + e;
    if (f->dtype == MR_F32) return (double)((float *)f->data)[i];
    uint16_t h = ((uint16_t *)f->data)[i];
    double m = (double)(h & 1023) / 1024.0 + 1.0,
           x = h & 0x7fff ? ldexp(m, (h >> 10 & 31) - 15) : 0;
    return h & 0x8000 ? -x : x;
}

/* Attention to a single key gives its value, whatever the query: what TCD's U-Net takes instead of
 * cross-attention to the context vector. */
static void test_one_key(void **state)
{
    enum { B = 5, D = 6 };
    (void)state;
    op_sizes s = {.rows = B, .L = 3, .n_items = 9};
    double out[B * D], kv[B * 2 * D];
    op_rig r;
    op_rig_start(&r, &s, "cpu64", true);
    int q = op_leaf(r.g, "q", MR_SPACE_ROWS, 2, D, 1, 1, 3.0);
    int both = op_leaf(r.g, "kv", MR_SPACE_ROWS, 3, 1, 2 * D, 1, 1.0);
    mr_graph_output(r.g, both, "kv");
    mr_graph_output(r.g, mr_g_attention(r.g, q, both, -1, 2, MR_ATT_ONE, 0, 0), "out");
    rig_run(&r);
    assert_int_equal(mr_run_output(r.run, "out", out), MR_OK);
    assert_int_equal(mr_run_output(r.run, "kv", kv), MR_OK);
    for (int b = 0; b < B; b++)
        assert_memory_equal(&out[b * D], &kv[b * 2 * D + D], D * sizeof *out);
    assert_true(out[0] != 0 && out[0] != out[D]);
    op_rig_stop(&r);
}

/* The layer over the frames of the last item, for every row or for every distinct item. */
static int frame_layer(mr_graph *g, bool is_distinct)
{
    enum { D = 6 };
    int p = op_param(g, "p", 3, g->dims.K, D, 1, 1.0, 0), w = op_param(g, "w", 2, D, D, 1, 0.5, 0);
    int kv = op_param(g, "kv", 2, 2 * D, D, 1, 0.5, 0);
    int x = mr_g_add_param(g, is_distinct ? mr_g_frames_distinct(g) : mr_g_frames(g), p);
    x = mr_g_layer_norm(g, x, -1, -1, -1, 1e-12, 0, 0);
    int a = mr_g_attention(g, mr_g_linear(g, x, w, -1, 0), mr_g_linear(g, x, kv, -1, 0), -1, 2,
                           MR_ATT_FULL, 0, 0);
    a = mr_g_layer_norm(g, a, x, -1, -1, 1e-12, 0, 0);
    return is_distinct ? mr_g_spread(g, a) : a;
}

static int build_distinct(mr_graph *g, const void *arg)
{
    (void)arg;
    return frame_layer(g, true);
}

/* Distinct last items: the lists of the batch, and the same values and gradients as row by row. */
static void test_distinct(void **state)
{
    enum { B = 23, K = 3, W = 6, DH = 7 };
    (void)state;
    op_sizes s = {.rows = B, .L = 4, .n_items = 5, .D = W, .K = K, .dh = DH, .feature = MR_F32};
    double out[2][B * K * W], text[2][B * DH];
    op_rig r;
    op_rig_start(&r, &s, "cpu64", true);
    mr_graph_output(r.g, frame_layer(r.g, false), "plain");
    mr_graph_output(r.g, frame_layer(r.g, true), "distinct");
    mr_graph_output(r.g, mr_g_text_last(r.g), "text");
    mr_graph_output(r.g, mr_g_spread(r.g, mr_g_text_distinct(r.g)), "text distinct");
    rig_run(&r);
    const mr_batch *b = &r.w.batch;
    assert_true(b->n_last > 1 && b->n_last <= 5);
    int64_t at = 0;
    for (int64_t u = 0; u < b->n_last; u++)
        for (int64_t i = 0; i < B; i++) {
            if (b->last[i] != b->last_id[u]) continue;
            assert_int_equal(b->last_slot[i], u);
            assert_true(at >= b->last_start[u] && at < b->last_start[u + 1]);
            assert_int_equal(b->last_row[at++], i);
        }
    assert_int_equal(at, B);
    assert_int_equal(mr_run_output(r.run, "plain", out[0]), MR_OK);
    assert_int_equal(mr_run_output(r.run, "distinct", out[1]), MR_OK);
    assert_int_equal(mr_run_output(r.run, "text", text[0]), MR_OK);
    assert_int_equal(mr_run_output(r.run, "text distinct", text[1]), MR_OK);
    assert_memory_equal(text[0], text[1], sizeof text[0]);
    double size = 0;
    for (int i = 0; i < B * K * W; i++) {
        assert_true(fabs(out[0][i] - out[1][i]) <= 1e-13);
        size += fabs(out[0][i]);
    }
    assert_true(size > 10);
    op_rig_stop(&r);
    for (int whole = 0; whole < 2; whole++) {
        s.whole_products = whole;
        op_check(&(op_case){"distinct frames", s, .build = build_distinct});
    }
}

static void test_features(void **state)
{
    (void)state;
    for (int half = 0; half < 2; half++) {
        op_rig r;
        op_sizes s = {.rows = 6,
                      .L = 5,
                      .n_items = 11,
                      .D = 19,
                      .K = 3,
                      .dh = 7,
                      .feature = half ? MR_F16 : MR_F32};
        op_rig_start(&r, &s, "cpu64", true);
        mr_graph_output(r.g, mr_g_frames(r.g), "frames");
        mr_graph_output(r.g, mr_g_text_last(r.g), "last");
        mr_graph_output(r.g, mr_g_text_tokens(r.g), "tokens");
        mr_graph_output(r.g, mr_g_context(r.g, 0.9), "context");
        rig_run(&r);
        double frames[6 * 57], last[6 * 7], tokens[30 * 7], context[6 * 19];
        assert_int_equal(mr_run_output(r.run, "frames", frames), MR_OK);
        assert_int_equal(mr_run_output(r.run, "last", last), MR_OK);
        assert_int_equal(mr_run_output(r.run, "tokens", tokens), MR_OK);
        assert_int_equal(mr_run_output(r.run, "context", context), MR_OK);
        const mr_seq *q = &r.w.batch.seq[0];
        for (int b = 0; b < 6; b++) {
            int item = r.w.batch.last[b];
            for (int e = 0; e < 57; e++)
                assert_true(frames[b * 57 + e] == feature_at(&r.w.feat.frames, item, e));
            for (int e = 0; e < 7; e++)
                assert_true(last[b * 7 + e] == feature_at(&r.w.feat.text, item, e));
            for (int e = 0; e < 19; e++) {
                double sum = 0, weight = 0;
                for (int k = 1; k <= q->len[b]; k++) {
                    double a = exp(-0.9 * (q->len[b] - k));
                    weight += a;
                    sum += a * feature_at(&r.w.feat.visual, q->tok_id[q->start[b] + k - 1], e);
                }
                assert_true(fabs(context[b * 19 + e] - sum / weight) < 1e-14);
            }
        }
        for (int64_t t = 0; t < q->tokens; t++)
            for (int e = 0; e < 7; e++)
                assert_true(tokens[t * 7 + e] == feature_at(&r.w.feat.text, q->tok_id[t], e));
        op_rig_stop(&r);
    }
}

/* Wrong shapes are refused with a sentence when the graph is built. */
static void test_refusals(void **state)
{
    (void)state;
    op_sizes s = {.rows = 3, .L = 4, .n_items = 9};
    mr_errors_to_log(false);
    for (int i = 0; i < 10; i++) {
        op_rig r;
        op_rig_start(&r, &s, "cpu", true);
        int x = op_leaf(r.g, "x", MR_SPACE_ROWS, 2, 6, 1, 1, 1.0);
        int y = op_leaf(r.g, "y", MR_SPACE_ROWS, 2, 5, 1, 1, 1.0);
        int t = op_leaf(r.g, "t", MR_SPACE_TOK0, 2, 6, 1, 1, 1.0);
        int kv = op_leaf(r.g, "kv", MR_SPACE_TOK0, 2, 12, 1, 1, 1.0);
        int w = op_param(r.g, "w", 1, 5, 1, 1, 1.0, 0);
        int bad = 0;
        switch (i) {
        case 0: bad = mr_g_dropout(r.g, x, 1.0); break;
        case 1: bad = mr_g_layer_norm(r.g, x, y, -1, -1, 1e-12, 0, 0); break;
        case 2: bad = mr_g_layer_norm(r.g, x, -1, w, -1, 1e-12, 0, 0); break;
        case 3: bad = mr_g_attention(r.g, t, kv, -1, 4, MR_ATT_CAUSAL, 0, 0); break; /* 6 / 4 */
        case 4: bad = mr_g_attention(r.g, x, kv, -1, 2, MR_ATT_CAUSAL, 0, 0); break;
        case 5: bad = mr_g_attention(r.g, t, x, -1, 2, MR_ATT_CAUSAL, 0, 0); break;
        case 6: bad = mr_g_lookup(r.g, w, 0); break;
        case 7: bad = mr_g_add_position(r.g, x, w, 0); break;
        case 8: bad = mr_g_frames(r.g); break;
        case 9: bad = mr_g_last(r.g, x, 0); break;
        }
        assert_int_equal(bad, -1);
        assert_int_equal(mr_graph_status(r.g), MR_ERR_CONFIG);
        op_rig_stop(&r);
    }
    mr_errors_to_log(true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_linear),      cmocka_unit_test(test_dropout),
        cmocka_unit_test(test_layer_norm),  cmocka_unit_test(test_attention),
        cmocka_unit_test(test_embedding),   cmocka_unit_test(test_last_is_causal),
        cmocka_unit_test(test_one_is_full), cmocka_unit_test(test_features),
        cmocka_unit_test(test_distinct),    cmocka_unit_test(test_one_key),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
