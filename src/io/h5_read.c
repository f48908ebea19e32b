/* Strict reader of data set files, on one rank or many.
 * What it is not: tolerant. Order of work: bytes of the file (size, signature, structure), then
 * every object's kind, type, shape and place on this rank alone, then an agreement of all ranks,
 * and only then memory, reads in slices with a running checksum, and meaning. A refused file
 * therefore never leaves a rank in a collective. */
#include "io/h5_dataset.h"

#include <errno.h>
#include <fcntl.h>
#include <mpi.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/host_memory.h"
#include "base/mem.h"
#include "io/h5_schema.h"
#include "io/h5_structure.h"

/* Read and hashed at once by a process that reads alone: small enough to stay in its cache. */
#define ALONE_BYTES (INT64_C(1) << 18)
#define RANK0_BYTES (INT64_C(64) << 20) /* read by rank 0 and sent at once */

typedef struct reader {
    const char *path;
    mr_comm *comm;   /* borrowed; NULL = this process alone */
    mr_comm *shared; /* comm when all its ranks read together through MPI-IO, else NULL */
    bool is_rank0;   /* rank 0 reads for all */
    int64_t file_bytes;
    mr_h5_header h;
    mr_dataset d;                 /* shapes first, data later; owned until success */
    mr_part parts[MR_PART_COUNT]; /* what the file declares; rank 0 = absent */
    uint64_t sums[MR_PART_COUNT]; /* what the file declares */
    uint64_t seen[MR_PART_COUNT]; /* of what was read; 0 for an absent part */
    int64_t bad[MR_PART_COUNT];   /* values of features that are not finite */
} reader;

/* Does this process open the file? */
static bool is_reading(const reader *r) { return !r->is_rank0 || !r->comm || r->comm->rank == 0; }

static mr_status agree(mr_comm *comm, mr_status st)
{
    return comm && comm->size > 1 ? mr_comm_agree(comm, st) : st;
}

/* ---- bytes ---- */

static const unsigned char signature[8] = {0x89, 'H', 'D', 'F', '\r', '\n', 0x1A, '\n'};

bool mr_h5_is_hdf5(const char *path)
{
    unsigned char b[8];
    int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC); /* a pipe must not wait */
    if (fd < 0) return false;
    bool is = read(fd, b, 8) == 8 && memcmp(b, signature, 8) == 0;
    close(fd);
    return is;
}

static mr_status check_signature(const reader *r, const unsigned char b[9], ssize_t n)
{
    MR_CHECK(n == 9 && memcmp(b, signature, 8) == 0, MR_ERR_DATA,
             "%s is not an HDF5 file; make a data set with `mealrec-dist import`", r->path);
    MR_CHECK(b[8] == 2 || b[8] == 3, MR_ERR_DATA,
             "%s has HDF5 superblock version %d; 2 or 3 is accepted; make the data set with "
             "`mealrec-dist import`",
             r->path, b[8]);
    return MR_OK;
}

static mr_status check_bytes(reader *r)
{
    unsigned char b[9];
    struct stat sb;
    int fd = open(r->path, O_RDONLY | O_NONBLOCK | O_CLOEXEC); /* a pipe must not wait */
    MR_CHECK(fd >= 0, errno == ENOENT || errno == ENOTDIR ? MR_ERR_NO_INPUT : MR_ERR_IO,
             "data set %s cannot be opened: %s", r->path, strerror(errno));
    bool ok = fstat(fd, &sb) == 0 && S_ISREG(sb.st_mode);
    ssize_t n = ok ? pread(fd, b, sizeof b, 0) : 0;
    mr_status st = ok ? check_signature(r, b, n)
                      : MR_RAISE(MR_ERR_DATA, "data set %s is not a regular file", r->path);
    if (st == MR_OK) st = mr_h5_structure_check(fd, sb.st_size, r->path);
    close(fd);
    r->file_bytes = sb.st_size;
    return st;
}

/* ---- metadata ---- */

