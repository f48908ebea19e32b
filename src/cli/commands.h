/* The commands of mealrec-dist, one per src/cli/cmd_*.c. A new one is declared here and listed in
 * main.c. */
#ifndef MR_CLI_COMMANDS_H
#define MR_CLI_COMMANDS_H

#include "cli/args.h"

extern const mr_command mr_cmd_bench;
extern const mr_command mr_cmd_compare;
extern const mr_command mr_cmd_config;
extern const mr_command mr_cmd_doctor;
extern const mr_command mr_cmd_dump_step;
extern const mr_command mr_cmd_eval;
extern const mr_command mr_cmd_export;
extern const mr_command mr_cmd_gradcheck;
extern const mr_command mr_cmd_import;
extern const mr_command mr_cmd_inspect;
extern const mr_command mr_cmd_plan;
extern const mr_command mr_cmd_recommend;
extern const mr_command mr_cmd_synth;
extern const mr_command mr_cmd_train;

/* Call first in main: may start the program again, with variables for its libraries
 * (library_settings.c). */
void mr_library_settings(char **argv);
/* Which kernels OpenBLAS runs with. False: they fit this CPU; true: text says what is wrong. */
bool mr_blas_core_advice(char *core, size_t core_bytes, char *text, size_t text_bytes);

#endif
