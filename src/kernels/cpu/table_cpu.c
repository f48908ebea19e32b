/* The CPU kernel table of this element type: a missing kernel is a link error. */
#include "kernels/cpu/real.h"

const mr_kernels MR_TABLE = {
#define X(name, args) .name = MR_FN(name),
    MR_KERNEL_LIST(X)
#undef X
};
