/* What an op sees while a plan runs: pointers to values, gradients, saved buffers, parameters,
 * batch. All pointers are device memory. Kernels are called as mr_k(r)->name(..., &r->ex). */
#ifndef MR_GRAPH_RUN_H
#define MR_GRAPH_RUN_H

#include "base/config.h"
#include "data/batch.h"
#include "data/dataset.h"
#include "dist/comm.h"
#include "dist/shard.h"
#include "graph/graph.h"
#include "graph/plan.h"
#include "kernels/kernels.h"

/* Resident features on the device; data pointers NULL when absent. Row 0 belongs to item 1. */
typedef struct mr_features {
    mr_feature visual, frames, text;
} mr_features;

enum { MR_FEATURE_VISUAL, MR_FEATURE_FRAMES, MR_FEATURE_TEXT, MR_FEATURE_COUNT };

/* Ids that select rows of a feature: item ids, or places + 1 among rows fetched for this batch; 0
 * selects none. */
typedef struct mr_feature_ids {
    const int32_t *last;     /* [rows] of the last history item */
    const int32_t *distinct; /* [n_last] of the distinct ones among them */
    const int32_t *tok;      /* [tokens of sequence set 0]; NULL: not for this feature */
    int64_t n;               /* rows there are, or room for them: no id is above */
} mr_feature_ids;

/* The lists of a planned row exchange (mr_exchange) in device memory. */
typedef struct mr_exchange_lists {
    const int32_t *unique_id, *inv, *csr_start, *csr_pos;
    const int32_t *give_row, *own_row, *own_start, *own_pos; /* not for one rank alone */
    const int32_t *slot;                                     /* when the exchange is_fixed */
    /* Entries of unique_id and of own_row, rounded up: those behind are PAD and none, with nothing
     * to be added. */
    int64_t n_unique, n_own;
} mr_exchange_lists;

/* What the shapes of a batch's work follow from: of one rank, or the largest of any rank. */
typedef struct mr_counts {
    int64_t rows, last;
    int64_t tokens[MR_MAX_SEQ]; /* and one more for every row that the batch has room for */
    int64_t unique[MR_MAX_SEQ], own[MR_MAX_SEQ]; /* n_unique and n_own of the row exchanges */
    int64_t exact;  /* > 0: some row exchange of several ranks has no fixed size */
    int64_t places; /* counts how often what a run reads and writes has moved */
} mr_counts;

struct mr_run {
    const mr_plan *plan;
    const mr_graph *g;
    mr_device *dev;
    const mr_kernels *k;
    int64_t number; /* of the runs of this process */
    mr_exec ex;
    mr_params *params;
    const mr_features *feat;
    const mr_feature_ids *fetched; /* [MR_FEATURE_COUNT], host: feat holds the rows of this batch;
                                    * NULL: of all items */
    mr_feature_ids ids[MR_FEATURE_COUNT]; /* for kernels */
    const mr_batch *host;                 /* the batch as the host sees it (counts, rank_rows) */
    mr_batch in;                          /* the same with device pointers */
    int64_t rows[MR_N_SPACES];            /* actual leading rows of each space */
    /* Leading rows that are computed. Where `rounds`, as in a graph with whole_products on a
     * device, counts of tokens and of last items are rounded up, so that launch arguments seldom
     * change (run_batch.c tells what the rows behind hold). Else the same as rows. */
    int64_t count[MR_N_SPACES];
    bool rounds;
    const mr_counts *most; /* several ranks that round: the largest counts of any rank for this
                            * batch, with which all compute, rows too; NULL: this rank's own */
    mr_comm *items;        /* ranks that share the item table; buffers in device memory */
    mr_comm *world;        /* all ranks; the same */
    int group0;            /* world rank of items' rank 0: host->rank_rows[group0 + i] */
    mr_exchange *xch[MR_MAX_SEQ]; /* row exchange of each sequence set, planned for this batch */
    mr_exchange_lists lists[MR_MAX_SEQ]; /* the same for kernels */
    /* Diffusion schedule, length steps + 1, index t = 0..T (host memory, constant). */
    const double *abar_host, *c1, *c2, *s2;
    const double *abar; /* for kernels */
    bool in_backward;   /* values that are computed twice are the second ones */
    /* Gradients of both views of this batch's rows, made elsewhere (train/contrast.c), [rows,d]
     * each; NULL: ntxent makes them, and its loss. */
    const char *view_grad[2];
    int64_t t_max;
    const mr_int_list *t_set; /* n = 0: t uniform in 1..T */
    char *ws;                 /* workspace block */
    bool borrows_ws;          /* another run's */
    char *loss_slots;         /* NULL: the slots behind the dense gradients */
    /* Where kernels do not read host memory: in's arrays, lists and abar, on the device and as the
     * host sends them (memory of dev->alloc_host). */
    void *block, *block_host[2];
    int64_t block_bytes;
    int turn;               /* which block_host is written next */
    const uint32_t *staged; /* rid of the batch that lies in it already; NULL: none */
    mr_step_state state_host, *state_dev;
    mr_step_state *state_out[2]; /* alloc_host: of set_batch, of send_state */
    int64_t sent[4];             /* dev->counts.waits when block_host and state_out were sent */
};

