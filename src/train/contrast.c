/* The whole NT-Xent on one rank: a graph of two leaves, the gathered views, and the loss.
 * What it is not: used by the ordinary step, where each rank does its own rows' part.
 * Invariant: loss and gradients are functions of the gathered views, which are in the order of the
 * virtual shards for every number of ranks. */
#include "train/contrast.h"

#include <string.h>

#include "base/mem.h"
#include "graph/ops.h"

struct mr_contrast {
    mr_comm *self;
    mr_device *dev;
    int node, loss;   /* of the training graph */
    mr_params z;      /* both views of all rows: value, and gradient */
    int id[2];        /* parameters of z, [rows_cap, d] */
    char *own[2];     /* [rows_cap, d] views of this rank's rows */
    int64_t d, first; /* width; rows before this rank's */
    mr_graph *graph;
    mr_plan *plan;
    mr_run *run;
    mr_batch batch;
    double value;
};

static char *row_at(const mr_contrast *c, void *flat, int view, int64_t row)
{
    int64_t at = c->z.p[c->id[view]].offset + row * c->d;
    return (char *)flat + at * (int64_t)c->z.real_bytes;
}

static mr_status build(mr_contrast *c, const mr_graph *of, int64_t rows_cap)
{
    const mr_node *n = &of->node[c->node];
    const int64_t dim[2] = {rows_cap, c->d};
    mr_graph_dims dims = {.rows_cap = rows_cap,
                          .L = 1,
                          .n_ranks = 1,
                          .rows_global_cap = rows_cap,
                          .whole_products = of->dims.whole_products,
                          .precision = of->dims.precision};
    for (int v = 0; v < 2; v++) {
        c->id[v] = mr_param_declare(&c->z, v ? "z2" : "z1", 2, dim, MR_INIT_ZERO, 0, 0);
        MR_CHECK(c->id[v] >= 0, MR_ERR_INTERNAL, "views of %lld rows", (long long)rows_cap);
    }
    MR_TRY(mr_graph_create(&c->graph, &dims, &c->z, of->real_bytes, true));
    int a = mr_g_leaf(c->graph, c->id[0], MR_SPACE_ROWS);
    int b = mr_g_leaf(c->graph, c->id[1], MR_SPACE_ROWS);
    mr_graph_loss(c->graph, mr_g_ntxent(c->graph, a, b, n->f[0]), of->loss[c->loss].weight,
                  "ntxent");
    MR_TRY(mr_params_alloc(&c->z, c->dev, 0, 1, true));
    MR_TRY(mr_plan_compile(&c->plan, c->graph, true, false, 0));
    MR_TRY(mr_run_create(&c->run, c->plan, c->dev, &c->z, 0));
    c->run->items = c->run->world = c->self;
    size_t bytes = (size_t)(rows_cap * c->d) * of->real_bytes;
    for (int v = 0; v < 2; v++) MR_TRY(c->dev->alloc(c->dev, (void **)&c->own[v], bytes, "views"));
    return MR_OK;
}

mr_status mr_contrast_create(mr_contrast **out_p, const mr_graph *graph, mr_device *dev,
                             mr_comm *self, int64_t rows_cap)
{
    mr_contrast *c = NULL;
    int loss = -1;
    for (int i = 0; i < graph->n_losses; i++)
        if (!strcmp(graph->node[graph->loss[i].node].op->name, "ntxent")) loss = i;
    if (loss < 0) return MR_OK;
    MR_TRY(MR_ALLOC(&c, 1, "contrastive loss"));
    c->self = self;
    c->dev = dev;
    c->loss = loss;
    c->node = graph->loss[loss].node;
    c->d = mr_node_inner(graph, graph->node[c->node].in[0]);
    mr_status st = build(c, graph, rows_cap);
    if (st != MR_OK) {
        mr_contrast_free(&c);
        return st;
    }
    *out_p = c;
    return MR_OK;
}

void mr_contrast_free(mr_contrast **c_p)
{
    mr_contrast *c = *c_p;
    if (!c) return;
    mr_run_free(&c->run);
    mr_plan_free(&c->plan);
    mr_graph_free(&c->graph);
    mr_params_free(&c->z);
    for (int v = 0; v < 2; v++) c->dev->free(c->dev, c->own[v]);
    MR_FREE(*c_p);
}

mr_status mr_contrast_take(mr_contrast *c, const mr_run *r, int64_t at)
{
    const mr_node *n = &r->g->node[c->node];
    size_t real = r->g->real_bytes, bytes = (size_t)(r->host->rows * c->d) * real;
    c->dev->enter(c->dev);
    for (int v = 0; bytes && v < 2; v++)
        memcpy(c->own[v] + (size_t)(at * c->d) * real, mr_val(r, n->in[v]), bytes);
    c->dev->leave(c->dev);
    return MR_OK;
}

static mr_status gather(mr_contrast *c, mr_comm *world, const int32_t *rank_rows)
{
    int64_t *counts = NULL;
    mr_status st = MR_OK;
    MR_TRY(MR_ALLOC(&counts, world->size, "views"));
    c->first = 0;
    for (int r = 0; r < world->size; r++) {
        counts[r] = rank_rows[r] * c->d;
        if (r < world->rank) c->first += rank_rows[r];
    }
    c->dev->enter(c->dev);
    for (int v = 0; st == MR_OK && v < 2; v++) {
        world->purpose = MR_FOR_VIEWS;
        st = world->allgatherv(world, c->own[v], row_at(c, c->z.value, v, 0), counts, c->dev->real);
    }
    c->dev->leave(c->dev);
    MR_FREE(counts);
    return st;
}

mr_status mr_contrast_solve(mr_contrast *c, mr_comm *world, const int32_t *rank_rows)
{
    double losses[MR_LOSS_SLOTS];
    int64_t rows = 0;
    for (int r = 0; r < world->size; r++) rows += rank_rows[r];
    c->batch = (mr_batch){.rows = rows, .rows_global = rows, .rows_cap = rows, .n_ranks = 1};
    mr_step_state none = {.lr = 0};
    MR_TRY(gather(c, world, rank_rows));
    MR_TRY(mr_run_set_batch(c->run, &c->batch, &none));
    MR_TRY(mr_run_forward(c->run));
    MR_TRY(mr_run_backward(c->run, NULL, NULL));
    MR_TRY(mr_run_losses(c->run, losses));
    c->value = losses[0];
    return MR_OK;
}

void mr_contrast_give(const mr_contrast *c, mr_run *r, int64_t at)
{
    for (int v = 0; v < 2; v++) r->view_grad[v] = row_at(c, c->z.grad, v, c->first + at);
}

double mr_contrast_loss(const mr_contrast *c, int *index_p)
{
    *index_p = c->loss;
    return c->value;
}
