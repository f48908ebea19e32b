/* Opening and closing a session: communicator, threads, data set. */
#include "train/session.h"

#include <omp.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "data/noise.h"
#include "data/synth.h"
#include "dist/ring.h"
#include "dist/topo.h"
#include "dist/watchdog.h"
#include "io/h5_dataset.h"
#include "model/model.h"

#define VALUE_BYTES (2 * MR_STR) /* of an option as text */

/* Features that the demo's model does not read would only cost time; the demo shape is small
 * anyway. */
static mr_status load_data(mr_session *s, const mr_config *cfg)
{
    if (cfg->data.path[0]) return mr_h5_dataset_read(&s->data, cfg->data.path, s->world);
    mr_synth_spec spec;
    MR_TRY(mr_synth_spec_for("demo", &spec));
    spec.seed = (uint64_t)cfg->run.seed;
    mr_info("data.path is empty: using the built-in demo, a SYNTHETIC data set made on the spot");
    return mr_synth(&s->data, &spec);
}

/* Ranks started with different arguments would wait for each other or compute nonsense. Where the
 * data set lies may differ: what it holds is compared when it is read. */
static mr_status compare_with_first(const mr_config *cfg, const char *first, int rank)
{
    char mine[VALUE_BYTES];
    for (int i = 0; i < mr_config_count(); i++, first += VALUE_BYTES) {
        mr_config_format(cfg, i, mine, sizeof mine);
        if (!strcmp(mr_config_key(i), "data.path")) continue;
        MR_CHECK(
            !strcmp(mine, first), MR_ERR_CONFIG,
            "%s is %s on rank %d and %s on rank 0; start all ranks with the same arguments and "
            "files",
            mr_config_key(i), mine, rank, first);
    }
    return MR_OK;
}

mr_status mr_session_compare(mr_comm *world, const mr_config *cfg)
{
    char *first = NULL;
    int64_t n = mr_config_count();
    if (world->size == 1) return MR_OK;
    mr_status st = mr_comm_agree(world, mr_alloc((void **)&first, n, VALUE_BYTES, "configuration"));
    for (int i = 0; st == MR_OK && i < n; i++)
        mr_config_format(cfg, i, first + (int64_t)i * VALUE_BYTES, VALUE_BYTES);
    if (st == MR_OK) st = world->bcast(world, first, n * VALUE_BYTES, MR_U8, 0);
    if (st == MR_OK) st = mr_comm_agree(world, compare_with_first(cfg, first, world->rank));
    MR_FREE(first);
    return st;
}

mr_status mr_session_start(mr_session *s, const mr_config *cfg)
{
    memset(s, 0, sizeof *s);
    MR_CHECK(strcmp(cfg->dist.comm, "nccl") || !strcmp(cfg->run.device, "cuda"), MR_ERR_CONFIG,
             "dist.comm=nccl needs --run.device=cuda; use auto or mpi for a run on the CPU");
    mr_comm *inner = NULL;
    bool self = !strcmp(cfg->dist.comm, "self");
    mr_ring_at("start of MPI");
    MR_TRY(self ? mr_comm_self(&inner) : mr_comm_mpi_world(&inner));
    mr_status st = mr_comm_traced(inner, &s->world);
    if (st != MR_OK) mr_comm_destroy(&inner);
    MR_TRY(st);
    mr_ring_begin(s->world->rank, s->world->size, 0);
    mr_ring_at("agreement");
    mr_log_init(s->world->size > 1 ? s->world->rank : -1, MR_LOG_INFO);
    MR_TRY(mr_session_compare(s->world, cfg));
    omp_set_num_threads(mr_topo_decide_threads(s->world));
    return MR_OK;
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
    mr_status st = MR_OK;
    if (cfg->data.frames_noise > 0)
        st = mr_comm_agree(s->world, mr_dataset_add_noise(&s->data, cfg->data.frames_noise,
                                                          (uint64_t)cfg->run.seed));
    drop_unused(&s->data, cfg);
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
}
