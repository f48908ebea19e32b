/* Parameters of several layers (stacks) and slices: initial values and names are those of
 * parameters of their own; what a plan and the builders refuse. The gradients through slices are
 * checked in tests/ops_b. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/mem.h"
#include "graph/ops.h"
#include "graph/plan.h"
#include "graph/plan_memory.h"

#define OK(call) assert_int_equal((call), MR_OK)

typedef struct fixture {
    mr_device *dev;
    mr_params ps;
    mr_graph *g;
    mr_plan *plan;
    int x; /* leaf [rows,6] */
} fixture;

static void begin(fixture *f)
{
    memset(f, 0, sizeof *f);
    mr_graph_dims dims = {.rows_cap = 3, .L = 2, .n_items = 4, .n_ranks = 1};
    OK(mr_device_open(&f->dev, "cpu64", 0));
    OK(mr_graph_create(&f->g, &dims, &f->ps, 8, true));
    int x = mr_param_declare(&f->ps, "x", 2, (int64_t[]){3, 6}, MR_INIT_NORMAL, 1, 0);
    f->x = mr_g_leaf(f->g, x, MR_SPACE_ROWS);
}

static void end(fixture *f)
{
    mr_plan_free(&f->plan);
    mr_graph_free(&f->g);
    mr_params_free(&f->ps);
    mr_device_close(&f->dev);
}

static double *named(mr_params *ps, const char *name, int64_t n)
{
    double *out = NULL;
    OK(MR_ALLOC(&out, n, "values"));
    for (int i = 0; i < mr_named_count(ps); i++) {
        mr_named nm;
        mr_named_at(ps, i, &nm);
        if (strcmp(nm.name, name)) continue;
        OK(mr_named_get(ps, i, MR_VALUE, out));
        return out;
    }
    fail_msg("no parameter %s", name);
    return NULL;
}

/* Two layers of three as one parameter, the third declared between them; twice, as for two graphs.
 */
static void test_values(void **state)
{
    (void)state;
    static const char *const names[] = {"a", "b", "c", "last"};
    fixture one, many;
    begin(&one);
    begin(&many);
    const int64_t five[] = {5, 7}, two[] = {2, 7}, all[] = {7, 7}, four[] = {4, 4};
    mr_param_declare(&many.ps, "a", 2, five, MR_INIT_UNIFORM, 0.5, 0);
    mr_param_declare(&many.ps, "b", 2, four, MR_INIT_NORMAL, 2, 0);
    mr_param_declare(&many.ps, "c", 2, two, MR_INIT_UNIFORM, 0.25, 0);
    mr_param_declare(&many.ps, "last", 2, four, MR_INIT_NORMAL, 1, 0);
    for (int twice = 0; twice < 2; twice++) {
        int s = mr_param_declare_stack(&one.ps, "a and c", 2, all, MR_INIT_UNIFORM, 0);
        OK(mr_param_add_part(&one.ps, s, "a", 5, 0.5));
        mr_param_declare(&one.ps, "b", 2, four, MR_INIT_NORMAL, 2, 0);
        OK(mr_param_add_part(&one.ps, s, "c", 2, 0.25));
        mr_param_declare(&one.ps, "last", 2, four, MR_INIT_NORMAL, 1, 0);
    }
    assert_int_equal(one.ps.n, many.ps.n - 1);
    assert_int_equal(one.ps.n_numbers, many.ps.n_numbers);
    assert_int_equal(mr_named_count(&one.ps), mr_named_count(&many.ps));
    fixture *both[] = {&one, &many};
    for (int i = 0; i < 2; i++) {
        OK(mr_params_alloc(&both[i]->ps, both[i]->dev, 0, 1, true));
        OK(mr_params_init(&both[i]->ps, 5));
    }
    static const int64_t count[] = {35, 16, 14, 16};
    for (int i = 0; i < 4; i++) {
        double *p = named(&one.ps, names[i], count[i]), *q = named(&many.ps, names[i], count[i]);
        assert_memory_equal(p, q, (size_t)count[i] * sizeof *p);
        assert_true(p[0] != p[1]);
        MR_FREE(p);
        MR_FREE(q);
    }
    end(&one);
    end(&many);
}