/* A scalar attribute of exactly the given type. */
static mr_status read_attr(const reader *r, hid_t where, const char *name, int kind, void *out)
{
    hid_t want = mr_h5_attr_type(kind), a = -1, type = -1, space = -1;
    bool ok = H5Aexists(where, name) > 0 && (a = H5Aopen(where, name, H5P_DEFAULT)) >= 0 &&
              (type = H5Aget_type(a)) >= 0 && H5Tequal(type, want) > 0 &&
              (space = H5Aget_space(a)) >= 0 && H5Sget_simple_extent_type(space) == H5S_SCALAR &&
              H5Aread(a, want, out) >= 0;
    if (space >= 0) H5Sclose(space);
    if (type >= 0) H5Tclose(type);
    if (a >= 0) H5Aclose(a);
    H5Tclose(want);
    MR_CHECK(
        ok, MR_ERR_DATA,
        "%s: attribute %s is missing or not of the type of a %s data set; make the data set with "
        "`mealrec-dist import`",
        r->path, name, MR_DATASET_SCHEMA);
    return MR_OK;
}

static mr_status read_header(reader *r, hid_t file)
{
    for (int i = 0; i < MR_H5_ATTRS; i++)
        MR_TRY(read_attr(r, file, mr_h5_attrs[i].name, mr_h5_attrs[i].kind,
                         (char *)&r->h + mr_h5_attrs[i].offset));
    mr_h5_header *h = &r->h;
    MR_CHECK(strncmp(h->schema, MR_DATASET_SCHEMA, MR_H5_TEXT) == 0, MR_ERR_DATA,
             "%s: schema is not \"%s\"", r->path, MR_DATASET_SCHEMA);
    MR_CHECK(h->version == MR_DATASET_SCHEMA_VERSION, MR_ERR_DATA,
             "%s: schema version %u; this program reads version %d; import the data again", r->path,
             h->version, MR_DATASET_SCHEMA_VERSION);
    MR_CHECK(h->is_synthetic <= 1 && memchr(h->name, 0, MR_H5_TEXT), MR_ERR_DATA,
             "%s: attributes name or is_synthetic are damaged", r->path);
    MR_CHECK(h->n_users >= 1 && h->n_users <= MR_MAX_USERS && h->n_items >= 1 &&
                 h->n_items <= MR_MAX_ITEMS && h->n_inter >= 1 && h->n_inter <= MR_MAX_INTER,
             MR_ERR_DATA, "%s: %lld users, %lld items, %lld interactions are outside the limits",
             r->path, (long long)h->n_users, (long long)h->n_items, (long long)h->n_inter);
    return MR_OK;
}

/* The layout of an open dataset: contiguous bytes inside this file and nothing else. */
static bool is_plain(const reader *r, hid_t ds, int64_t bytes)
{
    hid_t plist = H5Dget_create_plist(ds);
    if (plist < 0) return false;
    bool ok = H5Pget_layout(plist) == H5D_CONTIGUOUS && H5Pget_nfilters(plist) == 0 &&
              H5Pget_external_count(plist) == 0;
    H5Pclose(plist);
    if (!ok || H5Dget_storage_size(ds) != (hsize_t)bytes) return false;
    haddr_t at = H5Dget_offset(ds);
    return at != HADDR_UNDEF && at <= (haddr_t)r->file_bytes &&
           (haddr_t)bytes <= (haddr_t)r->file_bytes - at;
}

/* Dims against limits, and the number of bytes without overflow. want[i] < 0: free, up to -want[i].
 */
static mr_status check_dims(const reader *r, mr_part *p, hid_t space, const int64_t want[3])
{
    hsize_t dims[3] = {0};
    MR_CHECK(H5Sget_simple_extent_type(space) == H5S_SIMPLE &&
                 H5Sget_simple_extent_ndims(space) == p->rank &&
                 H5Sget_simple_extent_dims(space, dims, NULL) == p->rank,
             MR_ERR_DATA, "%s: %s must have %d dimensions", r->path, p->name, p->rank);
    int64_t bytes = (int64_t)mr_dtype_bytes(p->dtype);
    for (int i = 0; i < p->rank; i++) {
        int64_t hi = want[i] < 0 ? -want[i] : want[i], lo = want[i] < 0 ? 1 : hi;
        MR_CHECK(dims[i] >= (hsize_t)lo && dims[i] <= (hsize_t)hi, MR_ERR_DATA,
                 "%s: dimension %d of %s is %llu; %lld to %lld is accepted", r->path, i, p->name,
                 (unsigned long long)dims[i], (long long)lo, (long long)hi);
        p->dims[i] = (int64_t)dims[i];
        bool over = __builtin_mul_overflow(bytes, p->dims[i], &bytes);
        MR_CHECK(!over && bytes <= r->file_bytes, MR_ERR_DATA,
                 "%s: %s declares more bytes than the file has (%lld); the file is truncated or "
                 "damaged",
                 r->path, p->name, (long long)r->file_bytes);
    }
    return MR_OK;
}

