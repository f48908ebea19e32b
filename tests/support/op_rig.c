/* See op_rig.h. */
#include "op_rig.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

void op_rig_open(op_rig *r, const char *device, bool train)
{
    assert_int_equal(mr_device_open(&r->dev, device, 0), MR_OK);
    r->w.dims.whole_products |= r->dev->whole_products;
    r->dev->precision = r->w.dims.precision;
    size_t real = mr_dtype_bytes(r->dev->real);
    assert_int_equal(mr_graph_create(&r->g, &r->w.dims, &r->ps, real, train), MR_OK);
}

void op_rig_start(op_rig *r, const op_sizes *s, const char *device, bool train)
{
    memset(r, 0, sizeof *r);
    op_world_make(&r->w, s);
    op_rig_open(r, device, train);
}

void op_rig_compile(op_rig *r, bool with_backward, bool is_private)
{
    assert_int_equal(mr_graph_status(r->g), MR_OK);
    assert_int_equal(mr_params_alloc(&r->ps, r->dev, 0, 1, true), MR_OK);
    assert_int_equal(mr_params_init(&r->ps, 5), MR_OK);
    assert_int_equal(mr_plan_compile(&r->plan, r->g, with_backward, is_private, 0), MR_OK);
    assert_int_equal(mr_plan_verify(r->plan), MR_OK);
    assert_int_equal(mr_run_create(&r->run, r->plan, r->dev, &r->ps, OP_RIG_SEED), MR_OK);
    op_world_attach(&r->w, r->run);
}

void op_rig_stop(op_rig *r)
{
    mr_run_free(&r->run);
    mr_plan_free(&r->plan);
    mr_graph_free(&r->g);
    mr_params_free(&r->ps);
    op_world_free(&r->w);
    mr_device_close(&r->dev);
}
