/* The command line: one argument a line. */
#include "fuzz.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/commands.h"

const char fuzz_name[] = "args";
const char *const fuzz_words[] = {"\n",        "--",
                                  "=",         "train",
                                  "import",    "eval",
                                  "--config",  "--help",
                                  "--version", "-h",
                                  "-",         "--train.lr",
                                  "--out",     "--force",
                                  "--dry-run", "--model.hidden=",
                                  ".",         "\n--",
                                  "[1,2]",     "nan",
                                  "1e999",     "--interactions\n",
                                  "/dev/null", "%s%n",
                                  "\xff",      "synth",
                                  "--users=",  "inspect",
                                  "compare",   NULL};

static const mr_command *const commands[] = {
    &mr_cmd_bench,     &mr_cmd_compare,   &mr_cmd_config, &mr_cmd_dump_step, &mr_cmd_eval,
    &mr_cmd_export,    &mr_cmd_gradcheck, &mr_cmd_import, &mr_cmd_inspect,   &mr_cmd_plan,
    &mr_cmd_recommend, &mr_cmd_synth,     &mr_cmd_train,
};
enum { N_COMMANDS = sizeof commands / sizeof commands[0], ARGS = 64 };

size_t fuzz_seed(int i, uint8_t *out)
{
    static const char *const texts[] = {
        "train\n--train.lr=0.01\n--model.hidden\n64\n--run.name=x",
        "import\n--interactions\na.tsv\n--out=b.h5\n--k-core\n4\n--force",
        "synth\n--out\nx.h5\n--users=10\n--seed\n3",
        "--train.topk=[5,10]\n--dry-run",
        "compare\nruns/a\nruns/b",
        "eval\n--checkpoint\nruns/x\n--split=test",
        "--help",
        "config\nshow\n--config\n/dev/null\n--diffusion.t_set=1,2,3",
        "inspect\nx.h5",
        "bench\n--steps=3"};
    return i < (int)(sizeof texts / sizeof *texts) ? fuzz_text(out, texts[i]) : 0;
}

/* What a command does with its own options: each as word, integer and number. */
static void use(const mr_args *a)
{
    const mr_cli_option *o = a->command->options;
    for (; o && o->name; o++) {
        const char *text;
        int64_t i;
        double x;
        mr_status st = mr_args_need(a, o->name, &text);
        fuzz_require(st == MR_OK || st == MR_ERR_USAGE, "an option as word");
        st = mr_args_int(a, o->name, -5, 1000000, 1, &i);
        fuzz_require(st == MR_ERR_USAGE || (st == MR_OK && i >= -5 && i <= 1000000),
                     "an option as integer");
        st = mr_args_real(a, o->name, 0, 1, 0.5, &x);
        fuzz_require(st == MR_ERR_USAGE || (st == MR_OK && x >= 0 && x <= 1),
                     "an option as number");
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static mr_args a;
    char program[] = "mealrec-dist", *argv[ARGS + 2] = {program}, *text = malloc(n + 1);
    int argc = 1;
    fuzz_folder();
    memcpy(text, data, n);
    text[n] = 0;
    for (char *at = text, *end; at && argc <= ARGS; at = end) {
        end = strchr(at, '\n');
        if (end) *end++ = 0;
        argv[argc++] = at;
    }
    mr_status st = mr_args_parse(&a, argc, argv, commands, N_COMMANDS, "train");
    fuzz_judge(st, 1u << MR_ERR_USAGE | 1u << MR_ERR_CONFIG | 1u << MR_ERR_NO_INPUT, "");
    if (st == MR_OK && a.command && !a.is_help && !a.is_version) use(&a);
    free(text);
    return 0;
}
