/* Ops of the U-Net and of diffusion through the op harness: gradients against differences,
 * accumulate bits, private memory, guard device, float32, empty batches. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include "op_check.h"

#define ROWS MR_SPACE_ROWS

typedef int (*builder)(mr_graph *g, const void *arg);

static void check(const char *name, int64_t rows, builder build, const void *arg)
{
    op_check(&(op_case){
        .name = name, .s = {.rows = rows, .L = 2, .n_items = 9}, .build = build, .arg = arg});
}

/* ---- conv3 ---- */
typedef struct conv_arg {
    int64_t S, ci, co;
    int stride;
    bool bias, residual, context, same; /* same: the residual is x itself */
} conv_arg;

static int build_conv(mr_graph *g, const void *arg)
{
    const conv_arg *a = arg;
    int64_t So = (a->S + a->stride - 1) / a->stride;
    int x = op_leaf(g, "x", ROWS, 3, a->S, a->ci, 1, 1.0);
    int w = op_param(g, "w", 3, a->co, 3, a->ci, 0.5, 0);
    int b = a->bias ? op_param(g, "b", 1, a->co, 1, 1, 0.5, 0) : -1;
    int q = a->residual ? op_leaf(g, "residual", ROWS, 3, So, a->co, 1, 1.0) : a->same ? x : -1;
    int c = a->context ? op_leaf(g, "context", ROWS, 2, a->co, 1, 1, 1.0) : -1;
    return mr_g_conv3(g, x, w, b, a->stride, q, c);
}

static void test_conv3(void **state)
{
    (void)state;
    static const conv_arg args[] = {
        {5, 4, 3, 1, true, true, true, false},   {5, 3, 5, 2, true, false, false, false},
        {5, 3, 2, 2, true, true, true, false},   {3, 2, 7, 1, true, false, true, false},
        {3, 7, 3, 2, false, true, false, false}, {2, 3, 3, 1, true, true, false, false},
        {2, 3, 5, 2, true, false, true, false},  {7, 3, 3, 1, false, false, false, false},
        {7, 2, 3, 2, true, false, false, false}, {1, 3, 2, 1, true, true, true, false},
        {4, 1, 1, 2, true, false, false, false}, {5, 3, 3, 1, true, false, true, true},
        {6, 5, 1, 1, true, true, false, false},
    };
    for (size_t i = 0; i < sizeof args / sizeof *args; i++) {
        char name[64];
        snprintf(name, sizeof name, "conv3 %lldx%lld->%lld stride %d", (long long)args[i].S,
                 (long long)args[i].ci, (long long)args[i].co, args[i].stride);
        check(name, 3, build_conv, &args[i]);
    }
    static const conv_arg big = {5, 16, 24, 1, true, true, true, false};
    check("conv3, three blocks", 131, build_conv, &big);
}

/* ---- group_norm ---- */
typedef struct gn_arg {
    int64_t S, c;
    int groups;
    bool film;
    double drop;
} gn_arg;

static int build_gn(mr_graph *g, const void *arg)
{
    const gn_arg *a = arg;
    int x = op_leaf(g, "x", ROWS, 3, a->S, a->c, 1, 1.0);
    int gamma = op_param(g, "gamma", 1, a->c, 1, 1, 1.0, 0);
    int beta = op_param(g, "beta", 1, a->c, 1, 1, 1.0, 0);
    int film = a->film ? op_leaf(g, "film", ROWS, 2, 2 * a->c, 1, 1, 0.7) : -1;
    return mr_g_group_norm(g, x, a->groups, gamma, beta, film, -1, a->drop);
}

static void test_group_norm(void **state)
{
    (void)state;
    static const gn_arg args[] = {
        {3, 16, 8, true, 0.0},  {5, 16, 8, true, 0.1},  {3, 8, 8, false, 0.0},
        {5, 9, 3, true, 0.3},   {2, 10, 2, false, 0.5}, {7, 6, 1, true, 0.0},
        {5, 134, 2, true, 0.1}, {1, 12, 3, false, 0.0},
    };
    for (size_t i = 0; i < sizeof args / sizeof *args; i++) {
        char name[64];
        snprintf(name, sizeof name, "group_norm %lldx%lld/%d drop %g", (long long)args[i].S,
                 (long long)args[i].c, args[i].groups, args[i].drop);
        check(name, 3, build_gn, &args[i]);
    }
    static const gn_arg blocks = {3, 8, 2, true, 0.2};
    check("group_norm, three blocks", 37, build_gn, &blocks);
}

