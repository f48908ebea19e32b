/* Kernel family: unet. See kernels.h for the rules that hold for all entries. */
#ifndef MR_KERNELS_FAMILY_UNET_H
#define MR_KERNELS_FAMILY_UNET_H

#define MR_KERNELS_UNET(X)

#endif
