/* Softmax cross-entropy of rows against a table, in chunks, so that the logits of a batch never
 * exist. Shared by item_loss (table spread over ranks) and ntxent (table = all gathered rows). Raw
 * device pointers; knows no graph. */
#ifndef MR_GRAPH_OP_SOFTMAX_H
#define MR_GRAPH_OP_SOFTMAX_H

#include "graph/run.h"

#define MR_SOFTMAX_BYTES (30 << 20) /* most bytes of one chunk of logits */
#define MR_SOFTMAX_ROWS 256         /* most rows of a chunk */
#define MR_SOFTMAX_BLOCK 1024       /* ids of one matrix product: they stay in a core's cache */
/* Where products are whole (a GPU), and where logits are bf16: the same, or as many bytes as the
 * table with its gradient and moments, if that is more. */
#define MR_SOFTMAX_WHOLE_BYTES (256 << 20)
#define MR_SOFTMAX_BF16_BYTES (128 << 20)
#define MR_SOFTMAX_KNOWN_MAX 40.0 /* largest |score| that is taken without looking for it */
#define MR_MAX_RANKS 4096

/* How the products of a pass are cut, and what their operands and logits are. */
typedef enum mr_softmax_way {
    MR_SOFTMAX_PIECES, /* pieces that stay in a core's cache */
    MR_SOFTMAX_WHOLE,  /* products over all ids of a rank */
    MR_SOFTMAX_BF16    /* the same with operands and logits in bf16 (op_softmax_bf16.c) */
} mr_softmax_way;
/* For the item table, of a graph with these dims (mr_graph_dims). */
mr_softmax_way mr_softmax_way_of(bool whole_products, mr_precision precision);

typedef struct mr_softmax {
    mr_softmax_way way;
    const void *x;     /* [n,w] rows, all ranks' in the same order */
    const void *table; /* [v,w] this rank's rows, ids lo .. lo+v-1 */
    bool is_cosine;    /* scores x . table_i / |table_i|: x is normalised by the caller */
    void *inv, *dot;   /* [v] work memory when is_cosine: inverse norms; table . dtable before */
    const int32_t *target; /* [n] ids; below 0: a row of no batch, which counts for nothing */
    const int32_t *skip;   /* [n] ids left out, or NULL */
    /* Ids are rows of ranks, rows_of_rank each, of which rank_rows [n_ranks] (device memory) are
     * those of a batch and the others left out; NULL: all are. */
    const int32_t *rank_rows;
    int64_t rows_of_rank;
    int n_ranks;
    int64_t n, v, w, lo;
    double scale, weight;
    mr_comm *comm; /* ranks that share the table; NULL = this one alone */
    int64_t v_max; /* largest v of all ranks: decides the chunk, equal on all ranks */
    void *dtable;  /* [v,w], NULL = value only */
    void *dx;      /* [n,w] = partial gradient of this rank's ids */
    int acc_table;
    double *ce; /* [n] out */
    void *work; /* mr_softmax_work bytes */
} mr_softmax;

/* Rows of a chunk, and bytes of work memory for at most n rows (v_max as above, size ranks). */
int64_t mr_softmax_chunk(int64_t v_max, int64_t w, size_t real_bytes, mr_softmax_way way);
int64_t mr_softmax_work(int64_t n, int64_t v_max, int64_t w, int size, size_t real_bytes,
                        mr_softmax_way way);
/* ce, and with dtable and dx the gradients of weight * sum ce / rows_global. Collective over comm;
 * the number of collectives depends on n and v_max alone. */
mr_status mr_softmax_pass(mr_run *r, const mr_softmax *s);

/* What both files of the pass share. This rank's statistics [m,3] -> those of all ranks, in rank
 * order. */
mr_status mr_softmax_gather(const mr_softmax *s, const double *mine, double *all, int64_t m);
/* A bound that stands in for the largest score, or INFINITY: it is looked for. */
double mr_softmax_known_max(const mr_softmax *s);
/* The pass in bf16, and its work memory for chunks of `rows` rows. */
mr_status mr_softmax_bf16_pass(mr_run *r, const mr_softmax *s);
int64_t mr_softmax_bf16_work(int64_t rows, int64_t v_max, int64_t w, int size, size_t real_bytes);

/* Hands out 64-byte aligned pieces of scratch; with base NULL it only counts. */
typedef struct mr_carve {
    char *base;
    int64_t used;
} mr_carve;
void *mr_carve_take(mr_carve *c, int64_t bytes);

/* Rows of every rank of a communicator that are computed with, and therefore sent: counts[size],
 * rows before this rank's, and their total. comm NULL = this rank alone; rank0: world rank of its
 * rank 0. */
typedef struct mr_rank_rows {
    int size;
    int64_t counts[MR_MAX_RANKS], first, total;
} mr_rank_rows;
mr_status mr_rank_rows_get(const mr_run *r, const mr_comm *comm, int rank0, mr_rank_rows *out);
/* The same times `width` elements, for the collectives. */
void mr_rank_rows_scaled(const mr_rank_rows *rows, int64_t width, int64_t *counts);

#endif
