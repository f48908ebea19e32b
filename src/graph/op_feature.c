/* Frozen item features as nodes: frames, text, and the visual context of a history. No gradient
 * passes. r->ids select rows of what is on the device, all items' or those of the batch; PAD gives
 * zeros. What depends on the last item alone is made for the distinct ones (space LAST) and spread
 * to the rows: the same numbers, with less work. */
#include "graph/ops.h"
#include "graph/run.h"

static mr_status need(const mr_feature *f, const mr_node *n, const char *name, int64_t count,
                      int64_t width)
{
    MR_CHECK(f->data, MR_ERR_DATA, "%s: the data set has no %s features", n->label, name);
    MR_CHECK(f->width == width && f->count == count, MR_ERR_DATA,
             "%s: %s features are %lld x %lld an item, the model was built for %lld x %lld",
             n->label, name, (long long)f->count, (long long)f->width, (long long)count,
             (long long)width);
    return MR_OK;
}

static mr_status need_ids(const int32_t *id, const mr_node *n)
{
    MR_CHECK(id, MR_ERR_INTERNAL, "%s: the rows of a history were not fetched", n->label);
    return MR_OK;
}

/* y = rows of a feature, of every item plus `more` (NULL: nothing). */
static mr_status gather(mr_run *r, const mr_node *n, void *y, const mr_feature *f,
                        const int32_t *id, int64_t rows, const void *more)
{
    int me = mr_node_id(r, n);
    MR_TRY(need_ids(id, n));
    mr_k(r)->feature_gather(y, f->data, f->dtype, id, more, mr_n(r, me), f->count, n->cols,
                            mr_node_width(r->g, me), rows, &r->ex);
    return MR_OK;
}

/* The last item of every row, or every distinct one. */
static const int32_t *last_of(const mr_feature_ids *ids, const mr_node *n)
{
    return n->space == MR_SPACE_LAST ? ids->distinct : ids->last;
}

static mr_status frames_plus(mr_run *r, const mr_node *n, void *y, const mr_addend *plus)
{
    const mr_feature *f = &r->feat->frames;
    MR_TRY(need(f, n, "frame", n->dim[1], n->cols));
    const mr_feature_ids *ids = &r->ids[MR_FEATURE_FRAMES];
    return gather(r, n, y, f, last_of(ids, n), ids->n, plus->table);
}

static mr_status frames_forward(mr_run *r, const mr_node *n)
{
    const mr_addend none = {NULL, NULL};
    return frames_plus(r, n, mr_val(r, mr_node_id(r, n)), &none);
}

static mr_status text_last_forward(mr_run *r, const mr_node *n)
{
    MR_TRY(need(&r->feat->text, n, "text", 1, n->cols));
    const mr_feature_ids *ids = &r->ids[MR_FEATURE_TEXT];
    return gather(r, n, mr_val(r, mr_node_id(r, n)), &r->feat->text, last_of(ids, n), ids->n, NULL);
}

static mr_status text_tokens_forward(mr_run *r, const mr_node *n)
{
    MR_TRY(need(&r->feat->text, n, "text", 1, n->cols));
    const mr_feature_ids *ids = &r->ids[MR_FEATURE_TEXT];
    return gather(r, n, mr_val(r, mr_node_id(r, n)), &r->feat->text, ids->tok, ids->n, NULL);
}

/* c_v = sum_k alpha_k v_k, alpha_k ~ exp(-gamma (n_b - k)): paper eq. 7; f[0] gamma */
static mr_status context_forward(mr_run *r, const mr_node *n)
{
    const mr_feature *f = &r->feat->visual;
    const mr_seq *q = &r->in.seq[0];
    int id = mr_node_id(r, n);
    MR_TRY(need(f, n, "visual", 1, n->cols));
    const mr_feature_ids *ids = &r->ids[MR_FEATURE_VISUAL];
    MR_TRY(need_ids(ids->tok, n));
    mr_k(r)->context(mr_val(r, id), f->data, f->dtype, ids->tok, q->start, q->len, mr_n(r, id),
                     n->cols, n->dim[1], ids->n, n->f[0], &r->ex);
    return MR_OK;
}

