/* Parses the command line against the tables of the commands, and prints help from them.
 * What it is not: aware of any single command.
 * Invariants: nothing is ignored: a word or option that no table knows is an error that names the
 * nearest known one; files are read in the order given, then the keys of the command line are set.
 */
#include "cli/args.h"

#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/env.h"
#include "base/mem.h"

static const mr_cli_option common[] = {
    {"config", "FILE", "read a configuration file (YAML); may be given again, later files win"},
    {"dry-run", NULL, "resolve and check everything, print the plan, do not run it"},
    {"help", NULL, "print this help (-h)"},
    {"version", NULL, "print the version"},
    {NULL, NULL, NULL}};
enum { COMMON_CONFIG, COMMON_DRY_RUN, COMMON_HELP, COMMON_VERSION, COMMON_COUNT };

typedef struct cursor {
    int argc, at;
    char **argv;
} cursor;

static int count_options(const mr_cli_option *options)
{
    int n = 0;
    while (options && options[n].name) n++;
    return n;
}

static int find_option(const mr_cli_option *options, const char *name, size_t len)
{
    for (int i = 0; i < count_options(options); i++)
        if (strlen(options[i].name) == len && memcmp(options[i].name, name, len) == 0) return i;
    return -1;
}

/* "a, b, c" */
static void join(const char *const *words, int n, char *buf, size_t buf_bytes)
{
    size_t at = 0;
    buf[0] = 0;
    for (int i = 0; i < n && at < buf_bytes; i++)
        at += (size_t)snprintf(buf + at, buf_bytes - at, "%s%s", i ? ", " : "", words[i]);
}

static mr_status find_command(const char *name, const mr_command *const *commands, int n,
                              const mr_command **out_p)
{
    const char *names[64] = {NULL};
    char known[512];
    int m = n < 64 ? n : 64;
    for (int i = 0; i < m; i++) {
        names[i] = commands[i]->name;
        if (strcmp(name, names[i]) == 0) {
            *out_p = commands[i];
            return MR_OK;
        }
    }
    const char *near = mr_nearest_word(name, names, m);
    join(names, m, known, sizeof known);
    if (near)
        return MR_RAISE(MR_ERR_USAGE, "unknown command '%.80s'; did you mean '%s'?", name, near);
    return MR_RAISE(MR_ERR_USAGE, "unknown command '%.80s'; commands: %s", name, known);
}

static mr_status unknown_option(const mr_command *cmd, const char *name, size_t len)
{
    const char *names[MR_CLI_OPTIONS + COMMON_COUNT];
    char word[80];
    int n = 0, own = count_options(cmd->options);
    snprintf(word, sizeof word, "%.*s", (int)(len < 79 ? len : 79), name);
    for (int i = 0; i < own; i++) names[n++] = cmd->options[i].name;
    for (int i = 0; i < COMMON_COUNT; i++)
        if (cmd->needs_config || i >= COMMON_HELP) names[n++] = common[i].name;
    const char *near = mr_nearest_word(word, names, n);
    for (int i = 0; cmd->needs_config && !near && i < mr_config_count(); i++) {
        const char *key = mr_config_key(i); /* a key without its section */
        if (!strcmp(strchr(key, '.') + 1, word)) near = key;
    }
    MR_CHECK(!near, MR_ERR_USAGE, "%s has no option '--%s'; did you mean '--%s'?", cmd->name, word,
             near);
    return MR_RAISE(MR_ERR_USAGE, "%s has no option '--%s'; see mealrec-dist %s --help", cmd->name,
                    word, cmd->name);
}

/* The value of the option at the cursor: behind '=', or the next argument, which is then used up.
 */
static mr_status take_value(cursor *c, const char *what, const char **out_p)
{
    const char *arg = c->argv[c->at], *equals = strchr(arg, '=');
    int shown = equals ? (int)(equals - arg) : (int)strlen(arg);
    if (equals) {
        *out_p = equals + 1;
        return MR_OK;
    }
    bool has_next = c->at + 1 < c->argc && strncmp(c->argv[c->at + 1], "--", 2) != 0;
    MR_CHECK(has_next, MR_ERR_USAGE, "%.*s needs a value: %.*s=%s", shown, arg, shown, arg, what);
    *out_p = c->argv[++c->at];
    return MR_OK;
}

