/* The trainer: one model on one data set on all ranks. Owns the graphs, plans, parameters, samplers
 * and communicators of a run and knows how to do one step; the loop over epochs is loop.h, scoring
 * is evaluate.h. All functions are collective over the world communicator unless they say
 * otherwise. */
#ifndef MR_TRAIN_TRAINER_H
#define MR_TRAIN_TRAINER_H

#include "base/config.h"
#include "data/batch.h"
#include "data/dataset.h"
#include "dist/comm.h"
#include "dist/comm_log.h"
#include "graph/run.h"
#include "model/model.h"
#include "model/schedule.h"
#include "train/ahead.h"
#include "train/feed.h"
#include "train/fetch.h"
#include "train/placement.h"

typedef struct mr_exact mr_exact;

/* What the host learns of a step, in one copy: squared norm and number of non-finite elements of
 * the dense gradients and of this rank's rows of the table; the losses [MR_LOSS_SLOTS], as reals.
 */
typedef struct mr_step_report {
    double dense[2], shard[2], losses[MR_LOSS_SLOTS];
} mr_step_report;
_Static_assert(offsetof(mr_step_report, shard) == 2 * sizeof(double), "one array for a kernel");

/* Where the run of a kind of recorded work lies, and how often that has changed on any rank: the
 * recordings of all of them are of no use then. */
typedef struct mr_places {
    int64_t number; /* of the run */
    const void *block;
    int64_t moved;
} mr_places;

typedef struct mr_trainer_opts {
    bool stochastic;    /* dropout and gate noise in the training graph */
    bool optimizer;     /* allocate gradients and Adam's moments */
    bool is_private;    /* plan check mode: private poisoned memory */
    bool whole_steps;   /* only mr_trainer_step will be called, so dist.deterministic=world can be
                         * followed; false: steps are made as with `run` */
    bool is_dry;        /* compile the plans only: no memory for parameters and buffers, no run */
    const char *device; /* NULL: the configuration's */
    int64_t row_unit;   /* tests: mr_graph_dims.row_unit; 0: the device's */
    int64_t tokens;     /* tests: room for tokens to begin with; 0: mr_room_first */
} mr_trainer_opts;

typedef struct mr_trainer {
    const mr_config *cfg;   /* borrowed */
    const mr_dataset *data; /* borrowed; must outlive the trainer (features are used in place) */
    mr_comm *world;         /* borrowed */
    mr_placement placement; /* why the groups of items are what they are */
    mr_comm *items;         /* ranks that share the item table; owned, or world when alone */
    mr_comm *replicas;      /* ranks that hold the same rows of it; NULL when there is one copy */
    int group0;             /* world rank of the first rank of this item group */
    /* The same three for buffers in device memory: equal to them where the device is the host. */
    mr_comm *dev_world, *dev_items, *dev_replicas;
    mr_device *dev;
    mr_schedule sched;
    mr_params params;
    mr_features feat; /* device memory, or the data set's own when host memory is the device */
    bool owns_features;
    mr_fetch *fetch, *eval_fetch; /* features of a batch where they are spread, else NULL */
    mr_trainer_opts opts;         /* as it was made with */
    /* Rows of every pair of ranks in training and in evaluation, 0: as many as wanted. */
    int64_t exchange_rows, eval_exchange_rows;
    int64_t table_rows; /* rows of item.weight */
    int table;          /* its parameter id */

    mr_exact *exact;       /* dist.deterministic=world: how steps are made; else NULL */
    mr_graph *train_graph; /* of a whole step; exact: of the rows of one virtual shard */
    mr_plan *train_plan;
    mr_run *train_run;
    mr_sampler *sampler;
    mr_batch batch;
    mr_feed feed;
    mr_ahead ahead;
    mr_step_report *report_dev, *report; /* device memory; where it comes to (alloc_host) */

    mr_graph *eval_graph; /* made on first use */
    mr_plan *eval_plan;
    mr_run *eval_run;
    mr_feed eval_feed;
    mr_sampler *eval_sampler[MR_N_SPLITS]; /* made on first use; their order never changes */

    int64_t step;                     /* steps done */
    int64_t n_ahead;                  /* batches and blocks that were prepared ahead (ahead.h) */
    int64_t done_here[MR_N_RECORDED]; /* by this process, with run.capture */
    mr_places places[MR_N_RECORDED];
    mr_comm_log *log[MR_N_RECORDED][MR_KEPT]; /* collectives of what the device keeps; or NULL */
    /* Seconds of the host in the last step, from sending its batch until the device's work was
     * started: a recording as a whole, else all of its kernels. */
    double start_s, sent_at;
    int skipped_in_row;           /* steps skipped because of a non-finite gradient */
    double losses[MR_LOSS_SLOTS]; /* of the last step, global means */
    double grad_norm;
} mr_trainer;

