/* Opening and closing a session: communicator, threads, data set. */
#include "train/session.h"

#include <omp.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "data/noise.h"
#include "data/synth.h"
#include "dist/agree.h"
#include "dist/ring.h"
#include "dist/topo.h"
#include "dist/watchdog.h"
#include "io/environment.h"
#include "io/h5_dataset.h"
#include "model/model.h"

/* Features that the demo's model does not read would only cost time; the demo shape is small
 * anyway. */
static mr_status load_data(mr_session *s, const mr_config *cfg)
{
    const char *f = cfg->data.features;
    const mr_h5_how how = {.is_rank0 = !strcmp(cfg->data.read, "rank0"),
                           .features = !strcmp(f, "shard")       ? MR_FEATURES_SHARD
                                       : !strcmp(f, "replicate") ? MR_FEATURES_REPLICATE
                                                                 : MR_FEATURES_AUTO};
    if (cfg->data.path[0]) return mr_h5_dataset_read_as(&s->data, cfg->data.path, s->world, &how);
    mr_synth_spec spec;
    MR_TRY(mr_synth_spec_for("demo", &spec));
    spec.seed = (uint64_t)cfg->run.seed;
    mr_info("data.path is empty: using the built-in demo, a SYNTHETIC data set made on the spot");
    MR_TRY(mr_synth(&s->data, &spec));
    if (how.features == MR_FEATURES_SHARD && s->world->size > 1)
        return mr_dataset_spread(&s->data, s->world->rank, s->world->size);
    return MR_OK;
}

static const char *command_name = "";

void mr_session_command(const char *name) { command_name = name; }

/* Different builds may compute different things, or make other collectives. */
static mr_status same_program(mr_comm *world)
{
    static const char *const compared[] = {"mealrec-dist", "git", "compiler", "options"};
    enum { N = sizeof compared / sizeof *compared };
    mr_fact *fact = NULL;
    mr_version v[16];
    int n = mr_environment(v, 16);
    mr_status st = mr_comm_agree(world, MR_ALLOC(&fact, N + 1, "facts"));
    for (int k = 0; st == MR_OK && k < N; k++) {
        fact[k].name = compared[k];
        for (int i = 0; i < n; i++)
            if (!strcmp(v[i].name, compared[k]))
                snprintf(fact[k].text, sizeof fact[k].text, "%s", v[i].text);
    }
    if (st == MR_OK) {
        fact[N].name = "the command";
        snprintf(fact[N].text, sizeof fact[N].text, "%s", command_name);
        st = mr_agree_facts(world, fact, N + 1, "start the same program on all ranks");
    }
    MR_FREE(fact);
    return st;
}

/* Where the data set lies may differ: what it holds is compared when it is read. */
static mr_status same_configuration(mr_comm *world, const mr_config *cfg)
{
    mr_fact *fact = NULL;
    int n = mr_config_count(), used = 0;
    mr_status st = mr_comm_agree(world, MR_ALLOC(&fact, n, "configuration"));
    for (int i = 0; st == MR_OK && i < n; i++) {
        if (!strcmp(mr_config_key(i), "data.path")) continue;
        fact[used].name = mr_config_key(i);
        mr_config_format(cfg, i, fact[used].text, sizeof fact[used].text);
        used++;
    }
    if (st == MR_OK)
        st = mr_agree_facts(world, fact, used, "start all ranks with the same arguments and files");
    MR_FREE(fact);
    return st;
}

static mr_status same_data(mr_comm *world, const mr_dataset *d)
{
    mr_fact *fact = NULL;
    mr_status st = mr_comm_agree(world, MR_ALLOC(&fact, 4, "facts"));
    if (st == MR_OK) {
        const char *const name[] = {"the data's checksum", "users", "items", "interactions"};
        for (int i = 0; i < 4; i++) fact[i].name = name[i];
        snprintf(fact[0].text, MR_FACT_TEXT, "%016llx", (unsigned long long)d->checksum);
        snprintf(fact[1].text, MR_FACT_TEXT, "%lld", (long long)d->n_users);
        snprintf(fact[2].text, MR_FACT_TEXT, "%lld", (long long)d->n_items);
        snprintf(fact[3].text, MR_FACT_TEXT, "%lld", (long long)d->n_inter);
        st = mr_agree_facts(world, fact, 4, "give all ranks the same data set");
    }
    MR_FREE(fact);
    return st;
}

