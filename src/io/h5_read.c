/* Reader of the arrays of a data set file, on one rank or many.
 * What it is not: tolerant. Order of work: metadata on this rank alone (h5_meta.c), then an
 * agreement of all ranks, and only then memory, reads in slices with a running checksum, and
 * meaning. A refused file therefore never leaves a rank in a collective. Invariant: every rank
 * knows the checksum of every whole array before it keeps one. */
#include <mpi.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define XXH_STATIC_LINKING_ONLY /* the state of a checksum travels between ranks */
#include <xxhash.h>

#include "base/host_memory.h"
#include "base/mem.h"
#include "io/h5_reader.h"

/* Read and hashed at once by a process that reads alone: small enough to stay in its cache. */
#define ALONE_BYTES (INT64_C(1) << 18)
#define RANK0_BYTES (INT64_C(64) << 20) /* read by rank 0 and sent at once */

/* Does this process open the file? */
static bool is_reading(const mr_h5_reader *r)
{
    return !r->is_rank0 || !r->comm || r->comm->rank == 0;
}

static int n_ranks(const mr_h5_reader *r) { return r->comm ? r->comm->size : 1; }
static int my_rank(const mr_h5_reader *r) { return r->comm ? r->comm->rank : 0; }

/* Does each rank keep a block of this part only? */
static bool is_spread(const mr_h5_reader *r, int part)
{
    return r->features == MR_FEATURES_SHARD && part >= MR_PART_VISUAL && part <= MR_PART_TEXT;
}

static int64_t row_bytes(const mr_part *p) { return mr_part_bytes(p) / p->dims[0]; }

static mr_status agree(mr_comm *comm, mr_status st)
{
    return comm && comm->size > 1 ? mr_comm_agree(comm, st) : st;
}

/* What rank 0 knows of the file; every rank runs the same program, so structs travel as bytes. */
static mr_status share_metadata(mr_h5_reader *r)
{
    if (!r->is_rank0 || !r->comm || r->comm->size < 2) return MR_OK;
    const char *name[MR_PART_COUNT]; /* addresses differ between processes */
    for (int i = 0; i < MR_PART_COUNT; i++) name[i] = mr_h5_part_names[i];
    MR_TRY(r->comm->bcast(r->comm, &r->h, sizeof r->h, MR_U8, 0));
    MR_TRY(r->comm->bcast(r->comm, r->parts, sizeof r->parts, MR_U8, 0));
    for (int i = 0; i < MR_PART_COUNT; i++) r->parts[i].name = name[i];
    return r->comm->bcast(r->comm, r->sums, MR_PART_COUNT, MR_I64, 0);
}

/* ---- memory ---- */

/* What this rank and its neighbours may take, and who says so. */
typedef struct room {
    int64_t host, own;
    const char *of_host, *of_own;
    int local; /* ranks of this host */
    char name[256];
} room;

static mr_status look_around(const mr_h5_reader *r, room *m)
{
    mr_comm *host = NULL;
    *m = (room){.local = 1, .name = "this host"};
    m->host = mr_host_memory_free("", &m->of_host);
    m->own = mr_process_memory_free(&m->of_own);
    gethostname(m->name, sizeof m->name - 1);
    if (n_ranks(r) < 2) return MR_OK;
    MR_TRY(r->comm->split_host(r->comm, &host));
    m->local = host->size;
    mr_comm_destroy(&host);
    return MR_OK;
}

/* Bytes of the arrays that the fullest rank holds. */
static int64_t bytes_needed(const mr_h5_reader *r)
{
    int64_t need = 0;
    for (int i = 0; i < MR_PART_COUNT; i++) {
        const mr_part *p = &r->parts[i];
        if (!p->rank) continue;
        int64_t rows = is_spread(r, i) ? (p->dims[0] + n_ranks(r) - 1) / n_ranks(r) : p->dims[0];
        need += rows * row_bytes(p);
    }
    return need;
}

static bool fits(const room *m, int64_t need)
{
    return need <= m->own && need <= m->host / m->local;
}

/* Refused before a byte is asked for: the kernel promises more memory than it has, and a rank that
 * is killed later has no last word. */
