/* The closed forms of the bytes of a step, one function a part of the step.
 * What it is not: a model of time (machine.c) or the choice between placements (placement.c).
 * Invariant: every formula is a line of docs/distributed.md. */
#include "train/volume.h"

#include <string.h>

#include "base/mem.h"
#include "graph/op_softmax.h"

/* What step id does, and the inputs that it does as well. */
static void count_step(mr_step_shape *s, const mr_plan *plan, int id, bool forward)
{
    const mr_node *n = &plan->g->node[id];
    for (int i = 0; forward && i < n->n_in; i++)
        if (n->in[i] >= 0 && plan->is_joined[n->in[i]]) count_step(s, plan, n->in[i], forward);
    if (!strcmp(n->op->name, "lookup") || !strcmp(n->op->name, "lookup_padded"))
        (forward ? s->lookups : s->lookups_bwd)[n->i[0]]++;
    s->n_contrast += !strcmp(n->op->name, "ntxent");
    s->n_item_loss += !strcmp(n->op->name, "item_loss");
}

mr_status mr_volume_shape(mr_step_shape *out, const mr_plan *plan, int table, int n_seq)
{
    const mr_param *p = &plan->g->params->p[table];
    mr_step_shape s = {.ranks = 1,
                       .group = 1,
                       .real_bytes = (int64_t)plan->g->real_bytes,
                       .whole_products = plan->g->dims.whole_products,
                       .precision = plan->g->dims.precision};
    MR_CHECK(plan->n_buckets <= MR_VOLUME_BUCKETS && n_seq <= MR_MAX_SEQ, MR_ERR_INTERNAL,
             "a step of %d buckets and %d sequence sets", plan->n_buckets, n_seq);
    s.table_rows = p->dim[0];
    s.width = p->dim[1];
    s.n_seq = n_seq;
    for (int i = 0; i < plan->n_fwd; i++) count_step(&s, plan, plan->fwd[i], true);
    for (int i = 0; i < plan->n_bwd; i++) count_step(&s, plan, plan->bwd[i], false);
    for (int i = 0; i < plan->n_buckets; i++)
        s.bucket[s.n_buckets++] = plan->bucket[i].hi - plan->bucket[i].lo;
    *out = s;
    return MR_OK;
}

void mr_volume_features(mr_step_shape *s, const mr_config *cfg, const mr_dataset *d)
{
    s->n_items = d->n_items;
    for (int i = 0; i < MR_FEATURE_COUNT; i++) {
        mr_item_set set;
        if (!mr_fetch_reads(cfg, d, i, &set)) continue;
        s->n_features[set]++;
        s->feature_bytes[set] += mr_fetch_row_bytes(d, i);
    }
}

mr_status mr_step_rows_alloc(mr_step_rows *out, const mr_step_shape *s)
{
    mr_step_rows r = {.ranks = s->ranks, .group = s->group, .n_seq = s->n_seq};
    mr_status st;
    MR_TRY_GOTO(MR_ALLOC(&r.rows, s->ranks, "rows of ranks"), st, fail);
    MR_TRY_GOTO(MR_ALLOC(&r.want, (int64_t)s->n_seq * s->ranks * s->group, "rows wanted"), st,
                fail);
    if (s->n_features[MR_ITEMS_LAST] + s->n_features[MR_ITEMS_ALL])
        MR_TRY_GOTO(MR_ALLOC(&r.fetch, (int64_t)MR_ITEM_SETS * s->ranks * s->ranks, "items wanted"),
                    st, fail);
    *out = r;
    return MR_OK;
fail:
    mr_step_rows_free(&r);
    return st;
}

void mr_step_rows_free(mr_step_rows *r)
{
    MR_FREE(r->rows);
    MR_FREE(r->want);
    MR_FREE(r->fetch);
}

/* Distinct ids among n, ascending, less `base`; first: one that is always there, or -1; ids of
 * `end` and more are left out. */
