/* Where the rows of the item table lie: a copy on every rank (groups of 1), groups of G ranks with
 * a copy each, or one copy over all ranks. dist.item_shard: auto chooses by bytes. What it is not:
 * the splitting of communicators (trainer.c). */
#ifndef MR_TRAIN_PLACEMENT_H
#define MR_TRAIN_PLACEMENT_H

#include <stdio.h>

#include "train/volume.h"

/* How ranks lie on nodes. local: ranks come in runs on one node, and every run is a multiple of
 * `local` long, so groups of a divisor of it never leave a node. */
typedef struct mr_layout {
    int ranks, nodes, local;
} mr_layout;

/* The layout of a running job. Collective. */
mr_status mr_layout_of(mr_layout *out, mr_comm *world);
/* Ranks spread evenly. ERR_CONFIG unless nodes divides ranks. */
mr_status mr_layout_even(mr_layout *out, int ranks, int nodes);

/* Bytes that a rank receives in a step, by the link that they come over. */
typedef struct mr_bytes {
    double node, net; /* from ranks of its own node, from other nodes */
} mr_bytes;

/* One purpose's part of a count. Sums, gathers and scatters among ranks of several nodes are taken
 * as made in two levels (inside the nodes, then rank by rank between them), which moves as many
 * bytes in all and the fewest between nodes. */
mr_bytes mr_placement_split(const mr_count *c, mr_purpose p, int group, const mr_layout *l);
/* Ranks of the communicator of p (*ranks), and how many of them share a node (*local). */
void mr_placement_ranks(mr_purpose p, int group, const mr_layout *l, int *ranks, int *local);

/* A byte between nodes counts as this many inside a node: about NVLink beside one 400 Gb/s port a
 * GPU (configs/machines/hgx-h200-infiniband.yaml). */
#define MR_NET_COST 10.0

typedef struct mr_alternative {
    int group;
    mr_bytes bytes; /* of the collectives that exist because of the item table */
    double cost;    /* node + MR_NET_COST net */
    double memory;  /* bytes of a rank's rows with gradient and two moments */
    bool fits;      /* in half of a rank's memory */
} mr_alternative;

enum { MR_ALTERNATIVES = 64 };

typedef struct mr_placement {
    mr_layout layout;
    double memory;  /* bytes of a rank, 0 = not known */
    bool is_forced; /* dist.item_shard named the group */
    int64_t batch;  /* rows of all ranks */
    int n, chosen;
    mr_alternative of[MR_ALTERNATIVES];
} mr_placement;

/* Alternatives: a copy on every rank, every divisor of layout.local, one copy over all ranks. The
 * cheapest one that fits is chosen, of equals the one with the largest groups; wanted: "auto",
 * "all" or a number, as in dist.item_shard. shape->ranks and group are set here; rows [ranks] and
 * n_unique as in mr_volume_typical. ERR_CONFIG when a wanted number does not divide the ranks. */
mr_status mr_placement_choose(mr_placement *out, const mr_step_shape *shape, const mr_layout *l,
                              const int32_t *rows, const int64_t *n_unique, double memory,
                              const char *wanted);
/* The choice and its reasons in lines; each gets to `line` without a newline. */
void mr_placement_print(const mr_placement *p, void (*line)(void *user, const char *text),
                        void *user);

#endif
