/* The files of a checkpoint: every rank one, rank 0 the manifest, then a rename makes it exist.
 * What it is not: the order and the threads in which this happens (checkpoint_job.c).
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
#include "io/checkpoint_saver.h"
#include "io/manifest.h"
#include "io/safetensors.h"

/* A block of rows below this size is written by one replica: splitting it saves nothing. */
#define SMALL_BLOCK_BYTES (64 << 10)
/* Bytes between two signs of life. */
#define PIECE_BYTES (8 << 20)

static int64_t row_elems(const mr_named *t) { return t->dim[1] * t->dim[2] * t->dim[3]; }

static mr_saver_rows *plan_of(const mr_saver *s, int rank)
{
    return s->plan + (int64_t)rank * s->n;
}

/* held[r][i] = rows of tensor i that rank r holds. */
static void share_rows(mr_saver *s, const mr_saver_rows *held, int i)
{
    int world = s->a.world->size;
    int64_t bytes = row_elems(&s->named[i]) * (int64_t)s->a.params->real_bytes;
    for (int r = 0; r < world; r++) {
        mr_saver_rows mine = held[(int64_t)r * s->n + i];
        int replicas = 0, before = 0;
        for (int q = 0; q < world; q++) {
            mr_saver_rows other = held[(int64_t)q * s->n + i];
            if (other.row0 != mine.row0 || other.n != mine.n) continue;
            replicas++;
            before += q < r;
        }
        if (mine.n * bytes < SMALL_BLOCK_BYTES) {
            if (before > 0) mine.n = 0;
        } else {
            int64_t lo, hi;
            mr_shard_rows(mine.n, before, replicas, &lo, &hi);
            mine = (mr_saver_rows){mine.row0 + lo, hi - lo};
        }
        plan_of(s, r)[i] = mine;
    }
}

static mr_status make_plan(mr_saver *s)
{
    mr_comm *world = s->a.world;
    mr_saver_rows *held = NULL;
    int64_t *counts = NULL;
    s->n = mr_named_count(s->a.params);
    mr_status st = MR_ALLOC(&s->named, s->n, "named tensors");
    if (st == MR_OK) st = MR_ALLOC(&s->plan, (int64_t)world->size * s->n, "plan of a checkpoint");
    if (st == MR_OK) st = MR_ALLOC(&s->record, world->size, "files of a checkpoint");
    if (st == MR_OK) st = MR_ALLOC(&held, (int64_t)world->size * s->n, "plan of a checkpoint");
    if (st == MR_OK) st = MR_ALLOC(&counts, world->size, "counts");
    st = mr_comm_agree(world, st);
    if (st == MR_OK) {
        mr_saver_rows *mine = held + (int64_t)world->rank * s->n;
        for (int i = 0; i < s->n; i++) {
            mr_named_at(s->a.params, i, &s->named[i]);
            mine[i] = (mr_saver_rows){s->named[i].row_lo, s->named[i].row_hi - s->named[i].row_lo};
        }
        for (int r = 0; r < world->size; r++) counts[r] = 2 * (int64_t)s->n;
        st = world->allgatherv(world, mine, held, counts, MR_I64);
    }
    for (int i = 0; st == MR_OK && i < s->n; i++) share_rows(s, held, i);
    MR_FREE(counts);
    MR_FREE(held);
    return st;
}

static void set_temporary_name(mr_saver *s, int64_t pid)
{
    mr_checkpoint_name(s->state.step, s->name);
    snprintf(s->tmp, sizeof s->tmp, "%s.tmp-%lld", s->name, (long long)pid);
    snprintf(s->tmp_path, sizeof s->tmp_path, "%s/%s", s->a.dir, s->tmp);
}

static mr_status make_temporary(mr_saver *s)
{
    mr_checkpoint_clean(s->dir_fd, s->a.dir);
    MR_CHECK(mkdirat(s->dir_fd, s->tmp, 0777) == 0, MR_ERR_IO, "%s cannot be made: %s", s->tmp_path,
             strerror(errno));
    return MR_OK;
}

/* Rank 0 makes the temporary folder; all learn its name when it is there, and open it. What failed
 * on one rank is still to be agreed. */
static mr_status begin(mr_saver *s)
{
    mr_comm *world = s->a.world;
    int64_t made[2] = {getpid(), 0}; /* by rank 0: its process, is the folder there? */
    mr_status st = mr_folder_open(s->a.dir, &s->dir_fd);
    if (world->rank == 0) {
        set_temporary_name(s, made[0]);
        if (st == MR_OK) st = make_temporary(s);
        made[1] = st == MR_OK;
    }
    MR_TRY(world->bcast(world, made, 2, MR_I64, 0));
    set_temporary_name(s, made[0]);
    if (st == MR_OK && made[1]) st = mr_folder_open(s->tmp_path, &s->tmp_fd);
    return st;
}

