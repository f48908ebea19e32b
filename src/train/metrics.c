/* Metrics from counts of ranks, and the early-stopping rule of RecBole.
 * Invariant: values are sums over rank positions in one order, so they are the same bits for any
 * number of ranks. */
#include "train/metrics.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const char *const kinds[] = {"hit", "ndcg", "mrr"};
enum { N_KINDS = 3 };

mr_status mr_metrics_begin(mr_metrics *m, const int *k, int n_k)
{
    memset(m, 0, sizeof *m);
    MR_CHECK(n_k >= 1 && n_k <= MR_METRIC_CUTOFFS, MR_ERR_CONFIG, "%d metric cutoffs; give 1 to %d",
             n_k, MR_METRIC_CUTOFFS);
    for (int i = 0; i < n_k; i++)
        MR_CHECK(k[i] >= 1 && k[i] <= MR_METRIC_K_MAX, MR_ERR_CONFIG,
                 "metric cutoff %d is not in 1..%d", k[i], MR_METRIC_K_MAX);
    m->n_k = n_k;
    memcpy(m->k, k, (size_t)n_k * sizeof *k);
    return MR_OK;
}

void mr_metrics_add(mr_metrics *m, const int32_t *rank, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        m->at[rank[i] >= 1 && rank[i] <= MR_METRIC_K_MAX ? rank[i] : 0]++;
    m->rows += n;
}

mr_status mr_metrics_reduce(mr_metrics *m, mr_comm *comm)
{
    MR_TRY(comm->allreduce(comm, &m->rows, 1, MR_I64, MR_SUM));
    return comm->allreduce(comm, m->at, MR_METRIC_K_MAX + 1, MR_I64, MR_SUM);
}

int mr_metrics_count(const mr_metrics *m) { return N_KINDS * m->n_k; }

static double value_of(const mr_metrics *m, int kind, int k)
{
    double sum = 0;
    for (int r = 1; r <= k; r++) {
        double gain = kind == 0 ? 1.0 : (kind == 1 ? 1.0 / log2(r + 1.0) : 1.0 / r);
        sum += gain * (double)m->at[r];
    }
    return m->rows > 0 ? sum / (double)m->rows : 0.0;
}

void mr_metrics_at(const mr_metrics *m, int i, char name[24], double *value)
{
    int kind = i % N_KINDS, k = m->k[i / N_KINDS];
    snprintf(name, 24, "%s@%d", kinds[kind], k);
    *value = value_of(m, kind, k);
}

mr_status mr_metrics_get(const mr_metrics *m, const char *name, double *value)
{
    char known[N_KINDS * MR_METRIC_CUTOFFS * 24] = "", one[24];
    size_t at = 0; /* known has room for every name and separator */
    double v;
    for (int i = 0; i < mr_metrics_count(m); i++) {
        mr_metrics_at(m, i, one, &v);
        if (!strcmp(one, name)) {
            *value = v;
            return MR_OK;
        }
        at += (size_t)snprintf(known + at, sizeof known - at, "%s%s", i ? ", " : "", one);
    }
    return MR_RAISE(MR_ERR_CONFIG, "there is no metric '%s'; known: %s", name, known);
}

double mr_round4(double x) { return round(x * 1e4) / 1e4; }

bool mr_early_stop_enter(mr_early_stop *e, double value, int64_t epoch)
{
    double v = mr_round4(value);
    if (isnan(v) || (e->has_best && v < e->best)) {
        e->n_worse++;
        return false;
    }
    e->has_best = true;
    e->best = v;
    e->best_epoch = epoch;
    e->n_worse = 0;
    return true;
}

bool mr_early_stop_is_over(const mr_early_stop *e) { return e->n_worse > e->patience; }
