/* The communicator over NCCL (comm_nccl.c), compiled when NCCL is found. No header of CUDA or NCCL
 * is needed to use it. */
#ifndef MR_DIST_COMM_NCCL_H
#define MR_DIST_COMM_NCCL_H

#include "dist/comm.h"

/* Collectives on the memory of a CUDA device. host: an MPI communicator of the same ranks, one GPU
 * each; it stays the caller's and must live longer, as dev. stream: the cudaStream_t that makes and
 * reads the buffers (mr_device.native_stream). Collective over host. Calls return when they are in
 * the stream. Errors: ERR_COMM with NCCL's words, different versions named. */
mr_status mr_comm_nccl(mr_comm *host, mr_device *dev, void *stream, mr_comm **out_p);

#endif
