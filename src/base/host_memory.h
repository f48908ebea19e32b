/* How much memory this process and its neighbours may still take on this host, before they ask.
 * What it is not: allocation (mem.h). */
#ifndef MR_BASE_HOST_MEMORY_H
#define MR_BASE_HOST_MEMORY_H

#include <stdint.h>

/* Bytes that all processes of this job on this host may still take together: the least of what the
 * kernel calls available and of what the memory groups (cgroup 1 and 2) of this process leave;
 * INT64_MAX when nothing is known. *limit_p = a text for people that names the limit. root: "" or,
 * for tests, a folder with proc/ and sys/ below it. */
int64_t mr_host_memory_free(const char *root, const char **limit_p);
/* The same for this process alone: the address space that `ulimit -v` leaves. */
int64_t mr_process_memory_free(const char **limit_p);

#endif
