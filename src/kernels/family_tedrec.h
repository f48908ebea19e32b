/* Kernel family: tedrec. See kernels.h for the rules that hold for all entries. */
#ifndef MR_KERNELS_FAMILY_TEDREC_H
#define MR_KERNELS_FAMILY_TEDREC_H

#define MR_KERNELS_TEDREC(X)

#endif
