/* Running a plan: the loop over its steps, and what ops ask while they run.
 * Invariant: nothing is allocated inside forward or backward. */
#include "graph/run.h"

#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "base/rng.h"
#include "graph/red_zone.h"
#include "kernels/shared/bf16.h"

int mr_node_id(const mr_run *r, const mr_node *n) { return (int)(n - r->g->node); }

static int loss_index(const mr_run *r, int id)
{
    for (int i = 0; i < r->g->n_losses; i++)
        if (r->g->loss[i].node == id) return i;
    return -1;
}

static char *loss_base(const mr_run *r)
{
    return r->loss_slots
               ? r->loss_slots
               : (char *)r->params->grad + r->params->n_dense * (int64_t)r->params->real_bytes;
}

static void *at(const mr_run *r, const mr_slot *s)
{
    if (s->offset < 0) return NULL;
    int64_t own = s->offset - r->plan->grad_bytes;
    return own < 0 ? (char *)r->params->grad + s->offset : r->ws + own;
}

/* First column of a slice, in bytes. */
static int64_t slice_at(const mr_run *r, int id)
{
    const mr_node *n = &r->g->node[id];
    return n->op->is_slice ? n->i[0] * (int64_t)r->g->act_bytes : 0;
}

void *mr_val(const mr_run *r, int id)
{
    if (id < 0) return NULL;
    int li = loss_index(r, id);
    if (li >= 0) return loss_base(r) + (size_t)li * r->g->real_bytes;
    int root = r->plan->root[id];
    const mr_slot *again = &r->plan->again[root];
    char *p = at(r, r->in_backward && again->first >= 0 ? again : &r->plan->val[root]);
    return p ? p + slice_at(r, id) : NULL;
}

void *mr_grad(const mr_run *r, int id)
{
    if (id < 0 || !r->plan->needs_grad[id]) return NULL;
    char *p = at(r, &r->plan->grad[r->plan->grad_of[r->plan->root[id]]]);
    return p ? p + slice_at(r, id) : NULL;
}

const mr_node *mr_joined(const mr_run *r, const mr_node *n, int slot)
{
    int id = n->in[slot];
    return id >= 0 && r->plan->is_joined[id] ? &r->g->node[id] : NULL;
}

mr_status mr_forward_plus(mr_run *r, const mr_node *n, const mr_node *joined, const mr_addend *plus)
{
    r->ex.scratch = at(r, &r->plan->scratch[mr_node_id(r, joined)][0]);
    r->ex.scratch_bytes = joined->scratch_bytes;
    return joined->op->forward_plus(r, joined, mr_val(r, mr_node_id(r, n)), plus);
}

const mr_node *mr_begins(const mr_run *r, const mr_node *n, int slot)
{
    int id = n->in[slot];
    return id >= 0 && r->plan->begun_by[id] == mr_node_id(r, n) ? &r->g->node[id] : NULL;
}

bool mr_is_begun(const mr_run *r, const mr_node *n)
{
    return r->plan->begun_by[mr_node_id(r, n)] >= 0;
}

void *mr_backward_scratch(const mr_run *r, const mr_node *n)
{
    return at(r, &r->plan->scratch[mr_node_id(r, n)][1]);
}

bool mr_wants(const mr_run *r, const mr_node *n, int slot)
{
    return slot < n->n_in && n->in[slot] >= 0 && r->plan->needs_grad[n->in[slot]];
}

int mr_acc(const mr_run *r, const mr_node *n, int slot)
{
    return (r->plan->acc_in[mr_node_id(r, n)] >> slot) & 1;
}

void *mr_saved(const mr_run *r, const mr_node *n, int i)
{
    return at(r, &r->plan->saved[mr_node_id(r, n)][i]);
}

static void *param_at(const mr_run *r, const mr_node *n, int slot, void *base)
{
    if (slot >= n->n_param || n->param[slot] < 0) return NULL;
    return (char *)base + r->params->p[n->param[slot]].offset * (int64_t)r->params->real_bytes;
}

void *mr_pval(const mr_run *r, const mr_node *n, int slot)
{
    return param_at(r, n, slot, r->params->value);
}

void *mr_pmat(const mr_run *r, const mr_node *n, int slot)
{
    if (!r->params->value16) return mr_pval(r, n, slot);
    if (slot >= n->n_param || n->param[slot] < 0) return NULL;
    return r->params->value16 + r->params->p[n->param[slot]].offset;
}

void *mr_pgrad(const mr_run *r, const mr_node *n, int slot)
{
    return param_at(r, n, slot, r->params->grad);
}

int mr_pacc(const mr_run *r, const mr_node *n, int slot)
{
    return (r->plan->acc_param[mr_node_id(r, n)] >> slot) & 1;
}

int64_t mr_n(const mr_run *r, int id)
{
    const mr_node *n = &r->g->node[id];
    return n->space == MR_SPACE_FIXED ? n->dim[0] : r->count[n->space];
}

