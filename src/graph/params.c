/* Parameter declarations, flat storage, initialisation, and access by name in PyTorch's layout. */
#include "graph/params.h"

#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "base/rng.h"

#define ALIGN 16 /* elements: rows of every parameter start on a cache line */

static int64_t row_elems(const mr_param *p) { return p->dim[1] * p->dim[2] * p->dim[3]; }
static int64_t own_row_elems(const mr_param *p) { return p->own[1] * p->own[2] * p->own[3]; }

int mr_param_find(const mr_params *ps, const char *name)
{
    for (int i = 0; i < ps->n; i++)
        if (!strcmp(ps->p[i].name, name)) return i;
    return -1;
}

/* The parameter of this name, made without parts if it is new. */
static int declare(mr_params *ps, const char *name, int ndim, const int64_t *dim, mr_init init,
                   unsigned flags)
{
    int64_t d[4] = {1, 1, 1, 1};
    for (int i = 0; i < ndim; i++) d[i] = dim[i];
    int id = mr_param_find(ps, name);
    if (id >= 0) {
        if (ps->p[id].ndim != ndim || memcmp(ps->p[id].own, d, sizeof d)) {
            MR_RAISE(MR_ERR_INTERNAL, "parameter %s declared twice with different shapes", name);
            return -1;
        }
        return id;
    }
    if (ps->n == MR_MAX_PARAMS || ps->is_frozen) {
        MR_RAISE(MR_ERR_INTERNAL, "parameter %s cannot be added: %s", name,
                 ps->is_frozen ? "the parameters are already allocated" : "too many parameters");
        return -1;
    }
    mr_param *p = &ps->p[ps->n];
    memset(p, 0, sizeof *p);
    snprintf(p->name, sizeof p->name, "%s", name);
    p->ndim = ndim;
    memcpy(p->own, d, sizeof d);
    for (int i = 0; i < 4; i++)
        p->dim[i] = flags & MR_PARAM_WIDTH(i) ? mr_round_up(d[i], ps->row_unit) : d[i];
    p->init = init;
    p->flags = flags;
    return ps->n++;
}

int mr_param_declare(mr_params *ps, const char *name, int ndim, const int64_t *dim, mr_init init,
                     double scale, unsigned flags)
{
    int n = ps->n, id = declare(ps, name, ndim, dim, init, flags);
    if (id < n) return id;
    if (mr_param_add_part(ps, id, name, dim[0], scale) != MR_OK) return -1;
    return id;
}

int mr_param_declare_stack(mr_params *ps, const char *name, int ndim, const int64_t *dim,
                           mr_init init, unsigned flags)
{
    return declare(ps, name, ndim, dim, init, flags);
}

mr_status mr_param_add_part(mr_params *ps, int id, const char *name, int64_t rows, double scale)
{
    return mr_param_add_parts(ps, id, 1, &name, &rows, scale);
}

mr_status mr_param_add_parts(mr_params *ps, int id, int n_parts, const char *const *names,
                             const int64_t *rows, double scale)
{
    if (id < 0) return MR_ERR_INTERNAL; /* already raised by declare */
    mr_param *p = &ps->p[id];
    int64_t start = 0, all = 0;
    for (int i = 0; i < p->n_parts; i++) {
        if (!strcmp(p->part[i].name, names[0])) return MR_OK;
        start += p->part[i].rows;
    }
    for (int i = 0; i < n_parts; i++) all += rows[i];
    MR_CHECK(p->n_parts + n_parts <= MR_MAX_PARTS && start + all <= p->own[0] && !ps->is_frozen,
             MR_ERR_INTERNAL,
             "%s: part %s of %lld rows does not fit behind %lld rows of %lld in %d parts", p->name,
             names[0], (long long)all, (long long)start, (long long)p->own[0], p->n_parts);
    int number = ps->n_numbers++;
    for (int64_t i = 0, at = start; i < n_parts; at += rows[i++]) {
        mr_param_part *q = &p->part[p->n_parts++];
        *q = (mr_param_part){
            .row0 = at, .rows = rows[i], .number = number, .first = at - start, .scale = scale};
        snprintf(q->name, sizeof q->name, "%s", names[i]);
    }
    return MR_OK;
}

