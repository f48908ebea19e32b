/* TCD: temporal-guided content diffusion over the frames of the last video (paper §4.3). */
#include "model/model.h"

/* z0 = Layer(LN(F + P)), paper eq. 6: [B,K,D]. It depends on the last item alone. */
static int encode_frames(mr_build *m)
{
    mr_graph *g = m->g;
    const mr_config *c = m->cfg;
    int64_t K = g->dims.K, D = g->dims.D;
    mr_graph_scope(g, "tcd");
    int p =
        mr_named_param(m, 2, (int64_t[]){K, D}, MR_INIT_NORMAL, 0.02, WIDE1, "tcd.position.weight");
    mr_wb norm = mr_norm_params(m, "tcd.norm", D);
    bool is_distinct = mr_model_is_distinct(m);
    int h = mr_g_add_param(g, is_distinct ? mr_g_frames_distinct(g) : mr_g_frames(g), p);
    h = mr_g_layer_norm(g, h, -1, norm.w, norm.b, 1e-12, 0, 0);
    int64_t inner = c->tcd.inner ? c->tcd.inner : 2 * D;
    h = mr_block_layer(m, "tcd.encoder", h, D, c->tcd.heads, inner, c->tcd.dropout, c->tcd.dropout,
                       MR_ATT_FULL, 0);
    return is_distinct ? mr_g_spread(g, h) : h;
}

/* T reverse steps from a corrupted z0 (paper eq. 9); the noise-free last step is the network's
 * output. */
static int reverse(mr_build *m, int z0, const mr_unet_cond *cond)
{
    mr_graph *g = m->g;
    int64_t T = m->sched->T;
    int start = m->cfg->diffusion.start, z = z0, zhat = -1;
    if (start != MR_START_X0) z = mr_g_noise(g, z0, MR_DIFF_TCD, T, start == MR_START_NOISE);
    for (int64_t t = T; t >= 1; t--) {
        zhat = mr_unet(m, z, cond, t);
        mr_graph_scope(g, "tcd.reverse");
        if (t > 1) z = mr_g_posterior(g, zhat, z, MR_DIFF_TCD, t, m->cfg->diffusion.noise);
    }
    return zhat;
}

int mr_tcd(mr_build *m)
{
    mr_graph *g = m->g;
    const mr_config *c = m->cfg;
    mr_unet_cond cond;
    int z0 = encode_frames(m);
    mr_graph_output(g, z0, "z0");
    mr_graph_scope(g, "tcd");
    mr_unet_condition(m, mr_g_context(g, c->tcd.gamma), &cond);
    mr_graph_scope(g, "tcd");
    if (m->phase == MR_PHASE_EVAL) return reverse(m, z0, &cond);
    int zt = mr_g_noise(g, z0, MR_DIFF_TCD, 0, false);
    int zhat = mr_unet(m, zt, &cond, 0);
    mr_graph_scope(g, "tcd.loss");
    mr_graph_loss(g, mr_g_mse(g, zhat, z0, c->tcd.detach_target), c->tcd.lambda,
                  "tcd"); /* eq. 11 */
    return zhat;
}
