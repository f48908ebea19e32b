/* The 1-D U-Net f of TCD: features as channels, convolutions over the K frames, one down and one up
 * level (model.md §3). The cross-attention to the single context vector is exactly
 *   W_o W_v c_v + b_o
 * added to every frame, and it does not depend on the diffusion step, so it is made once. */
#include <math.h>
#include <stdio.h>

#include "model/model.h"

#define GROUPS 8

/* Residual blocks: name, input and output channels in units of C, and whether a context is added.
 */
static const struct {
    const char *name;
    int ci, co;
    bool context;
} blocks[6] = {{"down0", 1, 1, true}, {"down1", 1, 2, true}, {"mid0", 2, 2, true},
               {"mid1", 2, 2, false}, {"up1", 4, 2, true},   {"up0", 2, 1, true}};
enum { DOWN0, DOWN1, MID0, MID1, UP1, UP0 };

/* PyTorch's default initialisation of Linear and Conv1d: U(-1/sqrt(fan_in), 1/sqrt(fan_in)). */
static mr_wb unet_linear(mr_build *m, const char *name, int64_t out, int64_t in)
{
    double edge = 1.0 / sqrt((double)in);
    mr_wb p;
    p.w = mr_named_param(m, 2, (int64_t[]){out, in}, MR_INIT_UNIFORM, edge, WIDE01,
                         "tcd.unet.%s.weight", name);
    p.b = mr_named_param(m, 1, (int64_t[]){out}, MR_INIT_UNIFORM, edge, WIDE0, "tcd.unet.%s.bias",
                         name);
    return p;
}

static mr_wb unet_conv(mr_build *m, const char *name, int64_t out, int64_t in)
{
    double edge = 1.0 / sqrt(3.0 * (double)in);
    mr_wb p;
    p.w = mr_named_param(m, 3, (int64_t[]){out, 3, in}, MR_INIT_UNIFORM, edge,
                         MR_PARAM_CONV | WIDE0 | WIDE2, "tcd.unet.%s.weight", name);
    p.b = mr_named_param(m, 1, (int64_t[]){out}, MR_INIT_UNIFORM, edge, WIDE0, "tcd.unet.%s.bias",
                         name);
    return p;
}

static mr_wb unet_norm(mr_build *m, const char *name, int64_t width)
{
    char full[64];
    snprintf(full, sizeof full, "tcd.unet.%s", name);
    return mr_norm_params(m, full, width);
}

/* 1x1 convolution: a linear layer whose weight is named [out, in, 1]. */
static mr_wb unet_skip(mr_build *m, const char *name, int64_t out, int64_t in)
{
    double edge = 1.0 / sqrt((double)in);
    mr_wb p;
    p.w = mr_named_param(m, 3, (int64_t[]){out, in, 1}, MR_INIT_UNIFORM, edge, WIDE01,
                         "tcd.unet.%s.weight", name);
    p.b = mr_named_param(m, 1, (int64_t[]){out}, MR_INIT_UNIFORM, edge, WIDE0, "tcd.unet.%s.bias",
                         name);
    return p;
}

static const char *part(int block, const char *name)
{
    static char buf[64];
    snprintf(buf, sizeof buf, "%s.%s", blocks[block].name, name);
    return buf;
}

/* What one product makes for several blocks: FiLM of all, W_v and W_o of those with a context. W_o
 * is one parameter for each width of its blocks, C and 2C. */
typedef struct stacks {
    int film_w, film_b, v, o[2], o_b;
    int64_t film, context;             /* columns of all blocks */
    int64_t film_at[6], context_at[6]; /* first column of each */
    int64_t o_first[2], o_step[2];     /* of the blocks of a width */
    int o_count[2];
} stacks;

static int stack(mr_build *m, const char *name, int64_t rows, int64_t width)
{
    char full[64];
    snprintf(full, sizeof full, "tcd.unet.%s", name);
    int id = mr_param_declare_stack(m->g->params, full, width ? 2 : 1, (int64_t[]){rows, width},
                                    MR_INIT_UNIFORM, width ? WIDE01 : WIDE0);
    if (id < 0) mr_graph_fail(m->g, "parameter %s", full);
    return id;
}

static void layer(mr_build *m, int stack, int b, const char *name, int64_t rows, int64_t fan_in)
{
    char full[64];
    snprintf(full, sizeof full, "tcd.unet.%s.%s", blocks[b].name, name);
    double edge = 1.0 / sqrt((double)fan_in);
    if (mr_param_add_part(m->g->params, stack, full, rows, edge) != MR_OK)
        mr_graph_fail(m->g, "parameter %s", full);
}

/* Columns of every block, then the parameters; the layers of a block follow each other. */
static stacks declare_stacks(mr_build *m)
{
    int64_t C = m->cfg->tcd.unet_width, D = m->g->dims.D;
    stacks s = {.film = 0};
    for (int b = 0; b < 6; b++) {
        int k = blocks[b].co - 1;
        s.film_at[b] = s.film;
        s.context_at[b] = s.context;
        s.film += 2 * blocks[b].co * C;
        if (!blocks[b].context) continue;
        if (s.o_count[k] == 0) s.o_first[k] = s.context;
        if (s.o_count[k] == 1) s.o_step[k] = s.context - s.o_first[k];
        s.o_count[k]++;
        s.context += blocks[b].co * C;
    }
    s.film_w = stack(m, "time.weight", s.film, 4 * C);
    s.film_b = stack(m, "time.bias", s.film, 0);
    s.v = stack(m, "context_v.weight", s.context, D);
    s.o[0] = stack(m, "context_o.1.weight", s.o_count[0] * C, C);
    s.o[1] = stack(m, "context_o.2.weight", s.o_count[1] * 2 * C, 2 * C);
    s.o_b = stack(m, "context_o.bias", s.context, 0);
    for (int b = 0; b < 6; b++) {
        int64_t co = blocks[b].co * C;
        layer(m, s.film_w, b, "time.weight", 2 * co, 4 * C);
        layer(m, s.film_b, b, "time.bias", 2 * co, 4 * C);
        if (!blocks[b].context) continue;
        layer(m, s.v, b, "context_v.weight", co, D);
        layer(m, s.o[blocks[b].co - 1], b, "context_o.weight", co, co);
        layer(m, s.o_b, b, "context_o.bias", co, co);
    }
    return s;
}