static mr_status check_open_part(reader *r, hid_t ds, mr_part *p, const int64_t want[3],
                                 const mr_dtype *types, int n_types)
{
    hid_t type = H5Dget_type(ds), space = -1;
    bool known = false;
    for (int i = 0; i < n_types && type >= 0 && !known; i++) {
        hid_t t = mr_h5_type(types[i]);
        known = H5Tequal(type, t) > 0;
        H5Tclose(t);
        if (known) p->dtype = types[i];
    }
    if (type >= 0) H5Tclose(type);
    MR_CHECK(known, MR_ERR_DATA, "%s: %s has another element type than the schema", r->path,
             p->name);
    space = H5Dget_space(ds);
    mr_status st = space >= 0 ? check_dims(r, p, space, want)
                              : MR_RAISE(MR_ERR_DATA, "%s: %s is damaged: %s", r->path, p->name,
                                         mr_h5_reason());
    if (space >= 0) H5Sclose(space);
    MR_TRY(st);
    MR_CHECK(is_plain(r, ds, mr_part_bytes(p)), MR_ERR_DATA,
             "%s: %s must be contiguous, unfiltered and inside the file; the file is truncated, "
             "damaged or not made by `mealrec-dist import`",
             r->path, p->name);
    return MR_OK;
}

/* True when `name` is a hard link in the root group; *is_bad when it is something else. */
static bool has_link(hid_t file, const char *name, bool *is_bad)
{
    H5L_info_t info;
    *is_bad = false;
    htri_t there = H5Lexists(file, name, H5P_DEFAULT);
    if (there == 0) return false;
    *is_bad =
        there < 0 || H5Lget_info(file, name, &info, H5P_DEFAULT) < 0 || info.type != H5L_TYPE_HARD;
    return !*is_bad;
}

static const char *const part_names[MR_PART_COUNT] = {"offset", "items",    "visual",  "frames",
                                                      "text",   "user_ids", "item_ids"};

static mr_status read_part_header(reader *r, hid_t file, int i, int *n_found)
{
    static const int ranks[MR_PART_COUNT] = {1, 1, 2, 3, 2, 2, 2};
    static const mr_dtype fixed[MR_PART_COUNT] = {MR_I64, MR_I32, MR_F32, MR_F32,
                                                  MR_F32, MR_U8,  MR_U8};
    const mr_dtype floats[2] = {MR_F32, MR_F16};
    int64_t U = r->h.n_users, I = r->h.n_items, w = -MR_MAX_WIDTH;
    const int64_t want[MR_PART_COUNT][3] = {
        {U + 1}, {r->h.n_inter}, {I, w}, {I, -MR_MAX_FRAMES, w}, {I, w}, {U, -255}, {I, -255}};
    bool is_feature = i >= MR_PART_VISUAL && i <= MR_PART_TEXT, is_bad;
    mr_part *p = &r->parts[i];
    p->name = part_names[i];
    bool there = has_link(file, part_names[i], &is_bad);
    MR_CHECK(!is_bad, MR_ERR_DATA, "%s: %s is a link to elsewhere; only datasets are accepted",
             r->path, part_names[i]);
    if (!there) {
        MR_CHECK(is_feature, MR_ERR_DATA, "%s: dataset %s is missing", r->path, part_names[i]);
        return MR_OK;
    }
    (*n_found)++;
    H5O_info_t info;
    MR_CHECK(H5Oget_info_by_name2(file, part_names[i], &info, H5O_INFO_BASIC, H5P_DEFAULT) >= 0 &&
                 info.type == H5O_TYPE_DATASET,
             MR_ERR_DATA, "%s: %s is damaged or not a dataset: %s", r->path, part_names[i],
             mr_h5_reason());
    hid_t ds = H5Dopen2(file, part_names[i], H5P_DEFAULT);
    MR_CHECK(ds >= 0, MR_ERR_DATA, "%s: %s is damaged: %s", r->path, part_names[i], mr_h5_reason());
    p->rank = ranks[i];
    mr_status st =
        check_open_part(r, ds, p, want[i], is_feature ? floats : &fixed[i], is_feature ? 2 : 1);
    if (st == MR_OK) st = read_attr(r, ds, "xxh3", 4, &r->sums[i]);
    H5Dclose(ds);
    return st;
}

