/* POSIX helpers: every return code is checked, also those of fsync and close, since a full disk or
 * a lost file server may show itself only there. */
#include "io/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/mem.h"

#define HASH_BLOCK (1 << 20)

bool mr_file_name_ok(const char *name)
{
    static const char allowed[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
    size_t n = strlen(name);
    return n > 0 && n <= MR_FILE_NAME_MAX && name[0] != '.' && strspn(name, allowed) == n;
}

mr_status mr_file_open(int dir_fd, const char *dir, const char *name, int *fd_p, int64_t *bytes_p)
{
    struct stat s;
    /* O_NONBLOCK: opening a pipe must not wait for its other end. */
    int fd = openat(dir_fd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT)
        return MR_RAISE(MR_ERR_NO_INPUT, "%s/%s: no such file", dir, name);
    if (fd < 0 && errno == ELOOP)
        return MR_RAISE(MR_ERR_DATA, "%s/%s is a symbolic link; links are not followed here", dir,
                        name);
    MR_CHECK(fd >= 0, MR_ERR_IO, "%s/%s cannot be opened: %s", dir, name, strerror(errno));
    if (fstat(fd, &s) != 0 || !S_ISREG(s.st_mode)) {
        close(fd);
        return MR_RAISE(MR_ERR_DATA, "%s/%s is not a regular file", dir, name);
    }
    *fd_p = fd;
    *bytes_p = s.st_size;
    return MR_OK;
}

mr_status mr_folder_open(const char *path, int *fd_p)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT) return MR_RAISE(MR_ERR_NO_INPUT, "%s: no such folder", path);
    MR_CHECK(fd >= 0, MR_ERR_IO, "%s cannot be opened as a folder: %s", path, strerror(errno));
    *fd_p = fd;
    return MR_OK;
}

mr_status mr_file_write_all(int fd, const void *data, size_t bytes, const char *path)
{
    const char *at = data;
    while (bytes > 0) {
        ssize_t n = write(fd, at, bytes);
        if (n < 0 && errno == EINTR) continue;
        MR_CHECK(n > 0, MR_ERR_IO, "%s: writing failed with %zu bytes left: %s", path, bytes,
                 n < 0 ? strerror(errno) : "nothing was written");
        at += n;
        bytes -= (size_t)n;
    }
    return MR_OK;
}

mr_status mr_file_read_at(int fd, void *out, size_t bytes, int64_t offset, const char *path)
{
    char *at = out;
    while (bytes > 0) {
        ssize_t n = pread(fd, at, bytes, offset);
        if (n < 0 && errno == EINTR) continue;
        MR_CHECK(n >= 0, MR_ERR_IO, "%s: reading at offset %lld failed: %s", path,
                 (long long)offset, strerror(errno));
        MR_CHECK(n > 0, MR_ERR_DATA, "%s is truncated: it ends at offset %lld, %zu bytes too early",
                 path, (long long)offset, bytes);
        at += n;
        offset += n;
        bytes -= (size_t)n;
    }
    return MR_OK;
}

mr_status mr_copy_text(char **out_p, const char *text)
{
    size_t bytes = strlen(text) + 1;
    MR_TRY(mr_alloc((void **)out_p, (int64_t)bytes, 1, "text"));
    memcpy(*out_p, text, bytes);
    return MR_OK;
}

mr_status mr_file_read_text(int dir_fd, const char *dir, const char *name, int64_t limit,
                            char **text_p, size_t *bytes_p)
{
    int fd;
    int64_t bytes;
    char *text = NULL, path[MR_PATH];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    MR_TRY(mr_file_open(dir_fd, dir, name, &fd, &bytes));
    mr_status st = MR_OK;
    if (bytes > limit)
        st = MR_RAISE(MR_ERR_DATA, "%s has %lld bytes; at most %lld are expected", path,
                      (long long)bytes, (long long)limit);
    if (st == MR_OK) st = mr_alloc((void **)&text, bytes + 1, 1, path);
    if (st == MR_OK) st = mr_file_read_at(fd, text, (size_t)bytes, 0, path);
    close(fd);
    if (st != MR_OK) {
        MR_FREE(text);
        return st;
    }
    *text_p = text;
    *bytes_p = (size_t)bytes;
    return MR_OK;
}

mr_status mr_folder_sync(int dir_fd, const char *path)
{
    /* Some file systems cannot sync a folder and say EINVAL; there is nothing better to do there.
     */
    MR_CHECK(fsync(dir_fd) == 0 || errno == EINVAL, MR_ERR_IO, "%s: fsync of the folder failed: %s",
             path, strerror(errno));
    return MR_OK;
}