static mr_status refuse_large(const mr_h5_reader *r, const room *m)
{
    int64_t need = bytes_needed(r);
    bool is_shard = r->features == MR_FEATURES_SHARD;
    const double mib = 1048576.0;
    const char *how = is_shard ? "with its features spread over all ranks it " : "it ";
    const char *out = is_shard ? "start more ranks on more hosts"
                      : n_ranks(r) > 1
                          ? "start fewer ranks a host, or spread the features over the ranks with "
                            "data.features=shard (or auto)"
                          : "start several ranks on more hosts with data.features=auto";
    MR_CHECK(need <= m->own, MR_ERR_MEMORY,
             "%s does not fit: %stakes %.1f MiB on every rank, but rank %d of %d on %s may take "
             "%.1f MiB (%s); %s",
             r->path, how, (double)need / mib, my_rank(r), n_ranks(r), m->name,
             (double)m->own / mib, m->of_own, out);
    MR_CHECK(need <= m->host / m->local, MR_ERR_MEMORY,
             "%s does not fit: %stakes %.1f MiB on every rank, %.1f MiB for the %d ranks of %s "
             "(rank %d of %d is one of them), but %.1f MiB are left (%s); %s",
             r->path, how, (double)need / mib, (double)need * m->local / mib, m->local, m->name,
             my_rank(r), n_ranks(r), (double)m->host / mib, m->of_host, out);
    return MR_OK;
}

/* Decides what AUTO is: the same on all ranks. */
static mr_status check_fits(mr_h5_reader *r)
{
    room m;
    bool is_auto = r->features == MR_FEATURES_AUTO;
    MR_TRY(look_around(r, &m));
    if (is_auto || n_ranks(r) < 2) r->features = MR_FEATURES_REPLICATE;
    if (is_auto && n_ranks(r) > 1) {
        int64_t all_fit = fits(&m, bytes_needed(r));
        MR_TRY(r->comm->allreduce(r->comm, &all_fit, 1, MR_I64, MR_MIN));
        if (!all_fit) r->features = MR_FEATURES_SHARD;
    }
    return agree(r->comm, refuse_large(r, &m));
}

static mr_status alloc_parts(mr_h5_reader *r)
{
    mr_dataset *d = &r->d;
    void **slot[MR_PART_COUNT] = {(void **)&d->offset,  (void **)&d->items, &d->visual.data,
                                  &d->frames.data,      &d->text.data,      (void **)&d->user_ids,
                                  (void **)&d->item_ids};
    d->is_sharded = r->features == MR_FEATURES_SHARD;
    if (d->is_sharded)
        mr_feature_block(d->n_items, my_rank(r), n_ranks(r), &d->feature_lo, &d->feature_hi);
    for (int i = 0; i < MR_PART_COUNT; i++) {
        const mr_part *p = &r->parts[i];
        if (!p->rank) continue;
        int64_t rows = is_spread(r, i) ? d->feature_hi - d->feature_lo : p->dims[0];
        MR_TRY(mr_alloc(slot[i], (rows ? rows : 1) * row_bytes(p), 1, p->name));
        mr_mem_touch(*slot[i]);
        r->data[i] = *slot[i];
    }
    return MR_OK;
}

/* ---- arrays ---- */

/* An open part, and how it is read. */
typedef struct source {
    int part;
    const mr_part *p;
    hid_t ds, type, dxpl;
    int64_t row;        /* bytes */
    XXH3_state_t *hash; /* of the rows so far */
    int64_t *counts;    /* [n_ranks], scratch */
} source;

/* Rows first..first+n-1 (n may be 0: a rank without a share still takes part) -> to. */
static mr_status read_rows(const mr_h5_reader *r, const source *s, int64_t first, int64_t n,
                           void *to)
{
    const mr_part *p = s->p;
    hsize_t start[3] = {(hsize_t)first, 0, 0}, count[3] = {(hsize_t)n};
    for (int i = 1; i < p->rank; i++) count[i] = (hsize_t)p->dims[i];
    hsize_t mem[3] = {(hsize_t)(n ? n : 1), count[1], count[2]};
    hid_t fs = H5Dget_space(s->ds), ms = H5Screate_simple(p->rank, mem, NULL);
    bool ok = fs >= 0 && ms >= 0;
    if (ok && n)
        ok = H5Sselect_hyperslab(fs, H5S_SELECT_SET, start, NULL, count, NULL) >= 0;
    else if (ok)
        ok = H5Sselect_none(fs) >= 0 && H5Sselect_none(ms) >= 0;
    ok = ok && H5Dread(s->ds, s->type, ms, fs, s->dxpl, to) >= 0;
    mr_status st = MR_OK; /* raised before anything clears HDF5's reason */
    if (!ok)
        st = MR_RAISE(MR_ERR_IO, "%s: rows %lld to %lld of %s cannot be read: %s", r->path,
                      (long long)first, (long long)(first + n), p->name, mr_h5_reason());
    if (ms >= 0) H5Sclose(ms);
    if (fs >= 0) H5Sclose(fs);
    return st;
}

