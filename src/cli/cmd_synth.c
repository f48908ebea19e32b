/* mealrec-dist synth: makes a synthetic data set file.
 * What it is not: a source of results about accuracy; every file says that it is synthetic. */
#include <stdio.h>
#include <string.h>

#include "cli/commands.h"
#include "data/check.h"
#include "data/synth.h"
#include "io/h5_dataset.h"

static const mr_cli_option options[] = {
    {"shape", "NAME",
     "demo, microlens-small, microlens-big, shortvideo-small or shortvideo-big (demo)"},
    {"out", "FILE", "the data set file to make (.h5)"},
    {"seed", "N", "the same seed gives the same bytes (2020)"},
    {"name", "TEXT", "name of the data set (default: the shape)"},
    {"users", "N", "instead of the shape's number"},
    {"items", "N", "instead of the shape's number"},
    {"interactions", "N", "instead of the shape's number; at least 4 a user and 1 an item"},
    {"frames", "K", "key frames per item; 0: none"},
    {"width", "D", "width of visual and frames; 0: neither"},
    {"text-width", "N", "width of text; 0: none"},
    {"topics", "N", "number of topics; 0: chosen from the number of items"},
    {"noise", "P", "share of clicks that are random (0.1)"},
    {"cue", "P", "share of clicks that follow the last item's salient frame (0.8)"},
    {"tail", "P", "chance of a rare item after a popular one, and the reverse (0.75)"},
    {"feature-dtype", "TYPE", "f16 or f32 (f32; shortvideo f16)"},
    {"force", NULL, "replace an existing --out"},
    {NULL, NULL, NULL}};

static mr_status read_spec(const mr_args *a, mr_synth_spec *s)
{
    int64_t seed;
    const char *shape = mr_args_value(a, "shape"), *name;
    const char *type = mr_args_value(a, "feature-dtype");
    MR_TRY(mr_args_text(a, "name", sizeof s->name - 1, &name));
    MR_TRY(mr_synth_spec_for(shape ? shape : "demo", s));
    MR_TRY(mr_args_int(a, "seed", 0, INT64_MAX, (int64_t)s->seed, &seed));
    s->seed = (uint64_t)seed;
    MR_TRY(mr_args_int(a, "users", 1, MR_MAX_USERS, s->users, &s->users));
    MR_TRY(mr_args_int(a, "items", 4, MR_MAX_ITEMS, s->items, &s->items));
    MR_TRY(mr_args_int(a, "interactions", 1, MR_MAX_INTER, s->inter, &s->inter));
    MR_TRY(mr_args_int(a, "width", 0, MR_MAX_WIDTH, s->width, &s->width));
    MR_TRY(mr_args_int(a, "frames", 0, MR_MAX_FRAMES, s->width ? s->frames : 0, &s->frames));
    MR_TRY(mr_args_int(a, "text-width", 0, MR_MAX_WIDTH, s->text_width, &s->text_width));
    MR_TRY(mr_args_int(a, "topics", 0, MR_MAX_ITEMS, s->topics, &s->topics));
    MR_TRY(mr_args_real(a, "noise", 0, 1, s->p_noise, &s->p_noise));
    MR_TRY(mr_args_real(a, "cue", 0, 1, s->p_cue, &s->p_cue));
    MR_TRY(mr_args_real(a, "tail", 0, 1, s->p_tail, &s->p_tail));
    MR_CHECK(!type || !strcmp(type, "f16") || !strcmp(type, "f32"), MR_ERR_USAGE,
             "--feature-dtype = '%.80s' is not accepted; accepted: f16, f32", type);
    if (type) s->dtype = strcmp(type, "f16") == 0 ? MR_F16 : MR_F32;
    if (name) snprintf(s->name, sizeof s->name, "%s", name);
    return MR_OK;
}

static mr_status run(const mr_args *a)
{
    mr_synth_spec spec;
    mr_dataset d = {0};
    const char *out;
    MR_TRY(mr_args_need(a, "out", &out));
    MR_TRY(read_spec(a, &spec));
    MR_TRY(mr_h5_check_out(out, mr_args_has(a, "force")));
    MR_TRY(mr_synth(&d, &spec));
    mr_stats s = mr_dataset_stats(&d);
    const char *head = "synthetic";
    mr_stats_print(stdout, &s, &head, 1);
    mr_status st = mr_h5_dataset_write(&d, out, mr_args_has(a, "force"));
    if (st == MR_OK)
        printf("%s: %s (synthetic), checksum %016llx\n", out, d.name,
               (unsigned long long)d.checksum);
    mr_dataset_free(&d);
    return st;
}

const mr_command mr_cmd_synth = {.name = "synth",
                                 .summary = "make a synthetic data set file",
                                 .options = options,
                                 .is_alone = true,
                                 .run = run};
