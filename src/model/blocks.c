/* Blocks shared by the models: named parameters, the post-LN Transformer layer, the sequence
 * encoder. */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

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

/* Layers prefix.q, prefix.k, ... of the letters, as further parts of a weight and a bias. */
static void add_layers(mr_build *m, mr_wb p, const char *prefix, const char *letters, int64_t d,
                       double std)
{
    char name[2][64];
    const char *names[] = {name[0], name[1]};
    int64_t rows[] = {d, d};
    int n = (int)strlen(letters);
    for (int is_bias = 0; is_bias < 2; is_bias++) {
        for (int i = 0; i < n; i++)
            snprintf(name[i], sizeof name[i], "%s.%c.%s", prefix, letters[i],
                     is_bias ? "bias" : "weight");
        if (mr_param_add_parts(m->g->params, is_bias ? p.b : p.w, n, names, rows,
                               is_bias ? 0 : std) != MR_OK)
            mr_graph_fail(m->g, "parameter %s", name[0]);
    }
}

mr_wb mr_attention_params(mr_build *m, const char *prefix, const char *letters, int64_t d,
                          double std)
{
    mr_params *ps = m->g->params;
    int64_t dim[] = {(int64_t)strlen(letters) * d, d};
    char name[64];
    mr_wb p;
    snprintf(name, sizeof name, "%s.%s.weight", prefix, letters);
    p.w = mr_param_declare_stack(ps, name, 2, dim, MR_INIT_NORMAL, WIDE01);
    snprintf(name, sizeof name, "%s.%s.bias", prefix, letters);
    p.b = mr_param_declare_stack(ps, name, 1, dim, MR_INIT_ZERO, WIDE0);
    if (*letters == 'q') add_layers(m, p, prefix, "q", d, std);
    add_layers(m, p, prefix, "kv", d, std);
    return p;
}

/* A sub-module's name, valid until the next call. */
static const char *sub(const char *prefix, const char *name)
{
    static char buf[64];
    snprintf(buf, sizeof buf, "%s.%s", prefix, name);
    return buf;
}

mr_layer_params mr_block_layer_params(mr_build *m, const char *prefix, int64_t d, int64_t inner,
                                      bool of_one_input)
{
    mr_layer_params p = {.q = {-1, -1}, .kv = {-1, -1}, .qkv = {-1, -1}};
    if (of_one_input) {
        p.qkv = mr_attention_params(m, prefix, "qkv", d, INIT_STD);
    } else {
        p.q = mr_linear_params(m, sub(prefix, "q"), d, d);
        p.kv = mr_attention_params(m, prefix, "kv", d, INIT_STD);
    }
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
    mr_layer_params p = mr_block_layer_params(m, prefix, width, inner, mode != MR_ATT_LAST);
    int from = x, q, kv;
    if (mode == MR_ATT_LAST) {
        from = mr_g_last(g, x, seq);
        q = mr_g_linear(g, from, p.q.w, p.q.b, MR_ACT_NONE);
        kv = mr_g_linear(g, x, p.kv.w, p.kv.b, MR_ACT_NONE);
    } else {
        int number = g->next_number;
        int qkv = mr_g_linear(g, x, p.qkv.w, p.qkv.b, MR_ACT_NONE);
        q = mr_g_slice(g, qkv, 0, width);
        kv = mr_g_slice(g, qkv, width, 2 * width);
        mr_graph_set_number(g, number + 2); /* draws as if q and kv were two products */
    }
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
