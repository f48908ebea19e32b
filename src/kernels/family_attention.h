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
    int64_t q_w, kv_w;    /* width of rows of q and of kv, where it is more than d and 2 d */
} mr_att_shape;

static inline int64_t mr_att_q_w(const mr_att_shape *s) { return s->q_w ? s->q_w : s->d; }
static inline int64_t mr_att_kv_w(const mr_att_shape *s) { return s->kv_w ? s->kv_w : 2 * s->d; }

#define MR_KERNELS_ATTENTION(X)                                                                    \
    /* Per head, over the keys j that a query sees:                                                \
     *   p_j = softmax_j(q . k_j / sqrt(d / heads))                                                \
     *   out[q,d] = sum_j m_j p_j v_j                                                              \
     * prob[q,heads,S] = p (may be NULL; keys that are not visible are left alone). q[.,q_w];      \
     * kv[.,kv_w] and kv_first[B,kv_w] hold k then v; out is like q.                               \
     * m: factors of `drop` (rows.rid by b, block mr_drop_att_block of (head, query position, S),  \
     * element = key position), so LAST gives exactly CAUSAL's last row and ONE exactly FULL's     \
     * row 0. CAUSAL: rows start[B]..N-1 of out = 0. */                                            \
    X(attention_fwd,                                                                               \
      (mr_act * out, mr_real * prob, const mr_act *q, const mr_act *kv, const mr_act *kv_first,    \
       const mr_att_shape *shape, const mr_drop *drop, const mr_exec *ex))                         \
    /* dq, dkv, dkv_first (+)= gradients, from dout[q,d] and forward's prob. dkv covers every kv   \
     * row of the batch. Outputs may be NULL. Ragged: packed rows start[B]..N-1 = 0 if not (+=).   \
     */                                                                                            \
    X(attention_bwd,                                                                               \
      (mr_act * dq, mr_act * dkv, mr_act * dkv_first, const mr_act *dout, const mr_real *prob,     \
       const mr_act *q, const mr_act *kv, const mr_act *kv_first, const mr_att_shape *shape,       \
       int acc_q, int acc_kv, int acc_first, const mr_drop *drop, const mr_exec *ex))

#endif