static void set_feature(mr_feature *f, const mr_part *p)
{
    f->dtype = p->dtype;
    f->count = p->rank == 3 ? p->dims[1] : 1;
    f->width = p->rank ? p->dims[p->rank - 1] : 0;
}

/* Everything but the arrays, by this rank alone. */
static mr_status read_metadata(reader *r)
{
    MR_TRY(check_bytes(r));
    hid_t fapl = H5Pcreate(H5P_FILE_ACCESS);
    H5Pset_fclose_degree(fapl, H5F_CLOSE_STRONG);
    hid_t file = H5Fopen(r->path, H5F_ACC_RDONLY, fapl);
    mr_status st = MR_OK; /* raised before H5Pclose, which clears HDF5's reason */
    if (file < 0)
        st = MR_RAISE(MR_ERR_DATA, "%s is damaged or truncated: %s", r->path, mr_h5_reason());
    H5Pclose(fapl);
    MR_TRY(st);
    int n_found = 0;
    st = read_header(r, file);
    for (int i = 0; i < MR_PART_COUNT && st == MR_OK; i++)
        st = read_part_header(r, file, i, &n_found);
    H5G_info_t g;
    if (st == MR_OK && (H5Gget_info(file, &g) < 0 || g.nlinks != (hsize_t)n_found))
        st = MR_RAISE(MR_ERR_DATA, "%s holds objects outside the schema of a data set", r->path);
    H5Fclose(file);
    MR_TRY(st);
    MR_CHECK(mr_h5_header_sum(&r->h, r->parts) == r->h.header_sum, MR_ERR_DATA,
             "%s: the checksum of names and shapes does not match; the file is damaged", r->path);
    return MR_OK;
}

/* Shapes of the data set from those of its parts. */
static void set_shapes(reader *r)
{
    mr_dataset *d = &r->d;
    memcpy(d->name, r->h.name, sizeof d->name);
    d->is_synthetic = r->h.is_synthetic;
    d->n_users = r->h.n_users;
    d->n_items = r->h.n_items;
    d->n_inter = r->h.n_inter;
    set_feature(&d->visual, &r->parts[MR_PART_VISUAL]);
    set_feature(&d->frames, &r->parts[MR_PART_FRAMES]);
    set_feature(&d->text, &r->parts[MR_PART_TEXT]);
    d->user_id_bytes = r->parts[MR_PART_USER_IDS].dims[1];
    d->item_id_bytes = r->parts[MR_PART_ITEM_IDS].dims[1];
}

/* What rank 0 knows of the file; every rank runs the same program, so structs travel as bytes. */
static mr_status share_metadata(reader *r)
{
    if (!r->is_rank0 || !r->comm || r->comm->size < 2) return MR_OK;
    const char *name[MR_PART_COUNT]; /* addresses differ between processes */
    for (int i = 0; i < MR_PART_COUNT; i++) name[i] = part_names[i];
    MR_TRY(r->comm->bcast(r->comm, &r->h, sizeof r->h, MR_U8, 0));
    MR_TRY(r->comm->bcast(r->comm, r->parts, sizeof r->parts, MR_U8, 0));
    for (int i = 0; i < MR_PART_COUNT; i++) r->parts[i].name = name[i];
    return r->comm->bcast(r->comm, r->sums, MR_PART_COUNT, MR_I64, 0);
}

/* ---- arrays ---- */

/* Refused before a byte is asked for: the kernel promises more memory than it has, and a rank that
 * is killed later has no last word. */
static mr_status fits(const reader *r, int local_ranks)
{
    const char *of_host, *of_process;
    int64_t need = 0, host = mr_host_memory_free("", &of_host);
    int64_t own = mr_process_memory_free(&of_process);
    char name[256] = "this host";
    gethostname(name, sizeof name - 1);
    for (int i = 0; i < MR_PART_COUNT; i++) need += mr_part_bytes(&r->parts[i]);
    const double mib = 1048576.0;
    int rank = r->comm ? r->comm->rank : 0;
    MR_CHECK(
        need <= own, MR_ERR_MEMORY,
        "%s does not fit: it takes %.1f MiB on every rank, but rank %d on %s may take %.1f MiB "
        "(%s)",
        r->path, (double)need / mib, rank, name, (double)own / mib, of_process);
    MR_CHECK(need <= host / local_ranks, MR_ERR_MEMORY,
             "%s does not fit: it takes %.1f MiB on every rank, %.1f MiB for the %d ranks of %s "
             "(rank %d is one of them), but %.1f MiB are left (%s); start fewer ranks a host",
             r->path, (double)need / mib, (double)need * local_ranks / mib, local_ranks, name, rank,
             (double)host / mib, of_host);
    return MR_OK;
}

