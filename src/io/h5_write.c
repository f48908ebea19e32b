/* Writer of data set files: one process, serial HDF5 (collective writes that fail can hang in
 * close). What it is not: reading. Invariants: the final name appears only when the whole file is
 * on disk; libver bounds are fixed to 1.10, whose object headers carry their own checksums. */
#include "io/h5_dataset.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "io/h5_schema.h"

static mr_status write_attr(hid_t where, const char *name, hid_t type, const void *value)
{
    hid_t space = H5Screate(H5S_SCALAR);
    hid_t a = space >= 0 ? H5Acreate2(where, name, type, space, H5P_DEFAULT, H5P_DEFAULT) : -1;
    bool ok = a >= 0 && H5Awrite(a, type, value) >= 0;
    if (a >= 0) ok = H5Aclose(a) >= 0 && ok;
    if (space >= 0) H5Sclose(space);
    MR_CHECK(ok, MR_ERR_IO, "attribute %s cannot be written: %s", name, mr_h5_reason());
    return MR_OK;
}

static mr_status write_header(hid_t file, const mr_h5_header *h)
{
    for (int i = 0; i < MR_H5_ATTRS; i++) {
        hid_t type = mr_h5_attr_type(mr_h5_attrs[i].kind);
        mr_status st =
            write_attr(file, mr_h5_attrs[i].name, type, (const char *)h + mr_h5_attrs[i].offset);
        if (type >= 0) H5Tclose(type);
        MR_TRY(st);
    }
    return MR_OK;
}

/* Rows first..first+n-1 of a dataset of any rank. */
static bool write_rows(hid_t ds, hid_t type, const mr_part *p, int64_t first, int64_t n)
{
    hsize_t start[3] = {(hsize_t)first, 0, 0}, count[3] = {(hsize_t)n};
    int64_t row_elems = 1;
    for (int i = 1; i < p->rank; i++) {
        count[i] = (hsize_t)p->dims[i];
        row_elems *= p->dims[i];
    }
    const char *from =
        (const char *)p->data + first * row_elems * (int64_t)mr_dtype_bytes(p->dtype);
    hid_t fs = H5Dget_space(ds), ms = H5Screate_simple(p->rank, count, NULL);
    bool ok = fs >= 0 && ms >= 0 &&
              H5Sselect_hyperslab(fs, H5S_SELECT_SET, start, NULL, count, NULL) >= 0 &&
              H5Dwrite(ds, type, ms, fs, H5P_DEFAULT, from) >= 0;
    if (ms >= 0) H5Sclose(ms);
    if (fs >= 0) H5Sclose(fs);
    return ok;
}

static mr_status write_part(hid_t file, const mr_part *p, uint64_t sum)
{
    hsize_t dims[3];
    for (int i = 0; i < p->rank; i++) dims[i] = (hsize_t)p->dims[i];
    hid_t type = mr_h5_type(p->dtype), space = H5Screate_simple(p->rank, dims, NULL), ds = -1;
    hid_t plist = H5Pcreate(H5P_DATASET_CREATE);
    bool ok = type >= 0 && space >= 0 && plist >= 0 && H5Pset_layout(plist, H5D_CONTIGUOUS) >= 0 &&
              H5Pset_alloc_time(plist, H5D_ALLOC_TIME_EARLY) >= 0 &&
              H5Pset_fill_time(plist, H5D_FILL_TIME_NEVER) >= 0 &&
              H5Pset_obj_track_times(plist, false) >= 0 &&
              (ds = H5Dcreate2(file, p->name, type, space, H5P_DEFAULT, plist, H5P_DEFAULT)) >= 0;
    int64_t row = mr_part_bytes(p) / p->dims[0];
    int64_t step = row < MR_H5_SLICE_BYTES ? MR_H5_SLICE_BYTES / row : 1;
    for (int64_t i = 0; ok && i < p->dims[0]; i += step)
        ok = write_rows(ds, type, p, i, i + step < p->dims[0] ? step : p->dims[0] - i);
    mr_status st = ok ? MR_OK
                      : MR_RAISE(MR_ERR_IO, "%s (%lld bytes) cannot be written: %s", p->name,
                                 (long long)mr_part_bytes(p), mr_h5_reason());
    hid_t u64 = mr_h5_attr_type(4);
    if (st == MR_OK) st = write_attr(ds, "xxh3", u64, &sum);
    if (u64 >= 0) H5Tclose(u64);
    if (ds >= 0 && H5Dclose(ds) < 0 && st == MR_OK)
        st = MR_RAISE(MR_ERR_IO, "%s cannot be closed: %s", p->name, mr_h5_reason());
    if (plist >= 0) H5Pclose(plist);
    if (space >= 0) H5Sclose(space);
    if (type >= 0) H5Tclose(type);
    return st;
}

