/* bench step --parts: where the time of a step goes, by parts of the model: the first two words of
 * a node's label ("tcd.unet"), forward and backward, and the update. With run.capture the whole of
 * a step is recorded, and the moments between the parts with it.
 * What it is not: the time of a step (bench_step.c): a device that is asked for moments between its
 * kernels may be slower for it. */
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "cli/bench.h"

enum { MOST_PARTS = 64, NAME_BYTES = 48 };

/* Steps first..end-1 of plan->fwd or plan->bwd, which are of one part. */
typedef struct stretch {
    int part, first, end;
    bool is_backward;
} stretch;

/* What a recording repeats; there is no room for it in the call. */
static struct {
    stretch of[MR_MOMENTS - 2];
    int n;
    char part[MOST_PARTS][NAME_BYTES];
    size_t scratch[MOST_PARTS]; /* the most bytes that a node of the part works in */
    int n_parts;
    double at[MR_MOMENTS]; /* by the host's clock, where work is done when its call returns */
} walk;

/* "tcd.unet.down0.conv3" -> "tcd.unet", "tcd.noise" -> "tcd". */
static int part_of(const mr_node *n)
{
    char name[NAME_BYTES];
    int dots = 0, at = 0;
    const char *last = strrchr(n->label, '.');
    for (const char *c = n->label; *c && c != last && at + 1 < NAME_BYTES; c++) {
        if (*c == '.' && ++dots == 2) break;
        name[at++] = *c;
    }
    name[at] = '\0';
    for (int i = 0; i < walk.n_parts; i++)
        if (!strcmp(walk.part[i], name)) return i;
    if (walk.n_parts == MOST_PARTS) return MOST_PARTS - 1;
    snprintf(walk.part[walk.n_parts], NAME_BYTES, "%s", name);
    return walk.n_parts++;
}

static mr_status plan_walk(const mr_plan *p)
{
    walk.n = walk.n_parts = 0;
    memset(walk.scratch, 0, sizeof walk.scratch);
    for (int way = 0; way < 2; way++)
        for (int i = 0; i < (way ? p->n_bwd : p->n_fwd); i++) {
            const mr_node *n = mr_node_at(p->g, way ? p->bwd[i] : p->fwd[i]);
            int part = part_of(n);
            if (n->scratch_bytes > walk.scratch[part]) walk.scratch[part] = n->scratch_bytes;
            stretch *s = walk.n ? &walk.of[walk.n - 1] : NULL;
            if (s && s->part == part && s->is_backward == (way == 1)) {
                s->end = i + 1;
                continue;
            }
            MR_CHECK(walk.n < MR_MOMENTS - 2, MR_ERR_INTERNAL, "bench step --parts: too many");
            walk.of[walk.n++] = (stretch){part, i, i + 1, way == 1};
        }
    return MR_OK;
}

static mr_status stamp(mr_trainer *t, int i)
{
    if (t->dev->stamp) return t->dev->stamp(t->dev, i);
    walk.at[i] = mr_seconds();
    return MR_OK;
}

static mr_status stamped(mr_trainer *t, int i, double *seconds)
{
    if (t->dev->stamped) return t->dev->stamped(t->dev, i, i + 1, seconds);
    *seconds = walk.at[i + 1] - walk.at[i];
    return MR_OK;
}

static mr_status gradients(mr_trainer *t)
{
    for (int s = 0; s < walk.n; s++) {
        const stretch *of = &walk.of[s];
        MR_TRY(stamp(t, s));
        for (int i = of->first; i < of->end; i++)
            MR_TRY(of->is_backward ? mr_run_backward_step(t->train_run, i)
                                   : mr_run_forward_step(t->train_run, i));
    }
    return stamp(t, walk.n);
}

/* One step; sums[2 * part + is_backward] += its seconds, sums[2 * n_parts] of the update. */
static mr_status take(mr_trainer *t, int64_t i, double *sums)
{
    double s;
    MR_TRY(mr_trainer_load(t, t->train_run, 0, i));
    MR_TRY(mr_trainer_recorded(t, MR_RECORD_STEP, gradients));
    MR_TRY(mr_trainer_update(t)); /* waits */
    MR_TRY(stamp(t, walk.n + 1));
    MR_TRY(t->dev->sync(t->dev));
    for (int k = 0; k <= walk.n; k++) {
        int slot = k == walk.n ? 2 * walk.n_parts : 2 * walk.of[k].part + walk.of[k].is_backward;
        MR_TRY(stamped(t, k, &s));
        sums[slot] += s;
    }
    return MR_OK;
}

/* Medians of times[slot][n] as a table and as JSON. */
static json_t *report(double *times, int64_t n)
{
    json_t *list = json_array();
    double all = 0;
    printf("%-24s %12s %12s\n", "part", "forward us", "backward us");
    for (int p = 0; p <= walk.n_parts; p++) {
        double median[2] = {0, 0};
        for (int way = 0; way < (p == walk.n_parts ? 1 : 2); way++) {
            double *of = times + (2 * p + way) * n;
            mr_bench_sort(of, n);
            all += median[way] = of[n / 2];
        }
        const char *name = p == walk.n_parts ? "update" : walk.part[p];
        printf("%-24s %12.1f %12.1f\n", name, 1e6 * median[0], 1e6 * median[1]);
        size_t bytes = p == walk.n_parts ? 0 : walk.scratch[p];
        json_array_append_new(list, json_pack("{s:s, s:f, s:f, s:I}", "part", name, "forward_s",
                                              median[0], "backward_s", median[1], "scratch_bytes",
                                              (json_int_t)bytes));
    }
    printf("%-24s %12.1f\n", "all parts", 1e6 * all);
    return list;
}

mr_status mr_bench_parts(mr_trainer *t, int64_t warmup, int64_t n, json_t **out_p)
{
    double *times = NULL, *sums = NULL;
    mr_status st;
    MR_CHECK(t->world->size == 1 && !t->exact, MR_ERR_USAGE,
             "bench step --parts works with one rank, and not with dist.deterministic=world");
    MR_TRY(plan_walk(t->train_plan));
    /* What was recorded of whole steps is not this. */
    if (t->cfg->run.capture) MR_TRY(t->dev->capture(t->dev, MR_RECORD_STEP, MR_CAPTURE_FORGET));
    int slots = 2 * walk.n_parts + 1;
    int64_t batches = mr_sampler_batches(t->sampler);
    if (batches > 1) batches--; /* full batches only */
    MR_TRY_GOTO(MR_ALLOC(&times, slots * n, "times"), st, done);
    for (int64_t i = 0; i < warmup + n; i++) {
        MR_TRY_GOTO(MR_ALLOC(&sums, slots, "times"), st, done);
        MR_TRY_GOTO(take(t, i % batches, sums), st, done);
        for (int k = 0; k < slots && i >= warmup; k++) times[k * n + i - warmup] = sums[k];
        MR_FREE(sums);
    }
    *out_p = report(times, n);
done:
    MR_FREE(sums);
    MR_FREE(times);
    return st;
}
