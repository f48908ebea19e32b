/* NPD: noise-unconditional preference denoising (paper §4.4), and the MLP that replaces it in
 * "-NPD". g never sees the diffusion step. Only token 0 is read and only token 0 changes over the
 * reverse chain, so the condition tokens' keys and values are made once and g asks one query a row.
 */
#include <math.h>

#include "model/model.h"

#define LN_EPS 1e-12

/* What g needs besides x_t: its parameters and the condition tokens, prepared once. */
typedef struct denoiser {
    mr_layer_params p;
    int type;    /* parameter npd.type.weight */
    int cond_kv; /* [B,S,2d] keys and values of the condition tokens */
} denoiser;

static mr_wb horizon_params(mr_build *m, int64_t d, mr_wb *kv)
{
    double std = sqrt(1.0 / (double)d); /* Xavier normal of a d x d matrix */
    mr_wb q = {-1, -1};
    q.w =
        mr_named_param(m, 2, (int64_t[]){d, d}, MR_INIT_NORMAL, std, WIDE01, "npd.block.q.weight");
    *kv = mr_attention_params(m, "npd.block", "kv", d, std);
    return q;
}

static bool is_horizon(const mr_build *m) { return m->cfg->npd.block == MR_NPD_HORIZON; }

/* [U,...] of the distinct last items as rows of the batch; rows stay as they are. */
static int by_rows(mr_graph *g, int x)
{
    return x >= 0 && mr_node_at(g, x)->space == MR_SPACE_LAST ? mr_g_spread(g, x) : x;
}

/* Condition tokens [B,K+1,d] (or [B,1,d] without frames), with their type embedding. */
static int condition_tokens(mr_build *m, int frames, int text, int type)
{
    mr_graph *g = m->g;
    mr_wb wh = mr_linear_params(m, "npd.text", m->d, g->dims.dh);
    mr_wb nh = mr_norm_params(m, "npd.text_norm", m->d);
    int tx = mr_g_linear(g, text, wh.w, wh.b, MR_ACT_NONE);
    tx = by_rows(g, mr_g_layer_norm(g, tx, -1, nh.w, nh.b, LN_EPS, 0, 0));
    if (frames < 0) return mr_g_reshape(g, mr_g_add_row(g, tx, type, 1), 3, 1, m->d, 1);
    mr_wb wv = mr_linear_params(m, "npd.frame", m->d, g->dims.D);
    mr_wb nv = mr_norm_params(m, "npd.frame_norm", m->d);
    int fr = mr_g_linear(g, frames, wv.w, wv.b, MR_ACT_NONE);
    fr = mr_g_layer_norm(g, fr, -1, nv.w, nv.b, LN_EPS, 0, 0);
    return mr_g_condition_tokens(g, fr, tx, type);
}

static denoiser prepare(mr_build *m, int frames, int text)
{
    mr_graph *g = m->g;
    denoiser dn = {0};
    mr_graph_scope(g, "npd.condition");
    int64_t tokens = frames < 0 ? 2 : g->dims.K + 2;
    dn.type = mr_named_param(m, 2, (int64_t[]){tokens, m->d}, MR_INIT_NORMAL, 0.02, WIDE1,
                             "npd.type.weight");
    int cond = condition_tokens(m, frames, text, dn.type);
    if (is_horizon(m)) {
        dn.p.q = horizon_params(m, m->d, &dn.p.kv);
        cond = mr_g_layer_norm(g, cond, -1, -1, -1, LN_EPS, 0, 0);
    } else {
        dn.p = mr_block_layer_params(m, "npd.block", m->d, m->cfg->npd.inner, false);
    }
    dn.cond_kv = mr_g_linear(g, cond, dn.p.kv.w, dn.p.kv.b, MR_ACT_NONE);
    return dn;
}

/* xhat = g(x_t, condition): [B,d] -> [B,d]. */
static int denoise(mr_build *m, const denoiser *dn, int xt)
{
    mr_graph *g = m->g;
    mr_graph_scope(g, "npd.block");
    int x = mr_g_add_row(g, xt, dn->type, 0);
    if (is_horizon(m)) x = mr_g_layer_norm(g, x, -1, -1, -1, LN_EPS, 0, 0);
    int q = mr_g_linear(g, x, dn->p.q.w, dn->p.q.b, MR_ACT_NONE);
    int kv = mr_g_linear(g, x, dn->p.kv.w, dn->p.kv.b, MR_ACT_NONE);
    if (is_horizon(m)) return mr_g_attention(g, q, dn->cond_kv, kv, 1, MR_ATT_ONE, 0, 0);
    int ctx = mr_g_attention(g, q, dn->cond_kv, kv, (int)m->cfg->npd.heads, MR_ATT_ONE, 0,
                             m->cfg->npd.dropout);
    return mr_block_after_attention(m, &dn->p, ctx, x, m->cfg->npd.dropout);
}

/* "-NPD": u = W2 GELU(W1 [x0 ; mean_k (W_v z_k + b_v) ; W_h h + b_h] + b1) + b2. */
static int mlp_instead(mr_build *m, int x0, int frames, int text)
{
    mr_graph *g = m->g;
    mr_graph_scope(g, "npd.mlp");
    mr_wb wv = mr_linear_params(m, "npd.frame", m->d, g->dims.D);
    mr_wb wh = mr_linear_params(m, "npd.text", m->d, g->dims.dh);
    mr_wb w1 = mr_linear_params(m, "npd.mlp1", m->d, 3 * m->d);
    mr_wb w2 = mr_linear_params(m, "npd.mlp2", m->d, m->d);
    int fr = mr_g_linear(g, frames, wv.w, wv.b, MR_ACT_NONE);
    int tx = by_rows(g, mr_g_linear(g, text, wh.w, wh.b, MR_ACT_NONE));
    int u = mr_g_linear(g, mr_g_pool_concat(g, x0, fr, tx), w1.w, w1.b, MR_ACT_GELU);
    return mr_g_linear(g, u, w2.w, w2.b, MR_ACT_NONE);
}

static int reverse(mr_build *m, const denoiser *dn, int x0)
{
    mr_graph *g = m->g;
    int64_t T = m->sched->T;
    int start = m->cfg->diffusion.start, x = x0, xhat = -1;
    mr_graph_scope(g, "npd.reverse");
    if (start != MR_START_X0) x = mr_g_noise(g, x0, MR_DIFF_NPD, T, start == MR_START_NOISE);
    for (int64_t t = T; t >= 1; t--) {
        xhat = denoise(m, dn, x);
        mr_graph_scope(g, "npd.reverse");
        if (t > 1) x = mr_g_posterior(g, xhat, x, MR_DIFF_NPD, t, m->cfg->diffusion.noise);
    }
    return m->cfg->diffusion.mix > 0 ? mr_g_mix(g, x0, xhat, m->cfg->diffusion.mix) : xhat;
}

int mr_npd(mr_build *m, int x0, int frames, int text)
{
    mr_graph *g = m->g;
    const mr_config *c = m->cfg;
    if (!c->npd.enabled) return mlp_instead(m, x0, frames, text);
    denoiser dn = prepare(m, frames, text);
    if (m->phase == MR_PHASE_EVAL) return reverse(m, &dn, x0);
    mr_graph_scope(g, "npd");
    int xhat = denoise(m, &dn, mr_g_noise(g, x0, MR_DIFF_NPD, 0, false));
    mr_graph_scope(g, "npd.loss");
    mr_graph_loss(g, mr_g_mse(g, xhat, x0, c->npd.detach_target), c->npd.lambda,
                  "npd"); /* eq. 14 */
    return xhat;
}
