/* Operations of a recipe. What they return is not looked at: some fail, which is fine, since only
 * the reader is under test. */
#include "fuzz_h5.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

static const char *const names[MR_PART_COUNT] = {"offset", "items",    "visual",  "frames",
                                                 "text",   "user_ids", "item_ids"};
static const int ranks[MR_PART_COUNT] = {1, 1, 2, 3, 2, 2, 2};
static const mr_dtype types[MR_PART_COUNT] = {MR_I64, MR_I32, MR_F32, MR_F32, MR_F32, MR_U8, MR_U8};

static hid_t odd_type(int k)
{
    hid_t t = -1;
    switch (k % 10) {
    case 0:
        t = H5Tcopy(H5T_C_S1);
        H5Tset_size(t, H5T_VARIABLE);
        return t;
    case 1: return H5Tvlen_create(H5T_STD_I32LE);
    case 2: return H5Tcopy(H5T_STD_I64BE);
    case 3: return H5Tcopy(H5T_IEEE_F64LE);
    case 4:
        t = H5Tcreate(H5T_COMPOUND, 16);
        H5Tinsert(t, "a", 0, H5T_STD_I64LE);
        H5Tinsert(t, "b", 8, H5T_IEEE_F64LE);
        return t;
    case 5: return H5Tcreate(H5T_OPAQUE, 4);
    case 6: return H5Tcopy(H5T_STD_REF_OBJ);
    case 7: {
        hsize_t three = 3;
        return H5Tarray_create2(H5T_STD_I32LE, 1, &three);
    }
    case 8:
        t = H5Tcopy(H5T_C_S1);
        H5Tset_size(t, 4096);
        return t;
    default: return H5Tcopy(H5T_STD_U64LE);
    }
}

static void put_dataset(hid_t file, int i, hid_t type, int rank, const hsize_t *dims, hid_t plist)
{
    uint64_t zero = 0;
    hid_t space = rank ? H5Screate_simple(rank, dims, NULL) : H5Screate(H5S_SCALAR), a, s;
    H5Ldelete(file, names[i], H5P_DEFAULT);
    hid_t ds = H5Dcreate2(file, names[i], type, space, H5P_DEFAULT, plist, H5P_DEFAULT);
    H5Sclose(space);
    if (ds < 0) return;
    s = H5Screate(H5S_SCALAR);
    a = H5Acreate2(ds, "xxh3", H5T_STD_U64LE, s, H5P_DEFAULT, H5P_DEFAULT);
    H5Awrite(a, H5T_STD_U64LE, &zero);
    H5Aclose(a);
    H5Sclose(s);
    H5Dclose(ds);
}

static void dims_of(hid_t file, int i, hsize_t dims[3])
{
    hid_t ds = H5Dopen2(file, names[i], H5P_DEFAULT), s = ds >= 0 ? H5Dget_space(ds) : -1;
    dims[0] = dims[1] = dims[2] = 4;
    if (s >= 0 && H5Sget_simple_extent_ndims(s) == ranks[i])
        H5Sget_simple_extent_dims(s, dims, NULL);
    if (s >= 0) H5Sclose(s);
    if (ds >= 0) H5Dclose(ds);
}

/* Another layout: chunks, filters, inside the header, in another file, virtual. */
static void odd_layout(hid_t file, int i, int k)
{
    hsize_t dims[3], chunk[3] = {1, 1, 1};
    hid_t plist = H5Pcreate(H5P_DATASET_CREATE), type = mr_h5_type(types[i]);
    dims_of(file, i, dims);
    switch (k % 6) {
    case 0: H5Pset_chunk(plist, ranks[i], chunk); break;
    case 1:
        H5Pset_chunk(plist, ranks[i], dims);
        H5Pset_deflate(plist, 6);
        break;
    case 2: H5Pset_layout(plist, H5D_COMPACT); break;
    case 3: H5Pset_external(plist, "/etc/passwd", 0, H5F_UNLIMITED); break;
    case 4: {
        hid_t s = H5Screate_simple(ranks[i], dims, NULL);
        H5Pset_virtual(plist, s, "/etc/passwd", "x", s);
        H5Sclose(s);
        break;
    }
    default: H5Pset_alloc_time(plist, H5D_ALLOC_TIME_LATE);
    }
    put_dataset(file, i, type, ranks[i], dims, plist);
    H5Tclose(type);
    H5Pclose(plist);
}

