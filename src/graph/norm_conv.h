/* What the forward of a group norm needs, for the convolution that it was joined to.
 * What it is not: seen outside op_group_norm.c and op_conv.c. */
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

#endif