/* ---- slices of one product's result ---- */
/* Contexts of two convolutions and the film of two group norms, out of one node each; the slices
 * come in another order than their columns. */
static int build_slices(mr_graph *g, const void *arg)
{
    const int64_t *a = arg; /* S, channels of the first and of the second */
    int64_t c = a[1], e = a[2];
    int x = op_leaf(g, "x", ROWS, 3, a[0], c, 1, 1.0);
    int film = op_leaf(g, "film", ROWS, 2, 2 * (c + e), 1, 1, 0.7);
    int ctx = op_leaf(g, "context", ROWS, 2, c + e, 1, 1, 1.0);
    int w1 = op_param(g, "w1", 3, e, 3, c, 0.5, 0), w2 = op_param(g, "w2", 3, c, 3, e, 0.5, 0);
    int g1 = op_param(g, "g1", 1, c, 1, 1, 1.0, 0), g2 = op_param(g, "g2", 1, e, 1, 1, 1.0, 0);
    int b1 = op_param(g, "b1", 1, c, 1, 1, 1.0, 0), b2 = op_param(g, "b2", 1, e, 1, 1, 1.0, 0);
    int h = mr_g_group_norm(g, x, 1, g1, b1, mr_g_slice(g, film, 2 * e, 2 * c), -1, 0.1);
    h = mr_g_conv3(g, h, w1, -1, 1, -1, mr_g_slice(g, ctx, c, e));
    h = mr_g_group_norm(g, h, 1, g2, b2, mr_g_slice(g, film, 0, 2 * e), -1, 0);
    return mr_g_conv3(g, h, w2, -1, 1, x, mr_g_slice(g, ctx, 0, c));
}

static void test_slices(void **state)
{
    (void)state;
    static const int64_t size[][3] = {{3, 4, 3}, {1, 2, 7}, {5, 3, 3}};
    for (int i = 0; i < 3; i++) check("slices", 5, build_slices, size[i]);
    /* as for a GPU: every norm is joined to the convolution that reads it */
    for (int i = 0; i < 3; i++)
        op_check(&(op_case){.name = "norms joined to convolutions",
                            .s = {.rows = 5, .L = 2, .n_items = 9, .whole_products = true},
                            .build = build_slices,
                            .arg = size[i]});
}

/* ---- convolutions whose backward the step before begins ---- */
/* By a norm that adds to the gradient (with stride 2; with a residual; with both), by resizing, by
 * concatenation; the residual of one is what it convolves. */
static int build_begun(mr_graph *g, const void *arg)
{
    const int64_t *a = arg; /* S, channels in and inside */
    int64_t S = a[0], c = a[1], e = a[2];
    int x = op_leaf(g, "x", ROWS, 3, S, c, 1, 1.0);
    int ctx = op_leaf(g, "context", ROWS, 2, 2 * e, 1, 1, 1.0);
    int ctx1 = mr_g_slice(g, ctx, 0, e), ctx2 = mr_g_slice(g, ctx, e, e);
    int w1 = op_param(g, "w1", 3, e, 3, c, 0.5, 0), w2 = op_param(g, "w2", 3, e, 3, e, 0.5, 0);
    int b1 = op_param(g, "b1", 1, e, 1, 1, 1.0, 0), b2 = op_param(g, "b2", 1, e, 1, 1, 1.0, 0);
    int ga = op_param(g, "ga", 1, e, 1, 1, 1.0, 0), be = op_param(g, "be", 1, e, 1, 1, 1.0, 0);
    int w3 = op_param(g, "w3", 3, c + e, 3, c + e, 0.5, 0);
    int b3 = op_param(g, "b3", 1, c + e, 1, 1, 1.0, 0);
    int gb = op_param(g, "gb", 1, c + e, 1, 1, 1.0, 0);
    int h = mr_g_conv3(g, x, w1, b1, 2, -1, ctx1);
    int u = mr_g_group_norm(g, h, 1, ga, be, -1, -1, 0.1);
    h = mr_g_upsample(g, mr_g_conv3(g, u, w2, b2, 1, h, ctx2), S);
    h = mr_g_concat(g, mr_g_conv3(g, h, w2, b1, 1, h, -1), x);
    h = mr_g_conv3(g, h, w3, b3, 1, h, -1);
    return mr_g_group_norm(g, h, 1, gb, b3, -1, -1, 0);
}

