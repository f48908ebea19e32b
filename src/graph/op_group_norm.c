/* group_norm: y = dropout(silu(GN(x) (1 + scale) + shift)), x [N,S,c], groups over c / groups
 * channels and all S frames, eps 1e-6. film [N,2c] (scale, then shift), or one row of a FIXED
 * [T,2c] table for all samples (evaluation: no gradient into the table), or absent; it may be a
 * slice. A plan may join it to the convolution that follows. Saves mean and 1/std only; everything
 * else is recomputed from x in backward. */
#include "graph/norm_conv.h"
#include "graph/ops.h"
#include "graph/run.h"

enum { IN_X, IN_FILM };
enum { P_GAMMA, P_BETA };

static mr_gn gn_of(const mr_run *r, const mr_node *n)
{
    mr_gn gn = {.n = mr_n(r, n->in[IN_X]),
                .S = n->dim[1],
                .c = n->dim[2],
                .groups = n->i[0],
                .film_ld =
                    n->i[1] >= 0 || n->in[IN_FILM] < 0 ? 0 : mr_node_ld(r->g, n->in[IN_FILM]),
                .eps = 1e-6};
    if (n->f[0] > 0)
        gn.drop = (mr_drop){.p = n->f[0],
                            .purpose = mr_rand_purpose(n),
                            .rows = mr_rand_rows(r, n->space),
                            .per_row = 1};
    return gn;
}

static const void *film_of(const mr_run *r, const mr_node *n)
{
    char *film = mr_val(r, n->in[IN_FILM]);
    if (!film || n->i[1] < 0) return film;
    return film + n->i[1] * mr_node_ld(r->g, n->in[IN_FILM]) * (int64_t)r->g->act_bytes;
}

mr_gn_forward mr_gn_forward_of(const mr_run *r, const mr_node *n)
{
    return (mr_gn_forward){gn_of(r, n),
                           mr_saved(r, n, 0),
                           mr_saved(r, n, 1),
                           mr_val(r, n->in[IN_X]),
                           mr_pval(r, n, P_GAMMA),
                           mr_pval(r, n, P_BETA),
                           film_of(r, n)};
}

static mr_status group_norm_forward(mr_run *r, const mr_node *n)
{
    mr_gn_forward f = mr_gn_forward_of(r, n);
    mr_k(r)->group_norm_fwd(mr_val(r, mr_node_id(r, n)), f.mean, f.rstd, f.x, f.gamma, f.beta,
                            f.film, &f.gn, &r->ex);
    return MR_OK;
}

static mr_status group_norm_backward(mr_run *r, const mr_node *n)
{
    mr_gn gn = gn_of(r, n);
    mr_conv_begin next;
    bool film = mr_wants(r, n, IN_FILM);
    MR_CHECK(!film || n->i[1] < 0, MR_ERR_INTERNAL,
             "%s: one FiLM row for all samples has no backward; give one row a sample", n->label);
    mr_k(r)->group_norm_bwd(mr_wants(r, n, IN_X) ? mr_grad(r, n->in[IN_X]) : NULL,
                            mr_pgrad(r, n, P_GAMMA), mr_pgrad(r, n, P_BETA),
                            film ? mr_grad(r, n->in[IN_FILM]) : NULL, mr_grad(r, mr_node_id(r, n)),
                            mr_val(r, n->in[IN_X]), mr_saved(r, n, 0), mr_saved(r, n, 1),
                            mr_pval(r, n, P_GAMMA), mr_pval(r, n, P_BETA), film_of(r, n), &gn,
                            mr_acc(r, n, IN_X), mr_pacc(r, n, P_GAMMA), mr_pacc(r, n, P_BETA),
                            mr_acc(r, n, IN_FILM), mr_conv_next(r, n, IN_X, &next), &r->ex);
    return MR_OK;
}

const mr_op mr_op_group_norm = {.name = "group_norm",
                                .is_cheap = true,
                                .may_join = true,
                                .begins = 1u << IN_X,
                                .takes_slice = 1u << IN_FILM,
                                .bwd_in = 1u << IN_X | 1u << IN_FILM,
                                .forward = group_norm_forward,
                                .backward = group_norm_backward};

static bool film_fits(const mr_graph *g, const mr_node *n, int film, int film_row)
{
    const mr_node *f = mr_node_at(g, film);
    if (f->ndim != 2 || f->dim[1] != 2 * n->dim[2]) return false;
    return film_row >= 0 ? f->space == MR_SPACE_FIXED && film_row < f->dim[0]
                         : f->space == n->space && f->dim[0] == n->dim[0];
}

int mr_g_group_norm(mr_graph *g, int x, int groups, int gamma, int beta, int film, int film_row,
                    double drop_out)
{
    if (x < 0) return -1;
    if (gamma < 0 || beta < 0) return mr_graph_fail(g, "group_norm: gamma and beta are needed");
    const mr_node *a = mr_node_at(g, x);
    if (a->ndim != 3 || groups < 1 || a->dim[2] % groups)
        return mr_graph_fail(g, "group_norm: %lld channels do not divide into %d groups",
                             (long long)a->dim[2], groups);
    mr_node n = mr_node_like(g, &mr_op_group_norm, a->space, a);
    if (!mr_node_is_plain(g, &n)) return -1;
    if (g->params->p[gamma].dim[0] != a->dim[2] || g->params->p[beta].dim[0] != a->dim[2])
        return mr_graph_fail(g, "group_norm: %s and %s must have %lld elements",
                             g->params->p[gamma].name, g->params->p[beta].name,
                             (long long)a->dim[2]);
    if (film >= 0 && !film_fits(g, &n, film, film_row))
        return mr_graph_fail(g, "group_norm: film must be [N,%lld], or a FIXED table with row %d",
                             (long long)(2 * a->dim[2]), film_row);
    if (drop_out > 0 && g->train && a->space == MR_SPACE_FIXED)
        return mr_graph_fail(g, "group_norm: dropout needs rows of the batch");
    n.in[IN_X] = x;
    n.in[IN_FILM] = film;
    n.n_in = 2;
    n.param[P_GAMMA] = gamma;
    n.param[P_BETA] = beta;
    n.n_param = 2;
    n.i[0] = groups;
    n.i[1] = film >= 0 ? film_row : -1;
    n.f[0] = g->train ? drop_out : 0.0;
    int64_t rows = a->space == MR_SPACE_FIXED ? a->dim[0] : 1;
    n.saved[0] = n.saved[1] = (mr_saved_spec){a->space, rows * groups, 0};
    n.n_saved = 2;
    n.scratch_bytes = (size_t)mr_gn_scratch(n.dim[0], n.dim[1], n.dim[2]) * g->real_bytes;
    return mr_graph_add(g, &n);
}
