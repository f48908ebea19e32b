/* Building a model from its configuration: which backbone, which modules, which losses and outputs.
 */
#include "model/model.h"

int mr_model_backbone(const mr_config *c)
{
    switch (c->model.name) {
    case MR_MODEL_SASREC: return MR_BACKBONE_SASREC;
    case MR_MODEL_CL4SREC: return MR_BACKBONE_CL4SREC;
    case MR_MODEL_TEDREC: return MR_BACKBONE_TEDREC;
    default: return c->model.backbone;
    }
}

bool mr_model_is_mealrec(const mr_config *c) { return c->model.name == MR_MODEL_MEALREC; }
bool mr_model_is_cosine(const mr_config *c) { return mr_model_backbone(c) == MR_BACKBONE_TEDREC; }

bool mr_model_uses_frames(const mr_config *c)
{
    return mr_model_is_mealrec(c) && (c->tcd.enabled || !c->npd.enabled);
}

bool mr_model_uses_text(const mr_config *c)
{
    return mr_model_is_mealrec(c) || mr_model_is_cosine(c);
}

int64_t mr_model_table_rows(const mr_config *c, int64_t n_items)
{
    return n_items + 1 + (mr_model_backbone(c) == MR_BACKBONE_CL4SREC);
}

bool mr_model_is_distinct(const mr_build *m) { return !m->g->train || m->cfg->tcd.dropout <= 0; }

static mr_status check_features(const mr_graph *g, const mr_config *c)
{
    const mr_graph_dims *d = &g->dims;
    MR_CHECK(!mr_model_uses_text(c) || d->dh > 0, MR_ERR_CONFIG,
             "this model needs a text vector per item, and %s has none; import it with --text or "
             "--titles, or choose model.name=sasrec",
             c->data.path);
    MR_CHECK(!mr_model_uses_frames(c) || d->K > 0, MR_ERR_CONFIG,
             "this model needs frame vectors, and %s has none; import them with --frames, or ask "
             "for the variant without them by --tcd.enabled=false (with npd.enabled=true)",
             c->data.path);
    MR_CHECK(!mr_model_uses_frames(c) || d->K >= 2, MR_ERR_CONFIG,
             "TCD works over at least 2 frames per item, the data set has %lld", (long long)d->K);
    MR_CHECK(!(mr_model_uses_frames(c) && c->tcd.enabled) || d->D % c->tcd.heads == 0,
             MR_ERR_CONFIG, "tcd.heads=%lld does not divide the visual width %lld",
             (long long)c->tcd.heads, (long long)d->D);
    MR_CHECK(c->tcd.unet_width % 8 == 0, MR_ERR_CONFIG,
             "tcd.unet_width=%lld must be a multiple of 8 (group normalisation)",
             (long long)c->tcd.unet_width);
    return MR_OK;
}

static int encode(mr_build *m)
{
    return mr_model_backbone(m->cfg) == MR_BACKBONE_TEDREC ? mr_tedrec_encode(m)
                                                           : mr_sasrec_encode(m, 0);
}

/* The user vector of MealRec: TCD refines the frames, NPD the preference (or their replacements).
 */
static int refine(mr_build *m, int x0)
{
    mr_graph *g = m->g;
    int frames = -1;
    if (m->cfg->tcd.enabled) {
        frames = mr_tcd(m);
        mr_graph_output(g, frames, "zhat");
    } else if (g->dims.K > 0) {
        mr_graph_scope(g, "tcd");
        frames = mr_g_frames(g);
    }
    mr_graph_scope(g, "npd");
    return mr_npd(m, x0, frames,
                  mr_model_is_distinct(m) ? mr_g_text_distinct(g) : mr_g_text_last(g));
}

mr_status mr_model_build(mr_graph *g, const mr_config *cfg, const mr_schedule *sched,
                         mr_phase phase)
{
    mr_build m = {.g = g, .cfg = cfg, .sched = sched, .phase = phase, .d = cfg->model.hidden};
    MR_TRY(check_features(g, cfg));
    int64_t rows = mr_model_table_rows(cfg, g->dims.n_items);
    m.table = mr_named_param(&m, 2, (int64_t[]){rows, m.d}, MR_INIT_NORMAL, 0.02,
                             MR_PARAM_SHARDED | WIDE1, "item.weight");
    int x0 = encode(&m);
    mr_graph_output(g, x0, "x0");
    int user = mr_model_is_mealrec(cfg) ? refine(&m, x0) : x0;
    if (phase == MR_PHASE_EVAL) {
        mr_graph_output(g, user, "user");
        return mr_graph_status(g);
    }
    mr_graph_output(g, user, "xhat");
    mr_graph_scope(g, "rank");
    int loss = mr_g_item_loss(g, user, m.table, mr_model_is_cosine(cfg), cfg->tedrec.temperature);
    mr_graph_loss(g, loss, 1.0, "rank");
    if (mr_model_backbone(cfg) == MR_BACKBONE_CL4SREC) mr_cl4srec_loss(&m);
    return mr_graph_status(g);
}