mr_status mr_file_replace(int dir_fd, const char *dir, const char *name, const void *data,
                          size_t bytes)
{
    char tmp[256], path[MR_PATH];
    snprintf(tmp, sizeof tmp, ".%s.tmp-%d", name, (int)getpid());
    snprintf(path, sizeof path, "%s/%s", dir, name);
    int fd = openat(dir_fd, tmp, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0666);
    MR_CHECK(fd >= 0, MR_ERR_IO, "%s cannot be written: %s", path, strerror(errno));
    mr_status st = mr_file_write_all(fd, data, bytes, path);
    if (st == MR_OK && fsync(fd) != 0)
        st = MR_RAISE(MR_ERR_IO, "%s: fsync failed: %s", path, strerror(errno));
    if (close(fd) != 0 && st == MR_OK)
        st = MR_RAISE(MR_ERR_IO, "%s: close failed: %s", path, strerror(errno));
    if (st == MR_OK && renameat(dir_fd, tmp, dir_fd, name) != 0)
        st = MR_RAISE(MR_ERR_IO, "%s cannot be put in place: %s", path, strerror(errno));
    if (st != MR_OK) {
        unlinkat(dir_fd, tmp, 0);
        return st;
    }
    return dir_fd == AT_FDCWD ? MR_OK : mr_folder_sync(dir_fd, dir);
}

mr_status mr_folder_remove(int dir_fd, const char *dir, const char *name)
{
    int fd = openat(dir_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT) return MR_OK;
    DIR *d = fd >= 0 ? fdopendir(fd) : NULL;
    if (!d) {
        int reason = errno;
        if (fd >= 0) close(fd);
        return MR_RAISE(MR_ERR_IO, "%s/%s cannot be deleted: %s", dir, name, strerror(reason));
    }
    for (struct dirent *e; (e = readdir(d));)
        if (strcmp(e->d_name, ".") && strcmp(e->d_name, "..")) unlinkat(dirfd(d), e->d_name, 0);
    closedir(d);
    MR_CHECK(unlinkat(dir_fd, name, AT_REMOVEDIR) == 0 || errno == ENOENT, MR_ERR_IO,
             "%s/%s cannot be deleted: %s", dir, name, strerror(errno));
    return MR_OK;
}

static void to_hex(XXH128_hash_t h, char hex[MR_XXH_HEX])
{
    XXH128_canonical_t c;
    XXH128_canonicalFromHash(&c, h);
    for (int i = 0; i < 16; i++) snprintf(hex + 2 * i, 3, "%02x", c.digest[i]);
}

void mr_hash_text(const void *data, size_t bytes, char hex[MR_XXH_HEX])
{
    to_hex(XXH3_128bits(data, bytes), hex);
}

static mr_status hash_fd(int fd, int64_t bytes, const char *path, XXH3_state_t *state, char *block)
{
    XXH3_128bits_reset(state);
    for (int64_t at = 0; at < bytes; at += HASH_BLOCK) {
        size_t n = (size_t)(bytes - at < HASH_BLOCK ? bytes - at : HASH_BLOCK);
        MR_TRY(mr_file_read_at(fd, block, n, at, path));
        XXH3_128bits_update(state, block, n);
    }
    return MR_OK;
}

mr_status mr_file_hash(int dir_fd, const char *dir, const char *name, int64_t *bytes_p,
                       char hex[MR_XXH_HEX])
{
    int fd;
    int64_t bytes;
    char *block = NULL, path[MR_PATH];
    XXH3_state_t *state = NULL;
    snprintf(path, sizeof path, "%s/%s", dir, name);
    MR_TRY(mr_file_open(dir_fd, dir, name, &fd, &bytes));
    mr_status st = mr_alloc((void **)&block, HASH_BLOCK, 1, "buffer for a checksum");
    if (st == MR_OK && !(state = XXH3_createState()))
        st = MR_RAISE(MR_ERR_MEMORY, "no memory for the state of a checksum");
    if (st == MR_OK) st = hash_fd(fd, bytes, path, state, block);
    close(fd);
    if (st == MR_OK) {
        *bytes_p = bytes;
        to_hex(XXH3_128bits_digest(state), hex);
    }
    XXH3_freeState(state);
    MR_FREE(block);
    return st;
}
