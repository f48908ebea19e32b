/* What blocks of one launch know of each other: writes of another block may be read only if that
 * block fenced them and then counted in an atomic counter, and this block counted in the same one
 * later and fenced after that. Inside a block barriers carry it from thread to thread.
 * What it is not: a memory model; blocks run one after another, so an order that a GPU leaves open
 * has to be looked for here instead of in values.
 * Counters stay as a launch finds them: a kernel that leaves one at something else than 0, or
 * counts a block twice in one, is named. */
#include "core.h"

#include <map>
#include <vector>

namespace emulate
{
namespace
{
struct counter {
    std::map<uint32_t, uint32_t> published; /* by block: its writes before this epoch */
};
std::map<uintptr_t, counter> counters; /* that this launch counted in */

/* Of the block that runs. */
uint32_t of_launch, of_block;
std::map<uint32_t, uint32_t> fenced; /* by thread: the epoch of its last fence, + 1 */
struct view_of {
    const counter *c;
    uint32_t thread, from; /* seen by all threads behind epoch `from` */
    bool is_fenced;
};
std::vector<view_of> seen;

void of_this_block()
{
    if (of_launch == view.launch && of_block == view.block) return;
    of_launch = view.launch;
    of_block = view.block;
    fenced.clear();
    seen.clear();
}
} // namespace

void fence()
{
    of_this_block();
    fenced[view.thread] = view.epoch + 1;
    for (view_of &v : seen)
        if (v.thread == view.thread && !v.is_fenced) {
            v.is_fenced = true;
            v.from = view.epoch;
        }
}

/* As CUDA's: the counter's old value; it goes to 0 where that is `most` or above. */
unsigned atomic_inc(unsigned *at, unsigned most)
{
    check_access((uintptr_t)at, sizeof *at);
    of_this_block();
    counter &c = counters[(uintptr_t)at];
    if (c.published.count(view.block))
        stop("%s counts its block a second time in one counter", running());
    uint32_t f = fenced[view.thread];
    c.published[view.block] = f ? f - 1 : 0;
    seen.push_back({&c, view.thread, view.epoch, false});
    unsigned before = *at;
    *at = before >= most ? 0 : before + 1;
    return before;
}

int atomic_add(int *at, int x)
{
    check_access((uintptr_t)at, sizeof *at);
    int before = *at;
    *at = before + x;
    return before;
}

bool is_published(uint32_t block, uint32_t epoch)
{
    if (seen.empty() || of_launch != view.launch || of_block != view.block) return false;
    for (const view_of &v : seen) {
        if (!v.is_fenced || view.epoch <= v.from) continue;
        auto p = v.c->published.find(block);
        if (p != v.c->published.end() && epoch < p->second) return true;
    }
    return false;
}

void end_counting()
{
    for (const auto &c : counters)
        if (*(const unsigned *)c.first)
            stop("kernel %s leaves a counter of blocks at %u instead of 0", running_kernel(),
                 *(const unsigned *)c.first);
    counters.clear();
}
} // namespace emulate
