/* The ops reshape and add_param through the op harness. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include "op_check.h"

typedef struct shape {
    int64_t d1, d2, d3;
} shape;

static int build_reshape(mr_graph *g, const void *arg)
{
    const shape *s = arg;
    int x = op_leaf(g, "x", MR_SPACE_ROWS, 4, s->d1, s->d2, s->d3, 1.0);
    int y = mr_g_reshape(g, x, 2, s->d1 * s->d2 * s->d3, 1, 1);
    return mr_g_reshape(g, y, 3, s->d3, s->d1 * s->d2, 1);
}

static int build_add_param(mr_graph *g, const void *arg)
{
    const shape *s = arg;
    int x = op_leaf(g, "x", MR_SPACE_ROWS, 4, s->d1, s->d2, s->d3, 1.0);
    return mr_g_add_param(g, x, op_param(g, "p", 3, s->d1, s->d2, s->d3, 1.0, 0));
}

static void check(const char *name, int (*build)(mr_graph *g, const void *arg))
{
    static const shape shapes[] = {{1, 1, 1}, {3, 5, 7}, {2, 67, 1}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (int64_t rows = 1; rows <= 5; rows += 4)
            op_check(&(op_case){.name = name,
                                .s = {.rows = rows, .L = 2, .n_items = 9},
                                .build = build,
                                .arg = &shapes[i]});
}

static void test_reshape(void **state)
{
    (void)state;
    check("reshape", build_reshape);
}

static void test_add_param(void **state)
{
    (void)state;
    check("add_param", build_add_param);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reshape),
        cmocka_unit_test(test_add_param),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