static mr_status check_fits(const reader *r)
{
    mr_comm *host = NULL;
    int local_ranks = 1;
    if (r->comm && r->comm->size > 1) {
        MR_TRY(r->comm->split_host(r->comm, &host));
        local_ranks = host->size;
        mr_comm_destroy(&host);
    }
    return agree(r->comm, fits(r, local_ranks));
}

static mr_status alloc_parts(reader *r)
{
    mr_dataset *d = &r->d;
    void **slot[MR_PART_COUNT] = {(void **)&d->offset,  (void **)&d->items, &d->visual.data,
                                  &d->frames.data,      &d->text.data,      (void **)&d->user_ids,
                                  (void **)&d->item_ids};
    for (int i = 0; i < MR_PART_COUNT; i++) {
        if (!r->parts[i].rank) continue;
        MR_TRY(mr_alloc(slot[i], mr_part_bytes(&r->parts[i]), 1, r->parts[i].name));
        mr_mem_touch(*slot[i]);
        r->parts[i].data = *slot[i];
    }
    return MR_OK;
}

/* Rows first..first+n-1 (n may be 0: a rank without a share still takes part). */
static bool read_rows(hid_t ds, hid_t type, hid_t dxpl, const mr_part *p, int64_t first, int64_t n)
{
    hsize_t start[3] = {(hsize_t)first, 0, 0}, count[3] = {(hsize_t)n};
    int64_t row_bytes = mr_part_bytes(p) / p->dims[0];
    for (int i = 1; i < p->rank; i++) count[i] = (hsize_t)p->dims[i];
    hsize_t mem[3] = {(hsize_t)(n ? n : 1), count[1], count[2]};
    hid_t fs = H5Dget_space(ds), ms = H5Screate_simple(p->rank, mem, NULL);
    bool ok = fs >= 0 && ms >= 0;
    if (ok && n)
        ok = H5Sselect_hyperslab(fs, H5S_SELECT_SET, start, NULL, count, NULL) >= 0;
    else if (ok)
        ok = H5Sselect_none(fs) >= 0 && H5Sselect_none(ms) >= 0;
    ok = ok && H5Dread(ds, type, ms, fs, dxpl, (char *)p->data + first * row_bytes) >= 0;
    if (ms >= 0) H5Sclose(ms);
    if (fs >= 0) H5Sclose(fs);
    return ok;
}

/* Rows [first, first + n), a share of them by each rank and then gathered in place, or by rank 0
 * and then sent to the others, or by this process alone. */
static mr_status read_slice(const reader *r, hid_t ds, hid_t type, hid_t dxpl, const mr_part *p,
                            int64_t first, int64_t n, int64_t *counts)
{
    int64_t row_bytes = mr_part_bytes(p) / p->dims[0];
    int size = r->shared ? r->shared->size : 1, rank = r->shared ? r->shared->rank : 0;
    int64_t lo = n * rank / size, hi = n * (rank + 1) / size;
    char *base = (char *)p->data + first * row_bytes;
    mr_status st = MR_OK;
    if (is_reading(r) && !read_rows(ds, type, dxpl, p, first + lo, hi - lo))
        st = MR_RAISE(MR_ERR_IO, "%s: rows %lld to %lld of %s cannot be read: %s", r->path,
                      (long long)(first + lo), (long long)(first + hi), p->name, mr_h5_reason());
    if (r->is_rank0) {
        MR_TRY(agree(r->comm, st));
        return r->comm ? r->comm->bcast(r->comm, base, n * row_bytes, MR_U8, 0) : MR_OK;
    }
    if (!r->shared) return st;
    MR_TRY(agree(r->shared, st));
    for (int k = 0; k < size; k++) counts[k] = (n * (k + 1) / size - n * k / size) * row_bytes;
    return r->shared->allgatherv(r->shared, base + lo * row_bytes, base, counts, MR_U8);
}

/* Bytes that have arrived: into the checksum, and how many values are not finite. In blocks, so
 * that memory is passed once. */
