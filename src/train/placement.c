/* The choice of item groups: closed forms in, the cheapest alternative out.
 * What it is not: a model of time; only bytes and memory decide, so that the choice can be checked
 * by hand. Invariant: a pure function of its arguments, apart from mr_layout_of. */
#include "train/placement.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

static int gcd(int a, int b) { return b ? gcd(b, a % b) : a; }

/* host[r]: the lowest rank on the node of rank r. */
static mr_layout from_hosts(const int64_t *host, int ranks)
{
    mr_layout l = {.ranks = ranks};
    for (int r = 0, run = 0; r < ranks; r++) {
        l.nodes += host[r] == r;
        run++;
        if (r + 1 < ranks && host[r + 1] == host[r]) continue;
        l.local = gcd(run, l.local);
        run = 0;
    }
    return l;
}

mr_status mr_layout_of(mr_layout *out, mr_comm *world)
{
    mr_comm *host = NULL;
    int64_t *hosts = NULL, *ones = NULL, first = world->rank;
    mr_status st;
    MR_TRY_GOTO(mr_comm_agree(world, MR_ALLOC(&hosts, world->size, "hosts of ranks")), st, done);
    MR_TRY_GOTO(mr_comm_agree(world, MR_ALLOC(&ones, world->size, "hosts of ranks")), st, done);
    MR_TRY_GOTO(world->split_host(world, &host), st, done);
    MR_TRY_GOTO(host->allreduce(host, &first, 1, MR_I64, MR_MIN), st, done);
    for (int r = 0; r < world->size; r++) ones[r] = 1;
    MR_TRY_GOTO(world->allgatherv(world, &first, hosts, ones, MR_I64), st, done);
    *out = from_hosts(hosts, world->size);
done:
    mr_comm_destroy(&host);
    MR_FREE(hosts);
    MR_FREE(ones);
    return st;
}

mr_status mr_layout_even(mr_layout *out, int ranks, int nodes)
{
    MR_CHECK(nodes >= 1 && ranks >= nodes && ranks % nodes == 0, MR_ERR_CONFIG,
             "%d ranks cannot be spread evenly over %d nodes; use a divisor of the ranks", ranks,
             nodes);
    *out = (mr_layout){.ranks = ranks, .nodes = nodes, .local = ranks / nodes};
    return MR_OK;
}

void mr_placement_ranks(mr_purpose p, int group, const mr_layout *l, int *ranks, int *local)
{
    const char *among = mr_purpose_at(p)->among;
    bool is_inside = l->local % group == 0; /* groups never leave a node */
    *ranks = l->ranks;
    *local = l->local;
    if (!strcmp(among, "items")) {
        *ranks = group;
        *local = is_inside ? group : group % l->local == 0 ? l->local : 1;
    } else if (!strcmp(among, "replicas")) {
        *ranks = l->ranks / group;
        *local = is_inside ? l->local / group : 1;
    }
}

mr_bytes mr_placement_split(const mr_count *c, mr_purpose p, int group, const mr_layout *l)
{
    int ranks, local;
    mr_placement_ranks(p, group, l, &ranks, &local);
    if (ranks < 2) return (mr_bytes){0, 0};
    bool is_direct = mr_purpose_at(p)->kind == MR_COLL_ALLTOALL;
    double away = is_direct ? ranks - local : (double)ranks / local - 1;
    double net = (double)c->bytes_in * away / (ranks - 1);
    return (mr_bytes){(double)c->bytes_in - net, net};
}