/* The kernels, for one call: calls are counted, because each is at least one launch on a GPU. */
static inline const mr_kernels *mr_k(mr_run *r)
{
    r->dev->counts.calls++;
    return r->k;
}

/* Value of a node (device pointer); aliases resolved. id -1 gives NULL. Rows of a slice, and of its
 * gradient, are mr_node_ld elements apart. */
void *mr_val(const mr_run *r, int id);
/* Gradient of a node, or NULL when nobody needs it. */
void *mr_grad(const mr_run *r, int id);
/* The node whose forward n does as well, or NULL: input slot i was joined to n. */
const mr_node *mr_joined(const mr_run *r, const mr_node *n, int slot);
/* Forward of n, which is that of the input joined to it plus a parameter. */
mr_status mr_forward_plus(mr_run *r, const mr_node *n, const mr_node *joined,
                          const mr_addend *plus);
/* The node in input slot i whose backward n's backward begins, or NULL; whether the step before has
 * begun n's; where it has left for it what is not a gradient: n's scratch in backward. */
const mr_node *mr_begins(const mr_run *r, const mr_node *n, int slot);
bool mr_is_begun(const mr_run *r, const mr_node *n);
void *mr_backward_scratch(const mr_run *r, const mr_node *n);
/* Must backward of n write the gradient of input slot i? And as `+=`? */
bool mr_wants(const mr_run *r, const mr_node *n, int slot);
int mr_acc(const mr_run *r, const mr_node *n, int slot);
void *mr_saved(const mr_run *r, const mr_node *n, int i);
/* Parameter slot of a node: value, value as an operand of products (mr_mat; dense parameters only),
 * gradient, accumulate bit. Absent (-1): NULL. */
void *mr_pval(const mr_run *r, const mr_node *n, int slot);
void *mr_pmat(const mr_run *r, const mr_node *n, int slot);
void *mr_pgrad(const mr_run *r, const mr_node *n, int slot);
int mr_pacc(const mr_run *r, const mr_node *n, int slot);
/* Leading rows of a node in this run that are computed; and those that belong to the batch. */
int64_t mr_n(const mr_run *r, int id);
int64_t mr_n_rows(const mr_run *r, int id);
int mr_node_id(const mr_run *r, const mr_node *n);
/* Value of a loss node's weight (0 when the node is not a loss term). */
double mr_loss_weight(const mr_run *r, const mr_node *n);
/* Random rows of a space: global row and position of each leading row. ROWS and tokens only. */
mr_rows_of mr_rand_rows(const mr_run *r, mr_space s);
/* Purpose word of a node's own draws: MR_RNG_OP and its number. */
uint32_t mr_rand_purpose(const mr_node *n);

