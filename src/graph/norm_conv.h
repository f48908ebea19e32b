/* What the forward of a group norm needs, for the convolution that it was joined to; and what the
 * backward of a convolution begins with, for the node that writes its gradient.
 * What it is not: seen outside the ops around convolutions. */
#ifndef MR_GRAPH_NORM_CONV_H
#define MR_GRAPH_NORM_CONV_H

#include "graph/run.h"
#include "kernels/family_unet.h"

typedef struct mr_gn_forward {
    mr_gn gn;
    void *mean, *rstd;
    const void *x, *gamma, *beta, *film;
} mr_gn_forward;

mr_gn_forward mr_gn_forward_of(const mr_run *r, const mr_node *n);

/* What the backward of n has to begin for the convolution in its input slot, in *space; or NULL. */
const mr_conv_begin *mr_conv_next(const mr_run *r, const mr_node *n, int slot,
                                  mr_conv_begin *space);

#endif
