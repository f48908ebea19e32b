/* gradcheck: every named tensor, a spread of its elements, analytic against numeric derivative.
 * Invariant: all ranks perturb the same global element, owners of sharded rows really change it. */
#include "train/gradcheck.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"

typedef struct check {
    mr_trainer *t;
    mr_plan *plan; /* forward only, same nodes and therefore the same random draws */
    mr_run *run;
} check;

static mr_status total_loss(check *c, double *out)
{
    double part[MR_LOSS_SLOTS], sum = 0;
    const mr_graph *g = c->t->train_graph;
    MR_TRY(mr_run_forward(c->run));
    MR_TRY(mr_run_losses(c->run, part));
    MR_TRY(c->t->world->allreduce(c->t->world, part, g->n_losses, MR_F64, MR_SUM));
    for (int i = 0; i < g->n_losses; i++) sum += g->loss[i].weight * part[i];
    *out = sum;
    return MR_OK;
}

/* Position of global element e of named tensor nm in the flat buffers, or -1 on ranks without it.
 */
static int64_t place(const mr_params *ps, const mr_named *nm, int64_t e)
{
    const mr_param *p = &ps->p[nm->param];
    int64_t inner = p->dim[1] * p->dim[2] * p->dim[3], row = e / inner;
    if (row < nm->row_lo || row >= nm->row_hi) return -1;
    return p->offset + (p->part[nm->part].row0 + row - nm->row_lo) * inner + e % inner;
}

/* Value of one element on all ranks: taken from the lowest rank that holds it. */
static mr_status shared(check *c, int64_t at, const double *buf, double *out)
{
    double v[2] = {at >= 0 ? buf[at] : 0.0, at >= 0 ? 1.0 : 0.0};
    MR_TRY(c->t->world->allreduce(c->t->world, v, 2, MR_F64, MR_SUM));
    *out = v[0] / v[1];
    return MR_OK;
}

/* Central difference with four points, error O(h^4): cosine scores of a short user vector bend so
 * much that two points would be off by more than the tolerance. */
static mr_status numeric(check *c, int64_t at, double h, double *out)
{
    static const double place_of[] = {1, -1, 2, -2}, weight[] = {8, -8, -1, 1};
    double *value = c->t->params.value, keep = at >= 0 ? value[at] : 0.0, sum = 0;
    for (int i = 0; i < 4; i++) {
        double loss;
        if (at >= 0) value[at] = keep + place_of[i] * h;
        MR_TRY(total_loss(c, &loss));
        sum += weight[i] * loss;
    }
    if (at >= 0) value[at] = keep;
    *out = sum / (12.0 * h);
    return MR_OK;
}

/* Sum of squares of a whole named tensor's gradient over all ranks that own rows of it. */
static mr_status tensor_rms(check *c, const mr_named *nm, int64_t n, double *out)
{
    const double *grad = c->t->params.grad;
    double sum = 0;
    for (int64_t e = 0; e < n; e++) {
        int64_t at = place(&c->t->params, nm, e);
        if (at >= 0) sum += grad[at] * grad[at];
    }
    if (c->t->params.p[nm->param].flags & MR_PARAM_SHARDED && c->t->items->size > 1)
        MR_TRY(c->t->items->allreduce(c->t->items, &sum, 1, MR_F64, MR_SUM));
    *out = sqrt(sum / (double)n);
    return MR_OK;
}

typedef struct worst {
    double error, analytic, numeric;
    int64_t element;
} worst;

static mr_status check_tensor(check *c, const mr_named *nm, const mr_gradcheck_spec *s, worst *w)
{
    int64_t n = nm->dim[0] * nm->dim[1] * nm->dim[2] * nm->dim[3], inner = n / nm->dim[0];
    int64_t tries = n < s->per_tensor ? n : s->per_tensor;
    bool is_table = !strcmp(nm->name, "item.weight");
    double rms, loss;
    MR_TRY(tensor_rms(c, nm, n, &rms));
    MR_TRY(total_loss(c, &loss));
    /* A difference of two losses carries about 4 ulp of the loss; below that nothing can be told.
     */
    double noise = 4.0 * 2.2e-16 * fabs(loss) / s->step / s->tolerance;
    for (int64_t k = 0; k < tries; k++) {
        int64_t e = tries == n ? k : (k * 2654435761LL + 12345) % n;
        if (is_table && e < inner)
            continue; /* row 0: look-ups of PAD pass no gradient by definition */
        int64_t at = place(&c->t->params, nm, e);
        double a, d;
        MR_TRY(shared(c, at, c->t->params.grad, &a));
        MR_TRY(numeric(c, at, s->step, &d));
        double scale = fmax(fmax(fabs(a), fabs(d)), fmax(1e-3 * rms, noise));
        double err = scale > 0 ? fabs(a - d) / scale : 0.0;
        if (!(err <= w->error)) *w = (worst){err, a, d, e};
    }
    return MR_OK;
}

static mr_status check_all(check *c, const mr_gradcheck_spec *s, double *worst_p)
{
    mr_params *ps = &c->t->params;
    *worst_p = 0;
    for (int i = 0; i < mr_named_count(ps); i++) {
        mr_named nm;
        worst w = {.error = 0};
        mr_named_at(ps, i, &nm);
        MR_TRY(check_tensor(c, &nm, s, &w));
        if (s->table && c->t->world->rank == 0)
            fprintf(s->table, "%-34s worst %.2e at %lld (analytic %.9e, difference %.9e)\n",
                    nm.name, w.error, (long long)w.element, w.analytic, w.numeric);
        MR_CHECK(w.error <= s->tolerance, MR_ERR_INTERNAL,
                 "gradcheck: %s element %lld: analytic %.9e, difference %.9e, relative %.2e > %.2e",
                 nm.name, (long long)w.element, w.analytic, w.numeric, w.error, s->tolerance);
        if (w.error > *worst_p) *worst_p = w.error;
    }
    return MR_OK;
}

mr_status mr_gradcheck(mr_trainer *t, const mr_gradcheck_spec *spec, double *worst_p)
{
    check c = {.t = t};
    mr_status st;
    MR_CHECK(t->dev->real == MR_F64 && t->dev->host_memory, MR_ERR_USAGE,
             "gradcheck works on device cpu64 only");
    MR_CHECK(!mr_model_is_mealrec(t->cfg) || !((t->cfg->tcd.enabled && t->cfg->tcd.detach_target) ||
                                               (t->cfg->npd.enabled && t->cfg->npd.detach_target)),
             MR_ERR_CONFIG,
             "gradcheck cannot see a detached target: the differences follow the loss into it; set "
             "tcd.detach_target and npd.detach_target to false");
    MR_TRY_GOTO(mr_plan_compile(&c.plan, t->train_graph, false, false, 0), st, done);
    MR_TRY_GOTO(mr_trainer_run(t, &c.run, c.plan), st, done);
    MR_TRY_GOTO(mr_trainer_load(t, t->train_run, 0, 0), st, done);
    MR_TRY_GOTO(mr_trainer_gradients(t), st, done);
    MR_TRY_GOTO(mr_trainer_set_batch(t, c.run, &t->feed, &t->batch), st, done);
    /* The loss slots live in the gradient buffer: give the forward-only run its own. */
    MR_TRY_GOTO(t->dev->alloc(t->dev, (void **)&c.run->loss_slots, MR_LOSS_SLOTS * sizeof(double),
                              "loss slots"),
                st, done);
    MR_TRY_GOTO(check_all(&c, spec, worst_p), st, done);
done:
    mr_run_free(&c.run);
    mr_plan_free(&c.plan);
    return st;
}
