/* mealrec-dist gradcheck: the model's gradients against differences in float64. */
#include <stdio.h>

#include "cli/commands.h"
#include "train/gradcheck.h"
#include "train/session.h"

static const mr_cli_option options[] = {
    {"per-tensor", "N", "elements tried per tensor (default 40)"},
    {"step", "H", "step of the differences (default 1e-5)"},
    {"tolerance", "E", "largest relative difference accepted (default 5e-6)"},
    {NULL, NULL, NULL}};

static mr_status check(const mr_args *a, mr_session *s)
{
    mr_trainer *t = NULL;
    mr_trainer_opts o = {.stochastic = true, .optimizer = true, .device = "cpu64"};
    mr_gradcheck_spec spec = {.table = stdout};
    double worst;
    mr_status st;
    MR_TRY(mr_args_int(a, "per-tensor", 1, 1 << 30, 40, &spec.per_tensor));
    MR_TRY(mr_args_real(a, "step", 1e-12, 1.0, 1e-5, &spec.step));
    MR_TRY(mr_args_real(a, "tolerance", 0.0, 1.0, 5e-6, &spec.tolerance));
    MR_TRY(mr_trainer_create(&t, &a->config, &s->data, s->world, &o));
    st = mr_gradcheck(t, &spec, &worst);
    if (st == MR_OK && s->world->rank == 0)
        printf("gradcheck passed: worst relative difference %.2e\n", worst);
    mr_trainer_free(&t);
    return st;
}

static mr_status run(const mr_args *a)
{
    mr_session s;
    MR_TRY(mr_session_open(&s, &a->config));
    mr_status st = check(a, &s);
    mr_session_close(&s);
    return st;
}

const mr_command mr_cmd_gradcheck = {
    .name = "gradcheck",
    .summary = "compare the model's gradients with differences in float64 and print the worst",
    .options = options,
    .needs_config = true,
    .run = run};
