/* Comparison of facts over ranks: hashes of all of them, texts of those that differ.
 * Invariant: every rank comes to the same verdict from the same gathered numbers, so all return it
 * without another word between them. */
#include "dist/agree.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"

#define MOST_FACTS 5
#define SHOWN 120 /* characters of a value */

typedef struct sentence {
    char text[900];
    size_t n;
} sentence;

static void add(sentence *s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void add(sentence *s, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    int k = vsnprintf(s->text + s->n, sizeof s->text - s->n, fmt, ap);
    va_end(ap);
    s->n += k > 0 ? (size_t)k : 0;
    if (s->n >= sizeof s->text) s->n = sizeof s->text - 1;
}

/* FNV-1a */
static uint64_t hash_of(const char *text)
{
    uint64_t h = 0xcbf29ce484222325u;
    for (; *text; text++) h = (h ^ (unsigned char)*text) * 0x100000001b3u;
    return h;
}

/* "3", "0-2, 5": the ranks whose hash of a fact is that of rank `like`. */
static void add_ranks(sentence *s, const uint64_t *hash, int n, int size, int i, int like)
{
    int members = 0, shown = 0;
    for (int r = 0; r < size; r++) members += hash[r * n + i] == hash[like * n + i];
    add(s, members > 1 ? "ranks " : "rank ");
    for (int r = 0; r < size; r++) {
        if (hash[r * n + i] != hash[like * n + i]) continue;
        int last = r;
        while (last + 1 < size && hash[(last + 1) * n + i] == hash[like * n + i]) last++;
        if (shown++ == 4) {
            add(s, " ...");
            return;
        }
        add(s, last > r + 1 ? "%s%d-%d" : "%s%d", shown > 1 ? ", " : "", r, last);
        if (last == r + 1) add(s, ", %d", last);
        r = last;
    }
}

/* "train.lr is 0.001 on ranks 0-2 and 0.1 on rank 3"; value [size, SHOWN] */
static void add_fact(sentence *s, const char *name, const char *value, const uint64_t *hash, int n,
                     int size, int i)
{
    int groups = 0;
    add(s, "%s%s is ", s->n ? "; " : "", name);
    for (int r = 0; r < size; r++) {
        bool is_first = true;
        for (int q = 0; q < r; q++) is_first &= hash[q * n + i] != hash[r * n + i];
        if (!is_first) continue;
        if (groups++ == 4) {
            add(s, ", ...");
            return;
        }
        add(s, "%s%.*s on ", groups > 1 ? " and " : "", SHOWN, value + r * SHOWN);
        add_ranks(s, hash, n, size, i, r);
    }
}

static mr_status gather(mr_comm *world, const void *mine, void *all, int64_t n, mr_dtype t,
                        int64_t *counts)
{
    for (int r = 0; r < world->size; r++) counts[r] = n;
    return world->allgatherv(world, mine, all, counts, t);
}

static mr_status describe(sentence *s, mr_comm *world, const mr_fact *fact, int n,
                          const uint64_t *hash, char *value, int64_t *counts)
{
    int found = 0;
    for (int i = 0; i < n; i++) {
        bool same = true;
        char mine[SHOWN] = "";
        for (int r = 1; r < world->size; r++) same &= hash[r * n + i] == hash[i];
        if (same || found++ >= MOST_FACTS) continue;
        snprintf(mine, sizeof mine, "%s", fact[i].text[0] ? fact[i].text : "empty");
        MR_TRY(gather(world, mine, value, SHOWN, MR_U8, counts));
        add_fact(s, fact[i].name, value, hash, n, world->size, i);
    }
    if (found > MOST_FACTS) add(s, "; and %d more", found - MOST_FACTS);
    return MR_OK;
}

mr_status mr_agree_facts(mr_comm *world, const mr_fact *fact, int n, const char *advice)
{
    int64_t number[2] = {n, -n}, *counts = NULL;
    uint64_t *mine = NULL, *all = NULL;
    char *value = NULL;
    sentence s = {.n = 0};
    if (world->size == 1) return MR_OK;
    MR_TRY(world->allreduce(world, number, 2, MR_I64, MR_MAX));
    MR_CHECK(number[0] == -number[1], MR_ERR_CONFIG,
             "the ranks compare from %lld to %lld facts; %s", -(long long)number[1],
             (long long)number[0], advice);
    mr_status st = MR_ALLOC(&counts, world->size, "counts");
    if (st == MR_OK) st = MR_ALLOC(&mine, n, "facts");
    if (st == MR_OK) st = MR_ALLOC(&all, (int64_t)n * world->size, "facts of all ranks");
    if (st == MR_OK) st = MR_ALLOC(&value, (int64_t)SHOWN * world->size, "values of all ranks");
    st = mr_comm_agree(world, st);
    for (int i = 0; st == MR_OK && i < n; i++) mine[i] = hash_of(fact[i].text);
    if (st == MR_OK) st = gather(world, mine, all, n, MR_I64, counts);
    if (st == MR_OK) st = describe(&s, world, fact, n, all, value, counts);
    MR_FREE(value);
    MR_FREE(all);
    MR_FREE(mine);
    MR_FREE(counts);
    if (st == MR_OK && s.n) st = MR_RAISE(MR_ERR_CONFIG, "%s; %s", s.text, advice);
    return st;
}