/* q, and k and v with the random number of one parameter, in one of rows that are padded. */
static void test_shared_number(void **state)
{
    (void)state;
    enum { D = 5 };
    static const char *const names[] = {"q", "k", "v"};
    static const int64_t rows[] = {D, D};
    fixture one, many;
    begin(&one);
    begin(&many);
    one.ps.row_unit = 8; /* [15,5] is stored as [16,8] */
    const unsigned wide = MR_PARAM_WIDTH(0) | MR_PARAM_WIDTH(1);
    mr_param_declare(&many.ps, "q", 2, (int64_t[]){D, D}, MR_INIT_NORMAL, 0.5, 0);
    mr_param_declare(&many.ps, "kv", 2, (int64_t[]){2 * D, D}, MR_INIT_NORMAL, 0.5, 0);
    for (int twice = 0; twice < 2; twice++) {
        int s =
            mr_param_declare_stack(&one.ps, "qkv", 2, (int64_t[]){3 * D, D}, MR_INIT_NORMAL, wide);
        OK(mr_param_add_part(&one.ps, s, "q", D, 0.5));
        OK(mr_param_add_parts(&one.ps, s, 2, names + 1, rows, 0.5));
    }
    assert_int_equal(one.ps.n_numbers, many.ps.n_numbers);
    fixture *both[] = {&one, &many};
    for (int i = 0; i < 2; i++) {
        OK(mr_params_alloc(&both[i]->ps, both[i]->dev, 0, 1, true));
        OK(mr_params_init(&both[i]->ps, 5));
    }
    double *q = named(&many.ps, "q", D * D), *kv = named(&many.ps, "kv", 2 * D * D);
    const double *want[] = {q, kv, kv + D * D};
    for (int i = 0; i < 3; i++) {
        double *p = named(&one.ps, names[i], D * D);
        assert_memory_equal(p, want[i], D * D * sizeof *p);
        assert_true(p[0] != p[1]);
        MR_FREE(p);
    }
    MR_FREE(q);
    MR_FREE(kv);
    end(&one);
    end(&many);
}

/* Rows that no part names, and parts that do not fit. */
static void test_parts(void **state)
{
    (void)state;
    fixture f;
    begin(&f);
    int s = mr_param_declare_stack(&f.ps, "s", 1, (int64_t[]){7}, MR_INIT_ZERO, 0);
    OK(mr_param_add_part(&f.ps, s, "a", 3, 1));
    assert_int_equal(mr_param_add_part(&f.ps, s, "b", 5, 1), MR_ERR_INTERNAL);
    static const char *const names[] = {"b", "c"};
    static const int64_t rows[] = {4, 1};
    assert_int_equal(mr_param_add_parts(&f.ps, s, 2, names, rows, 1), MR_ERR_INTERNAL);
    OK(mr_params_alloc(&f.ps, f.dev, 0, 1, true));
    assert_int_equal(mr_params_init(&f.ps, 5), MR_ERR_INTERNAL);
    end(&f);
}

static void probe(fixture *f, int node, const char *name)
{
    mr_graph_loss(f->g, mr_g_probe(f->g, node), 1, name);
}

static int film(fixture *f, int slice)
{
    int v = mr_param_declare(&f->ps, "v", 3, (int64_t[]){3, 2, 1}, MR_INIT_NORMAL, 1, 0);
    int one = mr_param_declare(&f->ps, "one", 1, (int64_t[]){1}, MR_INIT_ONE, 0, 0);
    int x = mr_g_leaf(f->g, v, MR_SPACE_ROWS);
    return mr_g_group_norm(f->g, x, 1, one, one, slice, -1, 0);
}

static void refused(fixture *f)
{
    OK(mr_graph_status(f->g));
    mr_params_layout(&f->ps, f->dev, 0, 1, true);
    assert_int_equal(mr_plan_compile(&f->plan, f->g, true, false, 0), MR_ERR_INTERNAL);
    end(f);
}

/* Gradients: a column of no slice, columns of two slices, a reader of the whole. Without gradients
 * all that is allowed. */
