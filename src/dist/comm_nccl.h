/* The communicator over NCCL (comm_nccl.c), compiled when NCCL is found. No header of CUDA or NCCL
 * is needed to use it. */
#ifndef MR_DIST_COMM_NCCL_H
#define MR_DIST_COMM_NCCL_H

#include "dist/comm.h"

/* Will calls be recorded (mr_device.capture)? Then ranks are connected at the start: all of them in
 * rings, and for rows, which alltoallv moves, every two. */
typedef enum mr_nccl_use { MR_NCCL_EAGER, MR_NCCL_RECORDED, MR_NCCL_RECORDED_ROWS } mr_nccl_use;

/* Collectives on the memory of a CUDA device. host: an MPI communicator of the same ranks, one GPU
 * each; it stays the caller's and must live longer, as dev. stream: the cudaStream_t that makes and
 * reads the buffers (mr_device.native_stream). Collective over host. Calls return when they are in
 * the stream, or in the recording that dev has under way, which all ranks make together; what was
 * recorded is forgotten (MR_CAPTURE_FORGET) before destroy. Errors: ERR_COMM with NCCL's words,
 * different versions named. */
mr_status mr_comm_nccl(mr_comm *host, mr_device *dev, void *stream, mr_nccl_use use,
                       mr_comm **out_p);

#endif
