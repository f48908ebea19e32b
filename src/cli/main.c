/* Entry: picks the command, parses its arguments, turns its status into the documented exit code.
 * What it is not: a place for work; each command has its own cmd_*.c, and starts MPI if it needs
 * it. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/stop.h"
#include "cli/commands.h"
#include "dist/comm.h"
#include "train/session.h"

static const mr_command *const commands[] = {
    &mr_cmd_bench, &mr_cmd_compare,   &mr_cmd_config,    &mr_cmd_doctor, &mr_cmd_dump_step,
    &mr_cmd_eval,  &mr_cmd_export,    &mr_cmd_gradcheck, &mr_cmd_import, &mr_cmd_inspect,
    &mr_cmd_plan,  &mr_cmd_recommend, &mr_cmd_synth,     &mr_cmd_train,
};
enum { N_COMMANDS = sizeof commands / sizeof commands[0] };

static mr_status check_ranks(const mr_args *a)
{
    int n = a->command && a->command->is_alone && !a->is_help ? mr_args_launcher_ranks() : 1;
    MR_CHECK(n == 1, MR_ERR_USAGE,
             "%s runs as one process and was started as %d ranks; start it without the launcher",
             a->command->name, n);
    return MR_OK;
}

/* Every rank reads the same command line and files, so a mistake in them would be reported once a
 * rank. Other ranks therefore wait before they speak: when rank 0 failed as well the launcher has
 * ended them by then, and a failure of this host alone is still reported. */
static mr_status parse(mr_args *a, int argc, char **argv, int rank)
{
    mr_errors_to_log(rank <= 0);
    mr_status st = mr_args_parse(a, argc, argv, commands, N_COMMANDS, "train");
    if (st == MR_OK) st = check_ranks(a);
    mr_errors_to_log(true);
    if (st != MR_OK && rank > 0) {
        mr_stop_release(); /* that is how it ends us */
        sleep(3);          /* mpirun takes about one second */
        mr_log(MR_LOG_ERROR, "%s", mr_last_error());
    }
    return st;
}

/* A full disk or a closed pipe behind standard output must not look like success. */
static mr_status finish_output(mr_status st)
{
    bool failed = fflush(stdout) != 0 || ferror(stdout);
    if (failed && st == MR_OK)
        return MR_RAISE(MR_ERR_IO, "cannot write to standard output: %s", strerror(errno));
    return st;
}

int main(int argc, char **argv)
{
    static mr_args args; /* some kilobytes of configuration */
    mr_stop_block(true); /* the line after it may start the program again */
    mr_library_settings(argv);
    mr_stop_catch();
    mr_stop_block(false);
    int rank = mr_args_launcher_rank();
    mr_log_init(rank, MR_LOG_INFO);
    mr_status st = parse(&args, argc, argv, rank);
    if (st != MR_OK) return mr_exit_code(st);
    if (args.is_help || args.command != &mr_cmd_train || args.is_dry_run) mr_stop_release();
    if (args.is_version) {
        if (rank <= 0) printf("mealrec-dist %s\n", MR_VERSION);
    } else if (args.is_help) {
        if (rank <= 0) mr_args_help(stdout, args.command, commands, N_COMMANDS);
    } else {
        mr_session_command(args.command->name);
        st = args.command->run(&args);
    }
    return mr_comm_end(finish_output(st));
}