static void test_plan(void **state)
{
    (void)state;
    fixture f;
    begin(&f);
    probe(&f, film(&f, mr_g_slice(f.g, f.x, 0, 2)), "1");
    probe(&f, film(&f, mr_g_slice(f.g, f.x, 4, 2)), "2");
    refused(&f);
    begin(&f);
    static const int64_t at[] = {0, 2, 3, 4};
    for (int i = 0; i < 4; i++) probe(&f, film(&f, mr_g_slice(f.g, f.x, at[i], 2)), "n");
    refused(&f);
    begin(&f);
    for (int i = 0; i < 3; i++) probe(&f, film(&f, mr_g_slice(f.g, f.x, 2 * i, 2)), "n");
    probe(&f, f.x, "whole");
    refused(&f);
    begin(&f);
    int x = mr_g_silu(f.g, mr_g_detach(f.g, f.x));
    probe(&f, film(&f, mr_g_slice(f.g, x, 0, 2)), "1");
    probe(&f, film(&f, mr_g_slice(f.g, x, 1, 2)), "2");
    OK(mr_graph_status(f.g));
    mr_params_layout(&f.ps, f.dev, 0, 1, true);
    OK(mr_plan_compile(&f.plan, f.g, true, false, 0));
    end(&f);
}

/* Slices of three dimensions and of rows with columns behind those that count: these go with the
 * last ones. What attention makes of them is as wide as a node of its own. */
static void test_widths(void **state)
{
    (void)state;
    for (int is_one = 0; is_one < 2; is_one++) {
        fixture f;
        begin(&f);
        f.g->dims.row_unit = f.ps.row_unit = 8;
        int p = mr_param_declare(&f.ps, "p", 3, (int64_t[]){3, 2, 18}, MR_INIT_NORMAL, 1,
                                 MR_PARAM_WIDTH(2));
        int all = mr_g_leaf(f.g, p, MR_SPACE_ROWS);
        int q = mr_g_slice(f.g, all, 0, 6), kv = mr_g_slice(f.g, all, 6, 12);
        const mr_node *s = mr_node_at(f.g, kv);
        assert_int_equal(s->ndim, 3);
        assert_int_equal(s->dim[1], 2);
        assert_int_equal(mr_node_width(f.g, q), 6);
        assert_int_equal(mr_node_cols(f.g, kv), 12);
        assert_int_equal(mr_node_width(f.g, kv), 18);
        assert_int_equal(mr_node_ld(f.g, kv), 24);
        if (is_one) { /* a first key has rows of 16, these keys of 18 */
            int w = mr_param_declare(&f.ps, "first", 2, (int64_t[]){3, 12}, MR_INIT_NORMAL, 1,
                                     MR_PARAM_WIDTH(1));
            int x = mr_param_declare(&f.ps, "query", 2, (int64_t[]){3, 6}, MR_INIT_NORMAL, 1,
                                     MR_PARAM_WIDTH(1));
            mr_g_attention(f.g, mr_g_leaf(f.g, x, MR_SPACE_ROWS), kv,
                           mr_g_leaf(f.g, w, MR_SPACE_ROWS), 2, MR_ATT_ONE, 0, 0);
            assert_int_equal(mr_graph_status(f.g), MR_ERR_CONFIG);
        } else {
            int y = mr_g_attention(f.g, q, kv, -1, 2, MR_ATT_FULL, 0, 0);
            assert_int_equal(mr_node_cols(f.g, y), 6);
            assert_int_equal(mr_node_width(f.g, y), 8);
            probe(&f, y, "1");
            mr_params_layout(&f.ps, f.dev, 0, 1, true);
            OK(mr_plan_compile(&f.plan, f.g, true, false, 0));
            OK(mr_plan_verify(f.plan));
        }
        end(&f);
    }
}

/* Readers that take contiguous rows, outputs, and columns that do not exist. */
static void test_builders(void **state)
{
    (void)state;
    for (int i = 0; i < 5; i++) {
        fixture f;
        begin(&f);
        int s = i < 3 ? mr_g_slice(f.g, f.x, 0, 2) : f.x;
        OK(mr_graph_status(f.g));
        if (i == 0) mr_g_silu(f.g, s);
        if (i == 1) mr_graph_output(f.g, s, "slice");
        if (i == 2) mr_g_slice(f.g, s, 0, 1);
        if (i == 3) mr_g_slice(f.g, s, 5, 2);
        if (i == 4) mr_g_slice(f.g, mr_g_detach(f.g, s), 0, 2);
        assert_int_equal(mr_graph_status(f.g), MR_ERR_CONFIG);
        end(&f);
    }
}