static const char *const section_name[] = {"value", "m", "v"};
static const mr_which section_which[] = {MR_VALUE, MR_M, MR_V};

static int n_sections(const mr_saver *s) { return s->a.params->m ? 3 : 1; }

static mr_status declare_shard(const mr_saver *s, mr_st_writer *w)
{
    const mr_saver_rows *plan = plan_of(s, s->a.world->rank);
    char text[MR_ST_NAME];
    for (int k = 0; k < n_sections(s); k++)
        for (int i = 0; i < s->n; i++) {
            int64_t dim[4];
            if (plan[i].n == 0) continue;
            memcpy(dim, s->named[i].dim, sizeof dim);
            dim[0] = plan[i].n;
            snprintf(text, sizeof text, "%s/%s", section_name[k], s->named[i].name);
            MR_TRY(mr_st_declare(w, text, s->a.params->dev->real, s->named[i].ndim, dim));
        }
    snprintf(text, sizeof text, "%lld", (long long)s->state.step);
    MR_TRY(mr_st_set_metadata(w, "step", text));
    return mr_st_set_metadata(w, "format", MR_MANIFEST_FORMAT " shard; rows as in MANIFEST.json");
}

/* Rows of this rank that go to its file, in the file's order, each into or out of one place:
 * copied to `to` when that is not NULL, else written. host: room for the largest tensor. */
static mr_status each_block(mr_saver *s, mr_st_writer *w, char *to, char *host)
{
    const mr_params *ps = s->a.params;
    const mr_saver_rows *plan = plan_of(s, s->a.world->rank);
    for (int k = 0; k < n_sections(s); k++)
        for (int i = 0; i < s->n; i++) {
            int64_t row = row_elems(&s->named[i]) * (int64_t)ps->real_bytes;
            size_t bytes = (size_t)(plan[i].n * row);
            if (plan[i].n == 0) continue;
            MR_TRY(mr_named_get(ps, i, section_which[k], host));
            const char *from = host + (plan[i].row0 - s->named[i].row_lo) * row;
            if (to) {
                memcpy(to, from, bytes);
                to += bytes;
            } else {
                MR_TRY(mr_st_write(w, from, bytes));
            }
        }
    return MR_OK;
}

/* Bytes of this rank's tensors, and elements of the largest one that it takes rows of. */
static int64_t share_bytes(const mr_saver *s, int64_t *most_elems)
{
    const mr_saver_rows *plan = plan_of(s, s->a.world->rank);
    int64_t bytes = 0;
    *most_elems = 0;
    for (int i = 0; i < s->n; i++) {
        int64_t elems = (s->named[i].row_hi - s->named[i].row_lo) * row_elems(&s->named[i]);
        if (plan[i].n && elems > *most_elems) *most_elems = elems;
        bytes += plan[i].n * row_elems(&s->named[i]) * (int64_t)s->a.params->real_bytes;
    }
    return bytes * n_sections(s);
}

mr_status mr_saver_copy(mr_saver *s)
{
    int64_t most;
    char *host = NULL;
    int64_t bytes = share_bytes(s, &most);
    if (bytes == 0) return MR_OK;
    MR_TRY(mr_alloc((void **)&s->copy, bytes, 1, "copy of the parameters for a checkpoint"));
    mr_status st = mr_alloc((void **)&host, most, s->a.params->real_bytes, "tensor on its way");
    if (st == MR_OK) st = each_block(s, NULL, s->copy, host);
    MR_FREE(host);
    if (st != MR_OK) MR_FREE(s->copy);
    return st;
}

static mr_status write_copy(mr_saver *s, mr_st_writer *w, int64_t bytes)
{
    for (int64_t at = 0; at < bytes; at += PIECE_BYTES) {
        int64_t n = bytes - at < PIECE_BYTES ? bytes - at : PIECE_BYTES;
        MR_TRY(mr_st_write(w, s->copy + at, (size_t)n));
        __atomic_add_fetch(&s->written, n, __ATOMIC_RELAXED);
    }
    return MR_OK;
}

mr_status mr_saver_shard(mr_saver *s, mr_shard_record *out)
{
    mr_st_writer *w = NULL;
    char file[64], *host = NULL;
    int64_t most, bytes = share_bytes(s, &most), length = 0;
    if (bytes == 0) return MR_OK;
    snprintf(file, sizeof file, "shard-%05d.safetensors", s->a.world->rank);
    if (!s->copy)
        MR_TRY(mr_alloc((void **)&host, most, s->a.params->real_bytes, "tensor on its way"));
    mr_status st = mr_st_create(&w, s->tmp_fd, s->tmp_path, file);
    if (st == MR_OK) st = declare_shard(s, w);
    if (st == MR_OK) st = s->copy ? write_copy(s, w, bytes) : each_block(s, w, NULL, host);
    if (st == MR_OK)
        st = mr_st_finish(&w, &length, out->xxh3);
    else
        mr_st_cancel(&w);
    MR_FREE(host);
    if (st == MR_OK) out->bytes = length;
    return st;
}

