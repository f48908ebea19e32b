/* The configuration as text for people and files: YAML, with origins, JSON, help, reference page.
 * What it is not: the reader. Everything here comes from the option table and the values.
 * Invariant: what mr_config_write_yaml and mr_config_show print loads back to the same values. */
#include "base/config_table.h"

#include <stdlib.h>
#include <string.h>

static bool starts_section(int i)
{
    return i == 0 || strcmp(mr_opt_table[i].section, mr_opt_table[i - 1].section) != 0;
}

void mr_config_write_yaml(const mr_config *c, FILE *f)
{
    for (int i = 0; i < MR_OPT_COUNT; i++) {
        char value[MR_OPT_TEXT];
        mr_opt_literal(c, i, false, value, sizeof value);
        if (starts_section(i)) fprintf(f, "%s:\n", mr_opt_table[i].section);
        fprintf(f, "  %s: %s\n", mr_opt_table[i].name, value);
    }
}

void mr_config_show(const mr_config *c, FILE *f)
{
    for (int i = 0; i < MR_OPT_COUNT; i++) {
        char value[MR_OPT_TEXT];
        mr_opt_literal(c, i, false, value, sizeof value);
        if (starts_section(i)) fprintf(f, "%s:\n", mr_opt_table[i].section);
        int n = fprintf(f, "  %s: %s", mr_opt_table[i].name, value);
        fprintf(f, "%*s # %s\n", n < 36 ? 36 - n : 0, "", mr_config_origin(i));
    }
}

char *mr_config_json(const mr_config *c)
{
    char *text = NULL;
    size_t bytes = 0;
    FILE *f = open_memstream(&text, &bytes);
    if (!f) return NULL;
    for (int i = 0; i < MR_OPT_COUNT; i++) {
        char value[MR_OPT_TEXT];
        mr_opt_literal(c, i, true, value, sizeof value);
        if (starts_section(i)) fprintf(f, "%s\"%s\": {", i ? "}, " : "{", mr_opt_table[i].section);
        fprintf(f, "%s\"%s\": %s", starts_section(i) ? "" : ", ", mr_opt_table[i].name, value);
    }
    fprintf(f, "}}");
    bool failed = ferror(f) != 0;
    if (fclose(f) != 0 || failed) {
        free(text);
        return NULL;
    }
    return text;
}

static const char *type_name(const mr_opt *o)
{
    switch (o->type) {
    case MR_OPT_BOOL: return "BOOL";
    case MR_OPT_INT: return "INT";
    case MR_OPT_REAL: return "REAL";
    case MR_OPT_WORD:
    case MR_OPT_CHOICE: return "WORD";
    case MR_OPT_STRING: return "TEXT";
    case MR_OPT_INTS: return "INT,...";
    }
    return "";
}

void mr_config_help(FILE *f)
{
    fprintf(f, "Configuration, by --config FILE (YAML) or one by one; later ones win:\n");
    for (int i = 0; i < MR_OPT_COUNT; i++) {
        const mr_opt *o = &mr_opt_table[i];
        int n = fprintf(f, "  --%s=%s", o->key, type_name(o));
        fprintf(f, "%*s %s", n < 33 ? 33 - n : 0, "", o->doc);
        if (o->type == MR_OPT_WORD || o->type == MR_OPT_CHOICE) fprintf(f, " (%s)", o->accepts);
        fprintf(f, " [%s]\n", o->standard[0] ? o->standard : "\"\"");
    }
}

/* Table cells: the only special character that our texts hold is the bar. */
static void print_cell(FILE *f, const char *text)
{
    for (const char *p = text; *p; p++) {
        if (*p == '|') fputc('\\', f);
        fputc(*p, f);
    }
}

void mr_config_doc_page(FILE *f)
{
    fprintf(f,
            "# Configuration\n\n"
            "Made by `mealrec-dist config doc`; do not edit.\n\n"
            "A configuration is a YAML file of sections and keys.\n"
            "Every key can also be given on the command line, as `--section.key=value`.\n"
            "The command line wins over files, a later file over an earlier one, a file over the "
            "default.\n"
            "`mealrec-dist config show` prints the resolved values and where each came from.\n\n"
            "A value is read by the type of its key, so `1e-3` is a number where a number is "
            "wanted and `on` is a text where a text is wanted.\n"
            "Lists are written `[10, 20]`, or `10,20` on the command line.\n"
            "Anchors, aliases, tags, repeated keys and second documents are refused.\n\n"
            "**Identity**: a run can only be continued with the same values of the keys marked "
            "*yes*; the others decide where, how fast and how long it runs.\n");
    for (int i = 0; i < MR_OPT_COUNT; i++) {
        const mr_opt *o = &mr_opt_table[i];
        char accepts[256];
        mr_opt_accepts_text(o, accepts, sizeof accepts);
        if (starts_section(i))
            fprintf(f,
                    "\n## %s\n\n| key | default | accepted | identity | meaning |\n"
                    "| --- | --- | --- | --- | --- |\n",
                    o->section);
        fprintf(f, "| `%s` | `%s` | ", o->key, o->standard[0] ? o->standard : "\"\"");
        print_cell(f, accepts);
        fprintf(f, " | %s | ", o->is_result ? "yes" : "no");
        print_cell(f, o->doc);
        fprintf(f, " |\n");
    }
}
