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
    /* groupnorm.cu */
    ENTRY(group_norm_fwd), ENTRY(group_norm_bwd),
    /* diffusion.cu */
    ENTRY(noise_fwd), ENTRY(noise_bwd), ENTRY(posterior), ENTRY(pool_concat_fwd),
    ENTRY(pool_concat_bwd),
    /* loss.cu */
    ENTRY(zero), ENTRY(mse_fwd), ENTRY(mse_bwd), ENTRY(row_inv_norm), ENTRY(row_scale),
    ENTRY(row_dot), ENTRY(norm_project), ENTRY(ce_rows), ENTRY(ce_combine), ENTRY(ce_target),
    ENTRY(ce_sum), ENTRY(pair_ids),
    /* topk.cu */
    ENTRY(score_tile), ENTRY(score_target), ENTRY(score_skip), ENTRY(rank_count),
    ENTRY(topk_merge),
    /* tedrec.cu */
    ENTRY(moe_drop), ENTRY(moe_gate_fwd), ENTRY(moe_mix_fwd), ENTRY(moe_gate_bwd),
    ENTRY(moe_weigh),
};
