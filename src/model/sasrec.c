/* SASRec as in RecBole (post-LN), and CL4SRec's contrastive term on the same encoder (model.md §2).
 */
#include "model/model.h"

int mr_sasrec_encode(mr_build *m, int seq)
{
    mr_graph_scope(m->g, "input");
    return mr_block_encoder(m, mr_g_lookup(m->g, m->table, seq), seq);
}

void mr_cl4srec_loss(mr_build *m)
{
    /* Two augmented views through the same encoder, with their own dropout. */
    int z1 = mr_sasrec_encode(m, 1);
    int z2 = mr_sasrec_encode(m, 2);
    mr_graph_scope(m->g, "ntxent");
    int loss = mr_g_ntxent(m->g, z1, z2, m->cfg->cl4srec.temperature);
    mr_graph_loss(m->g, loss, m->cfg->cl4srec.weight, "ntxent");
}
