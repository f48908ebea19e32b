/* item_loss and ntxent on several ranks against one rank that holds everything: loss, gradient of
 * x, gradient of the table's rows, float64. Uneven rows, a rank without rows, a rank without items.
 * The item loss in bf16 as well: cosines have one largest score for all ranks, so nothing changes;
 * else each rank rounds shares of the softmax by its own largest score, which moves every term of
 * a gradient by 2^-7 of itself at most. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/mem.h"
#include "graph/ops.h"
#include "graph/run.h"
#include "op_world.h"
#include "ranks_main.h"

#define TOL 1e-12
enum { D = 7 };

static mr_comm *world;

typedef struct dist_case {
    int64_t n_items;
    bool has_mask, cosine, is_ntxent, table_twice, is_bf16;
    int64_t rows[4]; /* of ranks 0..3; folded onto fewer ranks */
} dist_case;

/* One process: the whole problem (comm NULL) or this rank's part. */
typedef struct job {
    mr_device *dev;
    mr_params ps;
    mr_graph *g;
    mr_plan *plan;
    mr_run *run;
    mr_batch b;
    mr_step_state st;
    int64_t first;
} job;

static void make_batch(job *j, const dist_case *c, mr_comm *comm)
{
    mr_batch *b = &j->b;
    b->n_ranks = comm ? comm->size : 1;
    assert_int_equal(MR_ALLOC(&b->rank_rows, b->n_ranks, "rows"), MR_OK);
    for (int i = 0; i < 4; i++) {
        b->rank_rows[i % b->n_ranks] += (int32_t)c->rows[i];
        b->rows_global += c->rows[i];
    }
    for (int i = 0; comm && i < comm->rank; i++) j->first += b->rank_rows[i];
    b->rows = b->rank_rows[comm ? comm->rank : 0];
    b->rows_cap = b->rows_global;
    assert_int_equal(MR_ALLOC(&b->target, b->rows_global + 1, "targets"), MR_OK);
    assert_int_equal(MR_ALLOC(&b->rid, b->rows_global + 1, "rows"), MR_OK);
    for (int64_t i = 0; i < b->rows; i++)
        b->target[i] = 1 + (int32_t)((op_random(1, j->first + i) + 1) * 0.5 * (double)c->n_items);
}

static int64_t global_of(const job *j, const mr_param *p, int64_t e, int64_t row_elems)
{
    int64_t row = e / row_elems;
    return ((p->flags & MR_PARAM_SHARDED ? p->row_lo : j->first) + row) * row_elems + e % row_elems;
}

static void job_make(job *j, const dist_case *c, mr_comm *comm)
{
    memset(j, 0, sizeof *j);
    make_batch(j, c, comm);
    int size = comm ? comm->size : 1;
    mr_graph_dims dims = {.rows_cap = j->b.rows_cap,
                          .L = 2,
                          .n_items = c->n_items,
                          .n_ranks = size,
                          .rows_global_cap = j->b.rows_global,
                          .precision = c->is_bf16 ? MR_BF16_PRODUCTS : MR_FP32};
    assert_int_equal(mr_device_open(&j->dev, "cpu64", 0), MR_OK);
    j->dev->precision = dims.precision;
    assert_int_equal(mr_graph_create(&j->g, &dims, &j->ps, 8, true), MR_OK);
    int64_t cap = j->b.rows_cap;
    int x = mr_param_declare(&j->ps, "x", 2, (int64_t[]){cap, D}, MR_INIT_ZERO, 0, 0);
    int z = mr_param_declare(&j->ps, "z", 2, (int64_t[]){cap, D}, MR_INIT_ZERO, 0, 0);
    int t = mr_param_declare(&j->ps, "table", 2, (int64_t[]){c->n_items + 1 + c->has_mask, D},
                             MR_INIT_ZERO, 0, MR_PARAM_SHARDED);
    int lx = mr_g_leaf(j->g, x, MR_SPACE_ROWS), lz = mr_g_leaf(j->g, z, MR_SPACE_ROWS);
    for (int i = 0; i < 1 + c->table_twice; i++) {
        int loss = c->is_ntxent ? mr_g_ntxent(j->g, i ? lz : lx, i ? lx : lz, 0.8)
                                : mr_g_item_loss(j->g, i ? lz : lx, t, c->cosine, 0.2);
        mr_graph_loss(j->g, loss, i ? 0.3 : 0.7, i ? "b" : "a");
    }
    assert_int_equal(mr_params_alloc(&j->ps, j->dev, comm ? comm->rank : 0, size, true), MR_OK);
    for (int i = 0; i < j->ps.n; i++)
        for (int64_t e = 0; e < j->ps.p[i].count; e++)
            ((double *)j->ps.value)[j->ps.p[i].offset + e] =
                op_random(10 + (uint32_t)i, global_of(j, &j->ps.p[i], e, D));
    assert_int_equal(mr_plan_compile(&j->plan, j->g, true, false, 0), MR_OK);
    assert_int_equal(mr_run_create(&j->run, j->plan, j->dev, &j->ps, 3), MR_OK);
    j->run->items = j->run->world = comm;
    assert_int_equal(mr_run_set_batch(j->run, &j->b, &j->st), MR_OK);
}