/* Blocks that leave a column out, or that share one. */
static void test_blocks(void **state)
{
    (void)state;
    static const int64_t first_step[][2] = {{0, 2}, {0, 3}};
    for (int i = 0; i < 3; i++) {
        fixture f;
        begin(&f);
        int w = mr_param_declare(&f.ps, "w", 2, (int64_t[]){i < 2 ? 6 : 4, i < 2 ? 3 : 2},
                                 MR_INIT_NORMAL, 1, 0);
        int b = mr_param_declare(&f.ps, "b", 1, (int64_t[]){6}, MR_INIT_ZERO, 0, 0);
        mr_block_set set = {w, first_step[i % 2][0], first_step[i % 2][1]};
        mr_g_blocks(f.g, f.x, b, 1, &set);
        assert_int_equal(mr_graph_status(f.g), i == 1 ? MR_OK : MR_ERR_CONFIG);
        end(&f);
    }
}

/* A group norm is joined to the convolution that alone reads it, where few launches count. */
static void test_joined(void **state)
{
    (void)state;
    enum { PLAIN, SMALL_PRODUCTS, OUTPUT, OTHER_OP, OTHER_READER, TWO_READERS, CASES };
    for (int i = 0; i < CASES; i++) {
        fixture f;
        begin(&f);
        f.g->dims.whole_products = i != SMALL_PRODUCTS;
        int one = mr_param_declare(&f.ps, "one", 1, (int64_t[]){3}, MR_INIT_ONE, 0, 0);
        int w = mr_param_declare(&f.ps, "w", 3, (int64_t[]){3, 3, 3}, MR_INIT_NORMAL, 1, 0);
        int x = mr_g_reshape(f.g, f.x, 3, 2, 3, 1);
        int norm = mr_g_group_norm(f.g, x, 1, one, one, -1, -1, 0);
        int y = mr_g_conv3(f.g, norm, w, -1, 1, x, -1);
        if (i == OTHER_OP) y = mr_g_add(f.g, x, norm);
        if (i == OTHER_READER) y = mr_g_add(f.g, y, norm);
        if (i == TWO_READERS) y = mr_g_conv3(f.g, norm, w, -1, 1, y, -1);
        mr_graph_output(f.g, i == OUTPUT ? norm : y, "out");
        mr_graph_loss(f.g, mr_g_mse(f.g, y, x, false), 1.0, "loss");
        OK(mr_plan_compile(&f.plan, f.g, true, false, 0));
        assert_int_equal(f.plan->is_joined[norm], i == PLAIN);
        int runs = 0, backs = 0;
        for (int k = 0; k < f.plan->n_fwd; k++) runs += f.plan->fwd[k] == norm;
        for (int k = 0; k < f.plan->n_bwd; k++) backs += f.plan->bwd[k] == norm;
        assert_int_equal(runs, i != PLAIN);
        assert_int_equal(backs, 1);
        /* three samples of two frames: a row of zeros before each and behind the last */
        assert_int_equal(f.plan->val[norm].bytes, (i == PLAIN ? 10 : 6) * 3 * 8);
        OK(mr_plan_verify(f.plan));
        end(&f);
    }
}

/* A look-up is joined to the addition that alone reads it: it has no value, and no gradient of its
 * own. */
static void test_joined_sum(void **state)
{
    (void)state;
    enum { PLAIN, SMALL_PRODUCTS, OUTPUT, OTHER_OP, TWO_READERS, CASES };
    for (int i = 0; i < CASES; i++) {
        fixture f;
        begin(&f);
        f.g->dims.whole_products = i != SMALL_PRODUCTS;
        int table = mr_param_declare(&f.ps, "table", 2, (int64_t[]){5, 6}, MR_INIT_NORMAL, 1,
                                     MR_PARAM_SHARDED);
        int pos = mr_param_declare(&f.ps, "pos", 2, (int64_t[]){2, 6}, MR_INIT_NORMAL, 1, 0);
        int x = mr_g_lookup(f.g, table, 0);
        int y = i == OTHER_OP ? mr_g_silu(f.g, x) : mr_g_add_position(f.g, x, pos, 0);
        if (i == TWO_READERS) y = mr_g_add(f.g, y, x);
        int z = mr_g_silu(f.g, y);
        mr_graph_output(f.g, i == OUTPUT ? x : z, "out");
        mr_graph_loss(f.g, mr_g_probe(f.g, z), 1.0, "loss");
        OK(mr_graph_status(f.g));
        mr_params_layout(&f.ps, f.dev, 0, 1, true);
        OK(mr_plan_compile(&f.plan, f.g, true, false, 0));
        const mr_plan *p = f.plan;
        bool is_joined = i == PLAIN;
        assert_int_equal(p->is_joined[x], is_joined);
        assert_int_equal(p->grad_of[x], is_joined ? y : x);
        assert_int_equal(p->val[x].first < 0, is_joined);
        assert_int_equal(p->grad[x].first < 0, is_joined);
        /* the gradient lasts until the look-up has it */
        int last = -1;
        for (int j = 0; j < p->n_bwd; j++)
            if (p->bwd[j] == x) last = p->n_fwd + j;
        assert_true(last > 0);
        assert_int_equal(p->grad[is_joined ? y : x].last, last);
        OK(mr_plan_verify(p));
        end(&f);
    }
}