static mr_status distinct(int32_t **out_p, int64_t *n_p, const int32_t *id, int64_t n,
                          int32_t first, int32_t base, int64_t end)
{
    char *is_wanted = NULL;
    MR_TRY(MR_ALLOC(&is_wanted, end, "ids of a batch"));
    if (first >= 0) is_wanted[first] = 1;
    for (int64_t i = 0; i < n; i++)
        if (id[i] >= base && id[i] < end) is_wanted[id[i]] = 1;
    for (int64_t k = 0; k < end; k++) *n_p += is_wanted[k];
    mr_status st = MR_ALLOC(out_p, *n_p, "ids of a batch");
    for (int64_t k = 0, at = 0; st == MR_OK && k < end; k++)
        if (is_wanted[k]) (*out_p)[at++] = (int32_t)k - base;
    MR_FREE(is_wanted);
    return st;
}

mr_status mr_wanted_of(mr_wanted *out, const mr_batch *b, int64_t table_rows, int64_t n_items)
{
    mr_wanted w = {.n_seq = b->n_seq};
    mr_status st = MR_OK;
    for (int q = 0; q < b->n_seq && st == MR_OK; q++) {
        w.tokens[q] = b->seq[q].tokens; /* PAD is fetched always */
        st = distinct(&w.id[q], &w.n[q], b->seq[q].tok_id, w.tokens[q], 0, 0, table_rows);
    }
    const int32_t *id[MR_ITEM_SETS] = {b->last, b->seq[0].tok_id};
    const int64_t n[MR_ITEM_SETS] = {b->rows, b->seq[0].tokens};
    for (int s = 0; s < MR_ITEM_SETS && st == MR_OK; s++)
        st = distinct(&w.item[s], &w.n_items[s], id[s], n[s], -1, 1, n_items + 1);
    if (st != MR_OK) {
        mr_wanted_free(&w);
        return st;
    }
    *out = w;
    return MR_OK;
}

void mr_wanted_free(mr_wanted *w)
{
    for (int q = 0; q < MR_MAX_SEQ; q++) MR_FREE(w->id[q]);
    for (int s = 0; s < MR_ITEM_SETS; s++) MR_FREE(w->item[s]);
}

static int64_t *want_at(const mr_step_rows *r, int seq, int rank)
{
    return r->want + ((int64_t)seq * r->ranks + rank) * r->group;
}

static int64_t *fetch_at(const mr_step_rows *r, int set, int rank)
{
    return r->fetch + ((int64_t)set * r->ranks + rank) * r->ranks;
}

void mr_step_rows_set(mr_step_rows *r, const mr_step_shape *s, int rank, const mr_wanted *w)
{
    int64_t block = (s->table_rows + s->group - 1) / s->group;
    for (int q = 0; q < r->n_seq; q++) {
        int64_t *want = want_at(r, q, rank);
        memset(want, 0, (size_t)r->group * sizeof *want);
        for (int64_t i = 0; i < w->n[q]; i++) want[w->id[q][i] / block]++;
    }
    block = (s->n_items + s->ranks - 1) / s->ranks;
    for (int k = 0; r->fetch && k < MR_ITEM_SETS; k++) {
        int64_t *want = fetch_at(r, k, rank);
        memset(want, 0, (size_t)r->ranks * sizeof *want);
        for (int64_t i = 0; i < w->n_items[k]; i++) want[w->item[k][i] / block]++;
    }
}

static void add(mr_count *c, int64_t calls, int64_t in, int64_t out)
{
    c->calls += calls;
    c->bytes_in += in;
    c->bytes_out += out;
}

/* Sum over c ranks of n bytes, in place. */
static void add_sum(mr_count *c, int64_t ranks, int64_t bytes)
{
    int64_t ring = 2 * (ranks - 1) * bytes / ranks;
    add(c, 1, ring, ring);
}

