/* Small POSIX helpers for files that must survive a crash: whole writes, replacement by temporary
 * file + fsync + rename, strict opening, XXH3-128 of a file.
 * What it is not: a stream library; data formats are elsewhere in this folder.
 * Every function is local to the rank. dir_fd is an open folder or AT_FDCWD; `dir` is its path and
 * only used in messages. */
#ifndef MR_IO_FILE_H
#define MR_IO_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

#define MR_PATH 1024 /* longest path, with its NUL */
#define MR_XXH_HEX                                                                                 \
    33 /* 32 hexadecimal digits of an XXH3-128 (as xxh128sum prints it) and a NUL                  \
        */

/* [A-Za-z0-9._-]+ and not starting with a dot: a plain file name from an untrusted manifest. */
enum { MR_FILE_NAME_MAX = 199 }; /* bytes of a name that is ok */
bool mr_file_name_ok(const char *name);
/* Open an existing regular file for reading; a link, folder or device is refused. ERR_NO_INPUT when
 * absent, ERR_IO otherwise. Caller closes *fd_p. */
mr_status mr_file_open(int dir_fd, const char *dir, const char *name, int *fd_p, int64_t *bytes_p);
/* Open a folder. ERR_NO_INPUT when absent. Caller closes. */
mr_status mr_folder_open(const char *path, int *fd_p);
/* Write all bytes or fail: ERR_IO with the path and the system's reason. */
mr_status mr_file_write_all(int fd, const void *data, size_t bytes, const char *path);
/* Read exactly `bytes` at `offset`. ERR_DATA when the file ends earlier. */
mr_status mr_file_read_at(int fd, void *out, size_t bytes, int64_t offset, const char *path);
/* A copy of a text; the caller MR_FREEs. */
mr_status mr_copy_text(char **out_p, const char *text);
/* Whole small file as NUL-terminated text, at most `limit` bytes (ERR_DATA). Caller MR_FREEs. */
mr_status mr_file_read_text(int dir_fd, const char *dir, const char *name, int64_t limit,
                            char **text_p, size_t *bytes_p);
/* Create or replace a file so that after a crash either the old or the new content is there. */
mr_status mr_file_replace(int dir_fd, const char *dir, const char *name, const void *data,
                          size_t bytes);
mr_status mr_folder_sync(int dir_fd, const char *path);
/* Delete a folder and the plain files in it (one level). Nothing there is not an error. */
mr_status mr_folder_remove(int dir_fd, const char *dir, const char *name);
/* XXH3-128 and length of a whole file. */
mr_status mr_file_hash(int dir_fd, const char *dir, const char *name, int64_t *bytes_p,
                       char hex[MR_XXH_HEX]);
void mr_hash_text(const void *data, size_t bytes, char hex[MR_XXH_HEX]);

#endif
