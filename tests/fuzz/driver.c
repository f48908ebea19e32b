/* Runs a fuzz target without libFuzzer: inputs made from seeds by a mutation that depends only on
 * (--seed, number of the input), so every finding can be run again.
 *   fuzz_NAME [--inputs N] [--seconds S] [--seed K] [--from N] [--write-seeds DIR] [--dump]
 *            [FILE or DIR]...
 * --dump: input number --from to standard output, nothing is run.
 * Files are further seeds. Ends with 1 and the number of the input at a crash, a sanitizer report,
 * a wrong verdict, a hang (1 s of CPU, 20 s of waiting), a leak of memory or of a file descriptor.
 * Ends with 1 as well when of the mutated inputs less than one in a hundred is accepted, or
 * refused: then the mutations say little about the reader. What it is not: guided by coverage;
 * tests/fuzz.sh uses libFuzzer for that when clang is there. */
#define _GNU_SOURCE
#include "fuzz.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include "base/mem.h"

enum { SEEDS_MAX = 256, FDS = 256, SHARE = 100, ENOUGH = 500 };

static struct {
    uint8_t *data;
    size_t n;
} seeds[SEEDS_MAX];
static int n_seeds;

static uint8_t *input; /* of the current run, exactly input_n bytes for the sanitizer */
static size_t input_n;
static long number = -1;
static uint64_t seed = 1, state;

