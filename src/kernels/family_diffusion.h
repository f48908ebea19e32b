/* Kernel family: diffusion. See kernels.h for the rules that hold for all entries. */
#ifndef MR_KERNELS_FAMILY_DIFFUSION_H
#define MR_KERNELS_FAMILY_DIFFUSION_H

#define MR_KERNELS_DIFFUSION(X)

#endif
