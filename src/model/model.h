/* Models: a configuration and the sizes of a data set in, nodes on a graph out. Only composition;
 * the mathematics is in the ops. Normative text: docs/model.md.
 * What it is not: training; losses and outputs are all that the training loop sees.
 *
 * Every model is built twice from the same functions: for training (losses; dropout as g->train
 * says) and for evaluation (output "user" [B,d], the vector that items are scored with). */
#ifndef MR_MODEL_MODEL_H
#define MR_MODEL_MODEL_H

#include "base/config.h"
#include "graph/ops.h"
#include "model/schedule.h"

/* Which dimensions of a parameter are widths of rows (graph/params.h). */
enum {
    WIDE0 = MR_PARAM_WIDTH(0),
    WIDE1 = MR_PARAM_WIDTH(1),
    WIDE2 = MR_PARAM_WIDTH(2),
    WIDE01 = WIDE0 | WIDE1
};

typedef enum mr_phase { MR_PHASE_TRAIN, MR_PHASE_EVAL } mr_phase;

/* What the builders need at hand. */
typedef struct mr_build {
    mr_graph *g;
    const mr_config *cfg;
    const mr_schedule *sched;
    mr_phase phase;
    int table; /* parameter item.weight */
    int64_t d; /* hidden width */
} mr_build;

/* Build cfg's model on g. Training losses: "rank", and "tcd", "npd", "ntxent" where the variant has
 * them. Outputs: "x0", "xhat", and in training "z0", "zhat" where they exist; evaluation: "user".
 * Errors: ERR_CONFIG with one sentence when the data set lacks a feature the model needs. */
mr_status mr_model_build(mr_graph *g, const mr_config *cfg, const mr_schedule *sched,
                         mr_phase phase);
/* Rows of the item table: |I| + 1, one more (MASK) with CL4SRec. */
int64_t mr_model_table_rows(const mr_config *cfg, int64_t n_items);
/* Effective backbone of a configuration (model.name may name one). */
int mr_model_backbone(const mr_config *cfg);
bool mr_model_is_mealrec(const mr_config *cfg);
bool mr_model_uses_frames(const mr_config *cfg);
bool mr_model_uses_text(const mr_config *cfg);
/* Scores are cosines (TedRec) or dot products. */
bool mr_model_is_cosine(const mr_config *cfg);

/* May what depends on the last item alone be made once for each distinct one? Dropout differs from
 * row to row; without it the numbers are the same. */
bool mr_model_is_distinct(const mr_build *m);

/* ---- shared blocks, used by the models ---- */
/* Parameter name.weight (and name.bias), N(0, 0.02) and 0. Returned ids: weight, bias. */
typedef struct mr_wb {
    int w, b;
} mr_wb;
mr_wb mr_linear_params(mr_build *m, const char *name, int64_t out, int64_t in);
mr_wb mr_norm_params(mr_build *m, const char *name, int64_t width);
/* One parameter of this shape under a formatted name. */
int mr_named_param(mr_build *m, int ndim, const int64_t *dim, mr_init init, double scale,
                   unsigned flags, const char *fmt, ...) __attribute__((format(printf, 7, 8)));

/* Layers prefix.k and prefix.v (letters "kv"), or prefix.q too ("qkv"), each of d columns to d, as
 * the parts of one weight and one bias, so that one product makes all of them. */
mr_wb mr_attention_params(mr_build *m, const char *prefix, const char *letters, int64_t d,
                          double std);
/* Parameters of a Transformer layer: qkv where q, k and v are made of one input, else q and kv; the
 * others are -1. */
typedef struct mr_layer_params {
    mr_wb q, kv, qkv, o, norm1, fc1, fc2, norm2;
} mr_layer_params;
mr_layer_params mr_block_layer_params(mr_build *m, const char *prefix, int64_t d, int64_t inner,
                                      bool of_one_input);
/* Output projection, residual and feed-forward of a post-LN layer. */
int mr_block_after_attention(mr_build *m, const mr_layer_params *p, int ctx, int residual,
                             double dropout);
/* Post-LN Transformer layer (model.md §2, SASRec). x [N,d] or [B,S,d]; mode
 * MR_ATT_CAUSAL/LAST/FULL; LAST returns [B,d]. */
int mr_block_layer(mr_build *m, const char *prefix, int x, int64_t width, int64_t heads,
                   int64_t inner, double dropout, double attention_dropout, int mode, int seq);
/* Input LayerNorm, positions and all encoder layers over h [N,d] of a sequence set -> x0 [B,d]. */
int mr_block_encoder(mr_build *m, int h, int seq);
/* Backbones: x0 [B,d] of sequence set `seq` (TedRec: set 0). */
int mr_sasrec_encode(mr_build *m, int seq);
int mr_tedrec_encode(mr_build *m);
/* CL4SRec's contrastive loss term on top of an SASRec encoder. */
void mr_cl4srec_loss(mr_build *m);
/* TCD: frames of the last item, refined. Returns zhat [B,K,D] (training: single step; evaluation: T
 * steps) and adds loss "tcd" in training. */
int mr_tcd(mr_build *m);
/* U-Net over the frame axis: z [B,K,D] -> [B,K,D]. films, contexts from mr_unet_condition. */
typedef struct mr_unet_cond {
    int film[6];    /* per block: a slice [B,2co], or FIXED [T,2co] in evaluation */
    int context[6]; /* per block: a slice [B,co], -1 = none */
} mr_unet_cond;
void mr_unet_condition(mr_build *m, int c_v, mr_unet_cond *out);
int mr_unet(mr_build *m, int z, const mr_unet_cond *cond, int64_t t);
/* NPD: x0 [B,d], frames [B,K,D] (-1 = none), text [B,dh] or [U,dh] -> xhat [B,d]; adds loss "npd"
 * in training. */
int mr_npd(mr_build *m, int x0, int frames, int text);

#endif
