/* Strict safetensors reader. The file is untrusted: nothing is used before the whole header agrees
 * with itself and with the length of the file. */
#include "io/json_build.h"
#include "io/safetensors.h"

#include <errno.h>
#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"

static mr_status parse_shape(mr_st_tensor *t, const json_t *shape, const char *path)
{
    MR_CHECK(json_is_array(shape) && json_array_size(shape) <= MR_ST_DIMS, MR_ERR_DATA,
             "%s: shape of tensor %s is not a list of at most %d numbers", path, t->name,
             MR_ST_DIMS);
    t->ndim = (int)json_array_size(shape);
    for (int i = 0; i < t->ndim; i++) {
        const json_t *d = json_array_get(shape, (size_t)i);
        MR_CHECK(json_is_integer(d) && json_integer_value(d) >= 0, MR_ERR_DATA,
                 "%s: shape of tensor %s holds something that is not a count", path, t->name);
        t->dim[i] = json_integer_value(d);
    }
    return MR_OK;
}

static mr_status parse_offsets(mr_st_tensor *t, const json_t *pair, const char *path)
{
    const json_t *a = json_array_get(pair, 0), *b = json_array_get(pair, 1);
    int64_t bytes = (int64_t)mr_dtype_bytes(t->dtype);
    MR_CHECK(json_array_size(pair) == 2 && json_is_integer(a) && json_is_integer(b) &&
                 json_integer_value(a) >= 0 && json_integer_value(b) >= json_integer_value(a),
             MR_ERR_DATA, "%s: data_offsets of tensor %s are not two ascending numbers", path,
             t->name);
    t->begin = json_integer_value(a);
    t->end = json_integer_value(b);
    bool is_empty = false;
    for (int i = 0; i < t->ndim; i++) {
        is_empty |= t->dim[i] == 0;
        MR_CHECK(!__builtin_mul_overflow(bytes, t->dim[i] ? t->dim[i] : 1, &bytes), MR_ERR_DATA,
                 "%s: shape of tensor %s is larger than any file", path, t->name);
    }
    if (is_empty) bytes = 0;
    MR_CHECK(bytes == t->end - t->begin, MR_ERR_DATA,
             "%s: tensor %s has %lld bytes by its shape and %lld by its offsets", path, t->name,
             (long long)bytes, (long long)(t->end - t->begin));
    return MR_OK;
}

static mr_status parse_tensor(mr_st_tensor *t, const char *name, json_t *entry, const char *path)
{
    MR_CHECK(strlen(name) < MR_ST_NAME, MR_ERR_DATA, "%s: a tensor name has %zu bytes, at most %d",
             path, strlen(name), MR_ST_NAME - 1);
    snprintf(t->name, sizeof t->name, "%s", name);
    MR_CHECK(json_is_object(entry) && json_object_size(entry) == 3, MR_ERR_DATA,
             "%s: tensor %s is not described by exactly dtype, shape and data_offsets", path, name);
    const char *dtype = json_string_value(json_object_get(entry, "dtype"));
    MR_CHECK(dtype && mr_st_dtype_parse(dtype, &t->dtype), MR_ERR_DATA,
             "%s: tensor %s has element type %.20s, which is not one of F32 F64 F16 BF16 I32 I64 "
             "U8 U32",
             path, name, dtype ? dtype : "(none)");
    MR_TRY(parse_shape(t, json_object_get(entry, "shape"), path));
    return parse_offsets(t, json_object_get(entry, "data_offsets"), path);
}

static mr_status parse_metadata(mr_st_file *f, json_t *meta)
{
    const char *key;
    json_t *value;
    MR_CHECK(json_is_object(meta), MR_ERR_DATA, "%s: __metadata__ is not an object", f->path);
    int64_t n = (int64_t)json_object_size(meta);
    MR_TRY(MR_ALLOC(&f->key, n, "metadata keys"));
    MR_TRY(MR_ALLOC(&f->value, n, "metadata values"));
    json_object_foreach(meta, key, value)
    {
        MR_CHECK(json_is_string(value), MR_ERR_DATA, "%s: metadata '%.80s' is not a text", f->path,
                 key);
        int i = f->n_metadata++;
        MR_TRY(mr_copy_text(&f->key[i], key));
        MR_TRY(mr_copy_text(&f->value[i], json_string_value(value)));
    }
    return MR_OK;
}

static int by_begin(const void *a, const void *b)
{
    const mr_st_tensor *x = a, *y = b;
    if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
    return x->end < y->end ? -1 : x->end > y->end;
}

static mr_status parse_header(mr_st_file *f, json_t *header)
{
    const char *name;
    json_t *entry;
    MR_CHECK(json_is_object(header), MR_ERR_DATA, "%s: the header is not an object", f->path);
    json_t *meta = json_object_get(header, "__metadata__");
    size_t n = json_object_size(header) - (meta ? 1 : 0);
    MR_CHECK(n <= MR_ST_TENSORS, MR_ERR_DATA, "%s: %zu tensors, at most %d", f->path, n,
             MR_ST_TENSORS);
    MR_TRY(MR_ALLOC(&f->tensor, (int64_t)n, "safetensors header"));
    if (meta) MR_TRY(parse_metadata(f, meta));
    json_object_foreach(header, name, entry)
    {
        if (entry == meta) continue;
        MR_TRY(parse_tensor(&f->tensor[f->n], name, entry, f->path));
        f->n++;
    }
    if (f->n) qsort(f->tensor, (size_t)f->n, sizeof *f->tensor, by_begin);
    int64_t at = 0;
    for (int i = 0; i < f->n; at = f->tensor[i++].end)
        MR_CHECK(f->tensor[i].begin == at, MR_ERR_DATA,
                 "%s: tensor %s starts at byte %lld of the data where %lld is expected (overlap or "
                 "gap)",
                 f->path, f->tensor[i].name, (long long)f->tensor[i].begin, (long long)at);
    MR_CHECK(at == f->data_bytes, MR_ERR_DATA,
             "%s has %lld bytes of data, its header describes %lld; the file is truncated or "
             "damaged",
             f->path, (long long)f->data_bytes, (long long)at);
    return MR_OK;
}

