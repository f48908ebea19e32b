/* Kernel family: norm. See kernels.h for the rules that hold for all entries. */
#ifndef MR_KERNELS_FAMILY_NORM_H
#define MR_KERNELS_FAMILY_NORM_H

#define MR_KERNELS_NORM(X)

#endif
