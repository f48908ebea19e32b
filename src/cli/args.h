/* The command line: mealrec-dist [COMMAND] [--config FILE]... [--section.key=value]... [options]
 * Every command describes itself by an mr_command; parser and help are made from that table.
 * What it is not: the commands' work (cmd_*.c). */
#ifndef MR_CLI_ARGS_H
#define MR_CLI_ARGS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "base/config.h"

enum { MR_CLI_OPTIONS = 24, MR_CLI_WORDS = 16 }; /* most options of a command, words given to it */

/* `--name VALUE` or `--name=VALUE`; value NULL: a switch. A table ends with a name of NULL. */
typedef struct mr_cli_option {
    const char *name;  /* without the dashes */
    const char *value; /* what stands for the value in the help: "FILE", "N"; NULL for a switch */
    const char *doc;
} mr_cli_option;

typedef struct mr_args mr_args;

typedef struct mr_command {
    const char *name, *summary;
    const char *words; /* plain words it takes, for the help: "show|doc"; NULL: none */
    int words_min, words_max;
    const mr_cli_option *options; /* NULL: none */
    bool needs_config;            /* takes --config, --section.key and --dry-run */
    bool is_alone;                /* works as one process: refused on several ranks */
    mr_status (*run)(const mr_args *a);
} mr_command;

/* The parsed command line. Texts are borrowed from argv. */
struct mr_args {
    const mr_command *command;
    bool is_help, is_version; /* print that and leave; nothing else is filled in */
    bool is_dry_run;
    mr_config config; /* resolved and checked when the command needs one, else the defaults */
    int n_words;
    const char *words[MR_CLI_WORDS];
    int argc; /* the command line as given, for the record of a run */
    const char *const *argv;
    const char *values[MR_CLI_OPTIONS]; /* by position in command->options; NULL: not given */
};

/* commands: n commands; without a command word the one called `standard` is meant.
 * Errors: ERR_USAGE for the command line's form, ERR_NO_INPUT and ERR_CONFIG from the
 * configuration. */
mr_status mr_args_parse(mr_args *a, int argc, char **argv, const mr_command *const *commands, int n,
                        const char *standard);

/* Value of an option of the command ("" for a given switch), NULL when not given. */
const char *mr_args_value(const mr_args *a, const char *name);
bool mr_args_has(const mr_args *a, const char *name);
/* ERR_USAGE when the option was not given. */
mr_status mr_args_need(const mr_args *a, const char *name, const char **out_p);
/* *out_p: the option's text, 1 to `most` bytes, or NULL when not given. ERR_USAGE. */
mr_status mr_args_text(const mr_args *a, const char *name, size_t most, const char **out_p);
/* *out_p = the option's number, or `standard` when not given. ERR_USAGE with the accepted range. */
mr_status mr_args_int(const mr_args *a, const char *name, int64_t lo, int64_t hi, int64_t standard,
                      int64_t *out_p);
mr_status mr_args_real(const mr_args *a, const char *name, double lo, double hi, double standard,
                       double *out_p);

/* Can the file of option `name` be written? Asked before long work starts; rank 0 alone looks, the
 * writer asks again. Nothing is wrong when the option was not given. is_new: it must not exist yet.
 * ERR_USAGE. */
mr_status mr_args_output(const mr_args *a, const char *name, bool is_new);

/* Rank as the launcher (mpirun, srun) tells it before MPI is started; -1 without a launcher. */
int mr_args_launcher_rank(void);
/* Ranks that the launcher starts, 1 without one. A variable of SLURM counts only beside one of
 * PMIx: in the script of a SLURM job it speaks of many tasks and the program runs once. */
int mr_args_launcher_ranks(void);

/* Help of the whole program (command NULL) or of one command. */
void mr_args_help(FILE *f, const mr_command *command, const mr_command *const *commands, int n);

#endif