/* Does every rank of the group find room for the rows it wants of each other one? */
static bool is_fixed(const mr_step_shape *s, const mr_step_rows *r, int seq, int group0)
{
    for (int i = 0; s->exchange_rows && i < s->group; i++)
        for (int o = 0; o < s->group; o++)
            if (want_at(r, seq, group0 + i)[o] > s->exchange_rows) return false;
    return s->exchange_rows > 0;
}

/* The rows of one sequence set: who wants what, the rows, and their gradients on the way back. */
static void add_rows(mr_count *out, const mr_step_shape *s, const mr_step_rows *r, int seq,
                     int rank)
{
    int group0 = rank / s->group * s->group, me = rank - group0;
    int64_t row = s->width * s->real_bytes, others = s->group - 1, ask = 0, give = 0;
    for (int i = 0; i < s->group; i++) {
        if (i == me) continue;
        ask += want_at(r, seq, rank)[i];
        give += want_at(r, seq, group0 + i)[me];
    }
    add(&out[MR_FOR_ROW_COUNTS], 1, 8 * others, 8 * others);
    add(&out[MR_FOR_ROW_IDS], 1, 4 * give, 4 * ask);
    int64_t n = s->lookups[seq], back = s->lookups_bwd[seq];
    if (is_fixed(s, r, seq, group0)) ask = give = others * s->exchange_rows;
    add(&out[MR_FOR_ROWS], n, n * ask * row, n * give * row);
    add(&out[MR_FOR_ROW_GRADS], back, back * give * row, back * ask * row);
}

/* Features that are spread: who wants what, and the rows. */
static void add_features(mr_count *out, const mr_step_shape *s, const mr_step_rows *r, int rank)
{
    for (int k = 0; k < MR_ITEM_SETS; k++) {
        int64_t others = s->ranks - 1, ask = 0, give = 0, row = s->feature_bytes[k];
        if (!s->n_features[k]) continue;
        for (int i = 0; i < s->ranks; i++) {
            if (i == rank) continue;
            ask += fetch_at(r, k, rank)[i];
            give += fetch_at(r, k, i)[rank];
        }
        add(&out[MR_FOR_FEATURE_COUNTS], 1, 8 * others, 8 * others);
        add(&out[MR_FOR_FEATURE_IDS], 1, 4 * give, 4 * ask);
        add(&out[MR_FOR_FEATURES], s->n_features[k], ask * row, give * row);
    }
}

/* Softmax over the table: rows of the group to everybody, partial sums, gradients back. */
static void add_item_loss(mr_count *out, const mr_step_shape *s, const mr_step_rows *r, int rank)
{
    int group0 = rank / s->group * s->group;
    int64_t own = r->rows[rank], all = 0, row = s->width * s->real_bytes, others = s->group - 1;
    for (int i = 0; i < s->group; i++) all += r->rows[group0 + i];
    int64_t v_max = (s->table_rows + s->group - 1) / s->group;
    mr_softmax_way way = mr_softmax_way_of(s->whole_products, s->precision);
    int64_t chunk = mr_softmax_chunk(v_max, s->width, (size_t)s->real_bytes, way);
    add(&out[MR_FOR_LOSS_ROWS], 1, (all - own) * row, others * own * row);
    add(&out[MR_FOR_LOSS_TARGETS], 1, (all - own) * 4, others * own * 4);
    add(&out[MR_FOR_LOSS_PARTIALS], (all + chunk - 1) / chunk, others * all * 24,
        others * all * 24);
    add(&out[MR_FOR_LOSS_GRADS], 1, others * own * row, (all - own) * row);
}

/* NT-Xent over the rows of all ranks: both views, and their gradients back. */
static void add_contrast(mr_count *out, const mr_step_shape *s, const mr_step_rows *r, int rank)
{
    int64_t own = r->rows[rank], all = 0, row = s->width * s->real_bytes, others = s->ranks - 1;
    for (int i = 0; i < s->ranks; i++) all += r->rows[i];
    add(&out[MR_FOR_VIEWS], 2, 2 * (all - own) * row, 2 * others * own * row);
    add(&out[MR_FOR_VIEW_GRADS], 2, 2 * others * own * row, 2 * (all - own) * row);
}