/* Bytes that have arrived: into the checksum, and how many values are not finite. In blocks, so
 * that memory is passed once. */
static int64_t look_at(const source *s, const char *from, int64_t bytes)
{
    const int64_t block = 1 << 18, width = (int64_t)mr_dtype_bytes(s->p->dtype);
    int64_t bad = 0;
    for (int64_t i = 0; i < bytes; i += block) {
        int64_t n = bytes - i < block ? bytes - i : block;
        XXH3_64bits_update(s->hash, from + i, (size_t)n);
        bad += mr_count_not_finite(from + i, s->p->dtype, n / width);
    }
    return bad;
}

/* Rows [first, first + n) on every rank: a share read by each and then gathered in place, or read
 * by rank 0 and sent to the others, or by this process alone. */
static mr_status read_slice(const mr_h5_reader *r, const source *s, int64_t first, int64_t n,
                            char *to)
{
    int size = r->shared ? n_ranks(r) : 1, rank = r->shared ? my_rank(r) : 0;
    int64_t lo = n * rank / size, hi = n * (rank + 1) / size;
    mr_status st = MR_OK;
    if (is_reading(r)) st = read_rows(r, s, first + lo, hi - lo, to + lo * s->row);
    if (r->is_rank0) {
        MR_TRY(agree(r->comm, st));
        return r->comm ? r->comm->bcast(r->comm, to, n * s->row, MR_U8, 0) : MR_OK;
    }
    if (!r->shared) return st;
    MR_TRY(agree(r->shared, st));
    for (int k = 0; k < size; k++) s->counts[k] = (n * (k + 1) / size - n * k / size) * s->row;
    return r->shared->allgatherv(r->shared, to + lo * s->row, to, s->counts, MR_U8);
}

/* Rows at once when all ranks together take at most `most` bytes. */
static int64_t rows_of(const source *s, int64_t most) { return s->row < most ? most / s->row : 1; }

/* The whole part on every rank, in slices that are checked as soon as they are there. A part that
 * is spread passes through a buffer, out of which each rank keeps its block. */
static mr_status read_all(mr_h5_reader *r, const source *s)
{
    /* With others at most 1 GiB over all ranks: no call and no message comes near 2 GiB. */
    int64_t most = r->shared ? MR_H5_SLICE_BYTES : r->is_rank0 ? RANK0_BYTES : ALONE_BYTES;
    int64_t step = rows_of(s, most), rows = s->p->dims[0];
    char *own = r->data[s->part], *buffer = NULL;
    mr_status st = MR_OK;
    if (is_spread(r, s->part))
        st = agree(r->comm,
                   mr_alloc((void **)&buffer, step < rows ? step : rows, (size_t)s->row, "slice"));
    for (int64_t i = 0; i < rows && st == MR_OK; i += step) {
        int64_t n = i + step < rows ? step : rows - i;
        char *to = buffer ? buffer : own + i * s->row;
        st = read_slice(r, s, i, n, to);
        if (st != MR_OK) break;
        r->bad[s->part] += look_at(s, to, n * s->row);
        int64_t lo = i > r->d.feature_lo ? i : r->d.feature_lo;
        int64_t hi = i + n < r->d.feature_hi ? i + n : r->d.feature_hi;
        if (buffer && lo < hi)
            memcpy(own + (lo - r->d.feature_lo) * s->row, buffer + (lo - i) * s->row,
                   (size_t)((hi - lo) * s->row));
    }
    MR_FREE(buffer);
    return st;
}

/* This rank's block, read by itself in calls that all make together. The checksum is one over the
 * whole part: each rank continues it where the one before it stopped. */
