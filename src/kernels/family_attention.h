/* Kernel family: attention. See kernels.h for the rules that hold for all entries. */
#ifndef MR_KERNELS_FAMILY_ATTENTION_H
#define MR_KERNELS_FAMILY_ATTENTION_H

#define MR_KERNELS_ATTENTION(X)

#endif
