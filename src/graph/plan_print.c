/* The numbered listing of a compiled step: what `mealrec-dist plan` prints. */
#include "graph/plan.h"

#include <string.h>

static void shape_text(const mr_graph *g, int id, char *buf, size_t size)
{
    static const char *const space[] = {"", "B", "N", "N1", "N2", "U"};
    const mr_node *n = mr_node_at(g, id);
    int at = 0;
    if (n->space == MR_SPACE_FIXED)
        at = snprintf(buf, size, "[%lld", (long long)n->dim[0]);
    else
        at = snprintf(buf, size, "[%s<=%lld", space[n->space], (long long)n->dim[0]);
    for (int i = 1; i < n->ndim; i++)
        at += snprintf(buf + at, size - (size_t)at, ",%lld", (long long)n->dim[i]);
    snprintf(buf + at, size - (size_t)at, "]");
}

static void slot_text(const mr_slot *s, char *buf, size_t size)
{
    if (s->first < 0)
        snprintf(buf, size, "-");
    else
        snprintf(buf, size, "%lld+%lld", (long long)s->offset, (long long)s->bytes);
}

static void print_step(const mr_plan *p, int step, int id, bool forward, FILE *f)
{
    const mr_graph *g = p->g;
    const mr_node *n = mr_node_at(g, id);
    char shape[64], at[64];
    shape_text(g, id, shape, sizeof shape);
    slot_text(forward ? &p->val[id] : &p->grad[p->grad_of[id]], at, sizeof at);
    fprintf(f, "%4d %s %%%-4d %-34s %-18s %-24s", step, forward ? "fwd" : "bwd", id, n->label,
            shape, at);
    for (int s = 0; s < n->n_in; s++) {
        if (n->in[s] < 0) continue;
        bool is_own = p->grad_of[p->root[n->in[s]]] == p->root[n->in[s]];
        bool wants = !forward && p->needs_grad[n->in[s]] && is_own;
        fprintf(f, " %%%d%s", n->in[s], wants ? (p->acc_in[id] >> s & 1 ? ":+=" : ":=") : "");
    }
    for (int s = 0; s < n->n_param; s++)
        if (n->param[s] >= 0)
            fprintf(f, " %s%s", g->params->p[n->param[s]].name,
                    forward ? "" : (p->acc_param[id] >> s & 1 ? ":+=" : ":="));
    fprintf(f, "\n");
}

/* Values that are computed again before a backward step. */
static void print_redone(const mr_plan *p, int step, FILE *f)
{
    for (int id = 0; id < p->g->n_nodes; id++) {
        if (p->again[id].first != step) continue;
        char shape[64], at[64];
        shape_text(p->g, id, shape, sizeof shape);
        slot_text(&p->again[id], at, sizeof at);
        fprintf(f, "     again %%%-4d %-34s %-18s %s\n", id, p->g->node[id].label, shape, at);
    }
}

static void print_buckets(const mr_plan *p, int after, FILE *f)
{
    for (int i = 0; i < p->n_buckets; i++)
        if (p->bucket[i].after == after)
            fprintf(f, "          allreduce dense gradients [%lld, %lld), %lld bytes\n",
                    (long long)p->bucket[i].lo, (long long)p->bucket[i].hi,
                    (long long)((p->bucket[i].hi - p->bucket[i].lo) * (int64_t)p->g->real_bytes));
}

void mr_plan_print(const mr_plan *p, FILE *f)
{
    fprintf(f, "step dir  node  op                                 shape              workspace"
               " bytes          inputs and parameters\n");
    for (int i = 0; i < p->n_fwd; i++) print_step(p, i, p->fwd[i], true, f);
    if (p->backward) print_buckets(p, -1, f);
    for (int j = 0; j < p->n_bwd; j++) {
        print_redone(p, p->n_fwd + j, f);
        print_step(p, p->n_fwd + j, p->bwd[j], false, f);
        print_buckets(p, j, f);
    }
    for (int i = 0; i < p->g->n_losses; i++)
        fprintf(f, "loss %-8s weight %g, node %%%d\n", p->g->loss[i].name, p->g->loss[i].weight,
                p->g->loss[i].node);
    fprintf(f,
            "workspace %.1f MB beside the gradients, %d forward and %d backward steps, "
            "%d gradient buckets\n",
            (double)p->ws_bytes / 1e6, p->n_fwd, p->n_bwd, p->n_buckets);
}
