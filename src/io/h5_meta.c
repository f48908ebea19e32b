/* Metadata of a data set file: bytes, structure, attributes, shapes, places; everything that can be
 * judged before memory is asked for.
 * What it is not: the arrays (h5_read.c). Invariant: one process alone, no collective, so a refused
 * file never leaves a rank in one. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io/h5_reader.h"
#include "io/h5_structure.h"

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

static mr_status check_signature(const mr_h5_reader *r, const unsigned char b[9], ssize_t n)
{
    MR_CHECK(n == 9 && memcmp(b, signature, 8) == 0, MR_ERR_DATA,
             "%s is not an HDF5 file; make a data set with `mealrec-dist import`", r->path);
    MR_CHECK(b[8] == 2 || b[8] == 3, MR_ERR_DATA,
             "%s has HDF5 superblock version %d; 2 or 3 is accepted; make the data set with "
             "`mealrec-dist import`",
             r->path, b[8]);
    return MR_OK;
}

static mr_status check_bytes(mr_h5_reader *r)
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
static mr_status read_attr(const mr_h5_reader *r, hid_t where, const char *name, int kind,
                           void *out)
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

static mr_status read_header(mr_h5_reader *r, hid_t file)
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
static bool is_plain(const mr_h5_reader *r, hid_t ds, int64_t bytes)
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
static mr_status check_dims(const mr_h5_reader *r, mr_part *p, hid_t space, const int64_t want[3])
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

static mr_status check_open_part(mr_h5_reader *r, hid_t ds, mr_part *p, const int64_t want[3],
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

const char *const mr_h5_part_names[MR_PART_COUNT] = {"offset", "items",    "visual",  "frames",
                                                     "text",   "user_ids", "item_ids"};

static mr_status read_part_header(mr_h5_reader *r, hid_t file, int i, int *n_found)
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
    p->name = mr_h5_part_names[i];
    bool there = has_link(file, mr_h5_part_names[i], &is_bad);
    MR_CHECK(!is_bad, MR_ERR_DATA, "%s: %s is a link to elsewhere; only datasets are accepted",
             r->path, mr_h5_part_names[i]);
    if (!there) {
        MR_CHECK(is_feature, MR_ERR_DATA, "%s: dataset %s is missing", r->path,
                 mr_h5_part_names[i]);
        return MR_OK;
    }
    (*n_found)++;
    H5O_info_t info;
    MR_CHECK(H5Oget_info_by_name2(file, mr_h5_part_names[i], &info, H5O_INFO_BASIC, H5P_DEFAULT) >=
                     0 &&
                 info.type == H5O_TYPE_DATASET,
             MR_ERR_DATA, "%s: %s is damaged or not a dataset: %s", r->path, mr_h5_part_names[i],
             mr_h5_reason());
    hid_t ds = H5Dopen2(file, mr_h5_part_names[i], H5P_DEFAULT);
    MR_CHECK(ds >= 0, MR_ERR_DATA, "%s: %s is damaged: %s", r->path, mr_h5_part_names[i],
             mr_h5_reason());
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
mr_status mr_h5_read_metadata(mr_h5_reader *r)
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
void mr_h5_set_shapes(mr_h5_reader *r)
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
