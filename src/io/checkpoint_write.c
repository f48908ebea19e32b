/* Saving a checkpoint: every rank one file, rank 0 the manifest, then a rename makes it exist.
 * Invariants: ranks that hold the same rows of a tensor (replicas) share the writing of those rows,
 * so every row is in exactly one file; collectives are the same on all ranks whatever fails
 * locally; nothing that is already on the disk is touched before the new one is complete. */
#include "io/checkpoint.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mem.h"
#include "io/checkpoint_dir.h"
#include "io/manifest.h"
#include "io/safetensors.h"

/* A block of rows below this size is written by one replica: splitting it saves nothing. */
#define SMALL_BLOCK_BYTES (64 << 10)

/* What every rank tells the others about its file. bytes 0: it had nothing to write. */
typedef struct shard_record {
    int64_t bytes;
    char xxh3[40];
} shard_record;

typedef struct rows {
    int64_t row0, n;
} rows;

typedef struct saver {
    const mr_checkpoint_save_args *a;
    int n;                /* named tensors */
    mr_named *named;      /* [n] */
    rows *plan;           /* [world, n] what each rank writes */
    shard_record *record; /* [world] */
    int dir_fd, tmp_fd;
    char name[MR_CHECKPOINT_NAME], tmp[MR_CHECKPOINT_NAME + 24], tmp_path[MR_PATH];
} saver;

static int64_t row_elems(const mr_named *t) { return t->dim[1] * t->dim[2] * t->dim[3]; }

static rows *plan_of(const saver *s, int rank) { return s->plan + (int64_t)rank * s->n; }

/* held[r][i] = rows of tensor i that rank r holds. */
static void share_rows(saver *s, const rows *held, int i)
{
    int world = s->a->world->size;
    int64_t bytes = row_elems(&s->named[i]) * (int64_t)s->a->params->real_bytes;
    for (int r = 0; r < world; r++) {
        rows mine = held[(int64_t)r * s->n + i];
        int replicas = 0, before = 0;
        for (int q = 0; q < world; q++) {
            rows other = held[(int64_t)q * s->n + i];
            if (other.row0 != mine.row0 || other.n != mine.n) continue;
            replicas++;
            before += q < r;
        }
        if (mine.n * bytes < SMALL_BLOCK_BYTES) {
            if (before > 0) mine.n = 0;
        } else {
            int64_t lo, hi;
            mr_shard_rows(mine.n, before, replicas, &lo, &hi);
            mine = (rows){mine.row0 + lo, hi - lo};
        }
        plan_of(s, r)[i] = mine;
    }
}

static mr_status make_plan(saver *s)
{
    mr_comm *world = s->a->world;
    rows *held = NULL;
    int64_t *counts = NULL;
    s->n = mr_named_count(s->a->params);
    mr_status st = MR_ALLOC(&s->named, s->n, "named tensors");
    if (st == MR_OK) st = MR_ALLOC(&s->plan, (int64_t)world->size * s->n, "plan of a checkpoint");
    if (st == MR_OK) st = MR_ALLOC(&s->record, world->size, "files of a checkpoint");
    if (st == MR_OK) st = MR_ALLOC(&held, (int64_t)world->size * s->n, "plan of a checkpoint");
    if (st == MR_OK) st = MR_ALLOC(&counts, world->size, "counts");
    st = mr_comm_agree(world, st);
    if (st == MR_OK) {
        rows *mine = held + (int64_t)world->rank * s->n;
        for (int i = 0; i < s->n; i++) {
            mr_named_at(s->a->params, i, &s->named[i]);
            mine[i] = (rows){s->named[i].row_lo, s->named[i].row_hi - s->named[i].row_lo};
        }
        for (int r = 0; r < world->size; r++) counts[r] = 2 * (int64_t)s->n;
        st = world->allgatherv(world, mine, held, counts, MR_I64);
    }
    for (int i = 0; st == MR_OK && i < s->n; i++) share_rows(s, held, i);
    MR_FREE(counts);
    MR_FREE(held);
    return st;
}

/* Rank 0 makes the temporary folder; all learn its name. */
static mr_status begin(saver *s)
{
    mr_comm *world = s->a->world;
    int64_t pid = getpid();
    mr_status st = mr_folder_open(s->a->dir, &s->dir_fd);
    MR_TRY(world->bcast(world, &pid, 1, MR_I64, 0));
    mr_checkpoint_name(s->a->state->step, s->name);
    snprintf(s->tmp, sizeof s->tmp, "%s.tmp-%lld", s->name, (long long)pid);
    snprintf(s->tmp_path, sizeof s->tmp_path, "%s/%s", s->a->dir, s->tmp);
    if (st == MR_OK && world->rank == 0) {
        mr_checkpoint_clean(s->dir_fd, s->a->dir);
        if (mkdirat(s->dir_fd, s->tmp, 0777) != 0)
            st = MR_RAISE(MR_ERR_IO, "%s cannot be made: %s", s->tmp_path, strerror(errno));
    }
    MR_TRY(mr_comm_agree(world, st));
    return mr_folder_open(s->tmp_path, &s->tmp_fd);
}