static mr_status read_header(mr_st_file *f, int64_t file_bytes)
{
    uint64_t length;
    char *text = NULL;
    MR_CHECK(file_bytes >= 10, MR_ERR_DATA, "%s is too short (%lld bytes) for a safetensors file",
             f->path, (long long)file_bytes);
    MR_TRY(mr_file_read_at(f->fd, &length, 8, 0, f->path));
    MR_CHECK(length >= 2 && length <= MR_ST_HEADER_BYTES && length <= (uint64_t)file_bytes - 8,
             MR_ERR_DATA, "%s: header length %llu does not fit a file of %lld bytes (limit %d)",
             f->path, (unsigned long long)length, (long long)file_bytes, MR_ST_HEADER_BYTES);
    f->data_at = 8 + (int64_t)length;
    f->data_bytes = file_bytes - f->data_at;
    MR_TRY(mr_alloc((void **)&text, (int64_t)length, 1, "safetensors header"));
    mr_status st = mr_file_read_at(f->fd, text, length, 8, f->path);
    json_error_t e;
    json_t *header = NULL;
    if (st == MR_OK && text[0] != '{')
        st = MR_RAISE(MR_ERR_DATA, "%s: the header does not start with '{'", f->path);
    if (st == MR_OK) st = mr_json_read(&header, text, length, f->path, &e);
    if (st == MR_OK && !header)
        st = MR_RAISE(MR_ERR_DATA, "%s: the header is not valid JSON: %s (offset %d)", f->path,
                      e.text, 8 + e.position);
    if (st == MR_OK) st = parse_header(f, header);
    json_decref(header);
    MR_FREE(text);
    return st;
}

mr_status mr_st_open_at(mr_st_file **out_p, int dir_fd, const char *dir, const char *name)
{
    mr_st_file *f = NULL;
    int64_t bytes = 0;
    MR_TRY(MR_ALLOC(&f, 1, "safetensors file"));
    snprintf(f->path, sizeof f->path, "%s%s%s", dir, dir[0] ? "/" : "", name);
    f->fd = -1;
    mr_status st = mr_file_open(dir_fd, dir[0] ? dir : ".", name, &f->fd, &bytes);
    if (st == MR_OK) st = read_header(f, bytes);
    if (st != MR_OK) {
        mr_st_close(&f);
        return st;
    }
    *out_p = f;
    return MR_OK;
}

mr_status mr_st_open(mr_st_file **out_p, const char *path)
{
    char dir[PATH_MAX];
    int fd;
    /* A path that the user gave may be a link; only what stands in a folder's manifest may not. */
    if (!realpath(path, dir))
        return errno == ENOENT
                   ? MR_RAISE(MR_ERR_NO_INPUT, "%s: no such file", path)
                   : MR_RAISE(MR_ERR_IO, "%s cannot be opened: %s", path, strerror(errno));
    char *slash = strrchr(dir, '/');
    *slash = 0;
    MR_TRY(mr_folder_open(dir[0] ? dir : "/", &fd));
    mr_status st = mr_st_open_at(out_p, fd, dir, slash + 1);
    close(fd);
    return st;
}

void mr_st_close(mr_st_file **f_p)
{
    mr_st_file *f = *f_p;
    if (!f) return;
    if (f->fd >= 0) close(f->fd);
    for (int i = 0; i < f->n_metadata; i++) {
        MR_FREE(f->key[i]);
        MR_FREE(f->value[i]);
    }
    MR_FREE(f->key);
    MR_FREE(f->value);
    MR_FREE(f->tensor);
    MR_FREE(*f_p);
}

int mr_st_find(const mr_st_file *f, const char *name)
{
    for (int i = 0; i < f->n; i++)
        if (!strcmp(f->tensor[i].name, name)) return i;
    return -1;
}

const char *mr_st_metadata(const mr_st_file *f, const char *key)
{
    for (int i = 0; i < f->n_metadata; i++)
        if (!strcmp(f->key[i], key)) return f->value[i];
    return NULL;
}

int64_t mr_st_row_bytes(const mr_st_tensor *t)
{
    int64_t bytes = (int64_t)mr_dtype_bytes(t->dtype);
    for (int i = 1; i < t->ndim; i++) bytes *= t->dim[i];
    return bytes;
}

mr_status mr_st_read(const mr_st_file *f, int i, int64_t row0, int64_t rows, void *out)
{
    const mr_st_tensor *t = &f->tensor[i];
    int64_t n = t->ndim ? t->dim[0] : 1, row_bytes = mr_st_row_bytes(t);
    MR_CHECK(row0 >= 0 && rows >= 0 && row0 <= n && rows <= n - row0, MR_ERR_DATA,
             "%s: %lld rows from row %lld of tensor %s, which has %lld", f->path, (long long)rows,
             (long long)row0, t->name, (long long)n);
    return mr_file_read_at(f->fd, out, (size_t)(rows * row_bytes),
                           f->data_at + t->begin + row0 * row_bytes, f->path);
}
