/* Is one run better than another? Paired t-test over users.
 * What it is not: a test for unpaired runs; both files must hold the same users in the same order.
 */
#ifndef MR_TRAIN_COMPARE_H
#define MR_TRAIN_COMPARE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

typedef struct mr_paired {
    int64_t n; /* pairs */
    double mean_a, mean_b;
    double mean_diff;      /* mean of a - b */
    double sd_diff;        /* standard deviation of a - b, n - 1 in the denominator */
    double t;              /* with n - 1 degrees of freedom; 0 when all differences are 0 */
    double p;              /* two-sided; 1 when all differences are 0 */
    int64_t better, worse; /* pairs with a > b, a < b */
} mr_paired;

/* A user with NaN in both is left out. ERR_DATA with fewer than 2 pairs, with a user that only one
 * of them has, or an infinite value. */
mr_status mr_paired_test(mr_paired *out, const double *a, const double *b, int64_t n);

/* Regularised incomplete beta function I_x(a, b), a, b > 0, 0 <= x <= 1. */
double mr_incomplete_beta(double a, double b, double x);
/* Two-sided tail of Student's t: P(|T| >= |t|) with df degrees of freedom. */
double mr_student_two_sided(double t, double df);

typedef struct mr_per_user {
    const char *path; /* borrowed */
    int64_t n;
    double *value; /* [n], of a metric; NaN: no target; the caller MR_FREEs */
    bool is_ranks; /* the file holds ranks, which were turned into the metric */
} mr_per_user;

/* A per-user file: ranks (i4 or i8, 1 = best; 0: a user without a target, becomes NaN) turned into
 * the metric, or values of a metric (f4, f8; 0 to 1) taken as they are. metric: "hit@k", "ndcg@k",
 * "mrr@k" for some k >= 1. ERR_NO_INPUT, ERR_DATA, ERR_CONFIG for the metric's name. */
mr_status mr_per_user_read(mr_per_user *out, const char *path, const char *metric);
/* ERR_DATA, naming the file, unless both hold the same kind of values of the same users. */
mr_status mr_per_user_match(const mr_per_user *a, const mr_per_user *b);

#endif