static mr_status read_block(mr_h5_reader *r, const source *s)
{
    int64_t lo = r->d.feature_lo, hi = r->d.feature_hi, size = n_ranks(r);
    int64_t block = (s->p->dims[0] + size - 1) / size;
    int64_t step = rows_of(s, MR_H5_SLICE_BYTES / size);
    char *own = r->data[s->part];
    mr_status st = MR_OK;
    for (int64_t i = 0; i < block && st == MR_OK; i += step) {
        int64_t first = lo + i < hi ? lo + i : hi, n = hi - first < step ? hi - first : step;
        st = agree(r->comm, read_rows(r, s, first, n, own + (first - lo) * s->row));
    }
    const unsigned char *secret = s->hash->extSecret; /* an address: of this process */
    for (int k = 0; k < size && st == MR_OK; k++) {
        if (k == my_rank(r)) r->bad[s->part] = look_at(s, own, (hi - lo) * s->row);
        st = r->comm->bcast(r->comm, s->hash, sizeof *s->hash, MR_U8, k);
        s->hash->extSecret = secret;
    }
    return st == MR_OK ? r->comm->allreduce(r->comm, &r->bad[s->part], 1, MR_I64, MR_SUM) : st;
}

static mr_status read_part(mr_h5_reader *r, hid_t file, int part, XXH3_state_t *hash,
                           int64_t *counts)
{
    source s = {.part = part,
                .p = &r->parts[part],
                .ds = -1,
                .type = mr_h5_type(r->parts[part].dtype),
                .dxpl = H5Pcreate(H5P_DATASET_XFER),
                .row = row_bytes(&r->parts[part]),
                .hash = hash,
                .counts = counts};
    mr_status st = MR_OK;
    if (is_reading(r) && (s.ds = H5Dopen2(file, s.p->name, H5P_DEFAULT)) < 0)
        st = MR_RAISE(MR_ERR_DATA, "%s: %s cannot be opened: %s", r->path, s.p->name,
                      mr_h5_reason());
    if (r->shared) H5Pset_dxpl_mpio(s.dxpl, H5FD_MPIO_COLLECTIVE);
    if (r->shared || r->is_rank0 || is_spread(r, part)) st = agree(r->comm, st);
    XXH3_64bits_reset(hash);
    if (st == MR_OK) st = is_spread(r, part) && !r->is_rank0 ? read_block(r, &s) : read_all(r, &s);
    r->seen[part] = XXH3_64bits_digest(hash);
    H5Pclose(s.dxpl);
    H5Tclose(s.type);
    if (s.ds >= 0) H5Dclose(s.ds);
    return st;
}

static mr_status read_parts(mr_h5_reader *r, XXH3_state_t *hash, int64_t *counts)
{
    MPI_Comm dup = MPI_COMM_NULL;
    mr_status st = MR_OK;
    hid_t file = -1, fapl = H5Pcreate(H5P_FILE_ACCESS);
    if (r->shared) {
        /* Open MPI writes wrongly through Cartesian communicators: a plain duplicate it is. */
        MPI_Comm_dup(MPI_COMM_WORLD, &dup);
        H5Pset_fapl_mpio(fapl, dup, MPI_INFO_NULL);
    }
    H5Pset_fclose_degree(fapl, H5F_CLOSE_STRONG);
    if (is_reading(r)) file = H5Fopen(r->path, H5F_ACC_RDONLY, fapl);
    H5Pclose(fapl);
    if (is_reading(r) && file < 0)
        st = MR_RAISE(MR_ERR_DATA, "%s cannot be opened: %s", r->path, mr_h5_reason());
    if (r->shared || r->is_rank0) st = agree(r->comm, st);
    for (int i = 0; i < MR_PART_COUNT && st == MR_OK; i++) {
        if (!r->parts[i].rank) continue;
        st = read_part(r, file, i, hash, counts);
        if (r->features == MR_FEATURES_SHARD) st = agree(r->comm, st); /* blocks come next */
    }
    if (file >= 0) H5Fclose(file);
    if (dup != MPI_COMM_NULL) MPI_Comm_free(&dup);
    return st;
}

static mr_status read_arrays(mr_h5_reader *r)
{
    int64_t *counts = NULL;
    XXH3_state_t *hash = XXH3_createState();
    mr_status st = MR_ALLOC(&counts, r->comm ? r->comm->size : 1, "counts of a gather");
    if (st == MR_OK && !hash) st = MR_RAISE(MR_ERR_MEMORY, "no memory for the state of a checksum");
    st = agree(r->comm, st);
    if (st == MR_OK) st = read_parts(r, hash, counts);
    XXH3_freeState(hash);
    MR_FREE(counts);
    return st;
}

