/* Builders of all ops: what models are written with. Each returns a node id, or -1 (sticky error).
 * [N,d] etc. are shapes, slowest first; N stands for the packed tokens of a sequence set, B for the
 * rows of the batch. Parameters are ids of mr_param_declare; -1 = absent where said so. The
 * contract of the mathematics is with each op in its op_*.c file; § = sections of docs/model.md. */
#ifndef MR_GRAPH_OPS_H
#define MR_GRAPH_OPS_H

#include "graph/graph.h"
#include "kernels/kernels.h"

/* ---- op_basic.c ---- */
int mr_g_detach(mr_graph *g, int x); /* same value, no gradient */
int mr_g_reshape(mr_graph *g, int x, int ndim, int64_t d1, int64_t d2,
                 int64_t d3); /* same rows and inner size */
/* Columns at .. at + width - 1 of x [..,w] as a node [..,width], in x's memory: for inputs that say
 * so (film of group_norm, context of conv3, q and kv of attention). The last columns have what lies
 * behind them (mr_graph_dims.row_unit). Where a gradient is wanted, x is read through slices alone,
 * and they cover it. */
int mr_g_slice(mr_graph *g, int x, int64_t at, int64_t width);
int mr_g_add(mr_graph *g, int a, int b);        /* a + b, same shape */
int mr_g_dropout(mr_graph *g, int x, double p); /* returns x itself when off */
/* x[B, ...] + param[...], the same parameter (one row of x) for every row */
int mr_g_add_param(mr_graph *g, int x, int param);
/* A parameter [rows, ...] as a node (space FIXED; ROWS or a token space for gradient checks, where
 * the parameter has at least the capacity of the space): the leaf of op tests, or a learned table.
 */
int mr_g_leaf(mr_graph *g, int param, mr_space space);
/* Loss of gradient checks: sum over the elements of x of x_i * cos(0.37 i + 1). */
int mr_g_probe(mr_graph *g, int x);
/* y[.., o] = act(x[.., i] w[o, i]^T + b[o]); b may be -1; acts over the last dimension */
int mr_g_linear(mr_graph *g, int x, int w, int b, int act);
/* y[.., o] = act_in(x)[.., i] w[o, i]^T + b[o]: as linear with act, then linear, but act_in(x) is
 * computed again in backward instead of being kept */
int mr_g_act_linear(mr_graph *g, int x, int act_in, int w, int b);

/* ---- op_blocks.c ---- */
/* Blocks of one size: w [k c, c]; block j reads and makes columns first + j step .. + c - 1. */
typedef struct mr_block_set {
    int w;
    int64_t first, step;
} mr_block_set;
/* y[N,w] = x[N,w] times a block-diagonal matrix, + b[w]; every column in one block, 1 to 3 sets */
int mr_g_blocks(mr_graph *g, int x, int b, int n_sets, const mr_block_set *set);

/* ---- op_norm.c ---- */
/* y = dropout(LN(dropout(x) + residual)) over the last dimension; residual, gamma, beta may be -1;
 * drop_in on x before the residual is added, drop_out on the result; 0 = off */
int mr_g_layer_norm(mr_graph *g, int x, int residual, int gamma, int beta, double eps,
                    double drop_in, double drop_out);

/* ---- op_attention.c ---- */
/* mode, MR_ATT_* of kernels/family_attention.h:
 *   CAUSAL: all queries, key j <= query i; segments = rows of a sequence set
 *   LAST: one query per row [B,d] = the last position, keys = its whole row (causal, pruned)
 *   FULL: all queries, no mask; uniform segments: q [B,S,d], kv [B,S,2d]
 *   ONE: one query per row [B,d]; keys = kv_first [B,2d] (may be -1) followed by kv [B,S,2d] */
/* Multi-head attention core softmax(q k^T / sqrt(d_head)) v with dropout on the probabilities.
 * q [N|B,d], kv [N|B,S,2d] (k then v), result like q; q and kv may be slices, for example of one
 * node [..,3d]. seq: sequence set for CAUSAL and LAST. */
int mr_g_attention(mr_graph *g, int q, int kv, int kv_first, int heads, int mode, int seq,
                   double dropout);

/* ---- op_embed.c ---- */
int mr_g_lookup(mr_graph *g, int table, int seq); /* [N,d] rows of packed tokens */
int mr_g_lookup_padded(mr_graph *g, int table);   /* [B,L,d] of set 0, PAD positions = row 0 */
int mr_g_add_position(mr_graph *g, int x, int pos,
                      int seq);              /* x[N,d] + pos[L,d] at each position */
