/* Memory of the emulated GPU: every allocation has a mapping of its own that ends at a guard page,
 * up to CUDA's alignment of 256 bytes. While no kernel or copy runs nobody can touch it, so that a
 * load or store by the host faults; fresh memory is NaN, and -1 as an integer.
 * While one runs, an allocation is opened when it is first touched: most work touches few of them,
 * and to protect a page costs more than to use it.
 * Invariants: what lies between an allocation and the ends of its pages keeps its filling; outside
 * of work no allocation is open. */
#include "core.h"

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>

#include <sys/mman.h>
#include <unistd.h>

namespace emulate
{
namespace
{
enum : size_t { PAGE = 4096, ALIGN = 256, ALT_STACK = 64 << 10 };
enum { FILLING = 0xff };

struct area {
    char *map;        /* guard page, pages, guard page */
    size_t map_bytes; /* all of it */
    char *at;
    size_t bytes; /* as asked for */
    bool is_device, is_open;
    area *next; /* open one, or pinned one */
};

std::map<const char *, area> areas; /* by the address behind the mapping */
area *opened, *pinned;
size_t used;
int depth; /* of open_memory */
bool has_handler;

area *find(const void *p)
{
    auto i = areas.upper_bound((const char *)p);
    return i == areas.end() || (const char *)p < i->second.map ? nullptr : &i->second;
}

void protect(const area &a, int how)
{
    if (mprotect(a.map + PAGE, a.map_bytes - 2 * PAGE, how))
        stop("memory cannot be protected; are there too many mappings?");
}

void leave(area **list, const area *a)
{
    while (*list && *list != a) list = &(*list)->next;
    if (*list) *list = a->next;
}

/* The first byte of [p, end) that is not the filling, or end. */
const char *first_changed(const char *p, const char *end)
{
    uint64_t word;
    for (; end - p >= (ptrdiff_t)sizeof word; p += sizeof word) {
        memcpy(&word, p, sizeof word);
        if (~word) break; /* FILLING has all bits */
    }
    while (p < end && (unsigned char)*p == FILLING) p++;
    return p;
}

/* Which bytes beside the allocation changed? */
void check_edges(const area &a)
{
    const char *end = a.map + a.map_bytes - PAGE, *p = first_changed(a.map + PAGE, a.at);
    if (p < a.at)
        stop("something wrote %zu bytes before an allocation of %zu bytes", (size_t)(a.at - p),
             a.bytes);
    p = first_changed(a.at + a.bytes, end);
    if (p < end)
        stop("something wrote %zu bytes behind an allocation of %zu bytes",
             (size_t)(p - a.at) - a.bytes, a.bytes);
}

void say(const char *text) { (void)!write(STDERR_FILENO, text, strlen(text)); }

/* A sentence, then the signal again with what it does by itself. */
void on_fault(int number, siginfo_t *info, void *)
{
    char text[1024];
    const char *p = (const char *)info->si_addr, *who = running();
    const area *a = number == SIGILL ? nullptr : find(p);
    signal(number, SIG_DFL);
    if (number == SIGILL && *who) {
        snprintf(text, sizeof text,
                 "emulated GPU: %s: a misaligned address, an index outside an array, or a division "
                 "by 0\n",
                 who);
        say(text);
    } else if (a && a->is_device) {
        bool is_in = p >= a->at && p < a->at + a->bytes;
        long long beside = p < a->at ? a->at - p : p - a->at - (long long)a->bytes;
        snprintf(text, sizeof text, "emulated GPU: %s touches %s at byte %lld %s %zu bytes\n",
                 *who ? who : "the host", is_in ? "device memory" : "what is no memory",
                 is_in ? (long long)(p - a->at) : beside,
                 is_in       ? "of an allocation of"
                 : p < a->at ? "before an allocation of"
                             : "behind the end of",
                 a->bytes);
        say(text);
    } else if (*who) {
        snprintf(text, sizeof text, "emulated GPU: %s: illegal address %p\n", who, (const void *)p);
        say(text);
    }
    raise(number); /* blocked until this returns */
}

void install_handler()
{
    static char own_stack[ALT_STACK];
    stack_t s = {};
    struct sigaction a = {};
    if (has_handler) return;
    has_handler = true;
    s.ss_sp = own_stack;
    s.ss_size = sizeof own_stack;
    a.sa_sigaction = on_fault;
    a.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigemptyset(&a.sa_mask);
    sigaltstack(&s, nullptr);
    for (int number : {SIGSEGV, SIGBUS, SIGILL}) sigaction(number, &a, nullptr);
}

char *map_new(size_t bytes, bool is_device)
{
    size_t most = bytes > ((size_t)1 << 46) ? 0 : (bytes + ALIGN - 1) / ALIGN * ALIGN;
    size_t pages = (most + PAGE - 1) / PAGE * PAGE;
    if (bytes && !most) return nullptr;
    char *p = (char *)mmap(nullptr, pages + 2 * PAGE, PROT_NONE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) return nullptr;
    area a = {p, pages + 2 * PAGE, p + PAGE + pages - most, bytes, is_device, false, nullptr};
    install_handler();
    protect(a, PROT_READ | PROT_WRITE);
    memset(p + PAGE, FILLING, pages);
    if (is_device) protect(a, PROT_NONE);
    area *kept = &(areas[p + a.map_bytes] = a);
    if (is_device) {
        used += bytes;
    } else {
        kept->next = pinned;
        pinned = kept;
    }
    return a.at;
}

cudaError_t unmap(void *p, bool is_device)
{
    area *a = find(p);
    if (!p) return cudaSuccess;
    if (!a || a->at != p || a->is_device != is_device) return cudaErrorInvalidValue;
    protect(*a, PROT_READ | PROT_WRITE);
    check_edges(*a);
    if (is_device) used -= a->bytes;
    area gone = *a;
    leave(is_device ? &opened : &pinned, a);
    forget_area((uintptr_t)a->at);
    areas.erase(gone.map + gone.map_bytes);
    /* The addresses are not used again: who keeps a pointer faults. */
    (void)mmap(gone.map, gone.map_bytes, PROT_NONE,
               MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
    return cudaSuccess;
}
} // namespace

where where_is(const void *p, size_t bytes)
{
    const area *a = find(p);
    if (!a) return HOST;
    const char *c = (const char *)p;
    if (c < a->at || c + bytes > a->at + a->bytes) return NOWHERE;
    return a->is_device ? DEVICE : PINNED;
}

bool touch_area(const void *p, uintptr_t *first, size_t *bytes)
{
    area *a = find(p);
    if (!a) return false;
    if (a->is_device && depth && !a->is_open) {
        protect(*a, PROT_READ | PROT_WRITE);
        a->is_open = true;
        a->next = opened;
        opened = a;
    }
    *first = (uintptr_t)a->at;
    *bytes = a->bytes;
    return true;
}

void touch(std::initializer_list<const void *> all)
{
    uintptr_t first;
    size_t bytes;
    for (const void *p : all) (void)touch_area(p, &first, &bytes);
}

void open_memory() { depth++; }

/* Nothing else can have been written by the work. */
void close_memory()
{
    if (--depth) return;
    for (; opened; opened = opened->next) {
        check_edges(*opened);
        opened->is_open = false;
        protect(*opened, PROT_NONE);
    }
    for (const area *a = pinned; a; a = a->next) check_edges(*a);
}

size_t memory_used() { return used; }
} // namespace emulate

using namespace emulate;

extern "C" cudaError_t cudaMalloc(void **p, size_t bytes)
{
    static int64_t n;
    locked l(lock);
    if (cudaError_t e = forbidden_in_capture()) return note(e);
    if (cudaError_t e = refused()) return note(e);
    char *got = nullptr;
    if (++n != set().fail_alloc && bytes <= set().memory && used <= set().memory - bytes)
        got = map_new(bytes, true);
    if (!got) return note(cudaErrorMemoryAllocation);
    *p = got;
    return cudaSuccess;
}

/* Waits for the GPU, as the real one does. */
extern "C" cudaError_t cudaFree(void *p)
{
    locked l(lock);
    if (cudaError_t e = forbidden_in_capture()) return note(e);
    (void)drain_all();
    return note(unmap(p, true));
}

extern "C" cudaError_t cudaHostAlloc(void **p, size_t bytes, unsigned)
{
    locked l(lock);
    if (cudaError_t e = forbidden_in_capture()) return note(e);
    if (cudaError_t e = refused()) return note(e);
    char *got = map_new(bytes, false);
    if (!got) return note(cudaErrorMemoryAllocation);
    *p = got;
    return cudaSuccess;
}

extern "C" cudaError_t cudaFreeHost(void *p)
{
    locked l(lock);
    if (cudaError_t e = forbidden_in_capture()) return note(e);
    (void)drain_all();
    return note(unmap(p, false));
}

extern "C" cudaError_t cudaMemGetInfo(size_t *free_p, size_t *total)
{
    locked l(lock);
    *total = set().memory;
    *free_p = set().memory - used;
    return note(refused());
}
