/* Kernel family: loss. See kernels.h for the rules that hold for all entries. */
#ifndef MR_KERNELS_FAMILY_LOSS_H
#define MR_KERNELS_FAMILY_LOSS_H

#define MR_KERNELS_LOSS(X)

#endif