static int64_t own_table_rows(const mr_step_shape *s, int rank)
{
    int64_t block = (s->table_rows + s->group - 1) / s->group, lo = rank % s->group * block;
    int64_t left = s->table_rows - lo;
    return left < 0 ? 0 : left < block ? left : block;
}

/* dist.deterministic=world: the table goes to everybody, gradients are summed as integers. */
static void add_exact(mr_count *out, const mr_step_shape *s, const mr_step_rows *r, int rank)
{
    int64_t row = s->width * s->real_bytes, own = own_table_rows(s, rank), all = 0;
    add(&out[MR_FOR_WHOLE_TABLE], 1, (s->table_rows - own) * row, (s->group - 1) * own * row);
    add_sum(&out[MR_FOR_EXACT_SUMS], s->ranks, 16 * s->exact + 8);
    for (int i = 0; i < s->ranks; i++) all += r->rows[i];
    int64_t mine = r->rows[rank], times = 2 * s->n_contrast;
    add(&out[MR_FOR_VIEWS], times, times * (all - mine) * row, times * (s->ranks - 1) * mine * row);
}

void mr_volume_of_rank(mr_count out[MR_FOR_COUNT], const mr_step_shape *s, const mr_step_rows *r,
                       int rank)
{
    memset(out, 0, MR_FOR_COUNT * sizeof *out);
    if (s->ranks > 1) add_features(out, s, r, rank);
    if (s->exact) {
        add_exact(out, s, r, rank);
        return;
    }
    if (s->ranks > 1 && s->whole_products)
        add_sum(&out[MR_FOR_LARGEST], s->ranks, (int64_t)sizeof(mr_counts));
    if (s->ranks > 1)
        for (int i = 0; i < s->n_buckets; i++)
            add_sum(&out[MR_FOR_DENSE_GRADS], s->ranks, s->bucket[i] * s->real_bytes);
    if (s->group > 1) {
        for (int q = 0; q < s->n_seq; q++) add_rows(out, s, r, q, rank);
        for (int i = 0; i < s->n_item_loss; i++) add_item_loss(out, s, r, rank);
        add_sum(&out[MR_FOR_TABLE_NORM], s->group, 2 * 8);
    }
    if (s->group < s->ranks)
        add_sum(&out[MR_FOR_TABLE_GRADS], s->ranks / s->group,
                own_table_rows(s, rank) * s->width * s->real_bytes);
    for (int i = 0; s->ranks > 1 && i < s->n_contrast; i++) add_contrast(out, s, r, rank);
}

mr_status mr_volume_typical(mr_count out[MR_FOR_COUNT], const mr_step_shape *s, const int32_t *rows,
                            const int64_t *n_unique)
{
    mr_step_rows r;
    MR_TRY(mr_step_rows_alloc(&r, s));
    for (int i = 0; i < s->ranks; i++) {
        r.rows[i] = rows[i];
        for (int q = 0; q < s->n_seq; q++)
            for (int o = 0; o < s->group; o++) {
                bool has_more = o >= s->group - n_unique[q] % s->group;
                want_at(&r, q, i)[o] = n_unique[q] / s->group + has_more;
            }
    }
    for (int k = 0; r.fetch && k < MR_ITEM_SETS; k++)
        for (int i = 0; i < s->ranks; i++)
            for (int o = 0; o < s->ranks; o++) {
                bool has_more = o >= s->ranks - s->typical_items[k] % s->ranks;
                fetch_at(&r, k, i)[o] = s->typical_items[k] / s->ranks + has_more;
            }
    mr_volume_of_rank(out, s, &r, 0);
    mr_step_rows_free(&r);
    return MR_OK;
}