mr_status mr_saver_gather(mr_saver *s, const mr_shard_record *mine)
{
    mr_comm *world = s->a.world;
    int64_t *counts = NULL;
    mr_status st = mr_comm_agree(world, MR_ALLOC(&counts, world->size, "counts"));
    if (st == MR_OK) {
        for (int r = 0; r < world->size; r++) counts[r] = sizeof *mine;
        st = world->allgatherv(world, mine, s->record, counts, MR_U8);
    }
    MR_FREE(counts);
    return st;
}

static int by_row(const void *a, const void *b)
{
    const mr_manifest_part *x = a, *y = b;
    return x->row0 < y->row0 ? -1 : x->row0 > y->row0;
}

static mr_status describe_tensor(const mr_saver *s, const int *file_of, int i,
                                 mr_manifest_tensor *t)
{
    int world = s->a.world->size;
    int64_t at = 0;
    snprintf(t->name, sizeof t->name, "%s", s->named[i].name);
    t->ndim = s->named[i].ndim;
    memcpy(t->dim, s->named[i].dim, sizeof t->dim);
    MR_TRY(MR_ALLOC(&t->part, world, "parts of a tensor"));
    for (int r = 0; r < world; r++) {
        mr_saver_rows p = plan_of(s, r)[i];
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

static mr_status describe(const mr_saver *s, mr_manifest *m, int *file_of)
{
    int world = s->a.world->size;
    m->state = s->state;
    m->world = world;
    m->dtype = s->a.params->dev->real;
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

static mr_status write_manifest(const mr_saver *s)
{
    mr_manifest m = {0};
    int *file_of = NULL;
    char *text = NULL;
    size_t bytes = 0;
    mr_status st = MR_ALLOC(&file_of, s->a.world->size, "files of a manifest");
    if (st == MR_OK && s->a.config_json) st = mr_copy_text(&m.config_json, s->a.config_json);
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
static mr_status put_in_place(const mr_saver *s)
{
    char old[sizeof s->tmp];
    snprintf(old, sizeof old, "%s.old-%d", s->name, (int)getpid());
    bool had_old = renameat(s->dir_fd, s->name, s->dir_fd, old) == 0;
    if (!had_old && errno != ENOENT)
        return MR_RAISE(MR_ERR_IO, "%s/%s cannot be moved aside: %s", s->a.dir, s->name,
                        strerror(errno));
    if (renameat(s->dir_fd, s->tmp, s->dir_fd, s->name) != 0) {
        mr_status st =
            MR_RAISE(MR_ERR_IO, "%s cannot be renamed: %s", s->tmp_path, strerror(errno));
        if (had_old) renameat(s->dir_fd, old, s->dir_fd, s->name);
        return st;
    }
    mr_status st = mr_folder_sync(s->dir_fd, s->a.dir);
    if (had_old) mr_folder_remove(s->dir_fd, s->a.dir, old);
    return st;
}

mr_status mr_saver_publish(mr_saver *s)
{
    char line[MR_CHECKPOINT_NAME + 2];
    MR_TRY(write_manifest(s));
    MR_TRY(mr_folder_sync(s->tmp_fd, s->tmp_path));
    MR_TRY(put_in_place(s));
    int n = snprintf(line, sizeof line, "%s\n", s->name);
    MR_TRY(mr_file_replace(s->dir_fd, s->a.dir, "latest", line, (size_t)n));
    if (s->a.is_best) MR_TRY(mr_file_replace(s->dir_fd, s->a.dir, "best", line, (size_t)n));
    mr_checkpoint_prune(s->dir_fd, s->a.dir, s->state.step, s->a.keep > 1 ? s->a.keep : 1);
    return MR_OK;
}

mr_status mr_saver_begin(mr_saver *s, const mr_checkpoint_save_args *a)
{
    *s = (mr_saver){.a = *a, .state = *a->state, .dir_fd = -1, .tmp_fd = -1};
    MR_TRY(make_plan(s));
    return mr_comm_agree(a->world, begin(s));
}

void mr_saver_end(mr_saver *s, mr_status st)
{
    if (s->tmp_fd >= 0) close(s->tmp_fd);
    if (st != MR_OK && s->a.world->rank == 0) {
        if (s->dir_fd >= 0 && s->tmp[0]) mr_folder_remove(s->dir_fd, s->a.dir, s->tmp);
        mr_warn("the checkpoint of step %lld was not written; older ones in %s are as they were",
                (long long)s->state.step, s->a.dir);
    }
    if (s->dir_fd >= 0) close(s->dir_fd);
    MR_FREE(s->copy);
    MR_FREE(s->record);
    MR_FREE(s->plan);
    MR_FREE(s->named);
}