/* The step before begins the backward of a convolution, if it finishes the gradient. */
static void test_begun(void **state)
{
    (void)state;
    enum { PLAIN, SMALL_PRODUCTS, EARLIER_READER, LATER_READER, SHARED_PARAM, TWICE, CASES };
    for (int i = 0; i < CASES; i++) {
        fixture f;
        begin(&f);
        f.g->dims.whole_products = i != SMALL_PRODUCTS;
        int one = mr_param_declare(&f.ps, "one", 1, (int64_t[]){3}, MR_INIT_ONE, 0, 0);
        int b = mr_param_declare(&f.ps, "b", 1, (int64_t[]){3}, MR_INIT_ONE, 0, 0);
        int w = mr_param_declare(&f.ps, "w", 3, (int64_t[]){3, 3, 3}, MR_INIT_NORMAL, 1, 0);
        int x = mr_g_reshape(f.g, f.x, 3, 2, 3, 1);
        int conv = mr_g_conv3(f.g, x, w, b, 1, x, -1);
        int first = i == EARLIER_READER ? mr_g_silu(f.g, conv) : x;
        int y = i == TWICE
                    ? mr_g_concat(f.g, conv, conv)
                    : mr_g_group_norm(f.g, conv, 1, one, i == SHARED_PARAM ? b : one, -1, -1, 0);
        if (i == EARLIER_READER || i == LATER_READER)
            y = mr_g_add(f.g, y, i == EARLIER_READER ? first : conv);
        mr_graph_loss(f.g, mr_g_probe(f.g, y), 1.0, "loss");
        OK(mr_graph_status(f.g));
        mr_params_layout(&f.ps, f.dev, 0, 1, true);
        OK(mr_plan_compile(&f.plan, f.g, true, false, 0));
        const mr_plan *p = f.plan;
        bool is_begun = i == PLAIN || i == LATER_READER;
        assert_int_equal(p->begun_by[conv] >= 0, is_begun);
        int at = -1;
        for (int j = 0; j < p->n_bwd; j++)
            if (p->bwd[j] == conv) at = p->n_fwd + j;
        /* its scratch, and what it writes, is live a step earlier */
        assert_int_equal(p->scratch[conv][1].first, at - is_begun);
        assert_int_equal(p->grad[p->root[x]].first, at - is_begun);
        if (is_begun) assert_int_equal(p->begun_by[conv], p->bwd[at - p->n_fwd - 1]);
        OK(mr_plan_verify(f.plan));
        /* and the memory of its bias's gradient is no buffer's from then on */
        mr_slot fixed[2 * MR_MAX_PARAMS + 2];
        int n_fixed = mr_gradient_slots(f.plan, fixed), found = 0;
        for (int k = 0; k < n_fixed; k++) {
            if (fixed[k].offset != f.ps.p[b].offset * 8 || fixed[k].bytes != 3 * 8) continue;
            found++;
            assert_int_equal(fixed[k].first, i == SHARED_PARAM ? at - 1 : at - is_begun);
        }
        assert_int_equal(found, 1);
        end(&f);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_values),     cmocka_unit_test(test_parts),
        cmocka_unit_test(test_plan),       cmocka_unit_test(test_builders),
        cmocka_unit_test(test_widths),     cmocka_unit_test(test_shared_number),
        cmocka_unit_test(test_blocks),     cmocka_unit_test(test_joined),
        cmocka_unit_test(test_joined_sum), cmocka_unit_test(test_begun),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
