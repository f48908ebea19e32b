/* What the fuzz targets share: files and the verdict. Works under the driver and libFuzzer. */
#include "fuzz.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

long fuzz_accepted, fuzz_refused;

static char folder[200];

static void remove_folder(void)
{
    char path[512];
    DIR *d = opendir(folder);
    if (!d) return;
    for (struct dirent *e; (e = readdir(d));) {
        snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
        unlink(path);
    }
    closedir(d);
    rmdir(folder);
}

const char *fuzz_folder(void)
{
    if (folder[0]) return folder;
    const char *base = getenv("TMPDIR");
    if (!base) base = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
    snprintf(folder, sizeof folder, "%.150s/mr_fuzz_XXXXXX", base);
    if (!mkdtemp(folder)) {
        perror(folder);
        exit(2);
    }
    atexit(remove_folder);
    mr_errors_to_log(false);
    return folder;
}

const char *fuzz_write(const char *name, const void *data, size_t n)
{
    static char path[4][300];
    static int at;
    char *p = path[at++ % 4];
    snprintf(p, sizeof path[0], "%s/%s", fuzz_folder(), name);
    FILE *f = fopen(p, "wb");
    if (!f || (n && fwrite(data, 1, n, f) != n) || fclose(f) != 0) {
        perror(p);
        exit(2);
    }
    return p;
}

size_t fuzz_text(uint8_t *out, const char *text)
{
    size_t n = strlen(text);
    memcpy(out, text, n);
    return n;
}

void fuzz_require(bool holds, const char *what)
{
    if (holds) return;
    fprintf(stderr, "finding in %s: %s\nlast error: %s\n", fuzz_name, what, mr_last_error());
    abort();
}

void fuzz_judge(mr_status st, unsigned allowed, const char *named)
{
    if (st == MR_OK) {
        fuzz_accepted++;
        return;
    }
    fuzz_refused++;
    if (!(allowed >> st & 1)) fprintf(stderr, "status: %s\n", mr_status_text(st));
    fuzz_require(allowed >> st & 1, "a status that bad input must not give");
    fuzz_require(strstr(mr_last_error(), named) != NULL, "the sentence does not say where");
    fuzz_require(strlen(mr_last_error()) > strlen(named) + 8, "the sentence does not say what");
}

/* HDF5 asks for absurd amounts on damaged metadata and copes with the refusal. */
const char *__asan_default_options(void);
const char *__asan_default_options(void) { return "allocator_may_return_null=1"; }

/* It also loses memory of its own on some of them. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void) { return "leak:libhdf5"; }