const mr_op mr_op_frames = {
    .name = "frames", .is_cheap = true, .forward_plus = frames_plus, .forward = frames_forward};
const mr_op mr_op_text_last = {.name = "text_last", .is_cheap = true, .forward = text_last_forward};
const mr_op mr_op_text_tokens = {
    .name = "text_tokens", .is_cheap = true, .forward = text_tokens_forward};
const mr_op mr_op_context = {.name = "context", .is_cheap = true, .forward = context_forward};

static int add_frames(mr_graph *g, mr_space space)
{
    if (g->dims.K < 1 || g->dims.D < 1)
        return mr_graph_fail(g, "frames: the data set has no frame features");
    mr_node n = mr_node_make(g, &mr_op_frames, space, 3, 0, g->dims.K, g->dims.D, 1);
    return mr_graph_add(g, &n);
}

int mr_g_frames(mr_graph *g) { return add_frames(g, MR_SPACE_ROWS); }
int mr_g_frames_distinct(mr_graph *g) { return add_frames(g, MR_SPACE_LAST); }

static int add_text(mr_graph *g, const mr_op *op, mr_space space)
{
    if (g->dims.dh < 1) return mr_graph_fail(g, "%s: the data set has no text features", op->name);
    mr_node n = mr_node_make(g, op, space, 2, 0, g->dims.dh, 1, 1);
    return mr_graph_add(g, &n);
}

int mr_g_text_last(mr_graph *g) { return add_text(g, &mr_op_text_last, MR_SPACE_ROWS); }
int mr_g_text_distinct(mr_graph *g) { return add_text(g, &mr_op_text_last, MR_SPACE_LAST); }
int mr_g_text_tokens(mr_graph *g) { return add_text(g, &mr_op_text_tokens, MR_SPACE_TOK0); }

int mr_g_context(mr_graph *g, double gamma)
{
    if (g->dims.D < 1) return mr_graph_fail(g, "context: the data set has no visual features");
    mr_node n = mr_node_make(g, &mr_op_context, MR_SPACE_ROWS, 2, 0, g->dims.D, 1, 1);
    n.f[0] = gamma;
    return mr_graph_add(g, &n);
}

/* ---- spread: y[b] = x[slot of b's last item]; backward adds the rows of an item in order ---- */
static mr_status spread_forward(mr_run *r, const mr_node *n)
{
    int id = mr_node_id(r, n);
    mr_k(r)->gather_rows(mr_val(r, id), mr_val(r, n->in[0]), r->in.last_slot, NULL, NULL,
                         mr_n(r, id), mr_node_inner(r->g, id), MR_ACT_ACT, &r->ex);
    return MR_OK;
}

static mr_status spread_backward(mr_run *r, const mr_node *n)
{
    int id = mr_node_id(r, n);
    int64_t items = r->count[MR_SPACE_LAST];
    if (mr_wants(r, n, 0))
        mr_k(r)->add_rows(mr_grad(r, n->in[0]), mr_grad(r, id), NULL, r->in.last_start,
                          r->in.last_row, items, mr_node_inner(r->g, id), items, mr_acc(r, n, 0),
                          -1, NULL, NULL, 0, MR_ACT_ACT, &r->ex);
    return MR_OK;
}

const mr_op mr_op_spread = {
    .name = "spread", .forward = spread_forward, .backward = spread_backward};

int mr_g_spread(mr_graph *g, int x)
{
    if (x < 0) return -1;
    const mr_node *a = mr_node_at(g, x);
    if (a->space != MR_SPACE_LAST) return mr_graph_fail(g, "spread: needs distinct last items");
    mr_node n = mr_node_like(g, &mr_op_spread, MR_SPACE_ROWS, a);
    n.in[n.n_in++] = x;
    return mr_graph_add(g, &n);
}
