/* Export: tensor after tensor, chunk after chunk, the owner of the rows broadcasts, rank 0 writes.
 * Invariant: the sequence of collectives depends on shapes alone; a rank that fails locally keeps
 * taking part and reports at the end. */
#include "io/export.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "io/file.h"
#include "io/npy_write.h"
#include "io/safetensors.h"

#define CHUNK_BYTES (64 << 10) /* a broadcast; small, since rank 0 alone writes anyway */

typedef mr_status (*sink_fn)(void *sink, const void *data, int64_t elements, int64_t bytes);

/* Rows of named tensor i in global order to `put` on rank 0. *st collects local failures; the
 * result is a failure of communication. */
static mr_status stream_tensor(const mr_params *ps, int i, mr_comm *c, sink_fn put, void *sink,
                               mr_status *st)
{
    mr_named t;
    char *host = NULL, *chunk = NULL;
    mr_named_at(ps, i, &t);
    bool is_sharded = ps->p[t.param].flags & MR_PARAM_SHARDED;
    int64_t elems = t.dim[1] * t.dim[2] * t.dim[3], bytes = elems * (int64_t)ps->real_bytes;
    int64_t most = CHUNK_BYTES / bytes > 0 ? CHUNK_BYTES / bytes : 1;
    if (!is_sharded && c->rank != 0) return MR_OK;
    mr_status mine = mr_alloc((void **)&host, (t.row_hi - t.row_lo) * elems, ps->real_bytes,
                              "tensor to be exported");
    if (mine == MR_OK && t.row_hi > t.row_lo) mine = mr_named_get(ps, i, MR_VALUE, host);
    if (!is_sharded) {
        if (mine == MR_OK && *st == MR_OK)
            mine = put(sink, host, t.dim[0] * elems, t.dim[0] * bytes);
        if (*st == MR_OK) *st = mine;
        MR_FREE(host);
        return MR_OK;
    }
    MR_TRY_KEEP(mr_alloc((void **)&chunk, most * elems, ps->real_bytes, "rows to be exported"),
                mine);
    if (*st == MR_OK) *st = mine;
    mr_status coll = mr_comm_agree(c, mine); /* all have their buffers from here on */
    for (int r = 0; coll == MR_OK && r < c->size; r++) {
        int64_t lo, hi;
        mr_shard_rows(t.dim[0], r, c->size, &lo, &hi);
        for (int64_t a = lo; coll == MR_OK && a < hi; a += most) {
            int64_t n = hi - a < most ? hi - a : most;
            if (c->rank == r) memcpy(chunk, host + (a - lo) * bytes, (size_t)(n * bytes));
            coll = c->bcast(c, chunk, n * elems, ps->dev->real, r);
            if (coll == MR_OK && c->rank == 0 && *st == MR_OK)
                *st = put(sink, chunk, n * elems, n * bytes);
        }
    }
    MR_FREE(chunk);
    MR_FREE(host);
    return coll;
}

static mr_status put_safetensors(void *sink, const void *data, int64_t elements, int64_t bytes)
{
    (void)elements;
    return mr_st_write(sink, data, (size_t)bytes);
}

static mr_status put_npy(void *sink, const void *data, int64_t elements, int64_t bytes)
{
    (void)bytes;
    return mr_npy_append(sink, data, elements);
}

static mr_status declare_all(mr_st_writer *w, const mr_params *ps, const char *config_json)
{
    for (int i = 0; i < mr_named_count(ps); i++) {
        mr_named t;
        mr_named_at(ps, i, &t);
        MR_TRY(mr_st_declare(w, t.name, ps->dev->real, t.ndim, t.dim));
    }
    MR_TRY(mr_st_set_metadata(w, "format", "pt")); /* what Python loaders look for: row-major */
    MR_TRY(mr_st_set_metadata(w, "program", "mealrec-dist " MR_VERSION));
    return config_json ? mr_st_set_metadata(w, "config", config_json) : MR_OK;
}

mr_status mr_export_weights(const char *path, const mr_params *ps, const char *config_json,
                            mr_comm *items)
{
    char tmp[MR_PATH];
    mr_st_writer *w = NULL;
    mr_status st = MR_OK;
    snprintf(tmp, sizeof tmp, "%s.tmp-%d", path, (int)getpid());
    if (items->rank == 0) {
        unlink(tmp);
        st = mr_st_create_as(&w, AT_FDCWD, tmp, path);
        if (st == MR_OK) st = declare_all(w, ps, config_json);
    }
    mr_status coll = MR_OK;
    st = mr_comm_agree(items, st);
    if (st == MR_OK)
        for (int i = 0; coll == MR_OK && i < mr_named_count(ps); i++)
            coll = stream_tensor(ps, i, items, put_safetensors, w, &st);
    if (st == MR_OK) st = coll;
    if (w && st == MR_OK) {
        st = mr_st_finish(&w, NULL, NULL);
        if (st == MR_OK && rename(tmp, path) != 0) {
            st = MR_RAISE(MR_ERR_IO, "%s cannot be put in place: %s", path, strerror(errno));
            unlink(tmp);
        }
    }
    mr_st_cancel(&w);
    return mr_comm_agree(items, st);
}

mr_status mr_export_npy(const char *path, const mr_params *ps, const char *name, mr_comm *items)
{
    mr_named t = {0};
    mr_npy_writer *w = NULL;
    int i = 0, n = mr_named_count(ps);
    for (; i < n; i++) {
        mr_named_at(ps, i, &t);
        if (!strcmp(t.name, name)) break;
    }
    MR_CHECK(i < n, MR_ERR_USAGE,
             "this model has no tensor '%s'; `mealrec-dist inspect` lists those of a checkpoint",
             name);
    mr_status st = MR_OK;
    if (items->rank == 0) st = mr_npy_create(&w, path, ps->dev->real, t.ndim, t.dim);
    st = mr_comm_agree(items, st);
    if (st == MR_OK) {
        mr_status coll = stream_tensor(ps, i, items, put_npy, w, &st);
        if (st == MR_OK) st = coll;
    }
    if (w && st == MR_OK) st = mr_npy_finish(&w);
    mr_npy_cancel(&w);
    return mr_comm_agree(items, st);
}
