/* mealrec-dist bench NAME: measured times. Picks the bench and refuses options that it does not
 * take. What it is not: a measurement (bench_*.c), and none of those is a test: nothing fails
 * because something is slow. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cli/bench.h"
#include "cli/commands.h"
#include "kernels/shared/bf16.h"

static const mr_bench *const benches[] = {&mr_bench_comm,    &mr_bench_io,   &mr_bench_kernels,
                                          &mr_bench_machine, &mr_bench_plot, &mr_bench_scaling,
                                          &mr_bench_step};
enum { N_BENCHES = sizeof benches / sizeof benches[0] };

/* The options of all benches; each says in its mr_bench which of them it takes. */
static const mr_cli_option options[] = {
    {"filter", "TEXT", "kernels: only those whose name contains it"},
    {"ms", "N", "kernels: milliseconds to spend on each (100)"},
    {"steps", "N", "timed steps (20); io: readings (5); comm --check: counted steps (3)"},
    {"warmup", "N", "steps before them (5); io: readings (1)"},
    {"parts", NULL, "step: also the time of each part of the model"},
    {"check", NULL, "comm: bytes of a step against their formula"},
    {"out", "FILE", "machine: where to write it (standard output)"},
    {"ranks", "LIST", "scaling: numbers of ranks (1,2,4,... up to all)"},
    {"strong", "LIST", "scaling: global batches (2048,16384)"},
    {"weak", "LIST", "scaling: rows of a rank (2048)"},
    {"svg", "FILE", "plot: the file to make"},
    {"cold", NULL, "io: the system forgets the file before each reading"},
    {"json", "FILE", "also write the figures as JSON"},
    {NULL, NULL, NULL},
};

double mr_bench_status_mib(const char *key)
{
    char line[128];
    double kib = 0;
    FILE *f = fopen("/proc/self/status", "r");
    while (f && fgets(line, sizeof line, f))
        if (!strncmp(line, key, strlen(key))) kib = strtod(line + strlen(key), NULL);
    if (f) fclose(f);
    return kib / 1024.0;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

float mr_bench_number(double x)
{
    uint16_t half[2] = {mr_float_to_bf16((float)(0.7 * x)), mr_float_to_bf16((float)x)};
    uint32_t bits = (uint32_t)half[1] << 16 | half[0];
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

void mr_bench_sort(double *s, int64_t n) { qsort(s, (size_t)n, sizeof *s, ascending); }

mr_status mr_bench_json(const mr_args *a, const json_t *o)
{
    const char *path = mr_args_value(a, "json");
    if (!path) return MR_OK;
    errno = 0;
    MR_CHECK(json_dump_file(o, path, JSON_INDENT(1)) == 0, MR_ERR_IO,
             "--json %s cannot be written: %s", path, errno ? strerror(errno) : "too large");
    return MR_OK;
}

/* Is `word` one of the words of `list`, which are separated by single spaces? */
static bool is_listed(const char *list, const char *word)
{
    size_t n = strlen(word);
    for (const char *at = list; (at = strstr(at, word)); at += n)
        if ((at == list || at[-1] == ' ') && (at[n] == ' ' || at[n] == '\0')) return true;
    return false;
}

static mr_status unknown(const char *name)
{
    char known[160] = "";
    for (int i = 0; i < N_BENCHES; i++) {
        size_t at = strlen(known);
        snprintf(known + at, sizeof known - at, "%s%s", i ? ", " : "", benches[i]->name);
    }
    return MR_RAISE(MR_ERR_USAGE, "bench does not know '%.40s'; accepted: %s", name, known);
}

static mr_status run(const mr_args *a)
{
    const mr_bench *b = NULL;
    for (int i = 0; i < N_BENCHES && !b; i++)
        if (!strcmp(a->words[0], benches[i]->name)) b = benches[i];
    if (!b) return unknown(a->words[0]);
    MR_CHECK(b->takes_files || a->n_words == 1, MR_ERR_USAGE, "bench %s takes no further words",
             b->name);
    for (const mr_cli_option *o = options; o->name; o++)
        MR_CHECK(!mr_args_has(a, o->name) || is_listed(b->options, o->name), MR_ERR_USAGE,
                 "bench %s does not take --%s; it takes: %s", b->name, o->name, b->options);
    MR_TRY(mr_args_output(a, "json", false));
    return b->run(a);
}

const mr_command mr_cmd_bench = {.name = "bench",
                                 .summary = "measure times",
                                 .words = "comm|io|kernels|machine|plot FILE...|scaling|step",
                                 .words_min = 1,
                                 .words_max = MR_CLI_WORDS,
                                 .options = options,
                                 .needs_config = true,
                                 .run = run};