/* An empty file whose layout depends on nothing but the data. */
static hid_t create_file(const char *tmp, const char *path)
{
    hid_t fapl = H5Pcreate(H5P_FILE_ACCESS), fcpl = H5Pcreate(H5P_FILE_CREATE), file = -1;
    bool ok = fapl >= 0 && fcpl >= 0 &&
              H5Pset_libver_bounds(fapl, H5F_LIBVER_V110, H5F_LIBVER_V110) >= 0 &&
              H5Pset_fclose_degree(fapl, H5F_CLOSE_STRONG) >= 0 &&
              H5Pset_meta_block_size(fapl, 1) >= 0 && /* no free space between objects */
              H5Pset_small_data_block_size(fapl, 1) >= 0 &&
              /* Attributes stay in the object header: a heap has bytes without a checksum. */
              H5Pset_attr_phase_change(fcpl, 16, 12) >= 0 &&
              H5Pset_obj_track_times(fcpl, false) >= 0; /* same data, same bytes at any time */
    if (ok) file = H5Fcreate(tmp, H5F_ACC_EXCL, fcpl, fapl);
    if (file < 0) (void)MR_RAISE(MR_ERR_IO, "%s cannot be created: %s", path, mr_h5_reason());
    if (fcpl >= 0) H5Pclose(fcpl);
    if (fapl >= 0) H5Pclose(fapl);
    return file;
}

static mr_status write_file(const char *tmp, const char *path, const mr_h5_header *h,
                            const mr_part *parts, const uint64_t *sums)
{
    hid_t file = create_file(tmp, path);
    if (file < 0) return MR_ERR_IO;
    mr_status st = write_header(file, h);
    for (int i = 0; i < MR_PART_COUNT && st == MR_OK; i++)
        if (parts[i].rank) st = write_part(file, &parts[i], sums[i]);
    if (st == MR_OK && H5Fflush(file, H5F_SCOPE_GLOBAL) < 0)
        st = MR_RAISE(MR_ERR_IO, "%s cannot be flushed: %s", path, mr_h5_reason());
    if (H5Fclose(file) < 0 && st == MR_OK)
        st = MR_RAISE(MR_ERR_IO, "%s cannot be closed: %s", path, mr_h5_reason());
    return st;
}

/* fsync of a file or folder by name; path is what a message calls it. */
static mr_status sync_path(const char *at, const char *path, int flags)
{
    int fd = open(at, flags | O_CLOEXEC);
    MR_CHECK(fd >= 0, MR_ERR_IO, "%s cannot be opened to sync it: %s", path, strerror(errno));
    int rc = fsync(fd), err = errno;
    /* Some file systems have no fsync of folders; that is not a failed write. */
    if (rc != 0 && (flags & O_DIRECTORY) && err == EINVAL) rc = 0;
    if (close(fd) != 0 && rc == 0) {
        rc = -1;
        err = errno;
    }
    MR_CHECK(rc == 0, MR_ERR_IO, "%s cannot be synced: %s", path, strerror(err));
    return MR_OK;
}

