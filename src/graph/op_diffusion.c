/* Diffusion ops: forward noise, posterior step, mixing. model.md §6.
 * Rows are global rows: t and eps of a row do not depend on where it is computed.
 * What it is not: the schedule (model/schedule.h); the run carries its tables. */
#include <math.h>

#include "graph/ops.h"
#include "graph/run.h"

/* ---- noise: x_t = sqrt(abar_t) x0 + sqrt(1 - abar_t) eps ---- */
static mr_noise noise_of(const mr_run *r, const mr_node *n)
{
    bool npd = n->i[0] == MR_DIFF_NPD;
    return (mr_noise){.purpose_t = npd ? MR_RNG_T_NPD : MR_RNG_T_TCD,
                      .purpose_eps = npd ? MR_RNG_EPS_NPD : MR_RNG_EPS_TCD,
                      .t = n->i[1],
                      .t_max = r->t_max,
                      .t_set = r->t_set,
                      .ld = mr_node_width(r->g, mr_node_id(r, n)),
                      .cols = n->cols,
                      .pure = n->i[2] != 0};
}

static mr_status noise_forward(mr_run *r, const mr_node *n)
{
    int id = mr_node_id(r, n);
    mr_noise nz = noise_of(r, n);
    MR_CHECK(nz.t <= r->t_max, MR_ERR_INTERNAL, "%s: step %lld of a schedule of %lld steps",
             n->label, (long long)nz.t, (long long)r->t_max);
    mr_k(r)->noise_fwd(mr_val(r, id), mr_val(r, n->in[0]), r->abar, r->in.rid, mr_n(r, id),
                       mr_node_inner(r->g, id), &nz, &r->ex);
    return MR_OK;
}

static mr_status noise_backward(mr_run *r, const mr_node *n)
{
    int id = mr_node_id(r, n);
    mr_noise nz = noise_of(r, n);
    if (!mr_wants(r, n, 0)) return MR_OK;
    MR_CHECK(!nz.pure, MR_ERR_INTERNAL, "%s: pure noise has no gradient", n->label);
    mr_k(r)->noise_bwd(mr_grad(r, n->in[0]), mr_grad(r, id), r->abar, r->in.rid, mr_n(r, id),
                       mr_node_inner(r->g, id), &nz, mr_acc(r, n, 0), &r->ex);
    return MR_OK;
}

const mr_op mr_op_noise = {.name = "noise", .forward = noise_forward, .backward = noise_backward};

int mr_g_noise(mr_graph *g, int x0, int which, int64_t t, bool pure)
{
    if (x0 < 0) return -1;
    const mr_node *a = mr_node_at(g, x0);
    if (a->space != MR_SPACE_ROWS) return mr_graph_fail(g, "noise: needs rows of the batch");
    if (t < 0 || (pure && t == 0))
        return mr_graph_fail(g, "noise: step %lld is not one of 0..T", (long long)t);
    mr_node n = mr_node_like(g, &mr_op_noise, a->space, a);
    n.in[n.n_in++] = x0;
    n.i[0] = which;
    n.i[1] = t;
    n.i[2] = pure;
    return mr_graph_add(g, &n);
}

/* ---- posterior: x_{t-1} = c1_t xhat + c2_t x_t + sqrt(s2_t) eps; evaluation only, no gradient
 * ---- */
static mr_status posterior_forward(mr_run *r, const mr_node *n)
{
    int id = mr_node_id(r, n);
    int64_t t = n->i[1];
    MR_CHECK(t <= r->t_max, MR_ERR_INTERNAL, "%s: step %lld of a schedule of %lld steps", n->label,
             (long long)t, (long long)r->t_max);
    uint32_t base = n->i[0] == MR_DIFF_NPD ? MR_RNG_POST_NPD : MR_RNG_POST_TCD;
    double sd = n->i[2] && t > 1 ? sqrt(r->s2[t]) : 0.0;
    mr_k(r)->posterior(mr_val(r, id), mr_val(r, n->in[0]), mr_val(r, n->in[1]), r->in.rid,
                       mr_n(r, id), mr_node_inner(r->g, id), mr_node_width(r->g, id), n->cols,
                       r->c1[t], r->c2[t], sd, base + (uint32_t)t, &r->ex);
    return MR_OK;
}

const mr_op mr_op_posterior = {.name = "posterior", .forward = posterior_forward};

int mr_g_posterior(mr_graph *g, int xhat, int xt, int which, int64_t t, bool noise)
{
    if (xhat < 0 || xt < 0) return -1;
    const mr_node *a = mr_node_at(g, xhat);
    if (a->space != MR_SPACE_ROWS || mr_node_at(g, xt)->space != MR_SPACE_ROWS ||
        mr_node_inner(g, xhat) != mr_node_inner(g, xt))
        return mr_graph_fail(g, "posterior: xhat and x_t must be rows of the same shape");
    /* Each step has its own purpose word; there are 4096 of them for each process (rng.h). */
    if (t < 1 || t >= MR_RNG_POST_NPD - MR_RNG_POST_TCD)
        return mr_graph_fail(g, "posterior: step %lld is not one of 1..%d", (long long)t,
                             MR_RNG_POST_NPD - MR_RNG_POST_TCD - 1);
    mr_node n = mr_node_like(g, &mr_op_posterior, a->space, a);
    n.in[n.n_in++] = xhat;
    n.in[n.n_in++] = xt;
    n.i[0] = which;
    n.i[1] = t;
    n.i[2] = noise;
    return mr_graph_add(g, &n);
}

/* ---- mix: w x0 + (1 - w) xhat ---- */
static mr_status mix_forward(mr_run *r, const mr_node *n)
{
    int id = mr_node_id(r, n);
    int64_t m = mr_n(r, id) * mr_node_inner(r->g, id);
    void *y = mr_val(r, id);
    mr_k(r)->axpy(y, mr_val(r, n->in[0]), m, n->f[0], 0, MR_ACT_ACT, &r->ex);
    mr_k(r)->axpy(y, mr_val(r, n->in[1]), m, 1.0 - n->f[0], 1, MR_ACT_ACT, &r->ex);
    return MR_OK;
}

static mr_status mix_backward(mr_run *r, const mr_node *n)
{
    int id = mr_node_id(r, n);
    int64_t m = mr_n(r, id) * mr_node_inner(r->g, id);
    for (int s = 0; s < 2; s++)
        if (mr_wants(r, n, s))
            mr_k(r)->axpy(mr_grad(r, n->in[s]), mr_grad(r, id), m, s ? 1.0 - n->f[0] : n->f[0],
                          mr_acc(r, n, s), MR_ACT_ACT, &r->ex);
    return MR_OK;
}

const mr_op mr_op_mix = {.name = "mix", .forward = mix_forward, .backward = mix_backward};

int mr_g_mix(mr_graph *g, int x0, int xhat, double w)
{
    if (x0 < 0 || xhat < 0) return -1;
    const mr_node *a = mr_node_at(g, x0), *b = mr_node_at(g, xhat);
    if (a->space != b->space || a->dim[0] != b->dim[0] ||
        mr_node_inner(g, x0) != mr_node_inner(g, xhat))
        return mr_graph_fail(g, "mix: shapes differ");
    mr_node n = mr_node_like(g, &mr_op_mix, a->space, a);
    n.in[n.n_in++] = x0;
    n.in[n.n_in++] = xhat;
    n.f[0] = w;
    return mr_graph_add(g, &n);
}