int mr_g_last(mr_graph *g, int x, int seq);  /* [N,d] -> [B,d], last valid token of each row */
int mr_g_frames(mr_graph *g);                /* [B,K,D] frames of the last item */
int mr_g_text_last(mr_graph *g);             /* [B,dh] text of the last item */
int mr_g_frames_distinct(mr_graph *g);       /* [U,K,D] the same of the distinct last items */
int mr_g_text_distinct(mr_graph *g);         /* [U,dh] */
int mr_g_spread(mr_graph *g, int x);         /* [U,...] -> [B,...]: each row its last item's */
int mr_g_text_tokens(mr_graph *g);           /* [N,dh] text of packed tokens, set 0 */
int mr_g_context(mr_graph *g, double gamma); /* [B,D] c_v, paper eq. 7 */

/* ---- op_unet.c ---- */
/* conv over the frame axis, kernel 3, zero padding 1: x[B,S,ci] -> [B,S',co], S' = ceil(S/stride);
 * w stored [co,3,ci]; + residual [B,S',co] (may be -1) + context [B,co] on every frame (may be -1)
 */
int mr_g_conv3(mr_graph *g, int x, int w, int b, int stride, int residual, int context);
/* x[B,S,c] + v[B,c] on every frame */
int mr_g_add_context(mr_graph *g, int x, int v);
/* y = silu(GN(x) * (1 + scale) + shift); film [B,2c] (scale first) or -1; film_row >= 0: film is
 * FIXED [T,2c] and row film_row serves all rows. eps 1e-6, statistics over (c/groups, S). Dropout p
 * after. */
int mr_g_group_norm(mr_graph *g, int x, int groups, int gamma, int beta, int film, int film_row,
                    double drop_out);
int mr_g_upsample(mr_graph *g, int x, int64_t S2); /* nearest: source floor(i*S/S2) */
int mr_g_concat(mr_graph *g, int a, int b);        /* [B,S,ca],[B,S,cb] -> [B,S,ca+cb] */
/* sinusoid(t) of the rows' drawn t_tcd: [B,C]; or of t = 1..T: FIXED [T,C]. model.md §11.1 */
int mr_g_time_rows(mr_graph *g, int64_t C);
int mr_g_time_all(mr_graph *g, int64_t C, int64_t T);
int mr_g_silu(mr_graph *g, int x);

/* ---- op_diffusion.c ---- */
enum { MR_DIFF_TCD, MR_DIFF_NPD };
/* x_t = sqrt(abar_t) x0 + sqrt(1-abar_t) eps. t = 0: the row's own draw (training); t >= 1: that
 * step. start noise only when pure = true: x_t = eps */
int mr_g_noise(mr_graph *g, int x0, int which, int64_t t, bool pure);
/* x_{t-1} = c1_t xhat + c2_t x_t + sqrt(s2_t) eps (no noise at t = 1, or when noise = false); §6 */
int mr_g_posterior(mr_graph *g, int xhat, int xt, int which, int64_t t, bool noise);
int mr_g_mix(mr_graph *g, int x0, int xhat, double w); /* w x0 + (1-w) xhat */
/* [B,K,d] frame tokens and [B,d] text token -> [B,K+1,d], + type[1..K+1] (rows 1.. of type [K+2,d])
 */
int mr_g_condition_tokens(mr_graph *g, int frames, int text, int type);
int mr_g_add_row(mr_graph *g, int x, int param, int64_t row); /* x[B,d] + param[row] */
/* [x0[B,d] ; mean_k frames[B,K,d] ; text[B,d]] -> [B,3d] */
int mr_g_pool_concat(mr_graph *g, int x0, int frames, int text);

/* ---- op_tedrec.c ---- */
/* MoE adaptor, §2: text [N,dh] of packed tokens -> u [B,L,d] at all positions (PAD: x = 0).
 * w [E,d,dh], bias [E,L,dh], gate [E,dh], noise [E,dh] */
int mr_g_moe(mr_graph *g, int text, int w, int bias, int gate, int noise, double dropout);
/* Frequency fusion, §2: a, u [B,L,d] -> h_in [N,d] at valid positions.
 * filter [L/2+1,d,2]; gate_p_w, gate_f_w [1,d]; gate_p_b, gate_f_b [1] */
int mr_g_freq_fuse(mr_graph *g, int a, int u, int filter, int gate_p_w, int gate_p_b, int gate_f_w,
                   int gate_f_b);

/* ---- op_loss.c ---- losses are scalars: sum over local rows / global rows */
/* mean over rows and inner elements of (target - pred)^2; detach_target: no gradient into target */
int mr_g_mse(mr_graph *g, int pred, int target, bool detach_target);
/* mean cross-entropy over all candidate rows 0..n_items of the sharded table; x [B,d].
 * cosine: scores cos(x, E_i) / temperature, else dot products (temperature ignored). Paper eq. 15
 */
int mr_g_item_loss(mr_graph *g, int x, int table, bool cosine, double temperature);
/* NT-Xent over the global batch, §2: z1, z2 [B,d], dot products / temperature */
int mr_g_ntxent(mr_graph *g, int z1, int z2, double temperature);

#endif
