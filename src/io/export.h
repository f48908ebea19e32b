/* Weights as one safetensors file with the names and shapes of docs (Python loads it directly). */
#ifndef MR_IO_EXPORT_H
#define MR_IO_EXPORT_H

#include "base/status.h"
#include "dist/comm.h"
#include "graph/params.h"

/* Collective over items, the communicator over which tables are sharded (the ranks of one group
 * call it; others must not). Rank 0 writes path (temporary file, then rename), the rows of sharded
 * tables come to it in chunks. config_json goes into the metadata; may be NULL.
 * Errors: ERR_IO with the path, ERR_MEMORY; all ranks return the same status. */
mr_status mr_export_weights(const char *path, const mr_params *ps, const char *config_json,
                            mr_comm *items);
/* One named tensor (any which) as .npy, the same way. ERR_CONFIG when there is no such name. */
mr_status mr_export_npy(const char *path, const mr_params *ps, const char *name, mr_comm *items);

#endif