static void test_begun(void **state)
{
    (void)state;
    static const int64_t size[][3] = {{5, 3, 4}, {4, 2, 3}, {1, 3, 2}, {3, 5, 2}};
    for (int i = 0; i < 8; i++)
        op_check(&(op_case){
            .name = i % 2 ? "convolutions, each on its own" : "convolutions begun before",
            .s = {.rows = i < 6 ? 5 : 21, .L = 2, .n_items = 9, .whole_products = i % 2 == 0},
            .build = build_begun,
            .arg = size[i / 2]});
}

/* ---- block-diagonal products ---- */
static int build_blocks(mr_graph *g, const void *arg)
{
    const int64_t *a = arg; /* widths of blocks, how many of each: big ones between two small */
    int64_t c = a[0], e = a[2], w = c * a[1] + e * a[3];
    int x = op_leaf(g, "x", ROWS, 2, w, 1, 1, 1.0), b = op_param(g, "b", 1, w, 1, 1, 0.5, 0);
    mr_block_set set[2] = {{op_param(g, "small", 2, c * a[1], c, 1, 0.5, 0), 0, w - c}, {-1, c, e}};
    if (e) set[1].w = op_param(g, "big", 2, e * a[3], e, 1, 0.5, 0);
    return mr_g_blocks(g, x, b, e ? 2 : 1, set);
}

static void test_blocks(void **state)
{
    (void)state;
    static const int64_t size[][4] = {{2, 2, 5, 3}, {1, 2, 3, 1}, {7, 1, 0, 0}, {4, 2, 0, 0}};
    for (int i = 0; i < 4; i++) check("blocks", 5, build_blocks, size[i]);
}

/* ---- the small ones ---- */
static int build_add_context(mr_graph *g, const void *arg)
{
    int64_t S = *(const int64_t *)arg;
    return mr_g_add_context(g, op_leaf(g, "x", ROWS, 3, S, 5, 1, 1.0),
                            op_leaf(g, "v", ROWS, 2, 5, 1, 1, 1.0));
}

static int build_upsample(mr_graph *g, const void *arg)
{
    const int64_t *a = arg;
    return mr_g_upsample(g, op_leaf(g, "x", ROWS, 3, a[0], 3, 1, 1.0), a[1]);
}

static int build_concat(mr_graph *g, const void *arg)
{
    const int64_t *a = arg;
    int x = op_leaf(g, "x", ROWS, 3, a[0], a[1], 1, 1.0);
    int y = a[2] ? op_leaf(g, "y", ROWS, 3, a[0], a[2], 1, 1.0) : x;
    return mr_g_concat(g, x, y);
}

static int build_silu(mr_graph *g, const void *arg)
{
    (void)arg;
    return mr_g_silu(g, op_leaf(g, "x", ROWS, 2, 7, 1, 1, 2.0));
}

static int build_mix(mr_graph *g, const void *arg)
{
    return mr_g_mix(g, op_leaf(g, "a", ROWS, 2, 7, 1, 1, 1.0),
                    op_leaf(g, "b", ROWS, 2, 7, 1, 1, 1.0), *(const double *)arg);
}

