/* The noise schedule. Betas first, by name of the schedule; everything else follows from them. */
#include "model/schedule.h"

#include <math.h>

#include "base/mem.h"
#include "base/rng.h"

/* abar as a function of k / T for schedules that define it instead of beta. */
static double cosine_abar(double x)
{
    double c = cos((x + 0.008) / 1.008 * (M_PI / 2));
    return c * c;
}

static double sqrt_abar(double x) { return 1.0 - sqrt(x + 1e-4); }

static void betas_from_abar(double *beta, int64_t T, double (*f)(double))
{
    for (int64_t t = 1; t <= T; t++)
        beta[t] = fmin(1.0 - f((double)t / (double)T) / f((double)(t - 1) / (double)T), 0.999);
}

/* T values from b0 to b1, evenly spaced; T = 1 is b0 alone. */
static void betas_even(double *beta, int64_t T, double b0, double b1)
{
    for (int64_t t = 1; t <= T; t++)
        beta[t] = T > 1 ? b0 + (b1 - b0) * (double)(t - 1) / (double)(T - 1) : b0;
}

static void fill_betas(double *beta, int64_t T, const mr_config *c)
{
    double b0 = c->diffusion.beta_start, b1 = c->diffusion.beta_end, s = 1000.0 / (double)T;
    switch (c->diffusion.schedule) {
    case MR_SCHED_COSINE: betas_from_abar(beta, T, cosine_abar); return;
    case MR_SCHED_SQRT: betas_from_abar(beta, T, sqrt_abar); return;
    case MR_SCHED_SCALED: betas_even(beta, T, b0 * s, b1 * s); return;
    case MR_SCHED_TRUNC_LIN: {
        double end = b1 * s + 0.01;
        betas_even(beta, T, b0 * s + 0.01, end > 1.0 ? 0.001 * s + 0.01 : end);
        return;
    }
    default: betas_even(beta, T, b0, b1); return;
    }
}

static void fill_rest(mr_schedule *s)
{
    s->abar[0] = 1.0;
    for (int64_t t = 1; t <= s->T; t++) {
        double before = s->abar[t - 1], b = s->beta[t];
        s->abar[t] = before * (1.0 - b);
        double left = 1.0 - s->abar[t];
        s->c1[t] = b * sqrt(before) / left;
        s->c2[t] = (1.0 - before) * sqrt(1.0 - b) / left;
        s->s2[t] = b * (1.0 - before) / left;
    }
    /* 1 - (1 - beta) is not beta in binary arithmetic: the last step returns xhat itself. */
    s->c1[1] = 1.0;
    s->c2[1] = s->s2[1] = 0.0;
}

mr_status mr_schedule_make(mr_schedule *out, const mr_config *c)
{
    mr_schedule s = {.T = c->diffusion.steps};
    const mr_int_list *set = &c->diffusion.t_set;
    for (int i = 0; i < set->n; i++) {
        MR_CHECK(set->v[i] >= 1, MR_ERR_CONFIG,
                 "diffusion.t_set: %lld is not a step; use 1 or more", (long long)set->v[i]);
        if (i == 0 || set->v[i] > s.T) s.T = set->v[i];
    }
    /* Each reverse step has its own random purpose (rng.h). */
    int64_t most = MR_RNG_POST_NPD - MR_RNG_POST_TCD - 1;
    MR_CHECK(s.T >= 1 && s.T <= most, MR_ERR_CONFIG, "diffusion.steps: %lld steps; use 1 to %lld",
             (long long)s.T, (long long)most);
    double *all = NULL;
    MR_TRY(MR_ALLOC(&all, 5 * (s.T + 1), "noise schedule"));
    double **part[5] = {&s.beta, &s.abar, &s.c1, &s.c2, &s.s2};
    for (int i = 0; i < 5; i++) *part[i] = all + i * (s.T + 1);
    fill_betas(s.beta, s.T, c);
    for (int64_t t = 1; t <= s.T; t++)
        if (!(s.beta[t] > 0.0 && s.beta[t] < 1.0)) {
            double bad = s.beta[t];
            MR_FREE(all);
            return MR_RAISE(
                MR_ERR_CONFIG,
                "diffusion.schedule: beta is %.6g at step %lld of %lld, outside 0..1; use "
                "schedule linear, or more steps",
                bad, (long long)t, (long long)s.T);
        }
    fill_rest(&s);
    *out = s;
    return MR_OK;
}

void mr_schedule_free(mr_schedule *s)
{
    MR_FREE(s->beta); /* one block, beta first */
    *s = (mr_schedule){0};
}