static mr_status publish(const char *tmp, const char *path, bool force)
{
    MR_TRY(sync_path(tmp, path, O_RDONLY));
    if (force) {
        MR_CHECK(rename(tmp, path) == 0, MR_ERR_IO, "%s cannot be put in place: %s", path,
                 strerror(errno));
    } else {
        /* link fails when the name exists, rename would not. */
        int rc = link(tmp, path);
        MR_CHECK(rc == 0 || errno != EEXIST, MR_ERR_USAGE,
                 "%s exists and was not touched; choose another --out or add --force", path);
        if (rc != 0)
            rc = rename(tmp, path); /* a file system without hard links */
        else
            unlink(tmp);
        MR_CHECK(rc == 0, MR_ERR_IO, "%s cannot be put in place: %s", path, strerror(errno));
    }
    char dir[4096];
    snprintf(dir, sizeof dir, "%s", path);
    char *slash = strrchr(dir, '/');
    if (slash == dir)
        slash[1] = '\0';
    else if (slash)
        *slash = '\0';
    else
        snprintf(dir, sizeof dir, ".");
    return sync_path(dir, dir, O_RDONLY | O_DIRECTORY);
}

/* Is there room? HDF5 1.10 deals badly with a disk that fills up, so it is asked beforehand:
 * reserve the bytes in a file of the temporary name, then remove it. */
static mr_status check_room(const char *tmp, const char *path, const mr_part *parts)
{
    int64_t bytes = 65536; /* more than all headers */
    for (int i = 0; i < MR_PART_COUNT; i++) bytes += mr_part_bytes(&parts[i]);
    int fd = open(tmp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    MR_CHECK(fd >= 0, errno == ENOENT ? MR_ERR_USAGE : MR_ERR_IO, "%s cannot be created: %s", path,
             strerror(errno));
    int err = posix_fallocate(fd, 0, bytes);
    close(fd);
    unlink(tmp);
    MR_CHECK(err == 0 || err == EOPNOTSUPP || err == EINVAL, MR_ERR_IO,
             "no room for the %lld bytes of %s: %s", (long long)bytes, path, strerror(err));
    return MR_OK;
}

mr_status mr_h5_check_out(const char *path, bool force)
{
    struct stat sb;
    char folder[4096];
    const char *slash = strrchr(path, '/');
    snprintf(folder, sizeof folder, "%.*s", slash ? (int)(slash - path) + 1 : 1,
             slash ? path : ".");
    MR_CHECK(stat(folder, &sb) == 0 && S_ISDIR(sb.st_mode), MR_ERR_USAGE,
             "%s cannot be created: there is no folder %s; make it first", path, folder);
    if (lstat(path, &sb) != 0) return MR_OK;
    MR_CHECK(S_ISREG(sb.st_mode), MR_ERR_USAGE, "%s is not a regular file; choose another --out",
             path);
    MR_CHECK(force, MR_ERR_USAGE,
             "%s exists and was not touched; choose another --out or add --force", path);
    return MR_OK;
}

mr_status mr_h5_dataset_write(mr_dataset *d, const char *path, bool force)
{
    mr_h5_quiet();
    char tmp[4096];
    int n = snprintf(tmp, sizeof tmp, "%s.tmp-%ld", path, (long)getpid());
    MR_CHECK(n > 0 && (size_t)n < sizeof tmp, MR_ERR_USAGE, "the name of the output is too long");
    MR_TRY(mr_h5_check_out(path, force));
    MR_TRY(mr_dataset_check(d, path));

    mr_part parts[MR_PART_COUNT];
    uint64_t sums[MR_PART_COUNT];
    mr_dataset_parts(d, parts);
    MR_TRY(check_room(tmp, path, parts));
    d->checksum = mr_dataset_sums(d, sums);
    mr_h5_header h;
    memset(&h, 0, sizeof h);
    snprintf(h.schema, sizeof h.schema, "%s", MR_DATASET_SCHEMA);
    memcpy(h.name, d->name, strnlen(d->name, sizeof d->name - 1));
    h.version = MR_DATASET_SCHEMA_VERSION;
    h.is_synthetic = d->is_synthetic;
    h.n_users = d->n_users;
    h.n_items = d->n_items;
    h.n_inter = d->n_inter;
    h.checksum = d->checksum;
    h.header_sum = mr_h5_header_sum(&h, parts);

    mr_status st = write_file(tmp, path, &h, parts, sums);
    if (st == MR_OK) st = publish(tmp, path, force);
    if (st != MR_OK) unlink(tmp);
    return st;
}
