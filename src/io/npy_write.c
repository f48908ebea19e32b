/* .npy writer: the header is padded so that data starts at a multiple of 64 bytes. */
#include "io/npy_write.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "io/file.h"

struct mr_npy_writer {
    char path[MR_PATH], tmp[MR_PATH + 32];
    int fd;
    size_t elem_bytes;
    int64_t left; /* elements still to come */
};

static const char *descr(mr_dtype t)
{
    switch (t) {
    case MR_F32: return "<f4";
    case MR_F64: return "<f8";
    case MR_I32: return "<i4";
    case MR_I64: return "<i8";
    default: return NULL;
    }
}

static mr_status write_header(mr_npy_writer *w, mr_dtype dtype, int ndim, const int64_t *dim)
{
    char text[512] = "\x93NUMPY\x01";
    size_t at = 10; /* magic, version 1.0, u16 length */
    at += (size_t)snprintf(text + at, 400, "{'descr': '%s', 'fortran_order': False, 'shape': (",
                           descr(dtype));
    for (int i = 0; i < ndim; i++)
        at += (size_t)snprintf(text + at, 400 - at, "%lld,%s", (long long)dim[i],
                               i + 1 < ndim ? " " : "");
    at += (size_t)snprintf(text + at, 420 - at, "), }");
    size_t total = (at + 1 + 63) / 64 * 64;
    memset(text + at, ' ', total - at);
    text[total - 1] = '\n';
    text[8] = (char)((total - 10) & 255);
    text[9] = (char)((total - 10) >> 8);
    return mr_file_write_all(w->fd, text, total, w->path);
}

mr_status mr_npy_create(mr_npy_writer **out_p, const char *path, mr_dtype dtype, int ndim,
                        const int64_t *dim)
{
    mr_npy_writer *w = NULL;
    MR_CHECK(descr(dtype) && ndim >= 0 && ndim <= 4, MR_ERR_INTERNAL,
             "%s: element type %d with %d dimensions cannot be written", path, (int)dtype, ndim);
    MR_CHECK(strlen(path) < MR_PATH, MR_ERR_IO, "the path %.60s... is too long", path);
    MR_TRY(MR_ALLOC(&w, 1, "npy writer"));
    snprintf(w->path, sizeof w->path, "%s", path);
    snprintf(w->tmp, sizeof w->tmp, "%s.tmp-%d", path, (int)getpid());
    w->elem_bytes = mr_dtype_bytes(dtype);
    w->left = 1;
    for (int i = 0; i < ndim; i++) w->left *= dim[i];
    w->fd = open(w->tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    mr_status st = w->fd >= 0
                       ? write_header(w, dtype, ndim, dim)
                       : MR_RAISE(MR_ERR_IO, "%s cannot be created: %s", path, strerror(errno));
    if (st != MR_OK) {
        mr_npy_cancel(&w);
        return st;
    }
    *out_p = w;
    return MR_OK;
}

mr_status mr_npy_append(mr_npy_writer *w, const void *data, int64_t elements)
{
    MR_CHECK(elements <= w->left, MR_ERR_INTERNAL, "%s: %lld elements more than its shape holds",
             w->path, (long long)(elements - w->left));
    MR_TRY(mr_file_write_all(w->fd, data, (size_t)elements * w->elem_bytes, w->path));
    w->left -= elements;
    return MR_OK;
}

mr_status mr_npy_finish(mr_npy_writer **w_p)
{
    mr_npy_writer *w = *w_p;
    mr_status st = MR_OK;
    if (w->left != 0)
        st =
            MR_RAISE(MR_ERR_INTERNAL, "%s: %lld elements are missing", w->path, (long long)w->left);
    if (st == MR_OK && fsync(w->fd) != 0 && errno != EINVAL)
        st = MR_RAISE(MR_ERR_IO, "%s: fsync failed: %s", w->path, strerror(errno));
    int fd = w->fd;
    w->fd = -1;
    if (close(fd) != 0 && st == MR_OK)
        st = MR_RAISE(MR_ERR_IO, "%s: close failed: %s", w->path, strerror(errno));
    if (st == MR_OK && rename(w->tmp, w->path) != 0)
        st = MR_RAISE(MR_ERR_IO, "%s cannot be put in place: %s", w->path, strerror(errno));
    if (st != MR_OK) unlink(w->tmp);
    MR_FREE(*w_p);
    return st;
}

void mr_npy_cancel(mr_npy_writer **w_p)
{
    if (!*w_p) return;
    if ((*w_p)->fd >= 0) {
        close((*w_p)->fd);
        unlink((*w_p)->tmp);
    }
    MR_FREE(*w_p);
}
