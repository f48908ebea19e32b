/* Paired t-test; Student's distribution through the incomplete beta function, whose continued
 * fraction is evaluated by Lentz's method. */
#include "train/compare.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "data/npy.h"

/* The continued fraction of I_x(a, b); converges fast for x < (a + 1) / (a + b + 2). */
static double beta_fraction(double a, double b, double x)
{
    const double tiny = 1e-300;
    double c = 1.0, d = 1.0 - (a + b) * x / (a + 1.0);
    if (fabs(d) < tiny) d = tiny;
    d = 1.0 / d;
    double h = d;
    for (int m = 1; m < 100000; m++) {
        double m2 = 2.0 * m, step = 1.0;
        double even = m * (b - m) * x / ((a + m2 - 1.0) * (a + m2));
        double odd = -(a + m) * (a + b + m) * x / ((a + m2) * (a + m2 + 1.0));
        for (int k = 0; k < 2; k++) {
            double e = k ? odd : even;
            d = 1.0 + e * d;
            c = 1.0 + e / c;
            if (fabs(d) < tiny) d = tiny;
            if (fabs(c) < tiny) c = tiny;
            d = 1.0 / d;
            step = d * c;
            h *= step;
        }
        if (fabs(step - 1.0) < 1e-16) break;
    }
    return h;
}

/* x = share of the first argument, 1 - x given apart: it may be far smaller than rounding of x. */
static double beta_pair(double a, double b, double x, double rest)
{
    if (x <= 0.0) return 0.0;
    if (rest <= 0.0) return 1.0;
    double front = exp(lgamma(a + b) - lgamma(a) - lgamma(b) + a * log(x) + b * log(rest));
    if (x < (a + 1.0) / (a + b + 2.0)) return front * beta_fraction(a, b, x) / a;
    return 1.0 - front * beta_fraction(b, a, rest) / b;
}

double mr_incomplete_beta(double a, double b, double x) { return beta_pair(a, b, x, 1.0 - x); }

double mr_student_two_sided(double t, double df)
{
    double t2 = t * t;
    if (!isfinite(t2)) return isnan(t) ? NAN : 0.0;
    return beta_pair(df / 2.0, 0.5, df / (df + t2), t2 / (df + t2));
}

mr_status mr_paired_test(mr_paired *out, const double *a, const double *b, int64_t n)
{
    mr_paired r = {0};
    double sum_a = 0, sum_b = 0, square = 0;
    for (int64_t i = 0; i < n; i++) {
        if (isnan(a[i]) && isnan(b[i])) continue;
        MR_CHECK(isfinite(a[i]) && isfinite(b[i]), MR_ERR_DATA,
                 "user %lld has the values %g and %g; both files must hold the same users",
                 (long long)i, a[i], b[i]);
        r.n++;
        sum_a += a[i];
        sum_b += b[i];
        r.better += a[i] > b[i];
        r.worse += a[i] < b[i];
    }
    MR_CHECK(r.n >= 2, MR_ERR_DATA, "a paired test needs at least 2 users, there are %lld",
             (long long)r.n);
    r.mean_a = sum_a / (double)r.n;
    r.mean_b = sum_b / (double)r.n;
    for (int64_t i = 0; i < n; i++)
        if (!isnan(a[i])) r.mean_diff += (a[i] - b[i]) / (double)r.n;
    for (int64_t i = 0; i < n; i++) {
        double e = isnan(a[i]) ? 0.0 : a[i] - b[i] - r.mean_diff;
        square += e * e;
    }
    r.sd_diff = sqrt(square / (double)(r.n - 1));
    if (r.sd_diff > 0) {
        r.t = r.mean_diff / (r.sd_diff / sqrt((double)r.n));
        r.p = mr_student_two_sided(r.t, (double)(r.n - 1));
    } else { /* all differences are equal */
        r.t = r.mean_diff == 0 ? 0 : copysign(INFINITY, r.mean_diff);
        r.p = r.mean_diff == 0 ? 1 : 0;
    }
    *out = r;
    return MR_OK;
}

typedef struct metric {
    enum { HIT, NDCG, MRR } kind;
    int64_t k;
} metric;