static mr_status verify(mr_h5_reader *r)
{
    uint64_t total = XXH3_64bits(r->seen, sizeof r->seen);
    for (int i = 0; i < MR_PART_COUNT; i++)
        MR_CHECK(r->seen[i] == r->sums[i], MR_ERR_DATA,
                 "%s: the checksum of %s does not match; the file is damaged, copy or make it "
                 "again",
                 r->path, r->parts[i].name);
    MR_CHECK(
        total == r->h.checksum, MR_ERR_DATA,
        "%s: the checksum over all datasets does not match; the file is damaged, copy or make it "
        "again",
        r->path);
    r->d.checksum = total;
    MR_TRY(mr_dataset_check_form(&r->d, r->path));
    for (int i = MR_PART_VISUAL; i <= MR_PART_TEXT; i++)
        MR_TRY(mr_check_finite(r->bad[i], mr_h5_part_names[i], r->path));
    return MR_OK;
}

/* The communicator for sliced reading, or NULL: only the mpi one over all processes fits. */
static mr_comm *sharing(mr_comm *comm)
{
    int size = 0, on = 0;
    if (!comm || comm->size < 2 || strcmp(comm->kind, "mpi") != 0) return NULL;
    MPI_Initialized(&on);
    if (on) MPI_Comm_size(MPI_COMM_WORLD, &size);
    return size == comm->size ? comm : NULL;
}

/* Folders of the same name on two hosts may hold different files; shapes must agree before a
 * gather. */
static mr_status same_everywhere(const mr_h5_reader *r, mr_comm *comm)
{
    if (!comm || comm->size < 2) return MR_OK;
    uint64_t mine[2] = {r->h.checksum, r->h.header_sum}, first[2] = {mine[0], mine[1]};
    MR_TRY(comm->bcast(comm, first, 2, MR_I64, 0));
    mr_status st = MR_OK;
    if (memcmp(mine, first, sizeof mine) != 0)
        st = MR_RAISE(
            MR_ERR_DATA,
            "%s on rank %d (checksum %016llx) is not the file that rank 0 sees (%016llx); "
            "copy the same file to every host",
            r->path, comm->rank, (unsigned long long)mine[0], (unsigned long long)first[0]);
    return agree(comm, st);
}

static mr_status read_whole(mr_dataset *out, mr_h5_reader *r)
{
    mr_status st;
    mr_h5_quiet();
    MR_TRY_GOTO(agree(r->comm, is_reading(r) ? mr_h5_read_metadata(r) : MR_OK), st, err);
    MR_TRY_GOTO(share_metadata(r), st, err);
    MR_TRY_GOTO(same_everywhere(r, r->comm), st, err);
    mr_h5_set_shapes(r);
    MR_TRY_GOTO(check_fits(r), st, err);
    MR_TRY_GOTO(agree(r->comm, alloc_parts(r)), st, err);
    MR_TRY_GOTO(agree(r->comm, read_arrays(r)), st, err);
    MR_TRY_GOTO(agree(r->comm, verify(r)), st, err);
    *out = r->d;
    return MR_OK;
err:
    mr_dataset_free(&r->d);
    return st;
}

mr_status mr_h5_dataset_read_as(mr_dataset *out, const char *path, mr_comm *comm,
                                const mr_h5_how *how)
{
    mr_h5_reader r = {.path = path,
                      .comm = comm,
                      .shared = how->is_rank0 ? NULL : sharing(comm),
                      .is_rank0 = how->is_rank0,
                      .features = how->features};
    return read_whole(out, &r);
}

mr_status mr_h5_dataset_read(mr_dataset *out, const char *path, mr_comm *comm)
{
    const mr_h5_how how = {.is_rank0 = false};
    return mr_h5_dataset_read_as(out, path, comm, &how);
}

mr_status mr_h5_dataset_read_rank0(mr_dataset *out, const char *path, mr_comm *comm)
{
    const mr_h5_how how = {.is_rank0 = true};
    return mr_h5_dataset_read_as(out, path, comm, &how);
}
