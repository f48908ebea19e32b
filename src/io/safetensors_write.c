/* Safetensors writer: header from the declarations, then a strictly sequential stream.
 * Invariant: the bytes are hashed as they are written, so the checksum is of what was meant to be
 * on the disk and not of what a reader finds there. */
#include "io/safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/mem.h"
#include "io/json_build.h"

struct mr_st_writer {
    char path[MR_PATH], name[MR_PATH];
    int dir_fd, fd;
    json_t *header;
    XXH3_state_t *hash;
    int64_t header_bytes, data_bytes, written; /* header_bytes 0: not yet written */
};

const char *mr_st_dtype_name(mr_dtype t)
{
    switch (t) {
    case MR_F32: return "F32";
    case MR_F64: return "F64";
    case MR_F16: return "F16";
    case MR_BF16: return "BF16";
    case MR_I32: return "I32";
    case MR_I64: return "I64";
    case MR_U8: return "U8";
    case MR_U32: return "U32";
    }
    return "?";
}

bool mr_st_dtype_parse(const char *name, mr_dtype *out)
{
    for (mr_dtype t = MR_F32; t <= MR_U32; t++)
        if (!strcmp(name, mr_st_dtype_name(t))) {
            *out = t;
            return true;
        }
    return false;
}

mr_status mr_st_create(mr_st_writer **out_p, int dir_fd, const char *dir, const char *name)
{
    char path[MR_PATH];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    return mr_st_create_as(out_p, dir_fd, name, path);
}

mr_status mr_st_create_as(mr_st_writer **out_p, int dir_fd, const char *name, const char *path)
{
    mr_st_writer *w = NULL;
    MR_TRY(MR_ALLOC(&w, 1, "safetensors writer"));
    snprintf(w->path, sizeof w->path, "%s", path);
    snprintf(w->name, sizeof w->name, "%s", name);
    w->dir_fd = dir_fd;
    w->fd = openat(dir_fd, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0666);
    if (w->fd < 0) {
        mr_status st = MR_RAISE(MR_ERR_IO, "%s cannot be created: %s", w->path, strerror(errno));
        MR_FREE(w);
        return st;
    }
    w->header = json_object();
    w->hash = XXH3_createState();
    if (!w->header || !w->hash) {
        mr_st_cancel(&w);
        return MR_RAISE(MR_ERR_MEMORY, "no memory for a safetensors writer");
    }
    XXH3_128bits_reset(w->hash);
    *out_p = w;
    return MR_OK;
}

mr_status mr_st_declare(mr_st_writer *w, const char *name, mr_dtype dtype, int ndim,
                        const int64_t *dim)
{
    int64_t bytes = (int64_t)mr_dtype_bytes(dtype);
    MR_CHECK(w->header_bytes == 0 && ndim >= 0 && ndim <= MR_ST_DIMS && strlen(name) < MR_ST_NAME,
             MR_ERR_INTERNAL, "%s: tensor %s cannot be declared (%d dimensions)", w->path, name,
             ndim);
    MR_CHECK(!json_object_get(w->header, name) && strcmp(name, "__metadata__"), MR_ERR_INTERNAL,
             "%s: tensor %s declared twice", w->path, name);
    for (int i = 0; i < ndim; i++)
        MR_CHECK(dim[i] >= 0 && !__builtin_mul_overflow(bytes, dim[i], &bytes), MR_ERR_INTERNAL,
                 "%s: tensor %s is too large", w->path, name);
    bool ok = true;
    json_t *t = json_object(), *shape = json_array(), *offsets = json_array();
    for (int i = 0; i < ndim; i++) mr_json_append(shape, json_integer(dim[i]), &ok);
    mr_json_append(offsets, json_integer(w->data_bytes), &ok);
    mr_json_append(offsets, json_integer(w->data_bytes + bytes), &ok);
    mr_json_set(t, "dtype", json_string(mr_st_dtype_name(dtype)), &ok);
    mr_json_set(t, "shape", shape, &ok);
    mr_json_set(t, "data_offsets", offsets, &ok);
    mr_json_set(w->header, name, t, &ok);
    MR_CHECK(ok, MR_ERR_MEMORY, "%s: no memory for the header entry of %s", w->path, name);
    w->data_bytes += bytes;
    return MR_OK;
}

mr_status mr_st_set_metadata(mr_st_writer *w, const char *key, const char *value)
{
    MR_CHECK(w->header_bytes == 0, MR_ERR_INTERNAL, "%s: metadata %s after the header was written",
             w->path, key);
    json_t *meta = json_object_get(w->header, "__metadata__");
    if (!meta) {
        meta = json_object();
        json_object_set_new(w->header, "__metadata__", meta);
    }
    MR_CHECK(meta && json_object_set_new(meta, key, json_string(value)) == 0, MR_ERR_MEMORY,
             "%s: metadata %s cannot be stored; it must be UTF-8 text", w->path, key);
    return MR_OK;
}

