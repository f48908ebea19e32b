/* Relations between values of a configuration.
 * What it is not: ranges of single values (options.def), and anything that needs the data.
 * Invariant: a message names every value involved and where each came from. */
#include "base/config_table.h"

#include <stdlib.h>
#include <string.h>

/* "model.heads = 7 (demo.yaml:3)" */
typedef struct said {
    char text[256];
} said;

static said say(const mr_config *c, const char *key)
{
    said s;
    char value[MR_OPT_TEXT];
    int i = mr_opt_find(key);
    mr_config_format(c, i, value, sizeof value);
    snprintf(s.text, sizeof s.text, "%s = %.80s (%.120s)", key, value, mr_config_origin(i));
    return s;
}
#define SAY(key) say(c, key).text

static mr_status check_run(const mr_config *c)
{
    const char *name = c->run.name;
    bool is_folder = name[0] && !strchr(name, '/') && strcmp(name, ".") && strcmp(name, "..");
    MR_CHECK(is_folder, MR_ERR_CONFIG,
             "%s is not the name of a folder; use letters, digits, - and _", SAY("run.name"));
    MR_CHECK(c->run.dir[0], MR_ERR_CONFIG, "%s is empty; name a folder, for example runs",
             SAY("run.dir"));
    MR_CHECK(c->checkpoint.resume[0], MR_ERR_CONFIG,
             "%s is empty; accepted: auto, never, or a checkpoint folder",
             SAY("checkpoint.resume"));
    bool is_cpu = strcmp(c->run.device, "auto") && strcmp(c->run.device, "cuda");
    bool is_reduced = !strcmp(c->run.precision, "tf32") || !strcmp(c->run.precision, "bf16");
    MR_CHECK(!(is_cpu && is_reduced), MR_ERR_CONFIG, "%s needs a GPU but %s; use auto or fp32",
             SAY("run.precision"), SAY("run.device"));
    bool records = !is_cpu || !strcmp(c->run.device, "guard");
    MR_CHECK(records || !c->run.capture, MR_ERR_CONFIG, "%s needs a GPU but %s; leave it out",
             SAY("run.capture"), SAY("run.device"));
    MR_CHECK(!(is_cpu && !strcmp(c->dist.comm, "nccl")), MR_ERR_CONFIG,
             "%s needs GPUs but %s; use auto or mpi", SAY("dist.comm"), SAY("run.device"));
    return MR_OK;
}

static mr_status check_widths(const mr_config *c)
{
    MR_CHECK(c->model.hidden % c->model.heads == 0, MR_ERR_CONFIG, "%s is not a multiple of %s",
             SAY("model.hidden"), SAY("model.heads"));
    if (c->model.name != MR_MODEL_MEALREC) return MR_OK;
    bool has_heads = c->npd.enabled && c->npd.block == MR_NPD_TRANSFORMER;
    MR_CHECK(!has_heads || c->model.hidden % c->npd.heads == 0, MR_ERR_CONFIG,
             "%s is not a multiple of %s", SAY("model.hidden"), SAY("npd.heads"));
    MR_CHECK(!c->tcd.enabled || c->tcd.unet_width % 8 == 0, MR_ERR_CONFIG,
             "%s is not a multiple of 8, the groups of its normalisation", SAY("tcd.unet_width"));
    return MR_OK;
}

/* Largest beta of a schedule that is linear in t, over T steps; 0 for schedules that cap beta. */
static double largest_beta(const mr_config *c, int64_t T)
{
    double s = 1000.0 / (double)T, shift = 0.0, b0, b1;
    if (c->diffusion.schedule == MR_SCHED_LINEAR)
        s = 1.0;
    else if (c->diffusion.schedule == MR_SCHED_TRUNC_LIN)
        shift = 0.01;
    else if (c->diffusion.schedule != MR_SCHED_SCALED)
        return 0.0;
    b0 = c->diffusion.beta_start * s + shift;
    b1 = c->diffusion.beta_end * s + shift;
    if (shift > 0 && b1 > 1) b1 = 0.001 * s + shift; /* trunc_lin's own way out */
    if (T == 1) b1 = b0;                             /* one step uses beta_start */
    return b0 > b1 ? b0 : b1;
}

static mr_status check_ascending(const mr_config *c, const char *key, const mr_int_list *list)
{
    for (int i = 1; i < list->n; i++)
        MR_CHECK(list->v[i] > list->v[i - 1], MR_ERR_CONFIG,
                 "%s is not ascending: %lld comes after %lld", SAY(key), (long long)list->v[i],
                 (long long)list->v[i - 1]);
    return MR_OK;
}

static mr_status check_diffusion(const mr_config *c)
{
    const mr_int_list *set = &c->diffusion.t_set;
    MR_CHECK(c->diffusion.beta_start <= c->diffusion.beta_end, MR_ERR_CONFIG, "%s exceeds %s",
             SAY("diffusion.beta_start"), SAY("diffusion.beta_end"));
    MR_TRY(check_ascending(c, "diffusion.t_set", set));
    int64_t T = set->n ? set->v[set->n - 1] : c->diffusion.steps;
    double beta = largest_beta(c, T);
    MR_CHECK(beta < 1.0, MR_ERR_CONFIG,
             "%s gives beta = %g >= 1 over %lld steps (%s); use more steps, a smaller beta or "
             "another schedule",
             SAY("diffusion.schedule"), beta, (long long)T,
             SAY(set->n ? "diffusion.t_set" : "diffusion.steps"));
    return MR_OK;
}

static mr_status check_metrics(const mr_config *c)
{
    const mr_int_list *topk = &c->train.topk;
    const char *metric = c->train.valid_metric, *at = strchr(metric, '@');
    MR_CHECK(topk->n > 0, MR_ERR_CONFIG, "%s is empty; give at least one cut-off, for example [10]",
             SAY("train.topk"));
    MR_TRY(check_ascending(c, "train.topk", topk));
    size_t n = at ? (size_t)(at - metric) : 0;
    bool is_known = (n == 3 && (!strncmp(metric, "hit", n) || !strncmp(metric, "mrr", n))) ||
                    (n == 4 && !strncmp(metric, "ndcg", n));
    for (int i = 0; is_known && i < topk->n; i++) {
        char k[24];
        snprintf(k, sizeof k, "%lld", (long long)topk->v[i]);
        if (strcmp(at + 1, k) == 0) return MR_OK;
    }
    return MR_RAISE(MR_ERR_CONFIG, "%s is not known; accepted: hit@k, ndcg@k or mrr@k with k in %s",
                    SAY("train.valid_metric"), SAY("train.topk"));
}

static mr_status check_item_shard(const mr_config *c)
{
    const char *s = c->dist.item_shard;
    if (!strcmp(s, "auto") || !strcmp(s, "all")) return MR_OK;
    size_t digits = strspn(s, "0123456789");
    MR_CHECK(digits > 0 && digits < 7 && !s[digits] && s[0] != '0', MR_ERR_CONFIG,
             "%s; accepted: auto, all, or a number of ranks, 1 to 999999", SAY("dist.item_shard"));
    return MR_OK;
}

mr_status mr_config_check(const mr_config *c)
{
    MR_TRY(check_run(c));
    MR_TRY(check_widths(c));
    MR_TRY(check_diffusion(c));
    MR_TRY(check_metrics(c));
    return check_item_shard(c);
}
