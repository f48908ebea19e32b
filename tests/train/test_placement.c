/* The choice of item groups: equal to the argmin of formulas written down here a second time, over
 * data sets, batches and layouts up to 1,024 ranks; memory, forced groups, ties, refusals. */
#include "train/placement.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { D = 300, RANKS = 1024 };

static mr_step_shape shape_of(int64_t items)
{
    mr_step_shape s = {.real_bytes = 4,
                       .table_rows = items + 1,
                       .width = D,
                       .n_seq = 1,
                       .lookups = {1},
                       .lookups_bwd = {1},
                       .n_item_loss = 1};
    return s;
}

/* Bytes over the links of `away` of the ranks' shares: what a group of g ranks, l of them on a
 * node, receives for the item table. Two levels: a rank gets 1 / l of what comes from other nodes
 * and the rest from its own. */
static void table_bytes(double v, double B, double U, int P, int local, int g, double *node,
                        double *net)
{
    double l = g <= local ? g : local, m = g / l, per_row = D * 4.0;
    double other = U / g * (g - l), own = U / g * (l - 1); /* rows wanted from other, own node */
    *node = *net = 0;
    if (g > 1) {
        double gather = B * (2 * per_row + 4 + 24 * g); /* for each rank of the group but one */
        *net = (m - 1) * gather + other * (2 * per_row + 4) + (g - l) * 8;
        *node = (g - m) * gather + own * (2 * per_row + 4) + (l - 1) * 8;
        double norm = 2.0 * (g - 1) * 16 / g;
        *net += floor(norm) * (m - 1) / (g - 1);
        *node += floor(norm) * (g - m) / (g - 1);
    }
    double c = (double)P / g;
    if (c > 1) {
        double cl = g <= local ? (double)local / g : 1, cm = c / cl;
        double sum = 2 * ceil(v / g) * per_row;
        *net += sum * (cm - 1) / c;
        *node += sum * (cm * (cl - 1)) / c;
    }
}

static double cost(double v, double B, double U, int P, int local, int g)
{
    double node, net;
    table_bytes(v, B, U, P, local, g, &node, &net);
    return node + 10 * net;
}

static double cheapest(double v, double B, double U, int P, int local)
{
    double best = P > local ? cost(v, B, U, P, local, P) : INFINITY;
    for (int g = 1; g <= local; g++)
        if (local % g == 0) best = fmin(best, cost(v, B, U, P, local, g));
    return best;
}

static mr_placement choose(int64_t items, int P, int nodes, int rows, int64_t U, double memory,
                           const char *wanted)
{
    static int32_t counts[RANKS];
    mr_layout l;
    mr_placement p;
    mr_step_shape s = shape_of(items);
    for (int r = 0; r < P; r++) counts[r] = rows;
    assert_int_equal(mr_layout_even(&l, P, nodes), MR_OK);
    assert_int_equal(mr_placement_choose(&p, &s, &l, counts, &U, memory, wanted), MR_OK);
    return p;
}

static int chosen(const mr_placement *p) { return p->of[p->chosen].group; }

static void test_argmin(void **state)
{
    (void)state;
    const int64_t items[] = {8265, 18700, 84192, 122845};
    const int layouts[][2] = {{1, 1},    {2, 1},    {3, 1},      {4, 1},     {6, 1},  {8, 1},
                              {16, 2},   {24, 3},   {64, 8},     {64, 64},   {96, 8}, {128, 16},
                              {256, 32}, {512, 64}, {1000, 125}, {1024, 128}};
    int groups = 0, seen[RANKS + 1] = {0};
    for (int i = 0; i < 4; i++)
        for (size_t k = 0; k < sizeof layouts / sizeof *layouts; k++)
            for (int rows = 2; rows <= 2048; rows *= 4) {
                int P = layouts[k][0], local = P / layouts[k][1];
                int64_t wide = rows * 4, U = wide < items[i] / 2 ? wide : items[i] / 2;
                U -= U % P; /* the same number of every owner, so that no formula rounds */
                mr_placement p = choose(items[i], P, layouts[k][1], rows, U, 0, "auto");
                double v = (double)items[i] + 1, B = rows,
                       best = cheapest(v, B, (double)U, P, local);
                double of_choice = cost(v, B, (double)U, P, local, chosen(&p));
                double said = p.of[p.chosen].cost;
                if (!(of_choice <= best * (1 + 1e-9) + 1))
                    fail_msg("%lld items, %d ranks, %d a node, %d rows: %d chosen at %.0f, best "
                             "%.0f",
                             (long long)items[i], P, local, rows, chosen(&p), of_choice, best);
                if (!(fabs(said - of_choice) <= 1e-4 * of_choice + 100))
                    fail_msg("%lld items, %d ranks of %d, %d rows, group %d: cost %.0f is said "
                             "to be %.0f",
                             (long long)items[i], P, local, rows, chosen(&p), of_choice, said);
                groups += !seen[chosen(&p)];
                seen[chosen(&p)] = 1;
            }
    assert_true(groups >= 4); /* the grid meets replicas, groups inside a node and one copy */
    assert_true(seen[1] && seen[8]);
}