static const char *const section_name[] = {"value", "m", "v"};
static const mr_which section_which[] = {MR_VALUE, MR_M, MR_V};

static int n_sections(const saver *s) { return s->a->params->m ? 3 : 1; }

static mr_status declare_shard(const saver *s, mr_st_writer *w)
{
    const rows *plan = plan_of(s, s->a->world->rank);
    char text[MR_ST_NAME];
    for (int k = 0; k < n_sections(s); k++)
        for (int i = 0; i < s->n; i++) {
            int64_t dim[4];
            if (plan[i].n == 0) continue;
            memcpy(dim, s->named[i].dim, sizeof dim);
            dim[0] = plan[i].n;
            snprintf(text, sizeof text, "%s/%s", section_name[k], s->named[i].name);
            MR_TRY(mr_st_declare(w, text, s->a->params->dev->real, s->named[i].ndim, dim));
        }
    snprintf(text, sizeof text, "%lld", (long long)s->a->state->step);
    MR_TRY(mr_st_set_metadata(w, "step", text));
    return mr_st_set_metadata(w, "format", MR_MANIFEST_FORMAT " shard; rows as in MANIFEST.json");
}

static mr_status write_tensors(const saver *s, mr_st_writer *w, char *host)
{
    const mr_params *ps = s->a->params;
    const rows *plan = plan_of(s, s->a->world->rank);
    for (int k = 0; k < n_sections(s); k++)
        for (int i = 0; i < s->n; i++) {
            int64_t bytes = row_elems(&s->named[i]) * (int64_t)ps->real_bytes;
            if (plan[i].n == 0) continue;
            MR_TRY(mr_named_get(ps, i, section_which[k], host));
            MR_TRY(mr_st_write(w, host + (plan[i].row0 - s->named[i].row_lo) * bytes,
                               (size_t)(plan[i].n * bytes)));
        }
    return MR_OK;
}

/* This rank's file, complete on the disk or not there. */
static mr_status write_shard(saver *s, shard_record *out)
{
    const rows *plan = plan_of(s, s->a->world->rank);
    mr_st_writer *w = NULL;
    char file[64], *host = NULL;
    int64_t most = 0, n_rows = 0, bytes = 0;
    for (int i = 0; i < s->n; i++) {
        int64_t elems = (s->named[i].row_hi - s->named[i].row_lo) * row_elems(&s->named[i]);
        n_rows += plan[i].n;
        if (plan[i].n && elems > most) most = elems;
    }
    if (n_rows == 0) return MR_OK;
    snprintf(file, sizeof file, "shard-%05d.safetensors", s->a->world->rank);
    MR_TRY(mr_alloc((void **)&host, most, s->a->params->real_bytes, "tensor on its way to a file"));
    mr_status st = mr_st_create(&w, s->tmp_fd, s->tmp_path, file);
    if (st == MR_OK) st = declare_shard(s, w);
    if (st == MR_OK) st = write_tensors(s, w, host);
    if (st == MR_OK)
        st = mr_st_finish(&w, &bytes, out->xxh3);
    else
        mr_st_cancel(&w);
    MR_FREE(host);
    if (st == MR_OK) out->bytes = bytes;
    return st;
}

static mr_status write_shards(saver *s)
{
    mr_comm *world = s->a->world;
    shard_record mine = {0};
    int64_t *counts = NULL;
    mr_status st = MR_ALLOC(&counts, world->size, "counts");
    MR_TRY_KEEP(write_shard(s, &mine), st);
    st = mr_comm_agree(world, st);
    if (st == MR_OK) {
        for (int r = 0; r < world->size; r++) counts[r] = sizeof mine;
        st = world->allgatherv(world, &mine, s->record, counts, MR_U8);
    }
    MR_FREE(counts);
    return st;
}

static int by_row(const void *a, const void *b)
{
    const mr_manifest_part *x = a, *y = b;
    return x->row0 < y->row0 ? -1 : x->row0 > y->row0;
}

static mr_status describe_tensor(const saver *s, const int *file_of, int i, mr_manifest_tensor *t)
{
    int world = s->a->world->size;
    int64_t at = 0;
    snprintf(t->name, sizeof t->name, "%s", s->named[i].name);
    t->ndim = s->named[i].ndim;
    memcpy(t->dim, s->named[i].dim, sizeof t->dim);
    MR_TRY(MR_ALLOC(&t->part, world, "parts of a tensor"));
    for (int r = 0; r < world; r++) {
        rows p = plan_of(s, r)[i];
        if (p.n > 0) t->part[t->n_parts++] = (mr_manifest_part){file_of[r], p.row0, p.n};
    }
    qsort(t->part, (size_t)t->n_parts, sizeof *t->part, by_row);
    for (int k = 0; k < t->n_parts; at += t->part[k++].rows)
        MR_CHECK(t->part[k].row0 == at, MR_ERR_INTERNAL,
                 "checkpoint of %s: row %lld is in no file or in two", t->name, (long long)at);
    MR_CHECK(at == t->dim[0], MR_ERR_INTERNAL, "checkpoint of %s: %lld of %lld rows", t->name,
             (long long)at, (long long)t->dim[0]);
    return MR_OK;
}