static mr_status put(mr_st_writer *w, const void *data, size_t bytes)
{
    mr_status st = mr_file_write_all(w->fd, data, bytes, w->path);
    if (st == MR_OK && bytes) XXH3_128bits_update(w->hash, data, bytes);
    return st;
}

/* Reserve the space at once: a disk that is too small is found out before the first byte. */
static mr_status reserve(mr_st_writer *w, int64_t bytes)
{
    int rc = posix_fallocate(w->fd, 0, bytes);
    if (rc == 0 || rc == EINVAL || rc == EOPNOTSUPP) return MR_OK;
    struct statvfs v;
    long long left = fstatvfs(w->fd, &v) == 0 ? (long long)v.f_bavail * (long long)v.f_frsize : -1;
    return MR_RAISE(MR_ERR_IO, "%s needs %lld bytes and cannot have them: %s (%lld bytes are free)",
                    w->path, (long long)bytes, strerror(rc), left);
}

static mr_status write_header(mr_st_writer *w)
{
    char *text = mr_json_text(w->header, JSON_COMPACT), *padded = NULL;
    MR_CHECK(text, MR_ERR_MEMORY, "%s: no memory for the header", w->path);
    /* Spaces up to a multiple of 8 keep the data aligned for readers that map the file. */
    size_t n = strlen(text), total = (n + 7) / 8 * 8;
    uint64_t length = total;
    mr_status st = mr_alloc((void **)&padded, (int64_t)total + 8, 1, "safetensors header");
    if (st == MR_OK) {
        memcpy(padded, &length, 8);
        memcpy(padded + 8, text, n);
        memset(padded + 8 + n, ' ', total - n);
        w->header_bytes = (int64_t)total + 8;
        st = reserve(w, w->header_bytes + w->data_bytes);
    }
    if (st == MR_OK) st = put(w, padded, total + 8);
    MR_FREE(padded);
    free(text);
    return st;
}

mr_status mr_st_write(mr_st_writer *w, const void *data, size_t bytes)
{
    if (w->header_bytes == 0) MR_TRY(write_header(w));
    MR_CHECK((int64_t)bytes <= w->data_bytes - w->written, MR_ERR_INTERNAL,
             "%s: %zu bytes written where %lld were declared", w->path, bytes,
             (long long)(w->data_bytes - w->written));
    MR_TRY(put(w, data, bytes));
    w->written += (int64_t)bytes;
    return MR_OK;
}

static void release(mr_st_writer **w_p)
{
    json_decref((*w_p)->header);
    XXH3_freeState((*w_p)->hash);
    MR_FREE(*w_p);
}

mr_status mr_st_finish(mr_st_writer **w_p, int64_t *bytes_p, char hex[MR_XXH_HEX])
{
    mr_st_writer *w = *w_p;
    mr_status st = mr_st_write(w, NULL, 0); /* the header, if there was no tensor at all */
    if (st == MR_OK && w->written != w->data_bytes)
        st = MR_RAISE(MR_ERR_INTERNAL, "%s: %lld of %lld declared bytes were written", w->path,
                      (long long)w->written, (long long)w->data_bytes);
    if (st == MR_OK && fsync(w->fd) != 0)
        st = MR_RAISE(MR_ERR_IO, "%s: fsync failed: %s", w->path, strerror(errno));
    if (st != MR_OK) {
        mr_st_cancel(w_p);
        return st;
    }
    int rc = close(w->fd);
    w->fd = -1;
    if (rc != 0) {
        st = MR_RAISE(MR_ERR_IO, "%s: close failed: %s", w->path, strerror(errno));
        mr_st_cancel(w_p);
        return st;
    }
    if (bytes_p) *bytes_p = w->header_bytes + w->data_bytes;
    XXH128_canonical_t c;
    XXH128_canonicalFromHash(&c, XXH3_128bits_digest(w->hash));
    if (hex)
        for (int i = 0; i < 16; i++) snprintf(hex + 2 * i, 3, "%02x", c.digest[i]);
    release(w_p);
    return MR_OK;
}

void mr_st_cancel(mr_st_writer **w_p)
{
    if (!*w_p) return;
    if ((*w_p)->fd >= 0) close((*w_p)->fd);
    unlinkat((*w_p)->dir_fd, (*w_p)->name, 0);
    release(w_p);
}
