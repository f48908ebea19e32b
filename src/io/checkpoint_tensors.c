/* From the files of a verified checkpoint into parameters: each rank reads the rows it holds,
 * whatever rows the writing ranks held. */
#include "io/checkpoint.h"

#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "io/manifest.h"
#include "io/safetensors.h"

typedef struct reader {
    const mr_checkpoint *c;
    mr_params *ps;
    mr_st_file **open; /* [n_files], NULL until needed */
    char *host, *raw; /* one tensor's rows: in the run's type; in the file's type when it differs */
} reader;

static const mr_manifest_tensor *find_tensor(const mr_manifest *m, const char *name)
{
    for (int i = 0; i < m->n_tensors; i++)
        if (!strcmp(m->tensor[i].name, name)) return &m->tensor[i];
    return NULL;
}

static void shape_text(char out[96], int ndim, const int64_t *dim)
{
    int n = 0;
    out[0] = 0;
    for (int i = 0; i < ndim; i++)
        n += snprintf(out + n, 96 - (size_t)n, i ? "x%lld" : "%lld", (long long)dim[i]);
}

static mr_status check_names(const mr_checkpoint *c, const mr_params *ps)
{
    int n = mr_named_count(ps);
    for (int i = 0; i < n; i++) {
        mr_named t;
        char a[96], b[96];
        mr_named_at(ps, i, &t);
        const mr_manifest_tensor *f = find_tensor(c->m, t.name);
        MR_CHECK(f, MR_ERR_CONFIG,
                 "checkpoint %s has no tensor %s: it was made with another model configuration",
                 c->path, t.name);
        shape_text(a, f->ndim, f->dim);
        shape_text(b, t.ndim, t.dim);
        MR_CHECK(!strcmp(a, b), MR_ERR_CONFIG,
                 "checkpoint %s: tensor %s is %s there and %s here: another model configuration or "
                 "another data set",
                 c->path, t.name, a, b);
    }
    MR_CHECK(n == c->m->n_tensors, MR_ERR_CONFIG,
             "checkpoint %s has %d tensors, this model has %d: another model configuration",
             c->path, c->m->n_tensors, n);
    MR_CHECK(!ps->m || c->m->has_optimizer, MR_ERR_DATA,
             "checkpoint %s has no optimizer state, so training cannot go on from it", c->path);
    return MR_OK;
}

static mr_status part_file(reader *r, const mr_manifest_part *p, mr_st_file **out_p)
{
    if (!r->open[p->file])
        MR_TRY(mr_st_open_at(&r->open[p->file], r->c->dir_fd, r->c->path,
                             r->c->m->file[p->file].name));
    *out_p = r->open[p->file];
    return MR_OK;
}

/* Rows [lo, hi) of the tensor into out, in the file's type. */
static mr_status read_rows(reader *r, const char *section, const mr_manifest_tensor *t, int64_t lo,
                           int64_t hi, char *out)
{
    char name[MR_ST_NAME];
    snprintf(name, sizeof name, "%s/%s", section, t->name);
    for (int k = 0; k < t->n_parts; k++) {
        const mr_manifest_part *p = &t->part[k];
        int64_t a = p->row0 > lo ? p->row0 : lo;
        int64_t b = p->row0 + p->rows < hi ? p->row0 + p->rows : hi;
        mr_st_file *f = NULL;
        if (a >= b) continue;
        MR_TRY(part_file(r, p, &f));
        int i = mr_st_find(f, name);
        MR_CHECK(i >= 0, MR_ERR_DATA, "%s has no tensor %s although the manifest says so", f->path,
                 name);
        const mr_st_tensor *s = &f->tensor[i];
        MR_CHECK(s->dtype == r->c->m->dtype && s->ndim == t->ndim && s->dim[0] == p->rows &&
                     !memcmp(s->dim + 1, t->dim + 1, (size_t)(t->ndim - 1) * sizeof *t->dim),
                 MR_ERR_DATA, "%s: tensor %s has another type or shape than the manifest says",
                 f->path, name);
        MR_TRY(mr_st_read(f, i, a - p->row0, b - a, out + (a - lo) * mr_st_row_bytes(s)));
    }
    return MR_OK;
}

static void convert(void *out, mr_dtype to, const void *in, int64_t n)
{
    if (to == MR_F64)
        for (int64_t i = 0; i < n; i++) ((double *)out)[i] = (double)((const float *)in)[i];
    else
        for (int64_t i = 0; i < n; i++) ((float *)out)[i] = (float)((const double *)in)[i];
}

static mr_status read_section(reader *r, const char *section, mr_which which)
{
    int n = mr_named_count(r->ps);
    bool is_same = r->c->m->dtype == r->ps->dev->real;
    for (int i = 0; i < n; i++) {
        mr_named t;
        mr_named_at(r->ps, i, &t);
        const mr_manifest_tensor *f = find_tensor(r->c->m, t.name);
        MR_TRY(read_rows(r, section, f, t.row_lo, t.row_hi, is_same ? r->host : r->raw));
        if (!is_same)
            convert(r->host, r->ps->dev->real, r->raw,
                    (t.row_hi - t.row_lo) * t.dim[1] * t.dim[2] * t.dim[3]);
        MR_TRY(mr_named_set(r->ps, i, which, r->host));
    }
    return MR_OK;
}

static mr_status read_all(reader *r)
{
    int64_t most = 0;
    mr_dtype file = r->c->m->dtype, here = r->ps->dev->real;
    for (int i = 0; i < mr_named_count(r->ps); i++) {
        mr_named t;
        mr_named_at(r->ps, i, &t);
        int64_t elems = (t.row_hi - t.row_lo) * t.dim[1] * t.dim[2] * t.dim[3];
        if (elems > most) most = elems;
    }
    MR_TRY(MR_ALLOC(&r->open, r->c->m->n_files, "files of a checkpoint"));
    MR_TRY(mr_alloc((void **)&r->host, most, mr_dtype_bytes(here), "rows of a checkpoint"));
    if (file != here)
        MR_TRY(mr_alloc((void **)&r->raw, most, mr_dtype_bytes(file), "rows of a checkpoint"));
    MR_TRY(read_section(r, "value", MR_VALUE));
    if (!r->ps->m) return MR_OK;
    MR_TRY(read_section(r, "m", MR_M));
    return read_section(r, "v", MR_V);
}

mr_status mr_checkpoint_read(const mr_checkpoint *c, mr_params *ps)
{
    reader r = {.c = c, .ps = ps};
    MR_TRY(mr_comm_agree(c->world, check_names(c, ps)));
    if (c->m->dtype != ps->dev->real && ps->m)
        mr_warn("checkpoint %s holds %s and this run computes in %s: values are converted, so the "
                "run does not continue bit for bit",
                c->path, mr_st_dtype_name(c->m->dtype), mr_st_dtype_name(ps->dev->real));
    mr_status st = read_all(&r);
    for (int i = 0; r.open && i < c->m->n_files; i++) mr_st_close(&r.open[i]);
    MR_FREE(r.open);
    MR_FREE(r.host);
    MR_FREE(r.raw);
    return mr_comm_agree(c->world, st);
}
