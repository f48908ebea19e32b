/* Look-ups in a table sharded over ranks against the whole table, forward and backward. Values and
 * gradients are integers, so that the comparison is exact whatever the order of additions. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "op_check.h"
#include "op_rig.h"

enum { W = 5, L = 4, ITEMS = 11, ROWS = 9, SETS = 2, NODES = 3 };

static mr_comm *comm;

/* The id of a token, known to every rank; some items are popular. */
static int32_t token_id(int rank, int set, int64_t t)
{
    int64_t h = rank * 31 + set * 17 + t * 7;
    return (int32_t)(h % 3 == 0 ? 2 : 1 + h % ITEMS);
}

static double table_at(int64_t id, int64_t j) { return (double)(id * 100 + j - 300); }

static double grad_at(int rank, int node, int64_t t, int64_t j)
{
    return (double)((rank * 5 + node * 3 + t * 11 + j) % 19 - 9);
}

/* Rows of a rank: unequal, and none on the last rank of several. */
static int64_t rows_of(int rank)
{
    return comm->size > 1 && rank == comm->size - 1 ? 0 : ROWS - rank;
}

typedef struct rig {
    op_rig o;
    mr_exchange *x[SETS];
    int node[NODES]; /* plain set 0, plain set 1, padded set 0 */
} rig;

static void fill_batch(op_world *w, int rank)
{
    for (int s = 0; s < SETS; s++) {
        mr_seq *q = &w->batch.seq[s];
        for (int64_t t = 0; t < q->tokens; t++)
            q->ids[q->tok_row[t] * L + q->tok_pos[t]] = q->tok_id[t] = token_id(rank, s, t);
        q->tok_id[q->tokens] = 0;
    }
}

static void rig_make(rig *r, const char *device)
{
    memset(r, 0, sizeof *r);
    op_sizes s = {.rows = rows_of(comm->rank), .L = L, .n_items = ITEMS, .n_seq = SETS};
    op_world_make(&r->o.w, &s);
    fill_batch(&r->o.w, comm->rank);
    r->o.w.dims.n_ranks = comm->size;
    r->o.w.dims.rows_cap = ROWS;
    r->o.w.dims.rows_global_cap = ROWS * comm->size;
    op_rig_open(&r->o, device, true);
    int table = op_param(r->o.g, "item", 2, ITEMS + 1, W, 1, 1.0, MR_PARAM_SHARDED);
    r->node[0] = mr_g_lookup(r->o.g, table, 0);
    r->node[1] = mr_g_lookup(r->o.g, table, 1);
    r->node[2] = mr_g_lookup_padded(r->o.g, table);
    for (int i = 0; i < NODES; i++)
        mr_graph_loss(r->o.g, mr_g_probe(r->o.g, r->node[i]), 1.0, "probe");
    assert_int_equal(mr_params_alloc(&r->o.ps, r->o.dev, comm->rank, comm->size, true), MR_OK);
    const mr_param *p = &r->o.ps.p[table];
    double *v = (double *)r->o.ps.value + p->offset;
    for (int64_t i = 0; i < p->count; i++) v[i] = table_at(p->row_lo + i / W, i % W);
    assert_int_equal(mr_plan_compile(&r->o.plan, r->o.g, true, true, 0), MR_OK);
    assert_int_equal(mr_run_create(&r->o.run, r->o.plan, r->o.dev, &r->o.ps, 1), MR_OK);
    op_world_attach(&r->o.w, r->o.run);
    r->o.run->items = comm;
    for (int k = 0; k < SETS; k++) {
        mr_seq *q = &r->o.w.batch.seq[k];
        assert_int_equal(mr_exchange_create(&r->x[k], ROWS * L + 1, comm->size), MR_OK);
        assert_int_equal(mr_exchange_plan(r->x[k], comm, ITEMS + 1, q->tok_id, q->tokens + 1),
                         MR_OK);
        r->o.run->xch[k] = r->x[k];
    }
    assert_int_equal(mr_run_set_batch(r->o.run, &r->o.w.batch, &r->o.w.state), MR_OK);
}

static void rig_free(rig *r)
{
    for (int k = 0; k < SETS; k++) mr_exchange_free(&r->x[k]);
    op_rig_stop(&r->o);
}

/* Matrix row of token t in node i: packed, or its padded place. */
static int64_t place(const mr_seq *q, int i, int64_t t)
{
    return i == 2 ? q->tok_row[t] * L + q->tok_pos[t] : t;
}

