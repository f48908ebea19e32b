/* The static tape: a model is a list of nodes made by builder functions (ops.h), compiled once into
 * a plan (plan.h) that runs forward and backward. What it is not: a framework. Nodes are integers
 * into an append-only array, construction order is a valid execution order, shapes are static up to
 * the number of rows, there is no broadcasting beyond what an op says.
 *
 * Spaces. The leading dimension of a node is one of
 *   FIXED  dim[0] as written,
 *   ROWS   the rows of this rank's batch (capacity rows_cap),
 *   TOK0.. the packed valid tokens of sequence set 0..2 (capacity tokens_cap),
 *   LAST   the distinct last items of the rows (capacity rows_cap; no random draws);
 * a run uses the actual counts, so padding costs nothing (or, on a device that records, counts of
 * tokens and last items a little rounded up: run_batch.c).
 *
 * Errors are sticky: after the first one the builders return -1 and mr_graph_status reports it, so
 * that models read as straight lines. */
#ifndef MR_GRAPH_GRAPH_H
#define MR_GRAPH_GRAPH_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "graph/params.h"

#define MR_MAX_NODES 4096
#define MR_MAX_IN 6
#define MR_MAX_NODE_PARAMS 6
#define MR_MAX_SAVED 6
#define MR_MAX_LOSSES 8
#define MR_MAX_OUTPUTS 32

typedef enum mr_space {
    MR_SPACE_FIXED,
    MR_SPACE_ROWS,
    MR_SPACE_TOK0,
    MR_SPACE_TOK1,
    MR_SPACE_TOK2,
    MR_SPACE_LAST,
    MR_N_SPACES
} mr_space;

typedef struct mr_run mr_run;
typedef struct mr_node mr_node;

/* What a node adds to its input x [N,...]: row at[n] of a parameter to x[n], or all of it to every
 * one (at = NULL). Device memory. */
typedef struct mr_addend {
    const void *table;
    const int32_t *at;
} mr_addend;

/* An op: its functions and what its backward reads. One `const mr_op` per op, listed in ops.def. */
typedef struct mr_op {
    const char *name;
    unsigned bwd_in; /* bit i: backward reads the value of input i */
    bool bwd_out;    /* backward reads the op's own output */
    /* A loss whose forward and backward are one fused pass: a plan with backward skips forward, and
     * backward also writes the loss value. */
    bool fused_loss;
    bool is_alias; /* value (and gradient, unless detached) is the input's memory; no functions */
    bool is_slice; /* an alias of columns of the input: rows are mr_node_ld elements apart */
    unsigned takes_slice; /* bit i: input i may be a slice */
    bool cut_grad;        /* no gradient passes (detach) */
    /* Forward is cheap, deterministic and leaves nothing else behind: a plan may run it again in
     * backward instead of keeping its value. */
    bool is_cheap;
    /* On a device where few launches count, a plan joins a node that may be joined to its only
     * reader, if that can take it as input i (takes_joined, bit i): the reader's forward does both,
     * and the value, [N,S,c], lies in framed rows (kernels/family_unet.h). */
    bool may_join;
    unsigned takes_joined;
    /* There too a node that makes x + a parameter (adds, a bit) of its input i does the forward of
     * that input, whose op has forward_plus: forward with the addend, into y. The input then has no
     * value, and its gradient is its reader's, in the same memory. */
    unsigned adds;
    mr_status (*forward_plus)(mr_run *r, const mr_node *n, void *y, const mr_addend *plus);
    /* On such a device the backward of a node that finishes the gradient of input i (begins, bit i)
     * also does what that node's own backward begins with, if it is the next step and can be begun
     * so (mr_conv_begin). */
    unsigned begins;
    bool can_begin;
    mr_status (*forward)(mr_run *r, const mr_node *n);
    mr_status (*backward)(mr_run *r, const mr_node *n); /* NULL: no gradient passes */
} mr_op;

/* A buffer written by forward for backward (and, in both directions, nobody else). */
typedef struct mr_saved_spec {
    mr_space space; /* capacity = cap(space) * inner; FIXED: inner alone */
    int64_t inner;
    int elem; /* bytes of an element; 0 = real; of an mr_act: g->act_bytes */
} mr_saved_spec;

struct mr_node {
    const mr_op *op;
    int number;                             /* of its own random draws */
    int n_in, in[MR_MAX_IN];                /* node ids; -1 = absent optional input */
    int n_param, param[MR_MAX_NODE_PARAMS]; /* parameter ids; -1 = absent */
    mr_space space;
    int ndim;
    int64_t dim[4]; /* dim[0] = capacity of the space (or the size when FIXED); as stored */
    int64_t cols;   /* of the last dimension count; those behind are 0 (mr_graph_dims.row_unit) */
    int n_saved;
    mr_saved_spec saved[MR_MAX_SAVED];
    unsigned saved_for_bwd; /* bit k: saved[k] is absent (NULL) when no backward will run */
    size_t scratch_bytes;   /* wanted in ex.scratch by forward and backward */
    int64_t i[8];           /* op attributes, meaning in the op file */
    double f[4];
    char label[48]; /* "encoder.0.attention": for listings and traces */
};