static int64_t look_at(const mr_part *p, int64_t first, int64_t bytes, XXH3_state_t *hash)
{
    const int64_t block = 1 << 18, end = first + bytes, width = (int64_t)mr_dtype_bytes(p->dtype);
    int64_t bad = 0;
    for (int64_t i = first; i < end; i += block) {
        int64_t n = end - i < block ? end - i : block;
        XXH3_64bits_update(hash, (const char *)p->data + i, (size_t)n);
        bad += mr_count_not_finite((const char *)p->data + i, p->dtype, n / width);
    }
    return bad;
}

/* A part in slices, each checked as soon as it is there. */
static mr_status read_part(reader *r, hid_t file, int part, XXH3_state_t *hash, int64_t *counts)
{
    const mr_part *p = &r->parts[part];
    hid_t ds = -1, type = mr_h5_type(p->dtype), dxpl = H5Pcreate(H5P_DATASET_XFER);
    mr_status st = MR_OK;
    if (is_reading(r) && (ds = H5Dopen2(file, p->name, H5P_DEFAULT)) < 0)
        st = MR_RAISE(MR_ERR_DATA, "%s: %s cannot be opened: %s", r->path, p->name, mr_h5_reason());
    if (r->shared) H5Pset_dxpl_mpio(dxpl, H5FD_MPIO_COLLECTIVE);
    if (r->shared || r->is_rank0) st = agree(r->comm, st);
    /* With others at most 1 GiB over all ranks: no call and no message comes near 2 GiB. */
    int64_t row = mr_part_bytes(p) / p->dims[0];
    int64_t most = r->shared ? MR_H5_SLICE_BYTES : r->is_rank0 ? RANK0_BYTES : ALONE_BYTES;
    int64_t step = row < most ? most / row : 1;
    XXH3_64bits_reset(hash);
    for (int64_t i = 0; i < p->dims[0] && st == MR_OK; i += step) {
        int64_t n = i + step < p->dims[0] ? step : p->dims[0] - i;
        st = read_slice(r, ds, type, dxpl, p, i, n, counts);
        if (st == MR_OK) r->bad[part] += look_at(p, i * row, n * row, hash);
    }
    r->seen[part] = XXH3_64bits_digest(hash);
    H5Pclose(dxpl);
    H5Tclose(type);
    if (ds >= 0) H5Dclose(ds);
    return st;
}

static mr_status read_parts(reader *r, XXH3_state_t *hash, int64_t *counts)
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
    for (int i = 0; i < MR_PART_COUNT && st == MR_OK; i++)
        if (r->parts[i].rank) st = read_part(r, file, i, hash, counts);
    if (file >= 0) H5Fclose(file);
    if (dup != MPI_COMM_NULL) MPI_Comm_free(&dup);
    return st;
}

static mr_status read_arrays(reader *r)
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

static mr_status verify(reader *r)
{
    uint64_t total = XXH3_64bits(r->seen, sizeof r->seen);
    for (int i = 0; i < MR_PART_COUNT; i++)
        MR_CHECK(r->seen[i] == r->sums[i], MR_ERR_DATA,
                 "%s: the checksum of %s does not match; the file is damaged", r->path,
                 r->parts[i].name);
    MR_CHECK(total == r->h.checksum, MR_ERR_DATA,
             "%s: the checksum over all datasets does not match; the file is damaged", r->path);
    r->d.checksum = total;
    MR_TRY(mr_dataset_check_form(&r->d, r->path));
    for (int i = MR_PART_VISUAL; i <= MR_PART_TEXT; i++)
        MR_TRY(mr_check_finite(r->bad[i], part_names[i], r->path));
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
static mr_status same_everywhere(const reader *r, mr_comm *comm)
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

static mr_status read_whole(mr_dataset *out, reader *r)
{
    mr_status st;
    mr_h5_quiet();
    MR_TRY_GOTO(agree(r->comm, is_reading(r) ? read_metadata(r) : MR_OK), st, err);
    MR_TRY_GOTO(share_metadata(r), st, err);
    MR_TRY_GOTO(same_everywhere(r, r->comm), st, err);
    set_shapes(r);
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

mr_status mr_h5_dataset_read(mr_dataset *out, const char *path, mr_comm *comm)
{
    reader r = {.path = path, .comm = comm, .shared = sharing(comm)};
    return read_whole(out, &r);
}

mr_status mr_h5_dataset_read_rank0(mr_dataset *out, const char *path, mr_comm *comm)
{
    reader r = {.path = path, .comm = comm, .is_rank0 = true};
    return read_whole(out, &r);
}