static mr_status parse_metric(metric *m, const char *name)
{
    static const char *const kinds[] = {"hit@", "ndcg@", "mrr@"};
    for (int i = 0; i < 3; i++) {
        size_t n = strlen(kinds[i]);
        char *end;
        if (strncmp(name, kinds[i], n) || name[n] < '1' || name[n] > '9') continue;
        m->kind = (int)i;
        m->k = strtoll(name + n, &end, 10);
        if (!*end && m->k < 1000000000) return MR_OK;
    }
    return MR_RAISE(MR_ERR_CONFIG, "the metric '%.40s' is not one of hit@K, ndcg@K, mrr@K", name);
}

static double of_rank(const metric *m, int64_t rank)
{
    if (rank == 0) return NAN;
    if (rank > m->k) return 0.0;
    switch (m->kind) {
    case HIT: return 1.0;
    case NDCG: return 1.0 / log2((double)rank + 1.0);
    case MRR: return 1.0 / (double)rank;
    }
    return 0.0;
}

static mr_status read_values(const mr_npy *f, const metric *m, double *out)
{
    for (int64_t i = 0; i < f->dims[0]; i++) {
        union {
            float f4;
            double f8;
            int32_t i4;
            int64_t i8;
        } x;
        MR_TRY(mr_npy_row(f, i, &x));
        if (f->dtype == MR_F32 || f->dtype == MR_F64) {
            out[i] = f->dtype == MR_F32 ? (double)x.f4 : x.f8;
            MR_CHECK(out[i] >= 0 && out[i] <= 1, MR_ERR_DATA,
                     "%s: user %lld has the value %g; values of a metric lie between 0 and 1 "
                     "(files of ranks hold integers)",
                     f->path, (long long)i, out[i]);
            continue;
        }
        int64_t rank = f->dtype == MR_I32 ? x.i4 : x.i8;
        MR_CHECK(rank >= 0, MR_ERR_DATA, "%s: user %lld has rank %lld", f->path, (long long)i,
                 (long long)rank);
        out[i] = of_rank(m, rank);
    }
    return MR_OK;
}

mr_status mr_per_user_read(mr_per_user *out, const char *path, const char *name)
{
    metric m = {HIT, 0};
    mr_npy f;
    double *values = NULL;
    MR_TRY(parse_metric(&m, name));
    MR_TRY(mr_npy_open(&f, path));
    mr_status st = MR_OK;
    if (f.rank != 1 ||
        (f.dtype != MR_F32 && f.dtype != MR_F64 && f.dtype != MR_I32 && f.dtype != MR_I64))
        st = MR_RAISE(MR_ERR_DATA, "%s does not hold one rank or one number for each user", path);
    if (st == MR_OK) st = MR_ALLOC(&values, f.dims[0], "values of users");
    if (st == MR_OK) st = read_values(&f, &m, values);
    if (st == MR_OK)
        *out = (mr_per_user){.path = path,
                             .n = f.dims[0],
                             .value = values,
                             .is_ranks = f.dtype == MR_I32 || f.dtype == MR_I64};
    else
        MR_FREE(values);
    mr_npy_close(&f);
    return st;
}

mr_status mr_per_user_match(const mr_per_user *a, const mr_per_user *b)
{
    MR_CHECK(a->is_ranks == b->is_ranks, MR_ERR_DATA,
             "%s holds ranks and %s holds values of a metric; both must hold the same",
             a->is_ranks ? a->path : b->path, a->is_ranks ? b->path : a->path);
    MR_CHECK(a->n == b->n, MR_ERR_DATA,
             "%s holds %lld users and %s holds %lld; they must be the same", a->path,
             (long long)a->n, b->path, (long long)b->n);
    for (int64_t i = 0; i < a->n; i++) {
        bool is_a = isnan(a->value[i]), is_b = isnan(b->value[i]);
        MR_CHECK(is_a == is_b, MR_ERR_DATA,
                 "%s has no rank for user %lld and %s has one; both files must hold the same users",
                 is_a ? a->path : b->path, (long long)i, is_a ? b->path : a->path);
    }
    return MR_OK;
}