static mr_status describe(const saver *s, mr_manifest *m, int *file_of)
{
    int world = s->a->world->size;
    m->state = *s->a->state;
    m->world = world;
    m->dtype = s->a->params->dev->real;
    m->has_optimizer = n_sections(s) == 3;
    MR_TRY(MR_ALLOC(&m->file, world, "files of a manifest"));
    MR_TRY(MR_ALLOC(&m->tensor, s->n, "tensors of a manifest"));
    for (int r = 0; r < world; r++) {
        if (s->record[r].bytes == 0) continue;
        mr_manifest_file *f = &m->file[m->n_files];
        snprintf(f->name, sizeof f->name, "shard-%05d.safetensors", r);
        snprintf(f->xxh3, sizeof f->xxh3, "%s", s->record[r].xxh3);
        f->bytes = s->record[r].bytes;
        file_of[r] = m->n_files++;
    }
    for (int i = 0; i < s->n; i++) {
        m->n_tensors++;
        MR_TRY(describe_tensor(s, file_of, i, &m->tensor[i]));
    }
    return MR_OK;
}

static mr_status write_manifest(const saver *s)
{
    mr_manifest m = {0};
    int *file_of = NULL;
    char *text = NULL;
    size_t bytes = 0;
    mr_status st = MR_ALLOC(&file_of, s->a->world->size, "files of a manifest");
    if (st == MR_OK && s->a->config_json) st = mr_copy_text(&m.config_json, s->a->config_json);
    if (st == MR_OK) st = describe(s, &m, file_of);
    if (st == MR_OK) st = mr_manifest_text(&m, &text, &bytes);
    if (st == MR_OK) st = mr_file_replace(s->tmp_fd, s->tmp_path, MR_MANIFEST_NAME, text, bytes);
    MR_FREE(text);
    mr_manifest_free(&m);
    MR_FREE(file_of);
    return st;
}

/* A folder of this step may exist: the run was killed after the rename, resumed from an older
 * checkpoint and has come here again. It is moved aside until the new one stands. */
static mr_status put_in_place(const saver *s)
{
    char old[sizeof s->tmp];
    snprintf(old, sizeof old, "%s.old-%d", s->name, (int)getpid());
    bool had_old = renameat(s->dir_fd, s->name, s->dir_fd, old) == 0;
    if (!had_old && errno != ENOENT)
        return MR_RAISE(MR_ERR_IO, "%s/%s cannot be moved aside: %s", s->a->dir, s->name,
                        strerror(errno));
    if (renameat(s->dir_fd, s->tmp, s->dir_fd, s->name) != 0) {
        mr_status st =
            MR_RAISE(MR_ERR_IO, "%s cannot be renamed: %s", s->tmp_path, strerror(errno));
        if (had_old) renameat(s->dir_fd, old, s->dir_fd, s->name);
        return st;
    }
    mr_status st = mr_folder_sync(s->dir_fd, s->a->dir);
    if (had_old) mr_folder_remove(s->dir_fd, s->a->dir, old);
    return st;
}

static mr_status publish(const saver *s)
{
    char line[MR_CHECKPOINT_NAME + 2];
    MR_TRY(write_manifest(s));
    MR_TRY(mr_folder_sync(s->tmp_fd, s->tmp_path));
    MR_TRY(put_in_place(s));
    int n = snprintf(line, sizeof line, "%s\n", s->name);
    MR_TRY(mr_file_replace(s->dir_fd, s->a->dir, "latest", line, (size_t)n));
    if (s->a->is_best) MR_TRY(mr_file_replace(s->dir_fd, s->a->dir, "best", line, (size_t)n));
    mr_checkpoint_prune(s->dir_fd, s->a->dir, s->a->state->step, s->a->keep > 1 ? s->a->keep : 1);
    return MR_OK;
}

mr_status mr_checkpoint_save(const mr_checkpoint_save_args *a)
{
    mr_comm *world = a->world;
    saver s = {.a = a, .dir_fd = -1, .tmp_fd = -1};
    mr_status st = make_plan(&s);
    if (st == MR_OK) {
        st = mr_comm_agree(world, begin(&s));
        if (st == MR_OK) st = write_shards(&s);
        if (st == MR_OK) st = mr_comm_agree(world, world->rank == 0 ? publish(&s) : MR_OK);
    }
    if (s.tmp_fd >= 0) close(s.tmp_fd);
    if (st != MR_OK && world->rank == 0) {
        if (s.dir_fd >= 0 && s.tmp[0]) mr_folder_remove(s.dir_fd, a->dir, s.tmp);
        mr_warn("the checkpoint of step %lld was not written; older ones in %s are as they were",
                (long long)a->state->step, a->dir);
    }
    if (s.dir_fd >= 0) close(s.dir_fd);
    MR_FREE(s.record);
    MR_FREE(s.plan);
    MR_FREE(s.named);
    return st;
}
