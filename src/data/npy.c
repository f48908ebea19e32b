/* Strict .npy files.
 * Invariant: nothing is allocated or read from the header's word before it was compared with the
 * size of the file. */
#include "data/npy.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define HEADER_MAX 65536

static const struct {
    const char *descr;
    mr_dtype dtype;
} types[] = {{"<f2", MR_F16}, {"<f4", MR_F32}, {"<f8", MR_F64},
             {"<i4", MR_I32}, {"<i8", MR_I64}, {"|u1", MR_U8}};
#define N_TYPES 6

static mr_status read_at(const mr_npy *f, void *out, int64_t bytes, int64_t at)
{
    char *p = out;
    while (bytes > 0) {
        ssize_t n = pread(f->fd, p, (size_t)bytes, at);
        if (n < 0 && errno == EINTR) continue;
        MR_CHECK(n > 0, n < 0 ? MR_ERR_IO : MR_ERR_DATA, "%s: cannot read at byte %lld: %s",
                 f->path, (long long)at, n < 0 ? strerror(errno) : "the file ends");
        p += n;
        at += n;
        bytes -= n;
    }
    return MR_OK;
}

/* ---- the header's dictionary, a tiny subset of Python ---- */

static void skip_space(const char **p) { *p += strspn(*p, " "); }

static bool eat(const char **p, char c)
{
    skip_space(p);
    if (**p != c) return false;
    (*p)++;
    return true;
}

/* A quoted word of at most 31 characters. */
static bool eat_word(const char **p, char out[32])
{
    skip_space(p);
    char q = **p;
    if (q != '\'' && q != '"') return false;
    const char *from = *p + 1, *end = strchr(from, q);
    if (!end || end - from > 31) return false;
    memcpy(out, from, (size_t)(end - from));
    out[end - from] = '\0';
    *p = end + 1;
    return true;
}

static bool eat_number(const char **p, int64_t *out)
{
    skip_space(p);
    if (**p < '0' || **p > '9') return false;
    int64_t v = 0;
    for (; **p >= '0' && **p <= '9'; (*p)++)
        if (__builtin_mul_overflow(v, 10, &v) || __builtin_add_overflow(v, **p - '0', &v))
            return false;
    *out = v;
    return true;
}

static bool eat_shape(const char **p, mr_npy *f)
{
    if (!eat(p, '(')) return false;
    f->rank = 0;
    while (!eat(p, ')')) {
        if (f->rank == MR_NPY_RANK || !eat_number(p, &f->dims[f->rank])) return false;
        f->rank++;
        if (!eat(p, ',')) return eat(p, ')');
    }
    return true;
}

static mr_status set_type(mr_npy *f, const char *descr)
{
    for (int i = 0; i < N_TYPES; i++) {
        if (strcmp(types[i].descr, descr) != 0) continue;
        f->dtype = types[i].dtype;
        return MR_OK;
    }
    MR_CHECK(
        !strchr(descr, 'O'), MR_ERR_DATA,
        "%s holds Python objects (a pickle), which could run code and are refused; save numbers, "
        "e.g. numpy.save(path, a.astype('float32'))",
        f->path);
    return MR_RAISE(
        MR_ERR_DATA,
        "%s: element type %s; accepted are <f2, <f4, <f8, <i4, <i8, |u1 (little-endian)", f->path,
        descr);
}

static mr_status parse_dict(mr_npy *f, const char *text)
{
    const char *p = text;
    char key[32], descr[32] = "";
    bool fortran = false, has_order = false, has_shape = false, ok = eat(&p, '{');
    while (ok && !eat(&p, '}')) {
        ok = eat_word(&p, key) && eat(&p, ':');
        if (!ok) break;
        skip_space(&p);
        if (strcmp(key, "descr") == 0) {
            /* A list here is a structured type. */
            ok = !descr[0] && eat_word(&p, descr);
        } else if (strcmp(key, "fortran_order") == 0) {
            fortran = strncmp(p, "True", 4) == 0;
            ok = !has_order && (fortran || strncmp(p, "False", 5) == 0);
            p += fortran ? 4 : 5;
            has_order = true;
        } else if (strcmp(key, "shape") == 0) {
            ok = !has_shape && eat_shape(&p, f);
            has_shape = true;
        } else {
            ok = false;
        }
        if (ok && !eat(&p, ',')) {
            ok = eat(&p, '}');
            break;
        }
    }
    if (ok) p += strspn(p, " \n");
    MR_CHECK(ok && !*p && descr[0] && has_order && has_shape, MR_ERR_DATA,
             "%s: the header of the npy file is damaged or describes a structured type", f->path);
    MR_TRY(set_type(f, descr));
    MR_CHECK(!fortran, MR_ERR_DATA,
             "%s is in Fortran order; save it with numpy.ascontiguousarray first", f->path);
    return MR_OK;
}