void mr_unet_condition(mr_build *m, int c_v, mr_unet_cond *out)
{
    mr_graph *g = m->g;
    int64_t C = m->cfg->tcd.unet_width;
    mr_graph_scope(g, "tcd.unet.time");
    mr_wb t1 = unet_linear(m, "time1", 4 * C, C), t2 = unet_linear(m, "time2", 4 * C, 4 * C);
    int t = m->phase == MR_PHASE_TRAIN ? mr_g_time_rows(g, C) : mr_g_time_all(g, C, m->sched->T);
    t = mr_g_linear(g, t, t1.w, t1.b, MR_ACT_SILU);
    t = mr_g_silu(g, mr_g_linear(g, t, t2.w, t2.b, MR_ACT_NONE));
    int number = g->next_number;
    stacks s = declare_stacks(m);
    for (int b = 0; b < 6; b++) out->film[b] = out->context[b] = -1;
    if (mr_graph_status(g) != MR_OK) return;
    int film = mr_g_linear(g, t, s.film_w, s.film_b, MR_ACT_NONE);
    mr_graph_scope(g, "tcd.unet.context");
    int ctx = mr_g_linear(g, c_v, s.v, -1, MR_ACT_NONE);
    mr_block_set sets[2];
    for (int k = 0; k < 2; k++) sets[k] = (mr_block_set){s.o[k], s.o_first[k], s.o_step[k]};
    ctx = mr_g_blocks(g, ctx, s.o_b, 2, sets);
    for (int b = 0; b < 6; b++) {
        int64_t co = blocks[b].co * C;
        out->film[b] = mr_g_slice(g, film, s.film_at[b], 2 * co);
        out->context[b] = blocks[b].context ? mr_g_slice(g, ctx, s.context_at[b], co) : -1;
    }
    /* Dropout further on draws as it did when every block had layers of its own. */
    mr_graph_set_number(g, number + 16);
}

/* Res(ci,co) then XA. t >= 1: evaluation at that step (row t-1 of the FiLM table); 0: row by row.
 */
static int residual(mr_build *m, int b, int x, const mr_unet_cond *cond, int64_t t)
{
    mr_graph *g = m->g;
    int64_t C = m->cfg->tcd.unet_width, ci = blocks[b].ci * C, co = blocks[b].co * C;
    mr_graph_scope(g, "tcd.unet.%s", blocks[b].name);
    mr_wb n1 = unet_norm(m, part(b, "norm1"), ci), c1 = unet_conv(m, part(b, "conv1"), co, ci);
    mr_wb n2 = unet_norm(m, part(b, "norm2"), co), c2 = unet_conv(m, part(b, "conv2"), co, co);
    int h = mr_g_group_norm(g, x, GROUPS, n1.w, n1.b, -1, -1, 0);
    h = mr_g_conv3(g, h, c1.w, c1.b, 1, -1, -1);
    h = mr_g_group_norm(g, h, GROUPS, n2.w, n2.b, cond->film[b], t >= 1 ? (int)t - 1 : -1,
                        m->cfg->tcd.dropout);
    int skip = x;
    if (ci != co) {
        mr_wb s = unet_skip(m, part(b, "skip"), co, ci);
        skip = mr_g_linear(g, x, s.w, s.b, MR_ACT_NONE);
    }
    return mr_g_conv3(g, h, c2.w, c2.b, 1, skip, cond->context[b]);
}

int mr_unet(mr_build *m, int z, const mr_unet_cond *cond, int64_t t)
{
    mr_graph *g = m->g;
    int64_t C = m->cfg->tcd.unet_width, D = g->dims.D, K = g->dims.K;
    mr_graph_scope(g, "tcd.unet");
    mr_wb in = unet_conv(m, "conv_in", C, D), down = unet_conv(m, "downsample", C, C);
    mr_wb up = unet_conv(m, "upsample", C, 2 * C);
    mr_wb norm = unet_norm(m, "norm_out", C), out = unet_conv(m, "conv_out", D, C);
    int skip0 = residual(m, DOWN0, mr_g_conv3(g, z, in.w, in.b, 1, -1, -1), cond, t);
    mr_graph_scope(g, "tcd.unet.downsample");
    int h = mr_g_conv3(g, skip0, down.w, down.b, 2, -1, -1);
    int skip1 = residual(m, DOWN1, h, cond, t);
    h = residual(m, MID0, skip1, cond, t);
    h = residual(m, MID1, h, cond, t);
    h = residual(m, UP1, mr_g_concat(g, h, skip1), cond, t);
    mr_graph_scope(g, "tcd.unet.upsample");
    h = mr_g_conv3(g, mr_g_upsample(g, h, K), up.w, up.b, 1, -1, -1);
    h = residual(m, UP0, mr_g_concat(g, h, skip0), cond, t);
    mr_graph_scope(g, "tcd.unet.out");
    h = mr_g_group_norm(g, h, GROUPS, norm.w, norm.b, -1, -1, 0);
    return mr_g_conv3(g, h, out.w, out.b, 1, -1, -1);
}
