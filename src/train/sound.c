/* Checks of numbers while training.
 * What it is not: a cure; a step with a bad gradient is left out, anything else ends the run.
 * Invariant: every decision follows from numbers that all ranks have, so all decide alike. */
#include "train/sound.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/log.h"
#include "base/mem.h"
#include "dist/ring.h"

#define MAX_SKIPS 3 /* non-finite gradients in a row before giving up */
#define BLOCK_BYTES ((int64_t)1 << 20)

/* ---- finite ---- */
/* parameter and element in one number, so that the first over all ranks is the smallest */
#define PLACE(param, element) ((int64_t)(param) << 40 | (element))
#define NO_PLACE INT64_MAX

/* First non-finite element of a parameter's gradient on this rank, counted in the whole tensor. */
static mr_status first_bad(mr_trainer *t, int i, int64_t *place)
{
    const mr_param *p = &t->params.p[i];
    size_t real = t->params.real_bytes;
    char *host = NULL;
    MR_TRY(mr_alloc((void **)&host, p->count, real, "gradient to look at"));
    mr_status st = t->dev->to_host(t->dev, host, (char *)t->params.grad + p->offset * (int64_t)real,
                                   (size_t)p->count * real);
    int64_t rows = p->row_hi - p->row_lo, width = rows > 0 ? p->count / rows : 0;
    for (int64_t e = 0; st == MR_OK && e < p->count; e++) {
        double x = real == 8 ? ((double *)(void *)host)[e] : (double)((float *)(void *)host)[e];
        if (isfinite(x)) continue;
        *place = PLACE(i, p->row_lo * width + e);
        break;
    }
    MR_FREE(host);
    return st;
}

/* What is not finite, in words; the same on all ranks. */
static mr_status name_bad(mr_trainer *t, char *out, size_t bytes)
{
    int64_t place = NO_PLACE;
    mr_status st = MR_OK;
    for (int i = 0; st == MR_OK && i < t->params.n && place == NO_PLACE; i++)
        st = first_bad(t, i, &place);
    MR_TRY(mr_comm_agree(t->world, st));
    MR_TRY(t->world->allreduce(t->world, &place, 1, MR_I64, MR_MIN));
    snprintf(out, bytes, "the norm of the gradient");
    if (place != NO_PLACE) {
        snprintf(out, bytes, "the gradient of %s (element %lld)", t->params.p[place >> 40].name,
                 (long long)(place & (((int64_t)1 << 40) - 1)));
        return MR_OK;
    }
    for (int i = t->train_graph->n_losses - 1; i >= 0; i--)
        if (!isfinite(t->losses[i])) snprintf(out, bytes, "loss %s", t->train_graph->loss[i].name);
    return MR_OK;
}

mr_status mr_sound_finite(mr_trainer *t, double n_bad)
{
    mr_step_state *s = &t->train_run->state_host;
    char what[160];
    s->skip = n_bad > 0 || !isfinite(t->grad_norm) || !isfinite(mr_trainer_total_loss(t));
    if (!s->skip) {
        t->skipped_in_row = 0;
        return MR_OK;
    }
    MR_TRY(name_bad(t, what, sizeof what));
    mr_warn("step %lld: %s is not finite (%.0f elements of gradients are not); the step is skipped",
            (long long)t->step, what, n_bad);
    MR_CHECK(++t->skipped_in_row <= MAX_SKIPS, MR_ERR_DIVERGED,
             "step %lld: %s is not finite, the %dth step in a row with such a gradient; lower "
             "train.lr or set train.clip",
             (long long)t->step, what, t->skipped_in_row);
    return MR_OK;
}

/* ---- copies ---- */
static mr_status hash_range(mr_trainer *t, XXH3_state_t *state, char *block, const void *buffer,
                            int64_t first, int64_t n)
{
    int64_t real = (int64_t)t->params.real_bytes, bytes = n * real;
    const char *from = (const char *)buffer + first * real;
    for (int64_t at = 0; at < bytes; at += BLOCK_BYTES) {
        size_t k = (size_t)(bytes - at < BLOCK_BYTES ? bytes - at : BLOCK_BYTES);
        MR_TRY(t->dev->to_host(t->dev, block, (char *)(uintptr_t)from + at, k));
        XXH3_64bits_update(state, block, k);
    }
    return MR_OK;
}

/* Checksum of elements [first, first + n) of values and moments. */
static mr_status hash_of(mr_trainer *t, int64_t first, int64_t n, uint64_t *out)
{
    const void *buffer[] = {t->params.value, t->params.m, t->params.v};
    char *block = NULL;
    XXH3_state_t *state = XXH3_createState();
    mr_status st = state ? MR_OK : MR_RAISE(MR_ERR_MEMORY, "no memory for the state of a checksum");
    if (st == MR_OK) st = mr_alloc((void **)&block, BLOCK_BYTES, 1, "block of parameters");
    if (st == MR_OK) XXH3_64bits_reset(state);
    for (int k = 0; st == MR_OK && k < 3; k++)
        if (buffer[k]) st = hash_range(t, state, block, buffer[k], first, n);
    if (st == MR_OK) *out = XXH3_64bits_digest(state);
    MR_FREE(block);
    XXH3_freeState(state);
    return st;
}