void mr_shard_rows(int64_t n_rows, int rank, int n_ranks, int64_t *lo, int64_t *hi)
{
    int64_t block = (n_rows + n_ranks - 1) / n_ranks;
    *lo = rank * block < n_rows ? rank * block : n_rows;
    *hi = *lo + block < n_rows ? *lo + block : n_rows;
}

static mr_status alloc_flat(mr_params *ps, void **out_p, const char *what)
{
    size_t bytes = (size_t)ps->n_total * ps->real_bytes;
    MR_TRY(ps->dev->alloc(ps->dev, out_p, bytes, what));
    return ps->dev->fill(ps->dev, *out_p, 0, bytes);
}

void mr_params_layout(mr_params *ps, mr_device *dev, int rank, int n_ranks, bool with_optimizer)
{
    int64_t at = 0;
    ps->dev = dev;
    ps->real_bytes = mr_dtype_bytes(dev->real);
    for (int sharded = 0; sharded < 2; sharded++) {
        for (int i = 0; i < ps->n; i++) {
            mr_param *p = &ps->p[i];
            if (!!(p->flags & MR_PARAM_SHARDED) != sharded) continue;
            p->row_lo = 0;
            p->row_hi = p->dim[0];
            if (sharded) mr_shard_rows(p->dim[0], rank, n_ranks, &p->row_lo, &p->row_hi);
            p->count = (p->row_hi - p->row_lo) * row_elems(p);
            p->offset = at;
            at = mr_round_up(at + p->count, ALIGN);
        }
        if (!sharded) {
            ps->n_dense = at;
            at += MR_LOSS_SLOTS;
        }
    }
    ps->n_total = at;
    ps->has_grad = with_optimizer;
    ps->is_frozen = true;
}

mr_status mr_params_alloc(mr_params *ps, mr_device *dev, int rank, int n_ranks, bool with_optimizer)
{
    mr_params_layout(ps, dev, rank, n_ranks, with_optimizer);
    MR_TRY(alloc_flat(ps, &ps->value, "parameters"));
    ps->is_value16_old = true;
    if (dev->act == MR_BF16)
        MR_TRY(dev->alloc(dev, (void **)&ps->value16,
                          (size_t)mr_round_up(ps->n_dense, MR_VALUE16_UNIT) * sizeof *ps->value16,
                          "parameters in bf16"));
    if (!with_optimizer) return MR_OK;
    MR_TRY(alloc_flat(ps, &ps->grad, "gradients"));
    MR_TRY(alloc_flat(ps, &ps->m, "Adam first moments"));
    return alloc_flat(ps, &ps->v, "Adam second moments");
}

void mr_params_free(mr_params *ps)
{
    if (!ps->dev) return;
    ps->dev->free(ps->dev, ps->value);
    ps->dev->free(ps->dev, ps->value16);
    ps->dev->free(ps->dev, ps->grad);
    ps->dev->free(ps->dev, ps->m);
    ps->dev->free(ps->dev, ps->v);
    ps->value = ps->grad = ps->m = ps->v = NULL;
    ps->value16 = NULL;
    ps->is_frozen = false;
}

int64_t mr_params_count(const mr_params *ps)
{
    int64_t n = 0;
    for (int i = 0; i < ps->n; i++) n += ps->p[i].own[0] * own_row_elems(&ps->p[i]);
    return n;
}

