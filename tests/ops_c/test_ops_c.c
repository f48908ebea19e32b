/* Ops of the losses and of TedRec through the op harness: differences in float64, both accumulate
 * bits, private memory, guard device, float32, 0 rows. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include "op_check.h"

enum { D = 6 };
static const op_sizes small = {.rows = 5, .L = 4, .n_items = 11};

/* ---- mse ---- */
static int build_mse(mr_graph *g, const void *arg)
{
    int a = op_leaf(g, "pred", MR_SPACE_ROWS, 3, 3, D, 1, 1.0);
    int b = op_leaf(g, "target", MR_SPACE_ROWS, 3, 3, D, 1, 1.0);
    return mr_g_mse(g, a, b, arg != NULL);
}

static void test_mse(void **state)
{
    (void)state;
    op_check(&(op_case){"mse", small, .build = build_mse, .is_loss = true});
    op_check(&(op_case){"mse detached", small, .build = build_mse, .arg = "", .is_loss = true,
                        .detached = "target"});
}

/* ---- item_loss ---- */
typedef struct loss_args {
    bool cosine, has_mask;
    double temperature;
} loss_args;

static int build_item_loss(mr_graph *g, const void *arg)
{
    const loss_args *a = arg;
    int x = op_leaf(g, "x", MR_SPACE_ROWS, 2, D, 1, 1, 1.0);
    int t = op_param(g, "table", 2, g->dims.n_items + 1 + a->has_mask, D, 1, 0.8, MR_PARAM_SHARDED);
    return mr_g_item_loss(g, x, t, a->cosine, a->temperature);
}

static void test_item_loss(void **state)
{
    (void)state;
    static const loss_args args[] = {
        {false, false, 1.0}, {false, true, 1.0}, {true, false, 0.3}, {true, true, 0.07}};
    for (int i = 0; i < 4; i++)
        op_check(&(op_case){"item_loss", small, .build = build_item_loss, .arg = &args[i],
                            .is_loss = true});
    /* several chunks of rows */
    for (int i = 0; i < 2; i++) /* as on a GPU: one chunk */
        op_check(&(op_case){"item_loss of 300 rows",
                            {.rows = 300, .L = 2, .n_items = 23, .whole_products = i > 0},
                            .build = build_item_loss,
                            .arg = &args[2],
                            .is_loss = true});
    /* several blocks of ids; the same in one product, as for a GPU */
    for (int whole = 0; whole < 2; whole++)
        for (int i = 0; i < 4; i += 3)
            op_check(&(op_case){"item_loss of 1,100 items",
                                {.rows = 5, .L = 2, .n_items = 1100, .whole_products = whole},
                                .build = build_item_loss,
                                .arg = &args[i],
                                .is_loss = true});
}

/* ---- ntxent ---- */
static int build_ntxent(mr_graph *g, const void *arg)
{
    int a = op_leaf(g, "z1", MR_SPACE_ROWS, 2, D, 1, 1, 0.7);
    int b = op_leaf(g, "z2", MR_SPACE_ROWS, 2, D, 1, 1, 0.7);
    return mr_g_ntxent(g, a, b, *(const double *)arg);
}

static void test_ntxent(void **state)
{
    (void)state;
    static const double one = 1.0, half = 0.5;
    op_check(&(op_case){"ntxent", small, .build = build_ntxent, .arg = &one, .is_loss = true});
    op_check(&(op_case){"ntxent of 150 rows",
                        {.rows = 150, .L = 2, .n_items = 9},
                        .build = build_ntxent,
                        .arg = &half,
                        .is_loss = true});
}

/* ---- moe ---- */
typedef struct moe_args {
    int64_t E, dh;
    double drop;
} moe_args;

static int build_moe(mr_graph *g, const void *arg)
{
    const moe_args *a = arg;
    int text = op_leaf(g, "text", MR_SPACE_TOK0, 2, a->dh, 1, 1, 1.0);
    int w = op_param(g, "w", 3, a->E, D, a->dh, 0.5, 0);
    int b = op_param(g, "bias", 3, a->E, g->dims.L, a->dh, 0.5, 0);
    int gate = op_param(g, "gate", 2, a->E, a->dh, 1, 0.5, 0);
    int noise = op_param(g, "noise", 2, a->E, a->dh, 1, 0.5, 0);
    return mr_g_moe(g, mr_g_detach(g, text), w, b, gate, noise, a->drop);
}

static void test_moe(void **state)
{
    (void)state;
    static const moe_args args[] = {{3, 5, 0.0}, {8, 10, 0.3}, {5, 7, 0.2}};
    static const int32_t full[] = {4, 4, 4, 4, 4};
    for (int i = 0; i < 3; i++) {
        op_check(&(op_case){"moe", small, .build = build_moe, .arg = &args[i], .detached = "text"});
        op_check(&(op_case){"moe in evaluation", small, .build = build_moe, .arg = &args[i],
                            .is_eval = true, .detached = "text", .zero_grad = "noise"});
    }
    op_sizes s = small;
    s.len = full;
    op_check(
        &(op_case){"moe without PAD", s, .build = build_moe, .arg = &args[1], .detached = "text"});
    op_sizes whole = small;
    whole.whole_products = true;
    for (int i = 0; i < 3; i++)
        op_check(&(op_case){"moe in few calls", whole, .build = build_moe, .arg = &args[i],
                            .detached = "text"});
    /* several chunks of rows */
    op_check(&(op_case){"moe of 130 rows",
                        {.rows = 130, .L = 10, .n_items = 9},
                        .build = build_moe,
                        .arg = &args[1],
                        .detached = "text"});
}

/* ---- freq_fuse ---- */
static int build_fuse(mr_graph *g, const void *arg)
{
    (void)arg;
    int64_t L = g->dims.L;
    int a = op_leaf(g, "a", MR_SPACE_ROWS, 3, L, D, 1, 1.0);
    int u = op_leaf(g, "u", MR_SPACE_ROWS, 3, L, D, 1, 1.0);
    int f = op_param(g, "filter", 3, L / 2 + 1, D, 2, 0.5, 0);
    int pw = op_param(g, "pw", 2, 1, D, 1, 0.5, 0), pb = op_param(g, "pb", 1, 1, 1, 1, 0.5, 0);
    int fw = op_param(g, "fw", 2, 1, D, 1, 0.5, 0), fb = op_param(g, "fb", 1, 1, 1, 1, 0.5, 0);
    return mr_g_freq_fuse(g, a, u, f, pw, pb, fw, fb);
}

static void test_fuse(void **state)
{
    (void)state;
    static const int64_t lengths[] = {1, 2, 5, 10};
    for (int i = 0; i < 4; i++)
        op_check(&(op_case){"freq_fuse",
                            {.rows = 5, .L = lengths[i], .n_items = 9},
                            .build = build_fuse,
                            .zero_grad = NULL});
    /* several blocks of rows */
    op_check(&(op_case){
        "freq_fuse of 70 rows", {.rows = 70, .L = 3, .n_items = 9}, .build = build_fuse});
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_mse), cmocka_unit_test(test_item_loss), cmocka_unit_test(test_ntxent),
        cmocka_unit_test(test_moe), cmocka_unit_test(test_fuse),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
