/* Streams, events and recordings of the emulated GPU, as queue.cc and record.cc see them. */
#ifndef MR_EMULATE_STREAMS_H
#define MR_EMULATE_STREAMS_H

#include "core.h"

#include <atomic>
#include <deque>
#include <memory>
#include <set>
#include <vector>

namespace emulate
{
struct item {
    std::shared_ptr<const op> work; /* or an event: */
    std::shared_ptr<uint64_t> done; /* the last record of it that happened */
    uint64_t record = 0;
    bool is_wait = false;
};

/* A piece of recorded work and the earlier ones that it comes after. */
struct node {
    std::shared_ptr<const op> work;
    std::set<size_t> after;
    bool is_aside; /* of a stream that joined the recording */
};

struct recording {
    cudaStream_t origin;
    int64_t number;
    std::vector<node> nodes;
    bool is_spoilt = false;
};

bool is_stream(cudaStream_t s);
std::set<cudaStream_t> parts_of(const std::shared_ptr<recording> &r);
cudaError_t push(cudaStream_t s, item i);

/* ---- record.cc ---- */
extern std::shared_ptr<recording> current; /* one at a time is enough for this program */
bool is_recording(cudaStream_t s);
cudaError_t record_op(cudaStream_t s, std::shared_ptr<const op> work);
/* An event in a recording; true: it is one, and *e is what the call returns. */
bool record_event(cudaEvent_t e, cudaStream_t s);
bool record_wait(cudaStream_t s, cudaEvent_t v, cudaError_t *e);
void leave_recording(cudaStream_t s);
} // namespace emulate

struct CUstream_st {
    std::deque<emulate::item> items;
    std::shared_ptr<emulate::recording> in; /* that it takes part in */
    std::set<size_t> front;                 /* nodes that the next one comes after */
    std::atomic<bool> is_held{false};
};
struct CUevent_st {
    std::shared_ptr<uint64_t> done = std::make_shared<uint64_t>(0);
    uint64_t records = 0;
    std::shared_ptr<emulate::recording> in; /* that it was last recorded in */
    std::set<size_t> front;
    std::shared_ptr<double> at = std::make_shared<double>(-1); /* ms; -1: it has not happened */
};
struct CUgraph_st {
    std::vector<emulate::node> nodes;
};
struct CUgraphExec_st {
    std::vector<emulate::node> nodes;
    bool has_started = false; /* with these arguments */
};

#endif