/* Element e of a random number's sequence, from block e / 4 of the counter. */
static double init_element(mr_init init, const mr_param_part *q, uint64_t seed, int64_t e)
{
    if (init == MR_INIT_ZERO || init == MR_INIT_ONE) return init == MR_INIT_ONE;
    mr_u32x4 r = mr_philox(seed, MR_RNG_INIT, (uint32_t)((uint64_t)e >> 34), (uint32_t)q->number,
                           (uint32_t)(e / 4));
    int w = (int)(e & 3);
    if (init == MR_INIT_UNIFORM) return q->scale * (2.0 * mr_u01(r.v[w]) - 1.0);
    double a, b;
    mr_normal2(r.v[w & 2], r.v[(w & 2) + 1], &a, &b);
    return q->scale * (w & 1 ? b : a);
}

/* Where element e of rows as declared lies in rows as stored. */
static int64_t stored_at(const mr_param *p, int64_t e)
{
    int64_t d[4], at = 0;
    for (int i = 3; i > 0; i--) {
        d[i] = e % p->own[i];
        e /= p->own[i];
    }
    d[0] = e;
    for (int i = 0; i < 4; i++) at = at * p->dim[i] + d[i];
    return at;
}

/* This rank's rows of a part, in their places in host[count]; a sharded parameter has one part. */
static void init_part(const mr_params *ps, const mr_param *p, const mr_param_part *q, uint64_t seed,
                      char *host)
{
    int64_t w = own_row_elems(p), lo = q->row0 > p->row_lo ? q->row0 : p->row_lo;
    int64_t end = q->row0 + q->rows, hi = end < p->row_hi ? end : p->row_hi;
    int64_t at = (lo - p->row_lo) * w, first = (q->first + lo - q->row0) * w;
    bool is_padded = w != row_elems(p);
#pragma omp parallel for schedule(static)
    for (int64_t e = 0; e < (hi - lo) * w; e++) {
        double x = init_element(p->init, q, seed, first + e);
        int64_t to = is_padded ? stored_at(p, at + e) : at + e;
        if (ps->real_bytes == 8)
            ((double *)host)[to] = (double)(float)x; /* the same start in both precisions */
        else
            ((float *)host)[to] = (float)x;
    }
}

mr_status mr_params_init(mr_params *ps, uint64_t seed)
{
    int64_t most = 0;
    for (int i = 0; i < ps->n; i++)
        if (ps->p[i].count > most) most = ps->p[i].count;
    char *host = NULL;
    ps->is_value16_old = true;
    MR_TRY(mr_alloc((void **)&host, most, ps->real_bytes, "initial values"));
    mr_status st = MR_OK;
    for (int i = 0; i < ps->n && st == MR_OK; i++) {
        const mr_param *p = &ps->p[i];
        int64_t rows = 0;
        memset(host, 0, (size_t)p->count * ps->real_bytes); /* what is behind stays 0 */
        for (int k = 0; k < p->n_parts; k++) {
            init_part(ps, p, &p->part[k], seed, host);
            rows += p->part[k].rows;
        }
        if (rows != p->own[0])
            st = MR_RAISE(MR_ERR_INTERNAL, "%s: parts have %lld rows of %lld", p->name,
                          (long long)rows, (long long)p->own[0]);
        if (st != MR_OK) break;
        st = ps->dev->to_device(ps->dev, (char *)ps->value + p->offset * (int64_t)ps->real_bytes,
                                host, (size_t)p->count * ps->real_bytes);
    }
    MR_FREE(host);
    return st;
}

int mr_named_count(const mr_params *ps)
{
    int n = 0;
    for (int i = 0; i < ps->n; i++) n += ps->p[i].n_parts;
    return n;
}

void mr_named_at(const mr_params *ps, int i, mr_named *out)
{
    int id = 0;
    while (i >= ps->p[id].n_parts) i -= ps->p[id++].n_parts;
    const mr_param *p = &ps->p[id];
    const mr_param_part *part = &p->part[i];
    memset(out, 0, sizeof *out);
    snprintf(out->name, sizeof out->name, "%s", part->name);
    out->param = id;
    out->part = i;
    out->ndim = p->ndim;
    memcpy(out->dim, p->own, sizeof out->dim);
    out->dim[0] = part->rows;
    if (p->flags & MR_PARAM_CONV) {
        out->dim[1] = p->own[2];
        out->dim[2] = p->own[1];
    }
    out->row_lo = p->flags & MR_PARAM_SHARDED ? p->row_lo : 0;
    out->row_hi = p->flags & MR_PARAM_SHARDED ? p->row_hi : part->rows;
}

