/* Metrics of a full ranking: hit@k, ndcg@k, mrr@k with one target a row, and early stopping.
 * Ranks are counted, not summed, so the values do not depend on the order of rows or the number of
 * ranks. */
#ifndef MR_TRAIN_METRICS_H
#define MR_TRAIN_METRICS_H

#include "dist/comm.h"

#define MR_METRIC_CUTOFFS 8
#define MR_METRIC_K_MAX 1000

typedef struct mr_metrics {
    int n_k, k[MR_METRIC_CUTOFFS];   /* cutoffs as given */
    int64_t rows;                    /* rows counted */
    int64_t at[MR_METRIC_K_MAX + 1]; /* at[r] = rows whose target has rank r; at[0] = beyond */
} mr_metrics;

/* Start with n_k cutoffs 1..MR_METRIC_K_MAX. ERR_CONFIG otherwise. */
mr_status mr_metrics_begin(mr_metrics *m, const int *k, int n_k);
/* Count 1-based ranks. */
void mr_metrics_add(mr_metrics *m, const int32_t *rank, int64_t n);
/* Sum over the ranks. Collective; comm must take host memory. */
mr_status mr_metrics_reduce(mr_metrics *m, mr_comm *comm);
/* Names are hit@k, ndcg@k, mrr@k for every cutoff: 3 * n_k of them, in this order for the first
 * cutoff, then the next. Values are means over rows (0 without rows). */
int mr_metrics_count(const mr_metrics *m);
void mr_metrics_at(const mr_metrics *m, int i, char name[24], double *value);
/* ERR_CONFIG naming the known ones when there is no such metric. */
mr_status mr_metrics_get(const mr_metrics *m, const char *name, double *value);
/* Four digits, halves away from zero: what early stopping compares (model.md §1). */
double mr_round4(double x);

/* Greater is better; a tie counts as an improvement; stop after patience + 1 evaluations without
 * one. */
typedef struct mr_early_stop {
    int64_t patience;
    bool has_best;
    double best; /* rounded */
    int64_t best_epoch;
    int64_t n_worse; /* evaluations in a row without an improvement */
} mr_early_stop;
/* Enter an evaluation; true when it is the best so far. A NaN never is. */
bool mr_early_stop_enter(mr_early_stop *e, double value, int64_t epoch);
bool mr_early_stop_is_over(const mr_early_stop *e);

#endif