static mr_status take_common(mr_args *a, cursor *c, int which, bool *is_file_p)
{
    const char *value = NULL;
    if (common[which].value)
        MR_TRY(take_value(c, common[which].value, &value));
    else
        MR_CHECK(!strchr(c->argv[c->at], '='), MR_ERR_USAGE, "--%s takes no value",
                 common[which].name);
    MR_CHECK(!value || *value, MR_ERR_USAGE, "--%s needs a value: --%s=%s", common[which].name,
             common[which].name, common[which].value);
    if (which == COMMON_DRY_RUN) a->is_dry_run = true;
    if (which == COMMON_HELP) a->is_help = true;
    if (which == COMMON_VERSION) a->is_version = true;
    *is_file_p = which == COMMON_CONFIG;
    return MR_OK;
}

static mr_status take_own(mr_args *a, cursor *c, int which)
{
    const mr_cli_option *o = &a->command->options[which];
    const char *value = "";
    MR_CHECK(!a->values[which], MR_ERR_USAGE, "--%s is given twice", o->name);
    if (o->value)
        MR_TRY(take_value(c, o->value, &value));
    else
        MR_CHECK(!strchr(c->argv[c->at], '='), MR_ERR_USAGE, "--%s takes no value", o->name);
    a->values[which] = value;
    return MR_OK;
}

static mr_status take_word(mr_args *a, cursor *c, const mr_command *const *commands, int n)
{
    const char *word = c->argv[c->at];
    const mr_command *cmd = a->command;
    if (a->n_words < cmd->words_max && a->n_words < MR_CLI_WORDS) {
        a->words[a->n_words++] = word;
        return MR_OK;
    }
    for (int i = 0; i < n; i++)
        MR_CHECK(strcmp(word, commands[i]->name), MR_ERR_USAGE,
                 "the command comes first: mealrec-dist %s ...", word);
    return MR_RAISE(MR_ERR_USAGE, "%s does not take the word '%.80s'; see mealrec-dist %s --help",
                    cmd->name, word, cmd->name);
}

/* Keys and files are collected first and used after the whole line is known to be well formed. */
typedef struct pending {
    int n_files, n_keys;
    const char **files, **keys, **values; /* argc elements each */
} pending;

static mr_status take_argument(mr_args *a, cursor *c, pending *p, const mr_command *const *commands,
                               int n)
{
    const char *arg = c->argv[c->at];
    if (strcmp(arg, "-h") == 0) {
        a->is_help = true;
        return MR_OK;
    }
    if (arg[0] != '-' || !arg[1]) return take_word(a, c, commands, n);
    MR_CHECK(arg[1] == '-' && arg[2], MR_ERR_USAGE,
             "unknown option '%.80s'; see mealrec-dist --help", arg);
    const char *name = arg + 2;
    size_t len = strcspn(name, "=");
    bool is_key = memchr(name, '.', len) != NULL, is_file = false;
    int own = find_option(a->command->options, name, len), any = find_option(common, name, len);
    if (own >= 0) return take_own(a, c, own);
    bool is_config = is_key || any == COMMON_CONFIG || any == COMMON_DRY_RUN;
    MR_CHECK(!is_config || a->command->needs_config, MR_ERR_USAGE,
             "%s takes no configuration, but '%.80s' was given", a->command->name, arg);
    if (is_key) {
        p->keys[p->n_keys] = name;
        return take_value(c, "VALUE", &p->values[p->n_keys++]);
    }
    if (any < 0) return unknown_option(a->command, name, len);
    MR_TRY(take_common(a, c, any, &is_file));
    if (!is_file) return MR_OK;
    const char *equals = strchr(arg, '=');
    p->files[p->n_files++] = equals ? equals + 1 : c->argv[c->at];
    return MR_OK;
}

static mr_status resolve(mr_args *a, const pending *p)
{
    for (int i = 0; i < p->n_files; i++) MR_TRY(mr_config_load(&a->config, p->files[i]));
    for (int i = 0; i < p->n_keys; i++) {
        char key[128];
        size_t len = strcspn(p->keys[i], "=");
        snprintf(key, sizeof key, "%.*s", (int)(len < 127 ? len : 127), p->keys[i]);
        MR_TRY(mr_config_set(&a->config, key, p->values[i], "command line"));
    }
    return mr_config_check(&a->config);
}

