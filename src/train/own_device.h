/* The device of a rank, and communicators for its memory. */
#ifndef MR_TRAIN_OWN_DEVICE_H
#define MR_TRAIN_OWN_DEVICE_H

#include "base/config.h"
#include "dist/comm.h"

/* Open the device that name and this rank's place on its host ask for: GPU number (rank on the
 * host) modulo (GPUs seen), so that it is right both when every rank sees all GPUs and when each
 * sees its own. Ranks that share a GPU are refused unless dist.comm is mpi. Collective over world.
 * Errors: ERR_DEVICE, ERR_CONFIG naming ranks, host and GPU. */
mr_status mr_own_device_open(mr_device **out_p, const char *name, const mr_config *cfg,
                             mr_comm *world);
/* run.precision as products take it. */
mr_precision mr_own_device_precision(const mr_config *cfg);
/* comm for buffers in the memory of dev: comm itself where kernels work on host memory, else NCCL
 * (dist.comm auto or nccl, several ranks) or copies through the host (mpi). NULL gives NULL.
 * moves_rows: it will be asked for alltoallv. The caller destroys *out_p unless it is comm.
 * Collective over comm. */
mr_status mr_own_device_comm(mr_comm **out_p, const mr_config *cfg, mr_comm *comm, mr_device *dev,
                             bool moves_rows);

#endif
