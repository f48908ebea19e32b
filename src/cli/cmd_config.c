/* mealrec-dist config: prints the resolved configuration, or the reference page of every key.
 * What it is not: a writer of files; both go to standard output. */
#include "cli/commands.h"

#include <stdlib.h>
#include <string.h>

static const mr_cli_option options[] = {
    {"json", NULL, "show: one JSON object instead of YAML with origins"}, {NULL, NULL, NULL}};

static mr_status show_json(const mr_config *c)
{
    char *text = mr_config_json(c);
    MR_CHECK(text, MR_ERR_MEMORY, "no memory for the configuration as JSON");
    printf("%s\n", text);
    free(text);
    return MR_OK;
}

static mr_status run(const mr_args *a)
{
    bool is_json = mr_args_has(a, "json");
    if (strcmp(a->words[0], "show") == 0) {
        if (is_json) return show_json(&a->config);
        mr_config_show(&a->config, stdout);
        return MR_OK;
    }
    MR_CHECK(strcmp(a->words[0], "doc") == 0, MR_ERR_USAGE,
             "config does not know '%.80s'; accepted: show, doc", a->words[0]);
    MR_CHECK(!is_json, MR_ERR_USAGE, "--json belongs to config show");
    mr_config_doc_page(stdout);
    return MR_OK;
}

const mr_command mr_cmd_config = {
    .name = "config",
    .summary = "print the resolved configuration and where each value came from, or the reference",
    .words = "show|doc",
    .words_min = 1,
    .words_max = 1,
    .options = options,
    .needs_config = true,
    .is_alone = true,
    .run = run};