static mr_status parse(mr_args *a, cursor *c, pending *p, const mr_command *const *commands, int n)
{
    for (; c->at < c->argc; c->at++) MR_TRY(take_argument(a, c, p, commands, n));
    if (a->is_help || a->is_version) return MR_OK;
    MR_CHECK(a->n_words >= a->command->words_min, MR_ERR_USAGE, "usage: mealrec-dist %s %s",
             a->command->name, a->command->words);
    return a->command->needs_config ? resolve(a, p) : MR_OK;
}

mr_status mr_args_parse(mr_args *a, int argc, char **argv, const mr_command *const *commands, int n,
                        const char *standard)
{
    memset(a, 0, sizeof *a);
    mr_config_defaults(&a->config);
    a->argc = argc;
    a->argv = (const char *const *)argv;
    cursor c = {argc, 1, argv};
    const char *name = standard;
    bool has_command = argc > 1 && argv[1][0] != '-';
    if (has_command) name = argv[c.at++];
    if (!has_command && argc > 1) {
        /* Help and version of the program itself. */
        a->is_help = !strcmp(argv[1], "--help") || !strcmp(argv[1], "-h");
        a->is_version = !strcmp(argv[1], "--version");
        if (a->is_help || a->is_version) return MR_OK;
    }
    MR_TRY(find_command(name, commands, n, &a->command));
    MR_CHECK(count_options(a->command->options) <= MR_CLI_OPTIONS, MR_ERR_INTERNAL,
             "%s has more than %d options", name, MR_CLI_OPTIONS);
    const char **room = NULL;
    MR_TRY(MR_ALLOC(&room, 3 * (int64_t)argc, "arguments"));
    pending p = {0, 0, room, room + argc, room + 2 * argc};
    mr_status st = parse(a, &c, &p, commands, n);
    MR_FREE(room);
    return st;
}

const char *mr_args_value(const mr_args *a, const char *name)
{
    int i = find_option(a->command->options, name, strlen(name));
    return i < 0 ? NULL : a->values[i];
}

bool mr_args_has(const mr_args *a, const char *name) { return mr_args_value(a, name) != NULL; }

mr_status mr_args_need(const mr_args *a, const char *name, const char **out_p)
{
    const char *v = mr_args_value(a, name);
    MR_CHECK(v, MR_ERR_USAGE, "%s needs --%s; see mealrec-dist %s --help", a->command->name, name,
             a->command->name);
    *out_p = v;
    return MR_OK;
}

mr_status mr_args_text(const mr_args *a, const char *name, size_t most, const char **out_p)
{
    const char *v = mr_args_value(a, name);
    size_t n = v ? strlen(v) : 0;
    MR_CHECK(!v || n > 0, MR_ERR_USAGE, "--%s is empty; give a text or leave it out", name);
    MR_CHECK(n <= most, MR_ERR_USAGE,
             "--%s '%.20s...' is too long: %zu bytes, at most %zu are "
             "accepted",
             name, v, n, most);
    *out_p = v;
    return MR_OK;
}

mr_status mr_args_int(const mr_args *a, const char *name, int64_t lo, int64_t hi, int64_t standard,
                      int64_t *out_p)
{
    const char *v = mr_args_value(a, name);
    char *end = NULL;
    errno = 0;
    long long x = v ? strtoll(v, &end, 10) : standard;
    bool is_number = !v || (*v && *v != ' ' && !*end && errno == 0);
    MR_CHECK(is_number && (!v || (x >= lo && x <= hi)), MR_ERR_USAGE,
             "--%s = '%.80s' is not accepted; accepted: an integer, %lld <= n <= %lld", name, v,
             (long long)lo, (long long)hi);
    *out_p = x;
    return MR_OK;
}

mr_status mr_args_real(const mr_args *a, const char *name, double lo, double hi, double standard,
                       double *out_p)
{
    const char *v = mr_args_value(a, name);
    char *end = NULL;
    double x = v ? strtod(v, &end) : standard;
    bool is_number = !v || (*v && *v != ' ' && !*end && isfinite(x));
    MR_CHECK(is_number && (!v || (x >= lo && x <= hi)), MR_ERR_USAGE,
             "--%s = '%.80s' is not accepted; accepted: a number, %g <= x <= %g", name, v, lo, hi);
    *out_p = x;
    return MR_OK;
}

