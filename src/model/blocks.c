/* Blocks shared by the models: named parameters, the post-LN Transformer layer, the sequence
 * encoder. */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>

#include "model/model.h"

#define LN_EPS 1e-12
#define INIT_STD 0.02

int mr_named_param(mr_build *m, int ndim, const int64_t *dim, mr_init init, double scale,
                   unsigned flags, const char *fmt, ...)
{
    char name[64];
    va_list ap;
    if (mr_graph_status(m->g) != MR_OK) return -1; /* its shape may be of what failed */
    va_start(ap, fmt);
    vsnprintf(name, sizeof name, fmt, ap);
    va_end(ap);
    int id = mr_param_declare(m->g->params, name, ndim, dim, init, scale, flags);
    if (id < 0) mr_graph_fail(m->g, "parameter %s", name);
    return id;
}

mr_wb mr_linear_params(mr_build *m, const char *name, int64_t out, int64_t in)
{
    mr_wb p;
    p.w = mr_named_param(m, 2, (int64_t[]){out, in}, MR_INIT_NORMAL, INIT_STD, WIDE01, "%s.weight",
                         name);
    p.b = mr_named_param(m, 1, (int64_t[]){out}, MR_INIT_ZERO, 0, WIDE0, "%s.bias", name);
    return p;
}

mr_wb mr_norm_params(mr_build *m, const char *name, int64_t width)
{
    mr_wb p;
    p.w = mr_named_param(m, 1, (int64_t[]){width}, MR_INIT_ONE, 0, WIDE0, "%s.weight", name);
    p.b = mr_named_param(m, 1, (int64_t[]){width}, MR_INIT_ZERO, 0, WIDE0, "%s.bias", name);
    return p;
}

/* k and v as one parameter [2d, d] named in two parts, so that one matrix product makes both. */
static mr_wb key_value_params(mr_build *m, const char *prefix, int64_t d)
{
    char k[64], v[64];
    mr_wb p = {-1, -1};
    int64_t rows[] = {d, d};
    const char *names[] = {k, v};
    snprintf(k, sizeof k, "%s.k.weight", prefix);
    snprintf(v, sizeof v, "%s.v.weight", prefix);
    p.w = mr_named_param(m, 2, (int64_t[]){2 * d, d}, MR_INIT_NORMAL, INIT_STD, WIDE01,
                         "%s.kv.weight", prefix);
    if (mr_param_parts(m->g->params, p.w, 2, names, rows) != MR_OK)
        mr_graph_fail(m->g, "parameter %s", k);
    snprintf(k, sizeof k, "%s.k.bias", prefix);
    snprintf(v, sizeof v, "%s.v.bias", prefix);
    p.b = mr_named_param(m, 1, (int64_t[]){2 * d}, MR_INIT_ZERO, 0, WIDE0, "%s.kv.bias", prefix);
    if (mr_param_parts(m->g->params, p.b, 2, names, rows) != MR_OK)
        mr_graph_fail(m->g, "parameter %s", k);
    return p;
}

/* A sub-module's name, valid until the next call. */
static const char *sub(const char *prefix, const char *name)
{
    static char buf[64];
    snprintf(buf, sizeof buf, "%s.%s", prefix, name);
    return buf;
}

mr_layer_params mr_block_layer_params(mr_build *m, const char *prefix, int64_t d, int64_t inner)
{
    mr_layer_params p;
    p.q = mr_linear_params(m, sub(prefix, "q"), d, d);
    p.kv = key_value_params(m, prefix, d);
    p.o = mr_linear_params(m, sub(prefix, "o"), d, d);
    p.norm1 = mr_norm_params(m, sub(prefix, "norm1"), d);
    p.fc1 = mr_linear_params(m, sub(prefix, "fc1"), inner, d);
    p.fc2 = mr_linear_params(m, sub(prefix, "fc2"), d, inner);
    p.norm2 = mr_norm_params(m, sub(prefix, "norm2"), d);
    return p;
}

int mr_block_after_attention(mr_build *m, const mr_layer_params *p, int ctx, int residual,
                             double dropout)
{
    mr_graph *g = m->g;
    int o = mr_g_linear(g, ctx, p->o.w, p->o.b, MR_ACT_NONE);
    int h = mr_g_layer_norm(g, o, residual, p->norm1.w, p->norm1.b, LN_EPS, dropout, 0);
    int f = mr_g_linear(g, h, p->fc1.w, p->fc1.b, MR_ACT_NONE);
    f = mr_g_act_linear(g, f, MR_ACT_GELU, p->fc2.w, p->fc2.b);
    return mr_g_layer_norm(g, f, h, p->norm2.w, p->norm2.b, LN_EPS, dropout, 0);
}

int mr_block_layer(mr_build *m, const char *prefix, int x, int64_t width, int64_t heads,
                   int64_t inner, double dropout, double attention_dropout, int mode, int seq)
{
    mr_graph *g = m->g;
    mr_graph_scope(g, "%s", prefix);
    mr_layer_params p = mr_block_layer_params(m, prefix, width, inner);
    int from = mode == MR_ATT_LAST ? mr_g_last(g, x, seq) : x;
    int q = mr_g_linear(g, from, p.q.w, p.q.b, MR_ACT_NONE);
    int kv = mr_g_linear(g, x, p.kv.w, p.kv.b, MR_ACT_NONE);
    int ctx = mr_g_attention(g, q, kv, -1, (int)heads, mode, seq, attention_dropout);
    return mr_block_after_attention(m, &p, ctx, from, dropout);
}

int mr_block_encoder(mr_build *m, int h, int seq)
{
    const mr_config *c = m->cfg;
    mr_graph *g = m->g;
    mr_graph_scope(g, "input");
    int pos = mr_named_param(m, 2, (int64_t[]){g->dims.L, m->d}, MR_INIT_NORMAL, INIT_STD, WIDE1,
                             "position.weight");
    mr_wb norm = mr_norm_params(m, "input_norm", m->d);
    h = mr_g_add_position(g, h, pos, seq);
    h = mr_g_layer_norm(g, h, -1, norm.w, norm.b, LN_EPS, 0, c->model.dropout);
    for (int64_t i = 0; i < c->model.layers; i++) {
        char prefix[32];
        snprintf(prefix, sizeof prefix, "encoder.%d", (int)i);
        /* Only the last position of the last layer is used: one query a row there. */
        int mode = i == c->model.layers - 1 ? MR_ATT_LAST : MR_ATT_CAUSAL;
        h = mr_block_layer(m, prefix, h, m->d, c->model.heads, c->model.inner, c->model.dropout,
                           c->model.attention_dropout, mode, seq);
    }
    return h;
}
