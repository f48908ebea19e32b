/* The CUDA kernel table. An entry that has no kernel yet stays NULL, and mr_kernels_for says so. */
#include "kernels/kernels.h"

#define X(name, args) void name##_cuda args;
MR_KERNEL_LIST(X)
#undef X

#define ENTRY(name) .name = name##_cuda

const mr_kernels mr_kernels_cuda = {
    /* linear.cu */
    ENTRY(gemm), ENTRY(bias_act_fwd), ENTRY(act_bwd), ENTRY(col_sum), ENTRY(axpy),
    ENTRY(probe_fwd), ENTRY(probe_bwd),
    /* optim.cu */
    ENTRY(adam), ENTRY(grad_stats),
    /* norm.cu */
    ENTRY(layer_norm_fwd), ENTRY(layer_norm_bwd), ENTRY(dropout),
    /* embed.cu */
    ENTRY(gather_rows), ENTRY(gather_padded), ENTRY(add_rows), ENTRY(position_fwd),
    ENTRY(position_bwd), ENTRY(last_fwd), ENTRY(last_bwd), ENTRY(feature_gather), ENTRY(context),
    /* attention.cu */
    ENTRY(attention_fwd), ENTRY(attention_bwd),
    /* unet.cu */
    ENTRY(conv3_fwd), ENTRY(conv3_bwd_x), ENTRY(conv3_bwd_w), ENTRY(conv3_bwd_add),
    ENTRY(frame_add), ENTRY(upsample_fwd), ENTRY(upsample_bwd), ENTRY(concat_fwd),
    ENTRY(concat_bwd), ENTRY(time_embed), ENTRY(silu_fwd), ENTRY(silu_bwd),
};