int64_t mr_n_rows(const mr_run *r, int id)
{
    const mr_node *n = &r->g->node[id];
    return n->space == MR_SPACE_FIXED ? n->dim[0] : r->rows[n->space];
}

double mr_loss_weight(const mr_run *r, const mr_node *n)
{
    int i = loss_index(r, mr_node_id(r, n));
    return i < 0 ? 0.0 : r->g->loss[i].weight;
}

mr_rows_of mr_rand_rows(const mr_run *r, mr_space s)
{
    if (s == MR_SPACE_ROWS) return (mr_rows_of){r->in.rid, r->in.zero_pos};
    if (s == MR_SPACE_LAST) return (mr_rows_of){NULL, NULL}; /* builders refuse dropout there */
    const mr_seq *q = &r->in.seq[s - MR_SPACE_TOK0];
    return (mr_rows_of){q->tok_rid, q->tok_pos};
}

uint32_t mr_rand_purpose(const mr_node *n) { return MR_RNG_OP + (uint32_t)n->number; }

static int64_t runs; /* made: memory of one that is gone may be another's */

static mr_status make_workspace(mr_run *r, const mr_run *lender)
{
    int64_t bytes = r->plan->ws_bytes;
    /* red zones and poison of a private plan are its own */
    bool is_private = r->plan->is_private || (lender && lender->plan->is_private);
    r->borrows_ws = lender && !is_private && lender->plan->ws_bytes >= bytes;
    if (!r->borrows_ws)
        return r->dev->alloc(r->dev, (void **)&r->ws, (size_t)bytes, "step workspace");
    r->ws = lender->ws;
    return MR_OK;
}

mr_status mr_run_create(mr_run **out_p, const mr_plan *plan, mr_device *dev, mr_params *params,
                        uint64_t seed)
{
    return mr_run_create_in(out_p, plan, dev, params, seed, NULL);
}

mr_status mr_run_create_in(mr_run **out_p, const mr_plan *plan, mr_device *dev, mr_params *params,
                           uint64_t seed, const mr_run *lender)
{
    mr_run *r = NULL;
    mr_status st;
    MR_CHECK(plan->g->dims.whole_products || !dev->whole_products, MR_ERR_INTERNAL,
             "run: this graph has too little scratch for kernels of %s", dev->name);
    MR_CHECK(plan->g->dims.precision == dev->precision, MR_ERR_INTERNAL,
             "run: this graph is for precision %d and %s computes in %d",
             (int)plan->g->dims.precision, dev->name, (int)dev->precision);
    MR_CHECK(plan->g->act_bytes == mr_dtype_bytes(dev->act), MR_ERR_INTERNAL,
             "run: this graph is for values of %d bytes and %s stores them in %d",
             (int)plan->g->act_bytes, dev->name, (int)mr_dtype_bytes(dev->act));
    MR_TRY(MR_ALLOC(&r, 1, "run"));
    r->number = ++runs;
    r->plan = plan;
    r->g = plan->g;
    r->dev = dev;
    r->params = params;
    r->ex.seed = seed;
    r->ex.stream = dev->stream;
    r->ex.precision = dev->precision;
    r->rounds = plan->g->dims.whole_products && !dev->host_memory;
    MR_TRY_GOTO(mr_kernels_for(&r->k, dev->name, dev->act), st, fail);
    MR_TRY_GOTO(make_workspace(r, lender), st, fail);
    MR_TRY_GOTO(dev->alloc(dev, (void **)&r->state_dev, sizeof *r->state_dev, "step state"), st,
                fail);
    for (int i = 0; i < 2; i++)
        MR_TRY_GOTO(dev->alloc_host(dev, (void **)&r->state_out[i], sizeof *r->state_out[i],
                                    "step state to send"),
                    st, fail);
    for (int i = 0; i < 4; i++) r->sent[i] = -1;
    r->ex.state = r->state_dev;
    if (!params->grad)
        MR_TRY_GOTO(dev->alloc(dev, (void **)&r->loss_slots, MR_LOSS_SLOTS * r->g->real_bytes,
                               "loss slots"),
                    st, fail);
    if (plan->is_private) MR_TRY_GOTO(mr_red_zones_fill(r), st, fail);
    *out_p = r;
    return MR_OK;
fail:
    mr_run_free(&r);
    return st;
}

void mr_run_free(mr_run **r_p)
{
    mr_run *r = r_p ? *r_p : NULL;
    if (!r) return;
    if (!r->borrows_ws) r->dev->free(r->dev, r->ws);
    r->dev->free(r->dev, r->state_dev);
    r->dev->free(r->dev, r->loss_slots);
    r->dev->free(r->dev, r->block);
    for (int i = 0; i < 2; i++) {
        r->dev->free_host(r->dev, r->state_out[i]);
        r->dev->free_host(r->dev, r->block_host[i]);
    }
    MR_FREE(*r_p);
}

