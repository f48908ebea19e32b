/* Every load and store of a kernel. The compiler calls these functions (-fsanitize=kernel-address,
 * which brings no library of its own): is the address aligned, and inside an allocation of the GPU,
 * shared memory, the thread's own stack or the kernel's arguments? Has another thread touched the
 * same word, and no barrier lies between (unless MR_EMULATE=races=ignore)?
 * What it is not: a check of values; memory that was never written is NaN instead. */
#include "core.h"

#include <map>
#include <unordered_map>

#include <sys/mman.h>

#define ALWAYS inline __attribute__((always_inline)) /* so that `bytes` is known */

namespace emulate
{
thread_view view;

namespace
{
enum : size_t { PAGE = 4096, WARP = 32, KNOWN = 256 };

/* Who touched a word last; before view.first_run: nobody of this launch. */
struct touch {
    uint32_t run, epoch, warp_epoch; /* run: of a block */
    uint16_t thread;
    /* By others as well: of this warp since its barrier, of other warps of this epoch, of other
     * blocks of this launch. */
    uint8_t by_lanes : 1, by_warps : 1, by_blocks : 1;
};
struct word {
    touch write, read;
};
static_assert(sizeof(word) == 32, "two words share a cache line, and none lies in two");

/* Of an allocation, or of shared memory. A word has 4 bytes until something touches less: of bf16,
 * two threads may write the halves. */
struct history {
    word *words = nullptr;
    size_t n = 0, bytes = 0; /* words, and the memory that they stand for */
    unsigned shift = 2;      /* bytes of a word, as a power of 2 */
};
std::unordered_map<uintptr_t, history> histories; /* by address of the area */
std::multimap<size_t, word *> spare;              /* of areas that have gone, by number */

/* Areas that the running launch touched, by page. */
struct area {
    uintptr_t page = 0, first = 0;
    size_t bytes = 0;
    history *past = nullptr;
    uint32_t run = 0; /* the launch's first */
};
area known[KNOWN];
history *of_shared;

/* Used ones serve again: no later launch minds what is in them. */
void make_words(history *h, size_t n)
{
    auto i = spare.lower_bound(n);
    if (i != spare.end() && i->first / 4 <= n) {
        h->n = i->first;
        h->words = i->second;
        spare.erase(i);
        return;
    }
    void *p = mmap(nullptr, n * sizeof(word), PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) stop("no memory for the history of device memory");
    h->n = n;
    h->words = (word *)p;
}

history *history_of(uintptr_t first, size_t bytes)
{
    history &h = histories[first];
    if (h.bytes < bytes) {
        h.bytes = bytes;
        make_words(&h, (bytes >> h.shift) + 1);
    }
    return &h;
}

/* Words of 2 bytes from now on; each half has the past of the whole. */
void split(history *h)
{
    history whole = *h;
    size_t n = (h->bytes >> h->shift) + 1;
    h->shift--;
    make_words(h, 2 * n);
    for (size_t i = 0; i < n; i++)
        if (whole.words[i].write.run >= view.first_run || whole.words[i].read.run >= view.first_run)
            h->words[2 * i] = h->words[2 * i + 1] = whole.words[i];
        else
            h->words[2 * i] = h->words[2 * i + 1] = word();
    spare.emplace(whole.n, whole.words);
}

bool is_own_warp(const touch &t) { return t.thread / WARP == view.thread / WARP; }

/* May this thread touch the word after t, without a barrier in between? */
inline bool is_race(const touch &t, bool is_shared)
{
    if (t.run < view.first_run || (is_shared && t.run != view.run)) return false;
    if (t.by_blocks) return true;
    if (t.run != view.run) return !is_published(block_of_run(t.run), t.epoch);
    if (t.epoch != view.epoch) return false;
    if (t.by_warps || !is_own_warp(t)) return true;
    return t.warp_epoch == view.warp_epoch && (t.thread != view.thread || t.by_lanes);
}

inline touch own_touch()
{
    return {view.run, view.epoch, view.warp_epoch, (uint16_t)view.thread, 0, 0, 0};
}

/* Beside an earlier touch of this launch. */
void add_read(touch *t, bool is_shared)
{
    bool is_same = true, other_block = t->run != view.run;
    is_same &= !(is_shared && other_block);
    /* What came before in order, and all that came before it, this touch stands for. */
    is_same &= !(other_block && !t->by_blocks && is_published(block_of_run(t->run), t->epoch));
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

inline void remember_read(touch *t, bool is_shared)
{
    if (t->run < view.first_run)
        *t = own_touch();
    else if (t->run != view.run || t->thread != view.thread || t->epoch != view.epoch ||
             t->warp_epoch != view.warp_epoch)
        add_read(t, is_shared);
}

[[noreturn]] void name_race(const touch &t, const word &w, size_t at, size_t all, bool is_write)
{
    stop("%s %s byte %zu of %zu, which thread %d of block %u %s without a barrier in between",
         running(), is_write ? "writes" : "reads", at, all, t.thread, block_of_run(t.run),
         &t == &w.write ? "writes" : "reads");
}

/* At byte `at` of an area of `all` bytes. */
void find_races(history *past, size_t at, size_t bytes, bool is_write, size_t all, bool is_shared)
{
    if (past->shift == 2 && ((at | bytes) & 3)) split(past);
    const size_t last = (at + bytes - 1) >> past->shift;
    for (size_t i = at >> past->shift; i <= last; i++) {
        word &w = past->words[i];
        if (is_race(w.write, is_shared)) name_race(w.write, w, at, all, is_write);
        if (!is_write) {
            remember_read(&w.read, is_shared);
            continue;
        }
        if (is_race(w.read, is_shared)) name_race(w.read, w, at, all, is_write);
        w.write = own_touch();
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

/* The allocation that the page belongs to; a page has one at most. */
void meet(area *a, uintptr_t at, size_t bytes, const char *what)
{
    *a = area();
    if (!touch_area((const void *)at, &a->first, &a->bytes))
        stop("%s %s %zu bytes of memory that is not the GPU's: %p", running(), what, bytes,
             (void *)at);
    a->page = at / PAGE;
    a->past = history_of(a->first, a->bytes);
    a->run = view.first_run;
}

/* Aligned, and inside shared memory or an allocation of the GPU. Null: shared memory. */
ALWAYS const area *look_up(uintptr_t at, size_t bytes, const char *what)
{
    if (at % bytes && (bytes & (bytes - 1)) == 0 && bytes <= 16)
        stop("%s touches %zu bytes at an address that is no multiple of that: %p", running(), bytes,
             (void *)at);
    if (in_shared(at, bytes)) return nullptr;
    area *a = &known[at / PAGE % KNOWN];
    if (a->page != at / PAGE || a->run != view.first_run) meet(a, at, bytes, what);
    if (at - a->first + bytes > a->bytes || at < a->first)
        stop("%s %s %zu bytes at byte %lld of an allocation of %zu bytes", running(), what, bytes,
             (long long)(at - a->first), a->bytes);
    return a;
}

ALWAYS void check(uintptr_t at, size_t bytes, bool is_write)
{
    if (!view.is_on || at - view.stack < view.stack_bytes) return;
    if (at - view.values < view.values_bytes && !is_write) return;
    const area *a = look_up(at, bytes, is_write ? "writes" : "reads");
    if (!view.finds_races) return;
    if (a)
        find_races(a->past, at - a->first, bytes, is_write, a->bytes, false);
    else
        find_races(of_shared, at - view.arena, bytes, is_write, view.arena_bytes, true);
}
} // namespace

void begin_launch()
{
    if (!of_shared) of_shared = history_of(view.arena, view.arena_bytes);
}

void forget_area(uintptr_t first)
{
    auto i = histories.find(first);
    if (i == histories.end()) return;
    spare.emplace(i->second.n, i->second.words);
    histories.erase(i);
}

void forget_runs()
{
    for (const auto &h : histories) munmap(h.second.words, h.second.n * sizeof(word));
    for (const auto &w : spare) munmap(w.second, w.first * sizeof(word));
    histories.clear();
    spare.clear();
    of_shared = nullptr;
    for (area &a : known) a = area();
}

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
