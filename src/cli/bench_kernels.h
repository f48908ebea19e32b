/* What the cases of `bench kernels` share: sizes, buffers, and the loop that times one kernel.
 * The kernels come from the table of the configured device, so the same cases serve every backend.
 * What it is not: a check of results (tests/kernels, tests/gpu). */
#ifndef MR_CLI_BENCH_KERNELS_H
#define MR_CLI_BENCH_KERNELS_H

#include <jansson.h>
#include <stdbool.h>

#include "kernels/kernels.h"
#include "tensor/device.h"

/* Sizes of the configured model on its data set; 0 = the data set or model has no such thing. */
typedef struct mr_kb_sizes {
    int64_t B, L, N;  /* rows of a batch on this rank, longest history, tokens of the rows */
    int64_t d, inner; /* widths of the encoder */
    int64_t heads, D, K, dh, C, E, V; /* D, K, dh: features; C: U-Net; E: experts; V: item rows */
    int64_t tcd_heads, tcd_inner, T;
    int64_t params; /* elements that the optimizer updates */
    int64_t topk;
} mr_kb_sizes;

enum { MR_KB_BUFFERS = 48 };

typedef struct mr_kb {
    mr_device *dev;
    const mr_kernels *k;
    mr_exec ex;
    mr_kb_sizes z;
    mr_status st; /* the first failure sticks; afterwards nothing runs any more */
    const char *filter;
    double least_s;    /* time to spend on a kernel */
    size_t element;    /* bytes of most of what the kernels at hand move: an mr_act, an mr_real */
    int n_buf, n_kept; /* the first n_kept are those of the batch */
    void *buf[MR_KB_BUFFERS];
    int32_t *start, *len; /* [B + 1], [B] device: where the tokens of a row are */
    int32_t *tok_pos, *tok_row;
    uint32_t *rid, *tok_rid;
    mr_step_state *state; /* device */
    json_t *rows;         /* one object a line of the table */
    bool is_printing;
    /* the kernel that is being timed */
    int round, calls, done;
    double times[8], started;
    const char *name, *variant;
    char shape[64];
    double flop, bytes;
} mr_kb;

/* Device memory of the case; reals in [-1, 1), integers i * step % mod. They live until
 * mr_kb_release. NULL after a failure. */
void *mr_kb_reals(mr_kb *b, int64_t n);
double *mr_kb_doubles(mr_kb *b, int64_t n); /* in (0, 1) */
float *mr_kb_floats(mr_kb *b, int64_t n);
uint16_t *mr_kb_halves(mr_kb *b, int64_t n); /* bf16, as reals */
int32_t *mr_kb_ints(mr_kb *b, int64_t n, int64_t step, int64_t mod);
/* A copy of n bytes. */
void *mr_kb_copy(mr_kb *b, const void *host, int64_t bytes);
void mr_kb_release(mr_kb *b);

/* The loop: begin says what is timed, then more is asked before every call until it is false.
 * shape: sizes that end with a 0 or after four. bytes: of the arrays, each read or written once. */
void mr_kb_begin(mr_kb *b, const char *name, const char *variant, const int64_t shape[4],
                 double flop, double bytes);
bool mr_kb_more(mr_kb *b);

#define SHAPE(...) ((const int64_t[4]){__VA_ARGS__})
/* flop: floating-point operations; elements that must move, of b->element bytes. Further arguments:
 * the kernel's, without the mr_exec. */
#define BENCH(kernel, variant, shape, flop, elements, ...)                                         \
    for (mr_kb_begin(b, #kernel, variant, shape, (double)(flop),                                   \
                     (double)(elements) * (double)b->element);                                     \
         mr_kb_more(b);)                                                                           \
    b->k->kernel(__VA_ARGS__, &b->ex)

/* The cases, by files bench_kernels_*.c. Each leaves b->st. */
void mr_kb_encoder(mr_kb *b); /* linear, norm, attention, embed */
void mr_kb_losses(mr_kb *b);  /* losses, ranking, optimizer */
void mr_kb_content(mr_kb *b); /* U-Net, diffusion, TedRec */

#endif
