/* mealrec-dist import: an interaction log and feature files become one data set file.
 * What it is not: parallel; it runs as one process. Formats: docs/data-format.md. */
#include <stdio.h>
#include <string.h>

#include "cli/commands.h"
#include "data/import.h"
#include "io/h5_dataset.h"

static const mr_cli_option options[] = {
    {"interactions", "FILE",
     "MicroLens pairs (tsv), user,item[,timestamp] (csv) or RecBole .inter; "
     "xz and gz are fine; - is standard input"},
    {"out", "FILE", "the data set file to make (.h5)"},
    {"name", "TEXT", "name of the data set (default: from the file name)"},
    {"k-core", "N",
     "drop users and items with fewer than N interactions, repeatedly (4; 0 is off)"},
    {"min-len", "N", "drop users with fewer than N interactions (0)"},
    {"visual", "FILE", "npy [items, D]: one vector per item (default with --frames: their mean)"},
    {"frames", "FILE", "npy [items, K, D]: K key frames per item"},
    {"text", "FILE", "npy [items, d_h]: one text vector per item"},
    {"feature-ids", "FILE",
     "original item id of every feature row, one a line (default: rows in "
     "ascending order of the ids, before filtering)"},
    {"feature-dtype", "TYPE", "f16 or f32 (default: float16 stays, all else becomes f32)"},
    {"titles", "FILE", "csv item,title; with --glove: text vectors from titles"},
    {"glove", "FILE", "GloVe vectors as text: word number number ..."},
    {"force", NULL, "replace an existing --out"},
    {NULL, NULL, NULL}};

static mr_status read_spec(const mr_args *a, mr_import_spec *s)
{
    memset(s, 0, sizeof *s);
    MR_TRY(mr_args_need(a, "interactions", &s->interactions));
    MR_TRY(mr_args_text(a, "name", sizeof((mr_dataset *)0)->name - 1, &s->name));
    s->visual = mr_args_value(a, "visual");
    s->frames = mr_args_value(a, "frames");
    s->text = mr_args_value(a, "text");
    s->feature_ids = mr_args_value(a, "feature-ids");
    s->titles = mr_args_value(a, "titles");
    s->glove = mr_args_value(a, "glove");
    MR_TRY(mr_args_int(a, "k-core", 0, 1000000, 4, &s->k_core));
    MR_TRY(mr_args_int(a, "min-len", 0, 1000000, 0, &s->min_len));
    const char *type = mr_args_value(a, "feature-dtype");
    s->feature_dtype = MR_IMPORT_DTYPE_KEEP;
    if (!type) return MR_OK;
    MR_CHECK(!strcmp(type, "f16") || !strcmp(type, "f32"), MR_ERR_USAGE,
             "--feature-dtype = '%.80s' is not accepted; accepted: f16, f32", type);
    s->feature_dtype = strcmp(type, "f16") == 0 ? MR_F16 : MR_F32;
    return MR_OK;
}

static void print_report(const mr_import_report *r, const mr_import_spec *s, int64_t items)
{
    char head[64];
    snprintf(head, sizeof head, "%lld-core", (long long)s->k_core);
    const char *heads[2] = {"before", s->k_core > 1 ? head : "after"};
    const mr_stats both[2] = {r->before, r->after};
    mr_stats_print(stdout, both, heads, 2);
    if (r->used_glove)
        printf("titles: %lld of %lld distinct words have a vector; %lld items without a title and "
               "%lld "
               "without a known word have the mean vector (of %lld)\n",
               (long long)r->titles.known_words, (long long)r->titles.words,
               (long long)r->titles.without_title, (long long)r->titles.without_word,
               (long long)items);
    if (r->visual_is_frame_mean) printf("visual: mean over the frames\n");
    if (r->unused_rows)
        printf("features: %lld rows belong to items that are not in the interactions\n",
               (long long)r->unused_rows);
}

static mr_status run(const mr_args *a)
{
    mr_import_spec spec;
    mr_import_report report;
    mr_dataset d = {0};
    const char *out;
    MR_TRY(mr_args_need(a, "out", &out));
    MR_TRY(read_spec(a, &spec));
    MR_TRY(mr_h5_check_out(out, mr_args_has(a, "force")));
    MR_TRY(mr_import(&d, &report, &spec));
    print_report(&report, &spec, d.n_items);
    mr_status st = mr_h5_dataset_write(&d, out, mr_args_has(a, "force"));
    if (st == MR_OK)
        printf("%s: %s, checksum %016llx\n", out, d.name, (unsigned long long)d.checksum);
    mr_dataset_free(&d);
    return st;
}

const mr_command mr_cmd_import = {.name = "import",
                                  .summary = "make a data set file from interactions and features",
                                  .options = options,
                                  .is_alone = true,
                                  .run = run};
