/* TedRec (model.md §2): an 8-expert text adaptor and frequency-domain fusion in front of the SASRec
 * encoder. */
#include <math.h>

#include "model/model.h"

int mr_tedrec_encode(mr_build *m)
{
    mr_graph *g = m->g;
    int64_t E = m->cfg->tedrec.experts, L = g->dims.L, dh = g->dims.dh, d = m->d;
    double edge = 1.0 / sqrt((double)d);
    mr_graph_scope(g, "tedrec");
    int w = mr_named_param(m, 3, (int64_t[]){E, d, dh}, MR_INIT_NORMAL, 0.02, WIDE1 | WIDE2,
                           "tedrec.expert.weight");
    int bias =
        mr_named_param(m, 3, (int64_t[]){E, L, dh}, MR_INIT_ZERO, 0, WIDE2, "tedrec.expert.bias");
    int gate =
        mr_named_param(m, 2, (int64_t[]){E, dh}, MR_INIT_ZERO, 0, WIDE1, "tedrec.gate.weight");
    int noise =
        mr_named_param(m, 2, (int64_t[]){E, dh}, MR_INIT_ZERO, 0, WIDE1, "tedrec.noise.weight");
    int filter = mr_named_param(m, 3, (int64_t[]){L / 2 + 1, d, 2}, MR_INIT_NORMAL, 0.02, WIDE1,
                                "tedrec.filter");
    int pw = mr_named_param(m, 2, (int64_t[]){1, d}, MR_INIT_NORMAL, 0.02, WIDE1,
                            "tedrec.gate_p.weight");
    int pb = mr_named_param(m, 1, (int64_t[]){1}, MR_INIT_UNIFORM, edge, 0, "tedrec.gate_p.bias");
    int fw = mr_named_param(m, 2, (int64_t[]){1, d}, MR_INIT_NORMAL, 0.02, WIDE1,
                            "tedrec.gate_f.weight");
    int fb = mr_named_param(m, 1, (int64_t[]){1}, MR_INIT_UNIFORM, edge, 0, "tedrec.gate_f.bias");
    int a = mr_g_lookup_padded(g, m->table);
    int u = mr_g_moe(g, mr_g_text_tokens(g), w, bias, gate, noise, m->cfg->tedrec.dropout);
    int h = mr_g_freq_fuse(g, a, u, filter, pw, pb, fw, fb);
    return mr_block_encoder(m, h, 0);
}
