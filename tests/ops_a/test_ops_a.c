/* Ops of norm, dropout, attention and embedding through the op harness. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include "op_check.h"

static int build_linear(mr_graph *g, const void *arg)
{
    (void)arg;
    int x = op_leaf(g, "x", MR_SPACE_ROWS, 2, 5, 1, 1, 1.0);
    int w = op_param(g, "w", 2, 3, 5, 1, 0.5, 0);
    int b = op_param(g, "b", 1, 3, 1, 1, 0.5, 0);
    return mr_g_linear(g, x, w, b, MR_ACT_GELU);
}

/* The harness itself, on the linear layer. */
static void test_linear(void **state)
{
    (void)state;
    op_check(&(op_case){"linear", {.rows = 4, .L = 3, .n_items = 9}, .build = build_linear});
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_linear),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