static void print_options(FILE *f, const mr_cli_option *options, int first)
{
    for (int i = first; i < count_options(options); i++) {
        int n = fprintf(f, "  --%s%s%s", options[i].name, options[i].value ? " " : "",
                        options[i].value ? options[i].value : "");
        fprintf(f, "%*s %s\n", n < 26 ? 26 - n : 0, "", options[i].doc);
    }
}

static void print_program_help(FILE *f, const mr_command *const *commands, int n)
{
    fprintf(f,
            "mealrec-dist %s: trains the MealRec recommender on one or many processes\n\n"
            "usage: mealrec-dist [COMMAND] [--config FILE]... [--section.key=value]...\n"
            "       mpirun -np 8 mealrec-dist ...\n\ncommands (without one: train):\n",
            MR_VERSION);
    for (int i = 0; i < n; i++) fprintf(f, "  %-12s %s\n", commands[i]->name, commands[i]->summary);
    fprintf(f, "\noptions of every command that uses a configuration:\n");
    print_options(f, common, 0);
    fprintf(f, "\nmealrec-dist COMMAND --help lists the options of a command and the keys of the "
               "configuration.\n"
               "Exit codes: 0 done, 2 usage, 65 bad data, 66 missing input, 70 internal error, 74 "
               "input/output,\n75 stopped on request, 76 watchdog, 77 diverged, 78 bad "
               "configuration.\n");
}

mr_status mr_args_output(const mr_args *a, const char *name, bool is_new)
{
    char folder[4096];
    struct stat sb;
    const char *path = mr_args_value(a, name), *slash = path ? strrchr(path, '/') : NULL;
    if (!path || mr_args_launcher_rank() > 0) return MR_OK;
    MR_CHECK(*path && (!slash || slash[1]), MR_ERR_USAGE, "--%s '%s' does not name a file", name,
             path);
    snprintf(folder, sizeof folder, "%.*s", slash ? (int)(slash - path) + 1 : 1,
             slash ? path : ".");
    MR_CHECK(stat(folder, &sb) == 0 && S_ISDIR(sb.st_mode), MR_ERR_USAGE,
             "--%s %s cannot be written: there is no folder %s", name, path, folder);
    if (stat(path, &sb) != 0) return MR_OK;
    MR_CHECK(!S_ISDIR(sb.st_mode), MR_ERR_USAGE, "--%s %s is a folder; name a file", name, path);
    MR_CHECK(!is_new, MR_ERR_USAGE, "--%s %s exists and was not touched; choose another --%s", name,
             path, name);
    return MR_OK;
}

int mr_args_launcher_rank(void)
{
    static const char *const names[] = {"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK",
                                        "SLURM_PROCID"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        int64_t rank;
        if (mr_env_int(names[i], 0, INT_MAX, "", &rank)) return (int)rank;
    }
    return -1;
}

int mr_args_launcher_ranks(void)
{
    int64_t n, rank;
    if (mr_env_int("OMPI_COMM_WORLD_SIZE", 1, INT_MAX, "", &n)) return (int)n;
    if (mr_env_int("PMI_SIZE", 1, INT_MAX, "", &n)) return (int)n;
    bool is_pmix = mr_env_int("PMIX_RANK", 0, INT_MAX, "", &rank);
    return is_pmix && mr_env_int("SLURM_STEP_NUM_TASKS", 1, INT_MAX, "", &n) ? (int)n : 1;
}

void mr_args_help(FILE *f, const mr_command *command, const mr_command *const *commands, int n)
{
    if (!command) {
        print_program_help(f, commands, n);
        return;
    }
    fprintf(f, "usage: mealrec-dist %s%s%s [options]\n%s\n\noptions:\n", command->name,
            command->words ? " " : "", command->words ? command->words : "", command->summary);
    print_options(f, command->options, 0);
    print_options(f, common, command->needs_config ? 0 : COMMON_HELP);
    if (!command->needs_config) return;
    fprintf(f, "\n");
    mr_config_help(f);
}