static mr_status weigh(mr_alternative *a, const mr_step_shape *shape, const mr_layout *l,
                       const int32_t *rows, const int64_t *n_unique, double memory)
{
    mr_step_shape s = *shape;
    mr_count count[MR_FOR_COUNT];
    s.ranks = l->ranks;
    s.group = a->group;
    MR_TRY(mr_volume_typical(count, &s, rows, n_unique));
    for (int p = 0; p < MR_FOR_COUNT; p++) {
        if (!strcmp(mr_purpose_at((mr_purpose)p)->among, "world")) continue;
        mr_bytes b = mr_placement_split(&count[p], (mr_purpose)p, a->group, l);
        a->bytes.node += b.node;
        a->bytes.net += b.net;
    }
    int64_t own = (s.table_rows + s.group - 1) / s.group;
    a->cost = a->bytes.node + MR_NET_COST * a->bytes.net;
    a->memory = 4.0 * (double)(own * s.width * s.real_bytes);
    a->fits = !(memory > 0) || a->memory <= memory / 2;
    return MR_OK;
}

/* Is a better than b? */
static bool better(const mr_alternative *a, const mr_alternative *b)
{
    if (a->fits != b->fits) return a->fits;
    if (!a->fits && a->memory != b->memory) return a->memory < b->memory;
    if (a->cost != b->cost) return a->cost < b->cost;
    return a->group > b->group;
}

static void list_groups(mr_placement *p, int wanted)
{
    const mr_layout *l = &p->layout;
    for (int g = 1; g <= l->local && p->n < MR_ALTERNATIVES - 2; g++)
        if (l->local % g == 0) p->of[p->n++].group = g;
    if (l->ranks > l->local) p->of[p->n++].group = l->ranks;
    for (int i = 0; i < p->n && wanted; i++)
        if (p->of[i].group == wanted) return;
    if (wanted) p->of[p->n++].group = wanted;
}

mr_status mr_placement_choose(mr_placement *out, const mr_step_shape *shape, const mr_layout *l,
                              const int32_t *rows, const int64_t *n_unique, double memory,
                              const char *wanted)
{
    mr_placement p = {.layout = *l, .memory = memory, .is_forced = strcmp(wanted, "auto") != 0};
    int group = !p.is_forced ? 0 : strcmp(wanted, "all") ? atoi(wanted) : l->ranks;
    MR_CHECK(!p.is_forced || (group >= 1 && group <= l->ranks && l->ranks % group == 0),
             MR_ERR_CONFIG,
             "dist.item_shard=%s: %d ranks cannot be split into groups of %d; use all, auto or a "
             "divisor of the number of ranks",
             wanted, l->ranks, group);
    for (int r = 0; r < l->ranks; r++) p.batch += rows[r];
    list_groups(&p, group);
    for (int i = 0; i < p.n; i++) {
        MR_TRY(weigh(&p.of[i], shape, l, rows, n_unique, memory));
        bool is_first = i == 0;
        if (p.is_forced ? p.of[i].group == group : is_first || better(&p.of[i], &p.of[p.chosen]))
            p.chosen = i;
    }
    *out = p;
    return MR_OK;
}

void mr_placement_print(const mr_placement *p, void (*line)(void *user, const char *text),
                        void *user)
{
    char text[256];
    const mr_alternative *c = &p->of[p->chosen];
    snprintf(text, sizeof text,
             "item table: %s, %s; MB that a rank receives for it in a step of %lld rows, %d "
             "rank(s) on %d node(s):",
             c->group == 1                 ? "a copy on every rank"
             : c->group == p->layout.ranks ? "one copy over all ranks"
                                           : "a copy in every group of ranks",
             p->is_forced ? "as dist.item_shard says" : "the cheapest that fits",
             (long long)p->batch, p->layout.ranks, p->layout.nodes);
    line(user, text);
    for (int i = 0; i < p->n; i++) {
        const mr_alternative *a = &p->of[i];
        snprintf(text, sizeof text,
                 "  groups of %-4d %10.3f inside a node, %10.3f between nodes, %9.1f MB of "
                 "memory%s%s",
                 a->group, 1e-6 * a->bytes.node, 1e-6 * a->bytes.net, 1e-6 * a->memory,
                 a->fits ? "" : " (more than half of a rank's)",
                 i == p->chosen ? "  <- chosen" : "");
        line(user, text);
    }
}
