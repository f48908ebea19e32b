/* Kernel family: embed. See kernels.h for the rules that hold for all entries. */
#ifndef MR_KERNELS_FAMILY_EMBED_H
#define MR_KERNELS_FAMILY_EMBED_H

#define MR_KERNELS_EMBED(X)

#endif