/* Between rows as stored and rows of a named tensor: without what is behind, and [in, 3] for a
 * convolution's [3, in]. */
static void copy_rows(const mr_param *p, char *named, char *stored, int64_t rows, size_t elem,
                      bool to_named)
{
    bool is_conv = p->flags & MR_PARAM_CONV;
    const int64_t *own = p->own, *dim = p->dim;
    size_t run = (is_conv ? 1 : (size_t)own[3]) * elem;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t a = 0; a < own[1]; a++)
            for (int64_t b = 0; b < own[2]; b++) {
                int64_t to = is_conv ? (r * own[2] + b) * own[1] + a
                                     : ((r * own[1] + a) * own[2] + b) * own[3];
                char *n = named + (size_t)to * elem;
                char *s = stored + (size_t)(((r * dim[1] + a) * dim[2] + b) * dim[3]) * elem;
                memcpy(to_named ? n : s, to_named ? s : n, run);
            }
}

static void *flat(const mr_params *ps, mr_which which)
{
    switch (which) {
    case MR_VALUE: return ps->value;
    case MR_GRAD: return ps->grad;
    case MR_M: return ps->m;
    case MR_V: return ps->v;
    }
    return NULL;
}

/* This rank's rows of a named tensor on the device. */
typedef struct place {
    const mr_param *p;
    char *at;
    int64_t rows, count; /* count: elements as stored */
    bool is_plain;       /* stored as named */
} place;

static place locate(const mr_params *ps, int i, mr_which which)
{
    mr_named nm;
    mr_named_at(ps, i, &nm);
    const mr_param *p = &ps->p[nm.param];
    place q = {.p = p, .rows = nm.row_hi - nm.row_lo};
    q.count = q.rows * row_elems(p);
    q.is_plain = !(p->flags & MR_PARAM_CONV) && row_elems(p) == own_row_elems(p);
    int64_t at = p->offset + p->part[nm.part].row0 * row_elems(p);
    q.at = (char *)flat(ps, which) + at * (int64_t)ps->real_bytes;
    return q;
}

mr_status mr_named_get(const mr_params *ps, int i, mr_which which, void *host)
{
    place q = locate(ps, i, which);
    char *tmp = NULL;
    size_t bytes = (size_t)q.count * ps->real_bytes;
    if (q.is_plain) return ps->dev->to_host(ps->dev, host, q.at, bytes);
    MR_TRY(mr_alloc((void **)&tmp, q.count, ps->real_bytes, "rows as they are stored"));
    mr_status st = ps->dev->to_host(ps->dev, tmp, q.at, bytes);
    if (st == MR_OK) copy_rows(q.p, host, tmp, q.rows, ps->real_bytes, true);
    MR_FREE(tmp);
    return st;
}

mr_status mr_named_set(mr_params *ps, int i, mr_which which, const void *host)
{
    place q = locate(ps, i, which);
    char *tmp = NULL;
    size_t bytes = (size_t)q.count * ps->real_bytes;
    if (which == MR_VALUE) ps->is_value16_old = true;
    if (q.is_plain) return ps->dev->to_device(ps->dev, q.at, host, bytes);
    MR_TRY(mr_alloc((void **)&tmp, q.count, ps->real_bytes, "rows as they are stored"));
    copy_rows(q.p, (char *)(uintptr_t)host, tmp, q.rows, ps->real_bytes, false);
    mr_status st = ps->dev->to_device(ps->dev, q.at, tmp, bytes);
    MR_FREE(tmp);
    return st;
}
