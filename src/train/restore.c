/* Opening a checkpoint for scoring. */
#include "train/restore.h"

#include <string.h>

#include "base/log.h"
#include "io/checkpoint.h"

/* Options of `given` that did not come from the defaults, over what the checkpoint says. */
static mr_status overlay(mr_config *cfg, const mr_config *given, const bool *was_given)
{
    for (int i = 0; i < mr_config_count(); i++) {
        char value[4 * MR_STR];
        if (!was_given[i]) continue;
        mr_config_format(given, i, value, sizeof value);
        MR_TRY(mr_config_set(cfg, mr_config_key(i), value, "command line"));
    }
    return mr_config_check(cfg);
}

static mr_status read_config(mr_config *cfg, const mr_checkpoint *c, const mr_config *given)
{
    bool was_given[256];
    MR_CHECK(mr_config_count() <= 256, MR_ERR_INTERNAL, "more than 256 options");
    MR_CHECK(c->config_json, MR_ERR_DATA, "%s does not say which model it holds", c->path);
    /* Loading changes the origins, so note them first. */
    for (int i = 0; i < mr_config_count(); i++)
        was_given[i] = strcmp(mr_config_origin(i), "default") != 0;
    mr_config_defaults(cfg);
    MR_TRY(mr_config_load_text(cfg, c->config_json, strlen(c->config_json), c->path));
    return overlay(cfg, given, was_given);
}

static mr_status build(mr_restored *m, const mr_checkpoint *c)
{
    mr_trainer_opts o = {.stochastic = false, .optimizer = false};
    MR_TRY(mr_session_load(&m->session, &m->cfg));
    if (m->session.data.checksum != c->state.data_checksum)
        mr_warn("%s was trained on another data set (checksum %016llx, this one has %016llx)",
                c->path, (unsigned long long)c->state.data_checksum,
                (unsigned long long)m->session.data.checksum);
    MR_TRY(mr_trainer_create(&m->t, &m->cfg, &m->session.data, m->session.world, &o));
    return mr_checkpoint_read(c, &m->t->params);
}

mr_status mr_restore(mr_restored *out, const char *where, const mr_config *given)
{
    mr_checkpoint *c = NULL;
    mr_status st;
    memset(out, 0, sizeof *out);
    MR_TRY(mr_session_start(&out->session, given));
    MR_TRY_GOTO(mr_checkpoint_open(&c, where, MR_CHECKPOINT_BEST, out->session.world), st, fail);
    if (!c) {
        st = MR_RAISE(MR_ERR_NO_INPUT, "%s holds no checkpoint", where);
        goto fail;
    }
    MR_TRY_GOTO(read_config(&out->cfg, c, given), st, fail);
    MR_TRY_GOTO(build(out, c), st, fail);
    out->step = c->state.step;
    out->epoch = c->state.epoch;
    snprintf(out->path, sizeof out->path, "%s", c->path);
    mr_checkpoint_close(&c);
    return MR_OK;
fail:
    mr_checkpoint_close(&c);
    mr_restored_free(out);
    return st;
}

void mr_restored_free(mr_restored *m)
{
    mr_trainer_free(&m->t);
    mr_session_close(&m->session);
}