static void job_free(job *j)
{
    mr_run_free(&j->run);
    mr_plan_free(&j->plan);
    mr_graph_free(&j->g);
    mr_params_free(&j->ps);
    mr_device_close(&j->dev);
    MR_FREE(j->b.rank_rows);
    MR_FREE(j->b.target);
    MR_FREE(j->b.rid);
}

/* The gradients of a part against those of the whole. tol: of the largest of the tensor, where it
 * is not 0, and else TOL of the element, at least of 1. */
static void compare(const job *whole, const job *part, double tol)
{
    const double *gw = whole->ps.grad, *gp = part->ps.grad;
    for (int i = 0; i < part->ps.n; i++) {
        const mr_param *p = &part->ps.p[i], *q = &whole->ps.p[i];
        int64_t n = p->flags & MR_PARAM_SHARDED ? p->count : part->b.rows * D;
        double largest = 0;
        for (int64_t e = 0; e < q->count; e++) largest = fmax(largest, fabs(gw[q->offset + e]));
        for (int64_t e = 0; e < n; e++) {
            double a = gp[p->offset + e], b = gw[q->offset + global_of(part, p, e, D)];
            if (!(fabs(a - b) <= (tol > 0 ? tol * largest : TOL * fmax(1.0, fabs(b)))))
                fail_msg("%s[%lld]: %.17g here, %.17g on one rank", p->name, (long long)e, a, b);
        }
    }
}

static void run_case(const dist_case *c)
{
    job whole, part;
    double lw[MR_MAX_LOSSES], lp[MR_MAX_LOSSES], lf[MR_MAX_LOSSES];
    job_make(&whole, c, NULL);
    job_make(&part, c, world);
    assert_int_equal(mr_run_forward(whole.run), MR_OK);
    assert_int_equal(mr_run_backward(whole.run, NULL, NULL), MR_OK);
    assert_int_equal(mr_run_forward(part.run), MR_OK);
    assert_int_equal(mr_run_backward(part.run, NULL, NULL), MR_OK);
    assert_int_equal(mr_run_losses(whole.run, lw), MR_OK);
    assert_int_equal(mr_run_losses(part.run, lp), MR_OK);
    assert_int_equal(world->allreduce(world, lp, part.g->n_losses, MR_F64, MR_SUM), MR_OK);
    compare(&whole, &part, c->is_bf16 && !c->cosine ? 1.0 / 128 : 0);
    /* Value alone, without backward. */
    mr_plan *plan = NULL;
    mr_run *run = NULL;
    assert_int_equal(mr_plan_compile(&plan, part.g, false, false, 0), MR_OK);
    assert_int_equal(mr_run_create(&run, plan, part.dev, &part.ps, 3), MR_OK);
    run->items = run->world = world;
    assert_int_equal(mr_run_set_batch(run, &part.b, &part.st), MR_OK);
    assert_int_equal(mr_run_forward(run), MR_OK);
    assert_int_equal(mr_run_losses(run, lf), MR_OK);
    assert_int_equal(world->allreduce(world, lf, part.g->n_losses, MR_F64, MR_SUM), MR_OK);
    for (int i = 0; i < part.g->n_losses; i++) {
        assert_true(fabs(lw[i]) > 0.1);
        assert_true(fabs(lw[i] - lp[i]) <= TOL * fabs(lw[i]));
        assert_true(fabs(lw[i] - lf[i]) <= TOL * fabs(lw[i]));
    }
    mr_run_free(&run);
    mr_plan_free(&plan);
    job_free(&part);
    job_free(&whole);
}

static const int64_t uneven[4] = {5, 1, 7, 2}, with_zero[4] = {3, 0, 6, 4},
                     many[4] = {190, 77, 301, 9};

static void each_split(dist_case c)
{
    memcpy(c.rows, uneven, sizeof uneven);
    run_case(&c);
    memcpy(c.rows, with_zero, sizeof with_zero);
    run_case(&c);
    memcpy(c.rows, many, sizeof many); /* several chunks */
    run_case(&c);
}

static void test_dot(void **state)
{
    (void)state;
    each_split((dist_case){.n_items = 30});
    each_split(
        (dist_case){.n_items = 9, .has_mask = true}); /* MASK alone on a rank, or with items */
    each_split((dist_case){.n_items = 2, .has_mask = true, .table_twice = true});
}

static void test_cosine(void **state)
{
    (void)state;
    each_split((dist_case){.n_items = 30, .cosine = true});
    each_split((dist_case){.n_items = 11, .cosine = true, .has_mask = true, .table_twice = true});
}

static void test_bf16(void **state)
{
    (void)state;
    each_split((dist_case){.n_items = 30, .cosine = true, .is_bf16 = true});
    each_split((dist_case){
        .n_items = 11, .cosine = true, .has_mask = true, .table_twice = true, .is_bf16 = true});
    each_split((dist_case){.n_items = 30, .is_bf16 = true});
    each_split((dist_case){.n_items = 2, .has_mask = true, .table_twice = true, .is_bf16 = true});
}

static void test_ntxent(void **state)
{
    (void)state;
    each_split((dist_case){.n_items = 4, .is_ntxent = true});
    each_split((dist_case){.n_items = 4, .is_ntxent = true, .table_twice = true});
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_dot), cmocka_unit_test(test_cosine),
                                       cmocka_unit_test(test_bf16), cmocka_unit_test(test_ntxent)};
    RANKS_MAIN(&world, tests);
}