/* Sizes that the graph is compiled for. */
typedef struct mr_graph_dims {
    int64_t rows_cap, L;     /* local batch capacity, history length */
    int64_t tokens_cap;      /* tokens of a sequence set, at most; 0 = rows_cap * L */
    int64_t n_items;         /* |I|; the table has |I|+1 rows, +1 with MASK */
    int64_t D, K, dh;        /* visual width, frames per item, text width; 0 = absent */
    int n_ranks;             /* ranks that share the item table */
    int64_t rows_global_cap; /* rows of a global batch, at most */
    int64_t exchange_rows;   /* of every pair of ranks where their number is fixed, else 0 */
    bool whole_products;     /* over everything at once (a GPU), not in pieces that fit a cache */
    mr_precision precision;  /* of the device: under bf16 the item loss stores operands so */
    size_t act_bytes;        /* of an element of a value or gradient; 0 = those of a real */
    /* Rows (last dimensions of nodes of two or more, and dimensions of parameters that say so) are
     * rounded up to a multiple of so many elements, 0 = 1. What is behind is 0 in values, gradients
     * and parameters, and counts for nothing; files, dumps and outputs do not have it. */
    int64_t row_unit;
} mr_graph_dims;

typedef struct mr_loss_term {
    int node;
    double weight;
    char name[16]; /* rank, tcd, npd, ntxent */
} mr_loss_term;

typedef struct mr_graph {
    mr_graph_dims dims;
    mr_params *params; /* borrowed; shared by the training and the evaluation graph */
    size_t real_bytes; /* 4 or 8: parameters, statistics, losses */
    size_t act_bytes;  /* real_bytes, or 2: values and gradients of nodes */
    bool train;        /* dropout and gate noise are on (off in evaluation and in a step dump) */
    mr_status status;
    int n_nodes;
    int next_number; /* of the next node's random draws: as many as nodes, unless set */
    mr_node *node;   /* [MR_MAX_NODES], owned */
    int n_losses;
    mr_loss_term loss[MR_MAX_LOSSES];
    int n_outputs;
    struct {
        char name[32];
        int node;
    } output[MR_MAX_OUTPUTS];
    char scope[48]; /* prefix of labels of nodes added from now on */
} mr_graph;

mr_status mr_graph_create(mr_graph **out_p, const mr_graph_dims *dims, mr_params *params,
                          size_t real_bytes, bool train);
void mr_graph_free(mr_graph **g_p);
mr_status mr_graph_status(const mr_graph *g);
void mr_graph_scope(mr_graph *g, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Used by the builders of ops. Start a node of `op` with space and shape (of which the last is then
 * rounded up to row_unit); then set inputs,
 * attributes, saved buffers; then add it. mr_graph_add returns the node id, or -1 (sticky). */
mr_node mr_node_make(const mr_graph *g, const mr_op *op, mr_space space, int ndim, int64_t d0,
                     int64_t d1, int64_t d2, int64_t d3);
/* The same with the shape of rows of a. */
mr_node mr_node_like(const mr_graph *g, const mr_op *op, mr_space space, const mr_node *a);
/* Rows of a as wide as those of parameter dimension dim (stored), of which cols count. */
void mr_node_set_width(mr_node *n, int64_t dim, int64_t cols);
int mr_graph_add(mr_graph *g, const mr_node *n);
/* For ops of channels, where all columns count: whether those of n do; else the builder's error. */
bool mr_node_is_plain(mr_graph *g, const mr_node *n);
/* Random draws go by a node's number. A model that is put together of fewer or more nodes than
 * before says which number comes next, so that what follows draws the same. */
void mr_graph_set_number(mr_graph *g, int number);
/* Record a builder error; returns -1. */
int mr_graph_fail(mr_graph *g, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* The total loss is the sum of weight * loss over all terms. Node: a scalar made by a loss op. */
void mr_graph_loss(mr_graph *g, int node, double weight, const char *name);
/* Keep a node's value until the end of the run, readable under this name. */
void mr_graph_output(mr_graph *g, int node, const char *name);
int mr_graph_find_output(const mr_graph *g, const char *name); /* node id or -1 */

/* Shape helpers. */
const mr_node *mr_node_at(const mr_graph *g, int id);
int64_t mr_node_inner(const mr_graph *g, int id); /* product of dim[1..] */
int64_t mr_node_width(const mr_graph *g, int id); /* last dimension */
int64_t mr_node_cols(const mr_graph *g, int id);  /* columns of it that count */
int64_t mr_node_count(const mr_graph *g, int id); /* elements of dim[1..] that count */
static inline bool mr_node_is_padded(const mr_node *n) { return n->cols != n->dim[n->ndim - 1]; }
int64_t mr_node_ld(const mr_graph *g, int id); /* elements between rows: width, slices aside */
int64_t mr_space_cap(const mr_graph *g, mr_space s);
static inline mr_space mr_space_tok(int seq) { return (mr_space)(MR_SPACE_TOK0 + seq); }

#endif