static void test_small(void **state)
{
    (void)state;
    check("silu", 3, build_silu, NULL);
    static const double w = 0.3;
    check("mix", 3, build_mix, &w);
    static const int64_t frames[] = {1, 2, 3, 5, 7};
    for (int i = 0; i < 5; i++) check("add_context", 3, build_add_context, &frames[i]);
    static const int64_t resize[][2] = {{3, 5}, {1, 2}, {2, 3}, {4, 7}, {5, 5}, {3, 11}};
    for (int i = 0; i < 6; i++) check("upsample", 3, build_upsample, resize[i]);
    static const int64_t join[][3] = {{5, 3, 4}, {1, 1, 1}, {3, 7, 2}, {2, 5, 0}};
    for (int i = 0; i < 4; i++) check("concat", 3, build_concat, join[i]);
}

/* ---- diffusion ---- */
static int build_noise(mr_graph *g, const void *arg)
{
    const int64_t *a = arg; /* which, t, width */
    return mr_g_noise(g, op_leaf(g, "x0", ROWS, 2, a[2], 1, 1, 1.0), (int)a[0], a[1], false);
}

static void test_noise(void **state)
{
    (void)state;
    static const int64_t a[][3] = {{MR_DIFF_TCD, 0, 7}, {MR_DIFF_NPD, 0, 70}, {MR_DIFF_NPD, 4, 5}};
    for (int i = 0; i < 3; i++) check("noise", 5, build_noise, a[i]);
}

static int build_tokens(mr_graph *g, const void *arg)
{
    int64_t K = *(const int64_t *)arg;
    int type = op_param(g, "type", 2, K + 2, 5, 1, 1.0, 0);
    return mr_g_condition_tokens(g, op_leaf(g, "frames", ROWS, 3, K, 5, 1, 1.0),
                                 op_leaf(g, "text", ROWS, 2, 5, 1, 1, 1.0), type);
}

/* The type table serves both ops: tokens first, so that both orders of writing occur. */
static int build_all_tokens(mr_graph *g, const void *arg)
{
    int64_t K = *(const int64_t *)arg;
    int type = op_param(g, "type", 2, K + 2, 5, 1, 1.0, 0);
    int x = mr_g_add_row(g, op_leaf(g, "x", ROWS, 2, 5, 1, 1, 1.0), type, 0);
    mr_graph_loss(g, mr_g_probe(g, x), 0.4, "row");
    return build_tokens(g, arg);
}

/* One row of a table of three: the others have gradient 0, which the second term makes visible. */
static int build_add_row(mr_graph *g, const void *arg)
{
    int64_t row = *(const int64_t *)arg;
    int table = op_param(g, "table", 2, 3, 5, 1, 1.0, 0);
    return mr_g_add_row(g, op_leaf(g, "x", ROWS, 2, 5, 1, 1, 1.0), table, row);
}

static int build_pool(mr_graph *g, const void *arg)
{
    int64_t K = *(const int64_t *)arg;
    return mr_g_pool_concat(g, op_leaf(g, "x0", ROWS, 2, 5, 1, 1, 1.0),
                            op_leaf(g, "frames", ROWS, 3, K, 5, 1, 1.0),
                            op_leaf(g, "text", ROWS, 2, 5, 1, 1, 1.0));
}

static int build_pool_same(mr_graph *g, const void *arg)
{
    int64_t K = *(const int64_t *)arg;
    int x = op_leaf(g, "x0", ROWS, 2, 5, 1, 1, 1.0);
    return mr_g_pool_concat(g, x, op_leaf(g, "frames", ROWS, 3, K, 5, 1, 1.0), x);
}

static void test_condition(void **state)
{
    (void)state;
    static const int64_t K[] = {1, 2, 3, 5, 7};
    for (int i = 0; i < 5; i++) {
        check("condition_tokens", 3, build_tokens, &K[i]);
        check("condition_tokens and add_row", 3, build_all_tokens, &K[i]);
        check("pool_concat", 3, build_pool, &K[i]);
    }
    check("pool_concat, one input twice", 3, build_pool_same, &K[2]);
    static const int64_t row[] = {0, 1, 2};
    for (int i = 0; i < 3; i++) check("add_row", 3, build_add_row, &row[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_conv3),  cmocka_unit_test(test_group_norm),
        cmocka_unit_test(test_begun),  cmocka_unit_test(test_slices),
        cmocka_unit_test(test_blocks), cmocka_unit_test(test_small),
        cmocka_unit_test(test_noise),  cmocka_unit_test(test_condition),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
