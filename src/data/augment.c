/* CL4SRec's views: two different operators out of crop, mask, reorder, one for each view.
 * What it is not: the contrastive loss.
 * Invariants: the history itself is never changed; the draws of a view depend on (seed, step, row)
 * and on nothing else, each view having its own range of blocks. */
#include "data/augment.h"

#include <string.h>

#include "base/rng.h"

enum { CROP, MASK, REORDER, N_OPERATORS };

/* The 32-bit words of one row's draws, in order. */
typedef struct stream {
    uint64_t seed;
    uint32_t step, rid, block;
    int used; /* words of `now` handed out */
    mr_u32x4 now;
} stream;

static stream stream_at(const mr_augment *a, uint32_t step, uint32_t rid, uint32_t block)
{
    return (stream){.seed = a->seed, .step = step, .rid = rid, .block = block, .used = 4};
}

/* Uniform in [0, n), n >= 1. */
static int32_t below(stream *s, int32_t n)
{
    if (s->used == 4) {
        s->now = mr_philox(s->seed, MR_RNG_AUGMENT, s->step, s->rid, s->block++);
        s->used = 0;
    }
    return (int32_t)mr_below(s->now.v[s->used++], (uint32_t)n);
}

static int32_t share(double of, int32_t n)
{
    int32_t m = (int32_t)(of * n);
    return m < n ? m : n;
}

static int32_t crop(stream *s, double keep, const int32_t *items, int32_t n, int32_t *out)
{
    int32_t m = share(keep, n);
    if (m < 1) m = 1;
    int32_t first = below(s, n - m + 1);
    memcpy(out, items + first, (size_t)m * sizeof *out);
    return m;
}

/* Every set of m positions is equally likely: each position is taken with probability
 * (still wanted) / (still to come). */
static void mask(stream *s, double hide, int32_t mask_id, int32_t n, int32_t *out)
{
    int32_t wanted = share(hide, n);
    for (int32_t i = 0; i < n && wanted > 0; i++) {
        if (below(s, n - i) >= wanted) continue;
        out[i] = mask_id;
        wanted--;
    }
}

static void reorder(stream *s, double part, int32_t n, int32_t *out)
{
    int32_t m = share(part, n), first = below(s, n - m + 1);
    for (int32_t i = m - 1; i > 0; i--) {
        int32_t j = below(s, i + 1), id = out[first + i];
        out[first + i] = out[first + j];
        out[first + j] = id;
    }
}

void mr_augment_views(const mr_augment *a, const int32_t *items, int32_t n, uint32_t step,
                      uint32_t rid, int32_t *const view[2], int32_t len[2])
{
    for (int v = 0; v < 2; v++) {
        memcpy(view[v], items, (size_t)n * sizeof *items);
        len[v] = n;
    }
    if (n <= 1) return;
    stream choice = stream_at(a, step, rid, 0);
    int op[2];
    op[0] = below(&choice, N_OPERATORS);
    op[1] = (op[0] + 1 + below(&choice, N_OPERATORS - 1)) % N_OPERATORS;
    for (int v = 0; v < 2; v++) {
        stream s = stream_at(a, step, rid, (uint32_t)(v + 1) << 24);
        switch (op[v]) {
        case CROP: len[v] = crop(&s, a->crop, items, n, view[v]); break;
        case MASK: mask(&s, a->mask, a->mask_id, n, view[v]); break;
        default: reorder(&s, a->reorder, n, view[v]); break;
        }
    }
}