static void check_forward(rig *r)
{
    assert_int_equal(mr_run_forward(r->o.run), MR_OK);
    for (int i = 0; i < NODES; i++) {
        int set = i == 1;
        const mr_seq *q = &r->o.w.batch.seq[set];
        const double *y = mr_val(r->o.run, r->node[i]);
        for (int64_t t = 0; t < q->tokens; t++)
            for (int64_t j = 0; j < W; j++)
                assert_true(y[place(q, i, t) * W + j] == table_at(token_id(comm->rank, set, t), j));
        for (int64_t e = 0; i == 2 && e < r->o.w.batch.rows * L; e++)
            if (e % L >= q->len[e / L])
                for (int64_t j = 0; j < W; j++) assert_true(y[e * W + j] == table_at(0, j));
    }
}

/* Backward with integer gradients in place of the probe's, in the order of the plan: the first op
 * to run finds acc = 0 and poison in the table's gradient. */
static void check_backward(rig *r)
{
    const mr_param *p = &r->o.ps.p[0];
    double *g = (double *)r->o.ps.grad + p->offset, want[(ITEMS + 1) * W] = {0};
    memset(g, 0xFF, (size_t)p->count * 8);
    for (int i = NODES - 1; i >= 0; i--) {
        const mr_seq *q = &r->o.w.batch.seq[i == 1];
        double *dy = mr_grad(r->o.run, r->node[i]);
        int64_t rows = mr_n(r->o.run, r->node[i]) * mr_node_inner(r->o.g, r->node[i]) / W;
        for (int64_t e = 0; e < rows * W; e++) dy[e] = 1e6; /* PAD positions must not count */
        for (int64_t t = 0; t < q->tokens; t++)
            for (int64_t j = 0; j < W; j++)
                dy[place(q, i, t) * W + j] = grad_at(comm->rank, i, t, j);
        int step = 0;
        while (r->o.run->plan->bwd[step] != r->node[i]) step++;
        assert_int_equal(mr_run_backward_step(r->o.run, step), MR_OK);
    }
    for (int rank = 0; rank < comm->size; rank++) {
        op_world w;
        op_sizes s = {.rows = rows_of(rank), .L = L, .n_items = ITEMS, .n_seq = SETS};
        op_world_make(&w, &s);
        for (int i = 0; i < NODES; i++)
            for (int64_t t = 0; t < w.batch.seq[i == 1].tokens; t++)
                for (int64_t j = 0; j < W; j++)
                    want[token_id(rank, i == 1, t) * W + j] += grad_at(rank, i, t, j);
        op_world_free(&w);
    }
    for (int64_t e = 0; e < p->count; e++)
        if (!(g[e] == want[p->row_lo * W + e]))
            fail_msg("rank %d: gradient of item %lld, column %lld: %g, whole table %g", comm->rank,
                     (long long)(p->row_lo + e / W), (long long)(e % W), g[e],
                     want[p->row_lo * W + e]);
}

static void test_lookup(void **state)
{
    (void)state;
    rig r;
    rig_make(&r, "cpu64");
    check_forward(&r);
    check_backward(&r);
    check_forward(&r);
    rig_free(&r);
}

/* A run that does not fit its communicator or its exchange is refused. */
static void test_refusals(void **state)
{
    (void)state;
    rig r;
    rig_make(&r, "cpu64");
    mr_errors_to_log(false);
    r.x[0]->n++;
    assert_int_equal(mr_run_forward(r.o.run), MR_ERR_INTERNAL);
    r.x[0]->n--;
    r.o.run->xch[0] = NULL;
    assert_int_equal(mr_run_forward(r.o.run), MR_ERR_INTERNAL);
    r.o.run->xch[0] = r.x[0];
    r.o.g->dims.n_ranks++;
    assert_int_equal(mr_run_forward(r.o.run), MR_ERR_INTERNAL);
    r.o.g->dims.n_ranks--;
    mr_errors_to_log(true);
    rig_free(&r);
}

/* One test at a time: a rank that fails ends the job, or the others would wait for it. */
static void run_alone(const struct CMUnitTest *test)
{
    const struct CMUnitTest tests[] = {*test};
    if (cmocka_run_group_tests(tests, NULL, NULL)) mr_comm_abort(1);
}

int main(void)
{
    if (mr_comm_mpi_world(&comm) != MR_OK) return 1;
    run_alone(&(struct CMUnitTest)cmocka_unit_test(test_lookup));
    run_alone(&(struct CMUnitTest)cmocka_unit_test(test_refusals));
    mr_comm_destroy(&comm);
    mr_comm_finalize();
    return 0;
}