static uint64_t draw64(void)
{
    uint64_t z = (state += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

static size_t below(size_t n) { return n ? (size_t)(draw64() % n) : 0; }

/* ---- findings ---- */

/* Called from signal handlers and from the sanitizer: system calls only. */
static void report(const char *what)
{
    char text[300];
    int k =
        snprintf(text, sizeof text,
                 "\n%s: %s at input %ld; again: fuzz_%s --seed %llu --from %ld --inputs 1\n"
                 "the input is /tmp/fuzz_%s.input\n",
                 fuzz_name, what, number, fuzz_name, (unsigned long long)seed, number, fuzz_name);
    if (write(2, text, (size_t)k) < 0) return;
    snprintf(text, sizeof text, "/tmp/fuzz_%s.input", fuzz_name);
    int fd = open(text, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW, 0600);
    if (fd >= 0 && input_n > 0 && write(fd, input, input_n) >= 0) close(fd);
}

static void on_signal(int sig)
{
    report(sig == SIGPROF   ? "hang (1 s of CPU)"
           : sig == SIGALRM ? "hang (20 s of waiting)"
                            : "crash");
    _exit(1);
}

/* With the address sanitizer its own handlers print more; it calls back before it ends. */
void __sanitizer_set_death_callback(void (*callback)(void)) __attribute__((weak));
static void on_death(void) { report("sanitizer report"); }

static void catch_all(void)
{
    signal(SIGPROF, on_signal);
    signal(SIGALRM, on_signal);
    signal(SIGABRT, on_signal);
    if (__sanitizer_set_death_callback) {
        __sanitizer_set_death_callback(on_death);
        return;
    }
    signal(SIGSEGV, on_signal);
    signal(SIGBUS, on_signal);
    signal(SIGFPE, on_signal);
    signal(SIGILL, on_signal);
}

static int open_files(void)
{
    int n = 0;
    for (int fd = 0; fd < FDS; fd++) n += fcntl(fd, F_GETFD) >= 0;
    return n;
}

/* ---- seeds ---- */

static void add_seed(const uint8_t *data, size_t n)
{
    if (n_seeds == SEEDS_MAX) return;
    seeds[n_seeds].data = malloc(n + 1);
    memcpy(seeds[n_seeds].data, data, n);
    seeds[n_seeds++].n = n;
}

static int by_name(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

static void add_path(const char *path, uint8_t *room)
{
    struct stat s;
    struct dirent **list;
    if (stat(path, &s) != 0) {
        perror(path);
        exit(2);
    }
    if (S_ISDIR(s.st_mode)) {
        int n = scandir(path, &list, NULL, by_name);
        for (int i = 0; i < n; free(list[i++])) {
            char name[1024];
            if (list[i]->d_name[0] == '.') continue;
            snprintf(name, sizeof name, "%s/%s", path, list[i]->d_name);
            add_path(name, room);
        }
        if (n >= 0) free(list);
        return;
    }
    FILE *f = fopen(path, "rb");
    size_t n = f ? fread(room, 1, FUZZ_BYTES, f) : 0;
    if (f) fclose(f);
    add_seed(room, n);
}

static int write_seeds(const char *dir)
{
    char path[1024];
    for (int i = 0; i < n_seeds; i++) {
        snprintf(path, sizeof path, "%s/%s-%03d", dir, fuzz_name, i);
        FILE *f = fopen(path, "wb");
        if (!f || fwrite(seeds[i].data, 1, seeds[i].n, f) != seeds[i].n || fclose(f) != 0) {
            perror(path);
            return 2;
        }
    }
    return 0;
}

/* ---- mutation ---- */

static size_t insert(uint8_t *b, size_t n, size_t at, const void *what, size_t len)
{
    if (n + len > FUZZ_BYTES) return n;
    memmove(b + at + len, b + at, n - at);
    memcpy(b + at, what, len);
    return n + len;
}

static size_t cut(uint8_t *b, size_t n, size_t at, size_t len)
{
    if (len > n - at) len = n - at;
    memmove(b + at, b + at + len, n - at - len);
    return n - len;
}

/* A decimal number of the text, wherever the search starts, becomes another one. */
static size_t edit_number(uint8_t *b, size_t n)
{
    static const char *const numbers[] = {"0",
                                          "1",
                                          "-1",
                                          "255",
                                          "256",
                                          "65536",
                                          "2147483647",
                                          "2147483648",
                                          "4294967296",
                                          "9223372036854775807",
                                          "9223372036854775808",
                                          "18446744073709551615",
                                          "99999999999999999999999999",
                                          "1e308",
                                          "1e999",
                                          "-0.0",
                                          "nan",
                                          "inf",
                                          "0x10",
                                          "1.5",
                                          "1e-320"};
    size_t at = below(n), end;
    while (at < n && (b[at] < '0' || b[at] > '9')) at++;
    for (end = at; end < n && b[end] >= '0' && b[end] <= '9';) end++;
    if (at == end) return n;
    const char *text = numbers[below(sizeof numbers / sizeof *numbers)];
    char other[24];
    if (below(3) == 0) {
        snprintf(other, sizeof other, "%llu", (unsigned long long)(draw64() >> below(64)));
        text = other;
    }
    n = cut(b, n, at, end - at);
    return insert(b, n, at, text, strlen(text));
}

/* A little-endian number of 1, 2, 4 or 8 bytes. */
static void edit_bytes(uint8_t *b, size_t n)
{
    static const uint64_t values[] = {0,
                                      1,
                                      0x7f,
                                      0x80,
                                      0xff,
                                      0x7fff,
                                      0x8000,
                                      0xffff,
                                      0x10000,
                                      0x7fffffff,
                                      0x80000000,
                                      0xffffffff,
                                      UINT64_C(1) << 32,
                                      INT64_MAX,
                                      UINT64_C(1) << 63,
                                      UINT64_MAX};
    size_t width = (size_t)1 << below(4);
    uint64_t v = 0;
    if (n < width) return;
    size_t at = below(n - width + 1);
    memcpy(&v, b + at, width);
    v = below(2) ? values[below(16)] : v + (uint64_t)below(35) - 17;
    memcpy(b + at, &v, width);
}

static size_t edit(uint8_t *b, size_t n)
{
    size_t at = below(n + 1), len = 1 + below(below(4) ? 8 : 200), words = 0;
    uint8_t piece[256];
    while (fuzz_words[words]) words++;
    switch (below(10)) {
    case 0:
        if (n) b[below(n)] ^= (uint8_t)(1u << below(8));
        return n;
    case 1:
        if (n) b[below(n)] = (uint8_t)draw64();
        return n;
    case 2: return cut(b, n, at, len);
    case 3:
        for (size_t i = 0; i < len; i++) piece[i] = (uint8_t)draw64();
        return insert(b, n, at, piece, len);
    case 4: return below(4) ? n : at; /* truncation ends everything behind it */
    case 5: {                         /* a part of another seed */
        size_t k = below((size_t)n_seeds);
        if (seeds[k].n == 0) return n;
        size_t from = below(seeds[k].n);
        if (len > seeds[k].n - from) len = seeds[k].n - from;
        return insert(b, n, at, seeds[k].data + from, len);
    }
    case 6: /* a part again */
        if (len > n - at) len = n - at;
        memcpy(piece, b + at, len);
        return insert(b, n, below(n + 1), piece, len);
    case 7: return edit_number(b, n);
    case 8: edit_bytes(b, n); return n;
    default: {
        if (!words) return n;
        const char *w = fuzz_words[below(words)];
        if (below(2)) n = cut(b, n, at, strlen(w));
        return insert(b, n, at, w, strlen(w));
    }
    }
}

/* Input number k: the seeds as they are come first. */
static size_t make(long k, uint8_t *b)
{
    state = seed * 0xD1342543DE82EF95u + (uint64_t)k;
    size_t s = k < n_seeds ? (size_t)k : below((size_t)n_seeds), n = seeds[s].n;
    memcpy(b, seeds[s].data, n);
    if (k < n_seeds) return n;
    for (size_t edits = 1 + below(below(3) ? 3 : 10); edits > 0; edits--) n = edit(b, n);
    return n;
}

/* ---- the run ---- */

static double now(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static double run_one(long k, uint8_t *room)
{
    const struct itimerval on = {{0, 0}, {1, 0}}, off = {{0, 0}, {0, 0}};
    number = k;
    input_n = make(k, room);
    input = malloc(input_n ? input_n : 1);
    memcpy(input, room, input_n);
    int64_t bytes = mr_mem_now_bytes();
    int files = open_files();
    double start = now(CLOCK_PROCESS_CPUTIME_ID);
    setitimer(ITIMER_PROF, &on, NULL);
    alarm(20);
    LLVMFuzzerTestOneInput(input, input_n);
    alarm(0);
    setitimer(ITIMER_PROF, &off, NULL);
    double took = now(CLOCK_PROCESS_CPUTIME_ID) - start;
    fuzz_require(mr_mem_now_bytes() == bytes, "memory is not given back");
    fuzz_require(open_files() == files, "a file is left open");
    free(input);
    input_n = 0;
    return took;
}

int main(int argc, char **argv)
{
    static uint8_t room[FUZZ_BYTES];
    long inputs = 10000, from = 0, done = 0;
    double seconds = 0, slowest = 0, start = now(CLOCK_MONOTONIC);
    bool is_dump = false;
    const char *out = NULL;
    fuzz_folder();
    for (size_t n; (n = fuzz_seed(n_seeds, room)) > 0;) add_seed(room, n);
    for (int i = 1; i < argc; i++) {
        bool more = i + 1 < argc;
        if (!strcmp(argv[i], "--inputs") && more)
            inputs = atol(argv[++i]);
        else if (!strcmp(argv[i], "--seconds") && more)
            seconds = atof(argv[++i]);
        else if (!strcmp(argv[i], "--seed") && more)
            seed = strtoull(argv[++i], NULL, 10);
        else if (!strcmp(argv[i], "--from") && more)
            from = atol(argv[++i]);
        else if (!strcmp(argv[i], "--write-seeds") && more)
            out = argv[++i];
        else if (!strcmp(argv[i], "--dump"))
            is_dump = true;
        else
            add_path(argv[i], room);
    }
    if (out) return write_seeds(out);
    if (is_dump) return fwrite(room, make(from, room), 1, stdout) != 1;
    catch_all();
    /* The first run fills caches of the libraries, which is no leak. */
    LLVMFuzzerTestOneInput(seeds[0].data, seeds[0].n);
    for (; done < inputs && (seconds <= 0 || now(CLOCK_MONOTONIC) - start < seconds); done++) {
        if (from + done <= n_seeds) fuzz_accepted = fuzz_refused = 0; /* of mutated ones */
        double took = run_one(from + done, room);
        if (took > slowest) slowest = took;
    }
    printf("%s: %ld inputs (%ld verdicts good, %ld bad, seeds apart), %d seeds, slowest %.0f ms, "
           "peak memory "
           "%.1f MB, 0 findings\n",
           fuzz_name, done, fuzz_accepted, fuzz_refused, n_seeds, 1e3 * slowest,
           1e-6 * (double)mr_mem_peak_bytes());
    for (int i = 0; i < n_seeds; i++) free(seeds[i].data);
    long least = (fuzz_accepted + fuzz_refused) / SHARE;
    bool both = done < ENOUGH || (fuzz_accepted > least && fuzz_refused > least);
    if (!both) printf("%s: nearly all mutated inputs are of one kind\n", fuzz_name);
    return !both;
}