/* all [size] from everybody's mine; true in *same_p when they are equal. */
static mr_status compare(mr_comm *c, mr_status st, uint64_t mine, uint64_t *all, int64_t *counts,
                         bool *same_p)
{
    MR_TRY(mr_comm_agree(c, st));
    for (int r = 0; r < c->size; r++) counts[r] = 1;
    MR_TRY(c->allgatherv(c, &mine, all, counts, MR_I64));
    *same_p = true;
    for (int r = 1; r < c->size; r++) *same_p &= all[r] == all[0];
    return MR_OK;
}

/* Ranks without the most frequent checksum; all ranks when no checksum is the most frequent. */
static void name_odd(char *out, size_t bytes, const uint64_t *all, int size, int first, int stride,
                     int *odd_p)
{
    int most = 0, like = 0;
    bool is_tie = false;
    size_t n = 0;
    for (int r = 0; r < size; r++) {
        int same = 0;
        for (int q = 0; q < size; q++) same += all[q] == all[r];
        if (same == most && all[r] != all[like]) is_tie = true;
        if (same > most) {
            most = same;
            like = r;
            is_tie = false;
        }
    }
    *odd_p = -1;
    for (int r = 0; r < size && n < bytes; r++) {
        if (!is_tie && all[r] == all[like]) continue;
        if (*odd_p < 0) *odd_p = first + r * stride;
        n += (size_t)snprintf(out + n, bytes - n, "%s%d", n ? ", " : "rank ", first + r * stride);
    }
}

/* Elements [first, first + n) differ over c: say where and on whom. */
static mr_status explain(mr_trainer *t, mr_comm *c, int64_t first, int64_t n, uint64_t *all,
                         int64_t *counts, int first_rank, int stride)
{
    const char *tensor = NULL;
    char ranks[160] = "", host[64] = "";
    int odd = 0;
    for (int i = 0; i < t->params.n; i++) {
        const mr_param *p = &t->params.p[i];
        uint64_t mine = 0;
        bool same = true;
        if (p->offset < first || p->offset >= first + n) continue;
        mr_status st = hash_of(t, p->offset, p->count, &mine);
        MR_TRY(compare(c, st, mine, all, counts, &same));
        if (same) continue;
        tensor = p->name;
        break;
    }
    if (!tensor) { /* `all` must be about what differs */
        uint64_t mine = 0;
        bool same;
        mr_status st = hash_of(t, first, n, &mine);
        MR_TRY(compare(c, st, mine, all, counts, &same));
        tensor = "memory between the tensors";
    }
    name_odd(ranks, sizeof ranks, all, c->size, first_rank, stride, &odd);
    gethostname(host, sizeof host - 1);
    MR_TRY(c->bcast(c, host, sizeof host, MR_U8, odd < 0 ? 0 : (odd - first_rank) / stride));
    return MR_RAISE(
        MR_ERR_INTERNAL,
        "step %lld: %s (the first on %s) %s other values of %s than the copies on other "
        "ranks; a faulty memory or processor, or an error of this program; start again "
        "from the last checkpoint, which was compared before it was written",
        (long long)t->step, ranks, host, strchr(ranks, ',') ? "hold" : "holds", tensor);
}

static mr_status check_copies(mr_trainer *t, mr_comm *c, int64_t first, int64_t n, int first_rank,
                              int stride)
{
    uint64_t mine = 0, *all = NULL;
    int64_t *counts = NULL;
    bool same = true;
    mr_status st = MR_ALLOC(&all, c->size, "checksums of ranks");
    if (st == MR_OK) st = MR_ALLOC(&counts, c->size, "counts");
    if (st == MR_OK) st = hash_of(t, first, n, &mine);
    st = mr_comm_agree(c, st);
    if (st == MR_OK) st = compare(c, MR_OK, mine, all, counts, &same);
    if (st == MR_OK && !same) st = explain(t, c, first, n, all, counts, first_rank, stride);
    MR_FREE(counts);
    MR_FREE(all);
    return st;
}

mr_status mr_sound_replicas(mr_trainer *t)
{
    const mr_params *ps = &t->params;
    int64_t table = ps->n_dense + MR_LOSS_SLOTS;
    if (t->world->size == 1) return MR_OK;
    mr_ring_at("comparison of copies");
    MR_TRY(check_copies(t, t->world, 0, ps->n_dense, 0, 1));
    mr_status st = MR_OK;
    if (t->replicas)
        st = check_copies(t, t->replicas, table, ps->n_total - table,
                          t->world->rank % t->items->size, t->items->size);
    return mr_comm_agree(t->world, st);
}
