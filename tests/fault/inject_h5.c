/* Wrappers of the HDF5 functions that src/io calls; tests.cmake takes the list from here. */
#include <hdf5.h>

#include "inject.h"

static int64_t n_open;

int64_t inject_h5_open(void) { return n_open; }

/* Fails without doing anything. */
#define H5_CALL(ret, call, params, args)                                                           \
    ret __real_##call params;                                                                      \
    ret __wrap_##call params;                                                                      \
    ret __wrap_##call params                                                                       \
    {                                                                                              \
        return inject_now(INJECT_HDF5, #call) ? (ret)-1 : __real_##call args;                      \
    }
/* The same for a call that makes an object. */
#define H5_MAKE(call, params, args)                                                                \
    hid_t __real_##call params;                                                                    \
    hid_t __wrap_##call params;                                                                    \
    hid_t __wrap_##call params                                                                     \
    {                                                                                              \
        hid_t id = inject_now(INJECT_HDF5, #call) ? -1 : __real_##call args;                       \
        n_open += id >= 0;                                                                         \
        return id;                                                                                 \
    }
/* Closes, then fails. */
#define H5_CLOSE(call)                                                                             \
    herr_t __real_##call(hid_t id);                                                                \
    herr_t __wrap_##call(hid_t id);                                                                \
    herr_t __wrap_##call(hid_t id)                                                                 \
    {                                                                                              \
        herr_t rc = __real_##call(id);                                                             \
        n_open -= rc >= 0;                                                                         \
        return inject_now(INJECT_HDF5, #call) ? -1 : rc;                                           \
    }

H5_CLOSE(H5Aclose)
H5_CLOSE(H5Dclose)
H5_CLOSE(H5Fclose)
H5_CLOSE(H5Pclose)
H5_CLOSE(H5Sclose)
H5_CLOSE(H5Tclose)
H5_MAKE(H5Acreate2, (hid_t o, const char *n, hid_t t, hid_t s, hid_t p, hid_t q),
        (o, n, t, s, p, q))
H5_CALL(htri_t, H5Aexists, (hid_t o, const char *n), (o, n))
H5_MAKE(H5Aget_space, (hid_t o), (o))
H5_MAKE(H5Aget_type, (hid_t o), (o))
H5_MAKE(H5Aopen, (hid_t o, const char *n, hid_t p), (o, n, p))
H5_CALL(herr_t, H5Aread, (hid_t o, hid_t t, void *b), (o, t, b))
H5_CALL(herr_t, H5Awrite, (hid_t o, hid_t t, const void *b), (o, t, b))
H5_MAKE(H5Dcreate2, (hid_t o, const char *n, hid_t t, hid_t s, hid_t p, hid_t q, hid_t r),
        (o, n, t, s, p, q, r))
H5_MAKE(H5Dget_create_plist, (hid_t o), (o))
H5_CALL(haddr_t, H5Dget_offset, (hid_t o), (o))
H5_MAKE(H5Dget_space, (hid_t o), (o))
H5_CALL(hsize_t, H5Dget_storage_size, (hid_t o), (o))
H5_MAKE(H5Dget_type, (hid_t o), (o))
H5_MAKE(H5Dopen2, (hid_t o, const char *n, hid_t p), (o, n, p))
H5_CALL(herr_t, H5Dread, (hid_t o, hid_t t, hid_t m, hid_t f, hid_t p, void *b), (o, t, m, f, p, b))
H5_CALL(herr_t, H5Dwrite, (hid_t o, hid_t t, hid_t m, hid_t f, hid_t p, const void *b),
        (o, t, m, f, p, b))
H5_MAKE(H5Fcreate, (const char *n, unsigned f, hid_t p, hid_t q), (n, f, p, q))
H5_CALL(herr_t, H5Fflush, (hid_t o, H5F_scope_t s), (o, s))
H5_MAKE(H5Fopen, (const char *n, unsigned f, hid_t p), (n, f, p))
H5_CALL(herr_t, H5Gget_info, (hid_t o, H5G_info_t *g), (o, g))
H5_CALL(htri_t, H5Lexists, (hid_t o, const char *n, hid_t p), (o, n, p))
H5_CALL(herr_t, H5Lget_info, (hid_t o, const char *n, H5L_info_t *i, hid_t p), (o, n, i, p))
H5_CALL(herr_t, H5Oget_info_by_name2, (hid_t o, const char *n, H5O_info_t *i, unsigned f, hid_t p),
        (o, n, i, f, p))
H5_MAKE(H5Pcreate, (hid_t c), (c))
H5_CALL(int, H5Pget_external_count, (hid_t p), (p))
H5_CALL(H5D_layout_t, H5Pget_layout, (hid_t p), (p))
H5_CALL(int, H5Pget_nfilters, (hid_t p), (p))
H5_CALL(herr_t, H5Pset_alloc_time, (hid_t p, H5D_alloc_time_t t), (p, t))
H5_CALL(herr_t, H5Pset_attr_phase_change, (hid_t p, unsigned a, unsigned b), (p, a, b))
H5_CALL(herr_t, H5Pset_fclose_degree, (hid_t p, H5F_close_degree_t d), (p, d))
H5_CALL(herr_t, H5Pset_fill_time, (hid_t p, H5D_fill_time_t t), (p, t))
H5_CALL(herr_t, H5Pset_layout, (hid_t p, H5D_layout_t l), (p, l))
H5_CALL(herr_t, H5Pset_libver_bounds, (hid_t p, H5F_libver_t a, H5F_libver_t b), (p, a, b))
H5_CALL(herr_t, H5Pset_meta_block_size, (hid_t p, hsize_t n), (p, n))
H5_CALL(herr_t, H5Pset_obj_track_times, (hid_t p, hbool_t on), (p, on))
H5_CALL(herr_t, H5Pset_small_data_block_size, (hid_t p, hsize_t n), (p, n))
H5_MAKE(H5Screate, (H5S_class_t c), (c))
H5_MAKE(H5Screate_simple, (int n, const hsize_t *d, const hsize_t *m), (n, d, m))
H5_CALL(int, H5Sget_simple_extent_dims, (hid_t s, hsize_t *d, hsize_t *m), (s, d, m))
H5_CALL(int, H5Sget_simple_extent_ndims, (hid_t s), (s))
H5_CALL(H5S_class_t, H5Sget_simple_extent_type, (hid_t s), (s))
H5_CALL(herr_t, H5Sselect_hyperslab,
        (hid_t s, H5S_seloper_t o, const hsize_t *a, const hsize_t *b, const hsize_t *c,
         const hsize_t *d),
        (s, o, a, b, c, d))
H5_MAKE(H5Tcopy, (hid_t t), (t))
H5_CALL(htri_t, H5Tequal, (hid_t t, hid_t u), (t, u))
H5_CALL(herr_t, H5Tset_ebias, (hid_t t, size_t n), (t, n))
H5_CALL(herr_t, H5Tset_fields, (hid_t t, size_t a, size_t b, size_t c, size_t d, size_t e),
        (t, a, b, c, d, e))
H5_CALL(herr_t, H5Tset_size, (hid_t t, size_t n), (t, n))
H5_CALL(herr_t, H5Tset_strpad, (hid_t t, H5T_str_t s), (t, s))