/* The set of 122,845 items at the global batch of 2,048 on 8 ranks of a node: one copy, and at
 * least 25 times fewer bytes (float32 rows) than copies everywhere. */
static void test_anchor(void **state)
{
    (void)state;
    mr_placement p = choose(122845, 8, 1, 256, 2048, 0, "auto");
    assert_int_equal(chosen(&p), 8);
    assert_int_equal(p.of[0].group, 1);
    assert_true(p.of[0].bytes.node >= 25 * p.of[p.chosen].bytes.node);
    p = choose(122845, 1024, 128, 2048, 16384, 0, "auto"); /* never one copy over 128 nodes */
    assert_int_equal(chosen(&p), 8);
    p = choose(800, 8, 1, 2048, 512, 0, "auto"); /* a small table is cheaper copied */
    assert_int_equal(chosen(&p), 1);
}

static void test_memory(void **state)
{
    (void)state;
    double whole = 4.0 * 801 * D * 4;
    mr_placement p = choose(800, 8, 1, 2048, 512, 2 * whole, "auto");
    assert_int_equal(chosen(&p), 1);
    p = choose(800, 8, 1, 2048, 512, 1.99 * whole, "auto");
    assert_int_equal(chosen(&p), 2);
    p = choose(800, 8, 1, 2048, 512, 1, "auto"); /* nothing fits: the smallest share */
    assert_int_equal(chosen(&p), 8);
}

static void test_forced(void **state)
{
    (void)state;
    mr_layout l = {.ranks = 8, .nodes = 2, .local = 4};
    int32_t rows[8] = {8, 8, 8, 8, 8, 8, 8, 8};
    int64_t U = 64;
    mr_step_shape s = shape_of(100);
    mr_placement p = choose(100, 8, 2, 8, U, 0, "2");
    assert_int_equal(chosen(&p), 2);
    assert_true(p.is_forced);
    p = choose(100, 8, 2, 8, U, 0, "all");
    assert_int_equal(chosen(&p), 8);
    p = choose(100, 8, 8, 8, U, 0, "4"); /* across nodes: allowed when asked for */
    assert_int_equal(chosen(&p), 4);
    mr_errors_to_log(false);
    assert_int_equal(mr_placement_choose(&p, &s, &l, rows, &U, 0, "3"), MR_ERR_CONFIG);
    assert_non_null(strstr(mr_last_error(), "8 ranks cannot be split into groups of 3"));
    assert_int_equal(mr_placement_choose(&p, &s, &l, rows, &U, 0, "16"), MR_ERR_CONFIG);
    assert_int_equal(mr_layout_even(&l, 8, 3), MR_ERR_CONFIG);
    mr_errors_to_log(true);
}

/* Every byte is on one kind of link, and one node has none between nodes. */
static void test_split(void **state)
{
    (void)state;
    mr_layout one = {.ranks = 8, .nodes = 1, .local = 8},
              two = {.ranks = 8, .nodes = 2, .local = 4};
    mr_count c = {.calls = 1, .bytes_in = 7000, .bytes_out = 7000};
    for (int p = 0; p < MR_FOR_COUNT; p++) {
        mr_bytes b = mr_placement_split(&c, (mr_purpose)p, 8, &one);
        assert_true(b.net == 0);
        b = mr_placement_split(&c, (mr_purpose)p, 8, &two);
        int ranks, local;
        mr_placement_ranks((mr_purpose)p, 8, &two, &ranks, &local);
        assert_true(ranks == 1 || fabs(b.node + b.net - 7000) < 1e-6);
    }
    mr_bytes b = mr_placement_split(&c, MR_FOR_DENSE_GRADS, 8, &two);
    assert_true(fabs(b.net - 1000) < 1e-6); /* (2 - 1) / (8 - 1) of a sum */
    b = mr_placement_split(&c, MR_FOR_ROWS, 8, &two);
    assert_true(fabs(b.net - 4000) < 1e-6); /* 4 of the 7 other ranks are elsewhere */
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_argmin), cmocka_unit_test(test_anchor),
                                       cmocka_unit_test(test_memory), cmocka_unit_test(test_forced),
                                       cmocka_unit_test(test_split)};
    return cmocka_run_group_tests_name("placement", tests, NULL, NULL);
}