static mr_status run_node(mr_run *r, int id, bool forward, int step)
{
    const mr_node *n = &r->g->node[id];
    r->ex.scratch = at(r, &r->plan->scratch[id][r->in_backward]);
    r->ex.scratch_bytes = n->scratch_bytes;
    if (r->dev->mark) r->dev->mark(r->dev, n->label);
    r->dev->enter(r->dev);
    mr_status st = forward ? n->op->forward(r, n) : n->op->backward(r, n);
    r->dev->leave(r->dev);
    if (r->dev->mark) r->dev->mark(r->dev, NULL);
    return st == MR_OK && r->plan->is_private ? mr_red_zones_check(r, step, id) : st;
}

mr_status mr_run_forward_step(mr_run *r, int i)
{
    r->in_backward = false;
    return run_node(r, r->plan->fwd[i], true, i);
}

mr_status mr_run_backward_step(mr_run *r, int j)
{
    r->in_backward = true;
    int step = r->plan->n_fwd + j;
    for (int id = 0; id < r->g->n_nodes; id++)
        if (r->plan->again[id].first == step) MR_TRY(run_node(r, id, true, step));
    return run_node(r, r->plan->bwd[j], false, step);
}

mr_status mr_run_forward(mr_run *r)
{
    for (int i = 0; i < r->plan->n_fwd; i++) MR_TRY(mr_run_forward_step(r, i));
    return MR_OK;
}

static mr_status start_buckets(mr_run *r, int after, mr_bucket_fn fn, void *user)
{
    for (int i = 0; fn && i < r->plan->n_buckets; i++)
        if (r->plan->bucket[i].after == after)
            MR_TRY(fn(user, r->plan->bucket[i].lo, r->plan->bucket[i].hi));
    return MR_OK;
}

mr_status mr_run_backward(mr_run *r, mr_bucket_fn on_bucket, void *user)
{
    const mr_params *ps = r->params;
    for (int i = 0; i < r->plan->n_zero; i++) {
        const mr_param *p = &ps->p[r->plan->zero[i]];
        MR_TRY(r->dev->fill(r->dev, (char *)ps->grad + p->offset * (int64_t)ps->real_bytes, 0,
                            (size_t)p->count * ps->real_bytes));
    }
    MR_TRY(start_buckets(r, -1, on_bucket, user));
    for (int j = 0; j < r->plan->n_bwd; j++) {
        MR_TRY(mr_run_backward_step(r, j));
        MR_TRY(start_buckets(r, j, on_bucket, user));
    }
    return MR_OK;
}

mr_status mr_run_output(mr_run *r, const char *name, void *host)
{
    int id = mr_graph_find_output(r->g, name);
    MR_CHECK(id >= 0, MR_ERR_INTERNAL, "this model has no output '%s'", name);
    const mr_node *n = mr_node_at(r->g, id);
    int64_t w = mr_node_width(r->g, id), cols = n->cols;
    int64_t rows = mr_n_rows(r, id) * (mr_node_inner(r->g, id) / w);
    size_t act = r->g->act_bytes;
    char *stored = host;
    mr_status st;
    if (cols != w) MR_TRY(mr_alloc((void **)&stored, rows * w, act, "rows as they are stored"));
    MR_TRY_GOTO(r->dev->to_host(r->dev, stored, mr_val(r, id), (size_t)(rows * w) * act), st, done);
    for (int64_t i = 0; cols != w && i < rows; i++)
        memcpy((char *)host + (size_t)(i * cols) * act, stored + (size_t)(i * w) * act,
               (size_t)cols * act);
    float *to = host;
    const uint16_t *from = host; /* the same memory: from the end */
    for (int64_t i = rows * cols; r->dev->act == MR_BF16 && i-- > 0;)
        to[i] = mr_bf16_to_float(from[i]);
done:
    if (cols != w) MR_FREE(stored);
    return st;
}

mr_status mr_run_losses(mr_run *r, double *out)
{
    double buf[MR_LOSS_SLOTS];
    MR_TRY(r->dev->to_host(r->dev, buf, loss_base(r), MR_LOSS_SLOTS * r->g->real_bytes));
    mr_run_read_losses(r, out, buf);
    return MR_OK;
}

const void *mr_run_loss_slots(const mr_run *r) { return loss_base(r); }

void mr_run_put_losses(mr_run *r, void *out)
{
    mr_k(r)->axpy(out, loss_base(r), MR_LOSS_SLOTS, 1.0, 0, MR_REAL_REAL, &r->ex);
}

void mr_run_read_losses(const mr_run *r, double *out, const void *host)
{
    const double *d = host;
    const float *f = host;
    for (int i = 0; i < r->g->n_losses; i++) out[i] = r->g->real_bytes == 8 ? d[i] : (double)f[i];
}