static mr_status read_header(mr_npy *f, int64_t file_bytes)
{
    unsigned char b[12];
    char text[HEADER_MAX + 1];
    MR_CHECK(file_bytes >= 12, MR_ERR_DATA, "%s has %lld bytes: too short for an npy file", f->path,
             (long long)file_bytes);
    MR_TRY(read_at(f, b, 12, 0));
    MR_CHECK(memcmp(b, "\x93NUMPY", 6) == 0, MR_ERR_DATA,
             "%s is not an npy file (compressed files must be decompressed first)", f->path);
    MR_CHECK((b[6] == 1 || b[6] == 2) && b[7] == 0, MR_ERR_DATA,
             "%s: npy version %d.%d; 1.0 and 2.0 are accepted", f->path, b[6], b[7]);
    int64_t start = b[6] == 1 ? 10 : 12, len = b[8] | b[9] << 8;
    if (b[6] == 2) len |= (int64_t)b[10] << 16 | (int64_t)b[11] << 24;
    MR_CHECK(len <= HEADER_MAX && start + len <= file_bytes, MR_ERR_DATA,
             "%s: the npy header declares %lld bytes; the file has %lld and %d are accepted",
             f->path, (long long)len, (long long)file_bytes, HEADER_MAX);
    MR_TRY(read_at(f, text, len, start));
    text[len] = '\0';
    MR_CHECK(strlen(text) == (size_t)len, MR_ERR_DATA, "%s: the npy header holds a NUL byte",
             f->path);
    MR_TRY(parse_dict(f, text));
    f->data_at = start + len;
    int64_t bytes = (int64_t)mr_dtype_bytes(f->dtype);
    bool over = false;
    for (int i = 0; i < f->rank; i++)
        over = over || __builtin_mul_overflow(bytes, f->dims[i], &bytes);
    MR_CHECK(!over && bytes == file_bytes - f->data_at, MR_ERR_DATA,
             "%s: the shape needs %lld bytes of data but the file has %lld; it is truncated or "
             "damaged",
             f->path, over ? -1LL : (long long)bytes, (long long)(file_bytes - f->data_at));
    return MR_OK;
}

mr_status mr_npy_open(mr_npy *f, const char *path)
{
    struct stat sb;
    memset(f, 0, sizeof *f);
    f->path = path;
    /* O_NONBLOCK: opening a pipe must not wait for its other end. */
    f->fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    MR_CHECK(f->fd >= 0, errno == ENOENT || errno == ENOTDIR ? MR_ERR_NO_INPUT : MR_ERR_IO,
             "%s cannot be opened: %s", path, strerror(errno));
    mr_status st;
    if (fstat(f->fd, &sb) != 0 || !S_ISREG(sb.st_mode))
        st = MR_RAISE(MR_ERR_DATA, "%s is not a regular file", path);
    else
        st = read_header(f, sb.st_size);
    if (st != MR_OK) mr_npy_close(f);
    return st;
}

int64_t mr_npy_row_elems(const mr_npy *f)
{
    int64_t n = 1;
    for (int i = 1; i < f->rank; i++) n *= f->dims[i];
    return n;
}

mr_status mr_npy_row(const mr_npy *f, int64_t r, void *out)
{
    int64_t bytes = mr_npy_row_elems(f) * (int64_t)mr_dtype_bytes(f->dtype);
    return read_at(f, out, bytes, f->data_at + r * bytes);
}

void mr_npy_close(mr_npy *f)
{
    if (f->path && f->fd >= 0) close(f->fd);
    f->fd = -1;
    f->path = NULL;
}

/* ---- writing ---- */

static int header_text(char *text, int size, const char *descr, int rank, const int64_t *dims)
{
    char shape[128];
    int n = 0;
    for (int i = 0; i < rank; i++)
        n += snprintf(shape + n, sizeof shape - (size_t)n, "%lld,%s", (long long)dims[i],
                      i + 1 < rank ? " " : "");
    if (rank > 1) n--; /* only (n,) keeps its comma */
    n = snprintf(text, (size_t)size, "{'descr': '%s', 'fortran_order': False, 'shape': (%.*s), }",
                 descr, n, rank ? shape : "");
    /* Data start at a multiple of 64. */
    while ((10 + n + 1) % 64) text[n++] = ' ';
    text[n++] = '\n';
    return n;
}

static bool write_all(int fd, const void *data, int64_t bytes)
{
    const char *p = data;
    while (bytes > 0) {
        ssize_t n = write(fd, p, (size_t)(bytes < (1 << 30) ? bytes : 1 << 30));
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return false;
        p += n;
        bytes -= n;
    }
    return true;
}

mr_status mr_npy_write(const char *path, mr_dtype dtype, int rank, const int64_t *dims,
                       const void *data)
{
    const char *descr = NULL;
    for (int i = 0; i < N_TYPES; i++)
        if (types[i].dtype == dtype) descr = types[i].descr;
    MR_CHECK(descr && rank >= 0 && rank <= MR_NPY_RANK, MR_ERR_INTERNAL,
             "%s: no npy type for this array", path);
    char tmp[4096], text[512];
    unsigned char head[10] = {0x93, 'N', 'U', 'M', 'P', 'Y', 1, 0};
    int n = snprintf(tmp, sizeof tmp, "%s.tmp-%ld", path, (long)getpid());
    MR_CHECK(n > 0 && (size_t)n < sizeof tmp, MR_ERR_USAGE, "the name of the output is too long");
    int64_t bytes = (int64_t)mr_dtype_bytes(dtype);
    for (int i = 0; i < rank; i++) bytes *= dims[i];
    n = header_text(text, 400, descr, rank, dims);
    head[8] = (unsigned char)(n & 255);
    head[9] = (unsigned char)(n >> 8);
    int fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    MR_CHECK(fd >= 0, MR_ERR_IO, "%s cannot be created: %s", path, strerror(errno));
    bool ok = write_all(fd, head, 10) && write_all(fd, text, n) && write_all(fd, data, bytes) &&
              fsync(fd) == 0;
    int err = errno;
    if (close(fd) != 0 && ok) {
        ok = false;
        err = errno;
    }
    if (ok && rename(tmp, path) != 0) {
        ok = false;
        err = errno;
    }
    if (!ok) unlink(tmp);
    MR_CHECK(ok, MR_ERR_IO, "%s cannot be written: %s", path, strerror(err));
    return MR_OK;
}