/* The device name a configuration resolves to on this machine ("auto" -> cpu without a GPU). */
const char *mr_trainer_device(const mr_config *cfg);
mr_status mr_trainer_create(mr_trainer **out_p, const mr_config *cfg, const mr_dataset *data,
                            mr_comm *world, const mr_trainer_opts *opts);
void mr_trainer_free(mr_trainer **t_p);

/* How rank `rank` of n_ranks chooses the training rows of this trainer's batches. Not collective.
 */
mr_sampler_spec mr_trainer_sampling(const mr_trainer *t, int rank, int n_ranks);

/* One optimizer step on global batch i of `epoch`. ERR_DIVERGED after 3 non-finite gradients in a
 * row, naming the first such parameter. */
mr_status mr_trainer_step(mr_trainer *t, int64_t epoch, int64_t i);
/* The same, and batch `next` of this epoch, the same on all ranks, is prepared while the device
 * works (ahead.h): for the step after this one, if it is that. next < 0: nothing is. */
mr_status mr_trainer_step_and(mr_trainer *t, int64_t epoch, int64_t i, int64_t next);
/* Its parts, for checks and dumps: take the batch; gradients (reduced over ranks); losses and
 * statistics to the host; the update, and losses and statistics to the host. Only the last two wait
 * for the device. */
mr_status mr_trainer_load(mr_trainer *t, mr_run *run, int64_t epoch, int64_t i);
mr_status mr_trainer_gradients(mr_trainer *t);
/* work(t), with run.capture recorded and started as one piece, except for the first ones of a
 * process; or a recording of it for other batches with the same counts started once more. What it
 * works on is the batch that was set, in t->train_run (MR_RECORD_STEP) or t->eval_run. work must
 * not wait, allocate, or copy from or to the host; when it fails nothing of it is started.
 * Collective: the ranks record the same calls together, and start again what they recorded
 * together. (recorded.c) */
mr_status mr_trainer_recorded(mr_trainer *t, mr_recorded kind, mr_status (*work)(mr_trainer *t));
/* Does `run` compute with the largest counts of any rank? Then they are agreed on for a batch b
 * that was planned, in feed->most. Collective. */
bool mr_trainer_agrees(const mr_trainer *t, const mr_run *run);
mr_status mr_trainer_agree(mr_trainer *t, const mr_run *run, mr_feed *feed, const mr_batch *b);
/* The elements that are trained: dense parameters, own rows of the table. */
mr_ranges mr_trainer_ranges(const mr_params *ps);
mr_status mr_trainer_report(mr_trainer *t, double *sum, double *bad);
mr_status mr_trainer_update(mr_trainer *t);
/* Plan the row exchanges of a batch; fetch its features where they are spread, and hand all of it
 * to a run; both, one after the other. */
mr_status mr_trainer_plan_rows(mr_trainer *t, const mr_run *run, mr_feed *feed, const mr_batch *b);
mr_status mr_trainer_hand_over(mr_trainer *t, mr_run *run, const mr_feed *feed, const mr_batch *b);
mr_status mr_trainer_set_batch(mr_trainer *t, mr_run *run, mr_feed *feed, const mr_batch *b);
/* A run over another plan of this trainer's graphs, with features, communicators and schedule set.
 */
mr_status mr_trainer_run(mr_trainer *t, mr_run **out_p, const mr_plan *plan);
/* The training graph and its plan with room for so many tokens (mr_graph_dims.tokens_cap); and the
 * end of graphs, plans and runs, those of the evaluation too, and of all recordings. Not
 * collective. */
mr_status mr_trainer_compile(mr_trainer *t, int64_t tokens);
void mr_trainer_end_training(mr_trainer *t);
/* Weighted total of t->losses. */
double mr_trainer_total_loss(const mr_trainer *t);
/* Index of a loss term by name, or -1. */
int mr_trainer_loss_index(const mr_trainer *t, const char *name);
/* Room for the rows of a batch of s, at least 1: the same on all ranks where they compute with the
 * same counts. */
int64_t mr_trainer_rows_cap(const mr_trainer *t, const mr_sampler *s);
/* Build the evaluation graph once and forget it: what it refuses (too many diffusion steps) is said
 * before an epoch was trained, and not after. ERR_CONFIG. */
mr_status mr_trainer_check_eval(mr_trainer *t);
/* Before the evaluation graph is compiled for blocks of s, of rows_cap users: with run.capture, the
 * room for rows of every pair of ranks. b is scratch. Collective. */
mr_status mr_trainer_eval_exchange(mr_trainer *t, int64_t rows_cap, mr_sampler *s, mr_batch *b);
/* Compile the evaluation graph for blocks of rows_cap users on this rank, L = data.max_len. */
mr_status mr_trainer_eval_ready(mr_trainer *t, int64_t rows_cap);

#endif
