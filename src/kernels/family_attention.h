/* Kernel family: attention core. See kernels.h for the rules that hold for all entries. */
#ifndef MR_KERNELS_FAMILY_ATTENTION_H
#define MR_KERNELS_FAMILY_ATTENTION_H

#include "kernels/shared/dropout.h"

/* Who looks at whom. Rows b = 0..B-1 of the batch are independent.
 *   CAUSAL  ragged: q and kv rows start[b]..start[b]+len[b]-1; query i sees keys 0..i of its row
 *   LAST    q row b is the query at position len[b]-1; kv ragged as above; it sees keys 0..len[b]-1
 *   FULL    q and kv rows b*S..b*S+S-1; every query sees all S keys
 *   ONE     q row b is the query at position 0; keys: kv_first row b (when not NULL), then kv rows
 *           b*S'.. with S' = S - (kv_first ? 1 : 0); it sees all S keys */
enum { MR_ATT_CAUSAL, MR_ATT_LAST, MR_ATT_FULL, MR_ATT_ONE };
#define MR_ATT_MAX_KEYS 1024

typedef struct mr_att_shape {
    int mode;             /* MR_ATT_* */
    int64_t B, S;         /* rows of the batch; most keys that a query can see (ragged: L) */
    int64_t heads, d;     /* d = width of all heads together, a multiple of heads */
    const int32_t *start; /* [B] device; ragged modes only; with N [B + 1] */
    const int32_t *len;   /* [B] device; ragged modes only, 1..S */
    int64_t N;            /* ragged modes: packed rows, with those behind start[B]; 0: none */
    /* Width of rows of q, of kv and of out, where there are more columns than count: 0 = d, 2 d, d;
     * elements between rows of q and of kv, where these are columns of something wider: 0 = their
     * width. */
    int64_t q_w, kv_w, out_w, q_ld, kv_ld;
} mr_att_shape;

/* The same with numbers for 0. */
static inline mr_att_shape mr_att_full_shape(const mr_att_shape *s)
{
    mr_att_shape f = *s;
    if (!f.q_w) f.q_w = f.d;
    if (!f.kv_w) f.kv_w = 2 * f.d;
    if (!f.out_w) f.out_w = f.d;
    if (!f.q_ld) f.q_ld = f.q_w;
    if (!f.kv_ld) f.kv_ld = f.kv_w;
    return f;
}

#define MR_KERNELS_ATTENTION(X)                                                                    \
    /* Per head, over the keys j that a query sees:                                                \
     *   p_j = softmax_j(q . k_j / sqrt(d / heads))                                                \
     *   out[q,d] = sum_j m_j p_j v_j                                                              \
     * prob[q,heads,S] = p (may be NULL; keys that are not visible are left alone). q[.,q_w] with  \
     * rows q_ld apart; kv[.,kv_w], rows kv_ld apart, and kv_first[B,kv_w] hold k then v;          \
     * out[.,out_w] has the rows of q.                                                             \
     * m: factors of `drop` (rows.rid by b, block mr_drop_att_block of (head, query position, S),  \
     * element = key position), so LAST gives exactly CAUSAL's last row and ONE exactly FULL's     \
     * row 0. CAUSAL: rows start[B]..N-1 of out = 0. */                                            \
    X(attention_fwd,                                                                               \
      (mr_act * out, mr_real * prob, const mr_act *q, const mr_act *kv, const mr_act *kv_first,    \
       const mr_att_shape *shape, const mr_drop *drop, const mr_exec *ex))                         \
    /* dq, dkv, dkv_first (+)= gradients, from dout and forward's prob: they lie as q, kv and      \
     * kv_first do, dout as out. dkv covers every kv row of the batch. Outputs may be NULL.        \
     * Ragged: packed rows start[B]..N-1 = 0 if not (+=). */                                       \
    X(attention_bwd,                                                                               \
      (mr_act * dq, mr_act * dkv, mr_act * dkv_first, const mr_act *dout, const mr_real *prob,     \
       const mr_act *q, const mr_act *kv, const mr_act *kv_first, const mr_att_shape *shape,       \
       int acc_q, int acc_kv, int acc_first, const mr_drop *drop, const mr_exec *ex))

#endif