mr_status mr_session_compare(mr_comm *world, const mr_config *cfg)
{
    MR_TRY(same_program(world));
    return same_configuration(world, cfg);
}

/* Ranks that wait for each other have a watchdog, whatever the command; so has any training. */
static mr_status start_watched(mr_session *s, const mr_config *cfg)
{
    mr_comm *inner = NULL;
    bool self = !strcmp(cfg->dist.comm, "self");
    mr_watch_opts watch = {.least_seconds = cfg->dist.hang_limit};
    MR_TRY(mr_watch_start(&watch));
    mr_ring_at("start of MPI");
    MR_TRY(self ? mr_comm_self(&inner) : mr_comm_mpi_world(&inner));
    mr_status st = mr_comm_traced(inner, &s->world);
    if (st != MR_OK) mr_comm_destroy(&inner);
    MR_TRY(st);
    mr_ring_begin(s->world->rank, s->world->size, 0);
    mr_ring_at("agreement");
    mr_log_init(s->world->size > 1 ? s->world->rank : -1, MR_LOG_INFO);
    if (s->world->size == 1 && strcmp(command_name, "train")) mr_watch_stop();
    MR_TRY(mr_watch_share(s->world));
    MR_TRY(mr_session_compare(s->world, cfg));
    MR_TRY(mr_topo_settle(s->world, cfg->run.device, cfg->dist.bind));
    omp_set_num_threads(mr_topo_decide_threads(s->world));
    mr_watch_phase(MR_AT_WORK);
    return MR_OK;
}

mr_status mr_session_start(mr_session *s, const mr_config *cfg)
{
    memset(s, 0, sizeof *s);
    MR_CHECK(strcmp(cfg->dist.comm, "nccl") || !strcmp(cfg->run.device, "cuda"), MR_ERR_CONFIG,
             "dist.comm=nccl needs --run.device=cuda; use auto or mpi for a run on the CPU");
    if (cfg->run.capture) mr_device_will_record();
    mr_status st = start_watched(s, cfg);
    if (st != MR_OK) mr_session_close(s);
    return st;
}

/* Features that cfg's model never reads need not stay: they are most of the memory of a data set.
 * The checksum still speaks for the whole file. */
static void drop_unused(mr_dataset *d, const mr_config *cfg)
{
    bool is_mealrec = mr_model_is_mealrec(cfg);
    if (!(is_mealrec && cfg->tcd.enabled)) MR_FREE(d->visual.data);
    if (!is_mealrec) MR_FREE(d->frames.data);
    if (!mr_model_uses_text(cfg)) MR_FREE(d->text.data);
}

mr_status mr_session_load(mr_session *s, const mr_config *cfg)
{
    mr_watch_phase(MR_AT_READ);
    MR_TRY(mr_comm_agree(s->world, load_data(s, cfg)));
    mr_status st = same_data(s->world, &s->data);
    if (st == MR_OK && cfg->data.frames_noise > 0)
        st = mr_comm_agree(s->world, mr_dataset_add_noise(&s->data, cfg->data.frames_noise,
                                                          (uint64_t)cfg->run.seed));
    drop_unused(&s->data, cfg);
    mr_watch_phase(MR_AT_WORK);
    return st;
}

mr_status mr_session_open(mr_session *s, const mr_config *cfg)
{
    mr_status st = mr_session_start(s, cfg);
    if (st == MR_OK) st = mr_session_load(s, cfg);
    if (st != MR_OK) mr_session_close(s);
    return st;
}

void mr_session_close(mr_session *s)
{
    mr_dataset_free(&s->data);
    mr_comm_destroy(&s->world);
    mr_watch_stop();
}