static void odd_shape(hid_t file, int i, int k)
{
    hsize_t dims[3];
    hid_t plist = H5Pcreate(H5P_DATASET_CREATE), type = mr_h5_type(types[i]);
    int rank = ranks[i];
    H5Pset_alloc_time(plist, H5D_ALLOC_TIME_EARLY);
    dims_of(file, i, dims);
    switch (k % 5) {
    case 0: dims[k / 5 % rank] += 1; break;
    case 1: dims[k / 5 % rank] = 0; break;
    case 2: rank = k / 5 % 4; break;
    case 3: /* never allocated: a terabyte in a file of some kilobytes */
        dims[0] = UINT64_C(1) << 40;
        H5Pset_alloc_time(plist, H5D_ALLOC_TIME_LATE);
        break;
    default: dims[k / 5 % rank] = 1 + (hsize_t)k;
    }
    put_dataset(file, i, type, rank, dims, plist);
    H5Tclose(type);
    H5Pclose(plist);
}

static void odd_link(hid_t file, int i, int k)
{
    if (k % 6 < 5) H5Ldelete(file, names[i], H5P_DEFAULT);
    switch (k % 6) {
    case 0: H5Lcreate_soft("/items", file, names[i], H5P_DEFAULT, H5P_DEFAULT); break;
    case 1: H5Lcreate_external("/etc/passwd", "x", file, names[i], H5P_DEFAULT, H5P_DEFAULT); break;
    case 2:
        H5Lcreate_hard(file, names[k / 6 % MR_PART_COUNT], file, names[i], H5P_DEFAULT,
                       H5P_DEFAULT);
        break;
    case 3: {
        hid_t g = H5Gcreate2(file, names[i], H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
        if (g >= 0) H5Gclose(g);
        break;
    }
    case 4: break; /* missing */
    default: H5Lcreate_soft(names[i], file, "more", H5P_DEFAULT, H5P_DEFAULT);
    }
}

static void odd_attr(hid_t file, int i, int k)
{
    const char *name = mr_h5_attrs[i % MR_H5_ATTRS].name;
    hsize_t two = 2;
    hid_t type = odd_type(k), space = k & 64   ? H5Screate(H5S_NULL)
                                      : k & 32 ? H5Screate_simple(1, &two, NULL)
                                               : H5Screate(H5S_SCALAR);
    H5Adelete(file, name);
    hid_t a =
        H5Acreate2(file, name, k & 16 ? H5T_STD_I64LE : type, space, H5P_DEFAULT, H5P_DEFAULT);
    if (a >= 0) H5Aclose(a);
    H5Sclose(space);
    H5Tclose(type);
}

static void attr_value(hid_t file, int i, int k)
{
    static const int64_t values[] = {0, 1, 2, -1, 7, 2147483647, 2147483648, INT64_MAX, INT64_MIN};
    const mr_h5_attr *what = &mr_h5_attrs[i % MR_H5_ATTRS];
    char text[MR_H5_TEXT] = {0};
    hid_t a = H5Aopen(file, what->name, H5P_DEFAULT), type = mr_h5_attr_type(what->kind);
    memcpy(text, &values[k % 9], 8);
    if (what->kind == 0) memset(text, k & 1 ? 'x' : 1, sizeof text - (size_t)(k & 2));
    if (a >= 0) H5Awrite(a, type, text);
    if (a >= 0) H5Aclose(a);
    H5Tclose(type);
}

/* All bytes of a small dataset of fixed-size elements; the caller frees. */
static uint8_t *bytes_of(hid_t ds, size_t *n, mr_part *p)
{
    hid_t type = H5Dget_type(ds), s = H5Dget_space(ds);
    uint8_t *b = NULL;
    hsize_t dims[3] = {1, 1, 1};
    hssize_t count = s >= 0 ? H5Sget_simple_extent_npoints(s) : -1;
    int rank = s >= 0 ? H5Sget_simple_extent_ndims(s) : -1;
    *n = type >= 0 && count > 0 ? (size_t)count * H5Tget_size(type) : 0;
    bool fits = rank >= 1 && rank <= 3 && count > 0 && count < FUZZ_BYTES && *n < 8 * FUZZ_BYTES &&
                (H5Tget_class(type) == H5T_INTEGER || H5Tget_class(type) == H5T_FLOAT);
    if (fits) {
        H5Sget_simple_extent_dims(s, dims, NULL);
        b = calloc(1, *n);
        if (H5Dread(ds, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, b) < 0) memset(b, 0, *n);
        p->rank = rank;
        for (int i = 0; i < rank; i++) p->dims[i] = (int64_t)dims[i];
    }
    if (s >= 0) H5Sclose(s);
    if (type >= 0) H5Tclose(type);
    return b;
}

static void change_data(hid_t file, int i, int k)
{
    static const int64_t values[] = {0, -1, 1, 3, INT32_MAX, INT64_MAX, INT64_MIN, 1000};
    const uint32_t nan = 0x7fc00000u;
    mr_part p;
    size_t n = 0;
    hid_t ds = H5Dopen2(file, names[i], H5P_DEFAULT);
    uint8_t *b = ds >= 0 ? bytes_of(ds, &n, &p) : NULL;
    size_t width = mr_dtype_bytes(types[i]);
    if (b && n >= width) {
        size_t at = (size_t)k * 7 % (n / width) * width;
        memcpy(b + at, &values[k % 8], width);
        if (types[i] == MR_F32 && k % 3 == 0) memcpy(b + at, &nan, 4);
        hid_t type = H5Dget_type(ds);
        H5Dwrite(ds, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, b);
        H5Tclose(type);
    }
    free(b);
    if (ds >= 0) H5Dclose(ds);
}

static void put_u64(hid_t where, const char *name, uint64_t v)
{
    if (H5Aexists(where, name) <= 0) return;
    hid_t a = H5Aopen(where, name, H5P_DEFAULT);
    if (a < 0) return;
    H5Awrite(a, H5T_STD_U64LE, &v);
    H5Aclose(a);
}

/* Our own checksums, made right for whatever the file holds now. */
static void make_right(hid_t file)
{
    mr_part parts[MR_PART_COUNT] = {0};
    uint64_t sums[MR_PART_COUNT] = {0};
    mr_h5_header h;
    memset(&h, 0, sizeof h);
    for (int i = 0; i < MR_PART_COUNT; i++) {
        size_t n = 0;
        hid_t ds =
            H5Lexists(file, names[i], H5P_DEFAULT) > 0 ? H5Dopen2(file, names[i], H5P_DEFAULT) : -1;
        uint8_t *b = ds >= 0 ? bytes_of(ds, &n, &parts[i]) : NULL;
        parts[i].dtype = types[i];
        if (b) {
            sums[i] = XXH3_64bits(b, n);
            put_u64(ds, "xxh3", sums[i]);
        }
        free(b);
        if (ds >= 0) H5Dclose(ds);
    }
    for (int i = 0; i < MR_H5_ATTRS; i++) {
        hid_t a = H5Aopen(file, mr_h5_attrs[i].name, H5P_DEFAULT);
        hid_t type = mr_h5_attr_type(mr_h5_attrs[i].kind), has = a >= 0 ? H5Aget_type(a) : -1;
        if (has >= 0 && H5Tequal(has, type) > 0)
            H5Aread(a, type, (char *)&h + mr_h5_attrs[i].offset);
        if (has >= 0) H5Tclose(has);
        if (a >= 0) H5Aclose(a);
        H5Tclose(type);
    }
    put_u64(file, "checksum", XXH3_64bits(sums, sizeof sums));
    put_u64(file, "header_xxh3", mr_h5_header_sum(&h, parts));
}

static void one(hid_t file, int what, int i, int k)
{
    switch (what % 8) {
    case 0: {
        hsize_t dims[3];
        hid_t t = odd_type(k);
        dims_of(file, i, dims);
        put_dataset(file, i, t, ranks[i], dims, H5P_DEFAULT);
        H5Tclose(t);
        return;
    }
    case 1: odd_layout(file, i, k); return;
    case 2: odd_shape(file, i, k); return;
    case 3: odd_link(file, i, k); return;
    case 4: odd_attr(file, i, k); return;
    case 5: attr_value(file, i, k); return;
    default: change_data(file, i, k); return;
    }
}

void fuzz_h5_cook(const char *path, const uint8_t *recipe, size_t n)
{
    hid_t fapl = H5Pcreate(H5P_FILE_ACCESS);
    H5Pset_libver_bounds(fapl, H5F_LIBVER_V110, H5F_LIBVER_V110);
    H5Pset_fclose_degree(fapl, H5F_CLOSE_STRONG);
    hid_t file = H5Fopen(path, H5F_ACC_RDWR, fapl);
    H5Pclose(fapl);
    fuzz_require(file >= 0, "the good file cannot be opened");
    for (size_t at = 1; at + 2 < n && at < 25; at += 3)
        one(file, recipe[at], recipe[at + 1] % MR_PART_COUNT, recipe[at + 2]);
    if (n && recipe[0] & 1) make_right(file);
    H5Fclose(file);
}
