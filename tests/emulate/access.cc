/* Every load and store of a kernel. The compiler calls these functions (-fsanitize=kernel-address,
 * which brings no library of its own): is the address aligned, and inside an allocation of the GPU,
 * shared memory, the thread's own stack or the kernel's arguments? Has another thread touched the
 * same word, and no barrier lies between (unless MR_EMULATE=races=ignore)?
 * What it is not: a check of values; memory that was never written is NaN instead. */
#include "core.h"

#include <unordered_map>

#include <sys/mman.h>

namespace emulate
{
thread_view view;

namespace
{
enum : size_t {
    WORD = 2,
    PAGE = 4096,
    WARP = 32
}; /* bf16: two threads may write halves of four bytes */

/* Who touched a word last in a launch; 0 = nobody. */
struct touch {
    uint32_t launch, block, epoch, warp_epoch;
    uint16_t thread;
    /* By others as well: of this warp since its barrier, of other warps of this epoch, of other
     * blocks of this launch. */
    bool by_lanes, by_warps, by_blocks;
};
struct word {
    touch write, read;
};

uintptr_t area;
size_t area_bytes;
std::unordered_map<uintptr_t, std::pair<word *, size_t>> histories; /* by address of the area */

word *history_of(uintptr_t first, size_t bytes)
{
    auto &h = histories[first];
    if (h.second < bytes) {
        size_t need = (bytes / WORD + 1) * sizeof(word);
        void *p = mmap(nullptr, need, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (p == MAP_FAILED) stop("no memory for the history of device memory");
        h = {(word *)p, bytes};
    }
    return h.first;
}

bool is_own_warp(const touch &t) { return t.thread / WARP == view.thread / WARP; }

/* May this thread touch the word after t, without a barrier in between? */
bool is_race(const touch &t, bool is_shared)
{
    if (t.launch != view.launch || (is_shared && t.block != view.block)) return false;
    if (t.by_blocks) return true;
    if (t.block != view.block) return !is_published(t.block, t.epoch);
    if (t.epoch != view.epoch) return false;
    if (t.by_warps || !is_own_warp(t)) return true;
    return t.warp_epoch == view.warp_epoch && (t.thread != view.thread || t.by_lanes);
}

touch own_touch()
{
    return {view.launch,           view.block, view.epoch, view.warp_epoch,
            (uint16_t)view.thread, false,      false,      false};
}

void remember_read(touch *t, bool is_shared)
{
    bool is_same = t->launch == view.launch, other_block = is_same && t->block != view.block;
    is_same &= !(is_shared && other_block);
    /* What came before in order, and all that came before it, this touch stands for. */
    is_same &= !(other_block && !t->by_blocks && is_published(t->block, t->epoch));
    other_block &= is_same;
    bool is_epoch = is_same && !other_block && t->epoch == view.epoch;
    bool by_warps = is_epoch && (t->by_warps || !is_own_warp(*t));
    bool by_lanes = is_epoch && is_own_warp(*t) && t->warp_epoch == view.warp_epoch &&
                    (t->by_lanes || t->thread != view.thread);
    bool by_blocks = is_same && (t->by_blocks || other_block);
    *t = own_touch();
    t->by_lanes = by_lanes;
    t->by_warps = by_warps;
    t->by_blocks = by_blocks;
}

void find_races(uintptr_t at, size_t bytes, bool is_write, uintptr_t first, size_t all)
{
    word *h = history_of(first, all);
    bool is_shared = first == view.arena;
    for (size_t i = (at - first) / WORD; i <= (at + bytes - 1 - first) / WORD; i++) {
        const touch *bad = is_race(h[i].write, is_shared)              ? &h[i].write
                           : is_write && is_race(h[i].read, is_shared) ? &h[i].read
                                                                       : nullptr;
        if (bad)
            stop("%s %s byte %zu of %zu, which thread %d of block %u %s without a barrier in "
                 "between",
                 running(), is_write ? "writes" : "reads", at - first, all, bad->thread, bad->block,
                 bad == &h[i].write ? "writes" : "reads");
        if (is_write)
            h[i].write = own_touch();
        else
            remember_read(&h[i].read, is_shared);
    }
}

bool in_shared(uintptr_t at, size_t bytes)
{
    uintptr_t offset = at - view.arena;
    if (offset >= view.arena_bytes + PAGE) return false; /* the guard page behind it */
    if (offset + bytes > view.static_bytes &&
        (offset < view.arena_bytes - view.rest_bytes || offset + bytes > view.arena_bytes))
        stop("%s touches shared memory outside its variables", running());
    return true;
}

/* Aligned, and inside shared memory or an allocation of the GPU, which `area` then is. True: shared
 * memory. */
bool look_up(uintptr_t at, size_t bytes, const char *what)
{
    if (at % bytes && (bytes & (bytes - 1)) == 0 && bytes <= 16)
        stop("%s touches %zu bytes at an address that is no multiple of that: %p", running(), bytes,
             (void *)at);
    if (in_shared(at, bytes)) return true;
    if (at - area >= area_bytes && !find_area((const void *)at, &area, &area_bytes)) {
        area_bytes = 0;
        stop("%s %s %zu bytes of memory that is not the GPU's: %p", running(), what, bytes,
             (void *)at);
    }
    if (at - area + bytes > area_bytes || at < area)
        stop("%s %s %zu bytes at byte %lld of an allocation of %zu bytes", running(), what, bytes,
             (long long)(at - area), area_bytes);
    return false;
}

void check(uintptr_t at, size_t bytes, bool is_write)
{
    if (!view.is_on || at - view.stack < view.stack_bytes) return;
    if (at - view.values < view.values_bytes && !is_write) return;
    bool is_shared = look_up(at, bytes, is_write ? "writes" : "reads");
    if (!set().finds_races) return;
    find_races(at, bytes, is_write, is_shared ? view.arena : area,
               is_shared ? view.arena_bytes : area_bytes);
}
} // namespace

void forget_areas() { area_bytes = 0; }
void check_access(uintptr_t at, size_t bytes) { (void)look_up(at, bytes, "counts in"); }
} // namespace emulate

/* Names that the compiler chose. */
#define EACH_SIZE(X) X(1) X(2) X(4) X(8) X(16)
#define ACCESS(n)                                                                                  \
    extern "C" void __asan_load##n##_noabort(uintptr_t at) { emulate::check(at, n, false); }       \
    extern "C" void __asan_store##n##_noabort(uintptr_t at) { emulate::check(at, n, true); }
EACH_SIZE(ACCESS)
extern "C" void __asan_loadN_noabort(uintptr_t at, size_t bytes)
{
    emulate::check(at, bytes, false);
}
extern "C" void __asan_storeN_noabort(uintptr_t at, size_t bytes)
{
    emulate::check(at, bytes, true);
}
extern "C" void __asan_handle_no_return(void) {}