/* A run over a compiled plan. The caller fills feat, items, schedule after create. ws is allocated
 * here. */
mr_status mr_run_create(mr_run **out_p, const mr_plan *plan, mr_device *dev, mr_params *params,
                        uint64_t seed);
/* The same in the workspace of `lender` (borrowed; may be NULL) if that is large enough: for two
 * runs of which one is done, and its values are wanted no more, whenever the other begins. */
mr_status mr_run_create_in(mr_run **out_p, const mr_plan *plan, mr_device *dev, mr_params *params,
                           uint64_t seed, const mr_run *lender);
void mr_run_free(mr_run **r_p);
/* Counts of batch b, with the row exchanges xch [n_seq] planned for it; places = 0. */
void mr_run_counts(mr_counts *out, const mr_batch *b, mr_exchange *const *xch);
/* Set the batch, with the row exchanges that are in r->xch by now (all copied to the device where
 * kernels do not read host memory) and r->most, and the step state; host fields of `state`. */
mr_status mr_run_set_batch(mr_run *r, const mr_batch *b, const mr_step_state *state);
/* Tokens of the largest sequence set of b, as they will be computed with the counts `most` (NULL:
 * b's own): what mr_graph_dims.tokens_cap has to have room for. */
int64_t mr_run_tokens(const mr_run *r, const mr_batch *b, const mr_counts *most);
/* A count as it is rounded up where the run `rounds`: at least n, at most cap, 0 for 0. */
int64_t mr_run_rounded(int64_t n, int64_t cap);
/* What the arguments of all kernels and collectives of this run follow from, for the batch that was
 * set: counts, and where the batch lies. With r->most it is the same on all ranks, most->places
 * standing for where things lie; only for batches with most->exact = 0. */
void mr_run_signature(const mr_run *r, mr_signature *out);
/* Write batch b, with the row exchanges xch [n_seq] planned for it and most (or NULL), to where
 * set_batch sends it from: before the device is done with the batch that is set, so that set_batch
 * has less to do. Does not wait; does nothing where it would have to, or where features come with
 * the batch. Until then b stays as it is; set_batch may be called for another. */
void mr_run_stage(mr_run *r, const mr_batch *b, mr_exchange *const *xch, const mr_counts *most);
/* state_host once more, when the host has decided something after backward. Does not wait. */
mr_status mr_run_send_state(mr_run *r);
/* A plan with backward also uses the memory of params->grad: gradients of an earlier step are lost.
 */
mr_status mr_run_forward(mr_run *r);
/* One step of the plan, fwd[i] or bwd[j]: what forward and backward consist of. */
mr_status mr_run_forward_step(mr_run *r, int i);
mr_status mr_run_backward_step(mr_run *r, int j);
/* Backward over all loss terms. on_bucket (may be NULL) is called when a dense gradient range
 * [lo, hi) of params->grad is final: gradient reduction starts there while backward goes on. */
typedef mr_status (*mr_bucket_fn)(void *user, int64_t lo, int64_t hi);
mr_status mr_run_backward(mr_run *r, mr_bucket_fn on_bucket, void *user);
/* Copy a named output to the host: mr_n_rows rows x mr_node_count elements of the real type. */
mr_status mr_run_output(mr_run *r, const char *name, void *host);
/* Local part of every loss term (sum over this rank's rows / global rows), as doubles. */
mr_status mr_run_losses(mr_run *r, double *out);
/* The same in two parts: out [MR_LOSS_SLOTS] reals of device memory, inside enter and leave, or a
 * kernel of the caller's that copies the slots; and out from what came of it to the host. */
void mr_run_put_losses(mr_run *r, void *out);
const void *mr_run_loss_slots(const mr_run *r);
void mr_run_read_losses(const mr_run *r, double *out, const void *host);

#endif
