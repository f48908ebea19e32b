/* Parameters: declarations (name, shape, initialisation, flags) and their storage.
 * Storage is four flat buffers on the device (value, gradient, Adam's two moments), laid out
 *   [ dense parameters | loss slots | rows of the sharded table ]
 * so that gradients are reduced in a few large buckets, the losses travel with them, and the
 * optimizer is one kernel. Dense parameters are replicated on all ranks; a sharded one keeps only
 * its rows here. Names and shapes are those of model.md §10 (PyTorch's layouts). Two things are
 * done when a tensor is read or written by name: a convolution weight is stored as [out, 3, in] and
 * permuted, and dimensions are stored rounded up to row_unit where their flags say so; what is
 * behind is 0, and stays 0, because its gradient is. */
#ifndef MR_GRAPH_PARAMS_H
#define MR_GRAPH_PARAMS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "tensor/device.h"

#define MR_MAX_PARAMS 1280
#define MR_MAX_PARTS 6
#define MR_LOSS_SLOTS 16    /* elements reserved after the dense gradients */
#define MR_VALUE16_UNIT 128 /* value16 has room for a multiple: rows_to_bf16 fills eight rows */

typedef enum mr_init {
    MR_INIT_ZERO,
    MR_INIT_ONE,
    MR_INIT_NORMAL, /* N(0, scale) */
    MR_INIT_UNIFORM /* U(-scale, scale) */
} mr_init;

enum {
    MR_PARAM_SHARDED = 1, /* rows are spread over the item communicator */
    MR_PARAM_CONV = 2     /* stored [out, 3, in], named [out, in, 3] */
};
/* Flag: dimension i is the width of rows (graph/graph.h), of an input or of an output. */
#define MR_PARAM_WIDTH(i) (16u << (i))

/* A parameter may be several named tensors with consecutive rows (q|k|v), so that one matrix
 * product serves them all. */
typedef struct mr_param_part {
    char name[64];
    int64_t row0, rows; /* rows of dim[0] */
    /* Initial values: element e of the part is element first * (elements of a row) + e of random
     * number `number`, scaled by `scale`. */
    int number;
    int64_t first;
    double scale;
} mr_param_part;

typedef struct mr_param {
    char name[64];
    int ndim;
    int64_t dim[4]; /* stored shape, global (all rows) */
    int64_t own[4]; /* as declared: dim without what is behind */
    mr_init init;
    unsigned flags;
    int n_parts; /* 1 = just the parameter itself under its own name */
    mr_param_part part[MR_MAX_PARTS];
    int64_t count;          /* stored elements on this rank */
    int64_t offset;         /* element offset in the flat buffers */
    int64_t row_lo, row_hi; /* rows present on this rank */
} mr_param;

typedef struct mr_params {
    int n, n_numbers; /* parameters; random numbers given out to them */
    mr_param p[MR_MAX_PARAMS];
    bool is_frozen;   /* storage exists: new names are an error */
    int64_t row_unit; /* of the graph that declares (mr_graph_dims), 0 = 1 */
    mr_device *dev;   /* borrowed */
    size_t real_bytes;
    int64_t n_dense;            /* elements of the dense part (a multiple of 16) */
    int64_t n_total;            /* dense + loss slots + sharded rows */
    bool has_grad;              /* grad, m, v exist, or would if this were not a layout alone */
    void *value, *grad, *m, *v; /* [n_total] device memory */
    /* [n_dense] the dense values rounded to bf16, as operands of products; NULL where activations
     * are real. Adam writes both; whoever writes value alone sets is_value16_old. */
    uint16_t *value16;
    bool is_value16_old;
} mr_params;

/* Declare a parameter, or find an existing one of the same name (the shape must agree).
 * Returns its id, or -1 with an error raised. Global order of declaration = number used by the
 * random initialisation, so it must not depend on the number of ranks. */
int mr_param_declare(mr_params *ps, const char *name, int ndim, const int64_t *dim, mr_init init,
                     double scale, unsigned flags);
int mr_param_find(const mr_params *ps, const char *name); /* id or -1 */
/* A parameter of several layers that one product serves: declared without parts (and without a
 * random number); then every part is added where the layer's own parameter would be declared, so
 * that its name and its initial values are those of a parameter of its own. Parts that are there
 * already are left alone; in the end their rows must add up to own[0]. */
int mr_param_declare_stack(mr_params *ps, const char *name, int ndim, const int64_t *dim,
                           mr_init init, unsigned flags);
mr_status mr_param_add_part(mr_params *ps, int id, const char *name, int64_t rows, double scale);
/* The same of several layers that follow each other and share a random number: their initial values
 * are those of one parameter with all their rows. */
mr_status mr_param_add_parts(mr_params *ps, int id, int n_parts, const char *const *names,
                             const int64_t *rows, double scale);

/* Lay out and allocate; rank/n_ranks are those of the item communicator. with_optimizer = false
 * leaves grad, m, v NULL. Then initialise all values from seed, a function of the global element
 * only. */
mr_status mr_params_alloc(mr_params *ps, mr_device *dev, int rank, int n_ranks,
                          bool with_optimizer);
/* Its first half: sizes and offsets only, no memory. */
void mr_params_layout(mr_params *ps, mr_device *dev, int rank, int n_ranks, bool with_optimizer);
mr_status mr_params_init(mr_params *ps, uint64_t seed);
void mr_params_free(mr_params *ps);
int64_t
mr_params_count(const mr_params *ps); /* parameters of the model, all ranks, as papers count */

/* Contiguous row blocks of a sharded parameter: rank r owns [r * ceil(n/size), ...). */
void mr_shard_rows(int64_t n_rows, int rank, int n_ranks, int64_t *lo, int64_t *hi);

/* Named tensors (parts) over all parameters, in declaration order: what files and dumps see. */
int mr_named_count(const mr_params *ps);
typedef struct mr_named {
    char name[64];
    int param, part, ndim;
    int64_t dim[4];         /* PyTorch's shape, global */
    int64_t row_lo, row_hi; /* rows of this tensor on this rank */
} mr_named;
void mr_named_at(const mr_params *ps, int i, mr_named *out);
/* Copy this rank's rows of named tensor i between a host buffer in PyTorch's layout
 * [row_hi - row_lo, ...] (elements of the device's real type) and flat buffer `which` (value, grad,
 * m, v). */
typedef enum mr_which { MR_VALUE, MR_GRAD, MR_M, MR_V } mr_which;
mr_status mr_named_get(const mr_params *ps, int i, mr_which which, void *host);
mr_status mr_named_set(mr_params *ps, int i, mr_which which, const void *host);

#endif
