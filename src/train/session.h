/* What every command that needs a model starts with: communicator, threads, data set. */
#ifndef MR_TRAIN_SESSION_H
#define MR_TRAIN_SESSION_H

#include "base/config.h"
#include "data/dataset.h"
#include "dist/comm.h"

typedef struct mr_session {
    mr_comm *world;
    mr_dataset data;
} mr_session;

/* Name of the command, which all ranks must share. Before anything else; borrowed. */
void mr_session_command(const char *name);
/* Start communication (dist.comm), set the number of threads, read data.path on all ranks (or make
 * the built-in synthetic demo when it is empty), add data.frames_noise; features that cfg's model
 * does not read are not kept. ERR_CONFIG when the ranks run other programs, commands or
 * configurations, or see other data. Collective. */
mr_status mr_session_open(mr_session *s, const mr_config *cfg);
/* The two halves of it: communication, watchdog (dist.hang_limit) and threads; then the data. */
mr_status mr_session_start(mr_session *s, const mr_config *cfg);
/* What start begins with: do all ranks have the same configuration? ERR_CONFIG names the key. */
mr_status mr_session_compare(mr_comm *world, const mr_config *cfg);
mr_status mr_session_load(mr_session *s, const mr_config *cfg);
void mr_session_close(mr_session *s);

#endif
