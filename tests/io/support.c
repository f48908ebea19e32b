/* A toy model with all kinds of parameters; see support.h. */
#include "support.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"

static void declare(mr_params *ps, const char *name, int ndim, int64_t a, int64_t b, int64_t c,
                    unsigned flags)
{
    int64_t dim[4] = {a, b, c, 1};
    assert_true(mr_param_declare(ps, name, ndim, dim, MR_INIT_NORMAL, 0.02, flags) >= 0);
}

void toy_open(toy *t, mr_dtype real, int rank, int n_ranks, bool with_optimizer, int grow)
{
    memset(t, 0, sizeof *t);
    assert_int_equal(mr_device_open_cpu(&t->dev, real), MR_OK);
    static const char *const names[] = {"layer.q.weight", "layer.k.weight", "layer.v.weight"};
    static const int64_t rows[] = {5, 6, 7};
    mr_params *ps = &t->ps;
    declare(ps, "item.weight", 2, 37, 5, 1, MR_PARAM_SHARDED);
    declare(ps, "norm.bias", 1, 13, 1, 1, 0);
    int qkv =
        mr_param_declare_stack(ps, "layer.qkv.weight", 2, (int64_t[]){18, 9}, MR_INIT_NORMAL, 0);
    assert_int_equal(mr_param_add_parts(ps, qkv, 3, names, rows, 0.02), MR_OK);
    declare(ps, "conv.weight", 3, 6, 3, 4, MR_PARAM_CONV);
    declare(ps, "big.weight", 2, 701 + grow, 51, 1, 0);
    declare(ps, "users.weight", 2, 4001, 20, 1, MR_PARAM_SHARDED);
    assert_int_equal(mr_params_alloc(ps, t->dev, rank, n_ranks, with_optimizer), MR_OK);
}

void toy_close(toy *t)
{
    mr_params_free(&t->ps);
    mr_device_close(&t->dev);
}

/* Half-precision-free pattern: any bits but NaN, exact in both types when real is float. */
static double element(int tensor, mr_which which, int salt, int64_t e)
{
    uint64_t x = (uint64_t)e * 0x9E3779B97F4A7C15u + (uint64_t)(tensor * 31 + which * 7 + salt);
    x ^= x >> 29;
    x *= 0xBF58476D1CE4E5B9u;
    x ^= x >> 32;
    return (double)(float)((double)(int64_t)x * 1e-19);
}

static void *expected(toy *t, int i, mr_which which, int salt, size_t *bytes)
{
    mr_named nm;
    mr_named_at(&t->ps, i, &nm);
    int64_t width = nm.dim[1] * nm.dim[2] * nm.dim[3], n = (nm.row_hi - nm.row_lo) * width;
    *bytes = (size_t)n * t->ps.real_bytes;
    char *host = calloc((size_t)n + 1, t->ps.real_bytes);
    for (int64_t e = 0; e < n; e++) {
        double x = element(i, which, salt, nm.row_lo * width + e);
        if (t->ps.real_bytes == 8)
            ((double *)(void *)host)[e] = x;
        else
            ((float *)(void *)host)[e] = (float)x;
    }
    return host;
}

static const mr_which buffers[] = {MR_VALUE, MR_M, MR_V};

void toy_fill(toy *t, int salt)
{
    for (int i = 0; i < mr_named_count(&t->ps); i++)
        for (int k = 0; k < (t->ps.m ? 3 : 1); k++) {
            size_t bytes;
            void *host = expected(t, i, buffers[k], salt, &bytes);
            assert_int_equal(mr_named_set(&t->ps, i, buffers[k], host), MR_OK);
            free(host);
        }
}

int toy_differs(toy *t, int salt)
{
    int differs = 0;
    for (int i = 0; i < mr_named_count(&t->ps); i++)
        for (int k = 0; k < (t->ps.m ? 3 : 1); k++) {
            size_t bytes;
            void *want = expected(t, i, buffers[k], salt, &bytes), *got = calloc(bytes + 1, 1);
            assert_int_equal(mr_named_get(&t->ps, i, buffers[k], got), MR_OK);
            differs += memcmp(want, got, bytes) != 0;
            free(got);
            free(want);
        }
    return differs;
}

mr_train_state toy_state(int64_t step)
{
    mr_train_state s = {.step = step,
                        .epoch = 3,
                        .batch_in_epoch = 17,
                        .rows_seen = (int64_t)1 << 40,
                        .best_metric = 0.1 + 1e-17 * (double)step,
                        .best_epoch = 2,
                        .best_step = step - 1,
                        .bad_evals = 4,
                        .seconds = 1.0 / 3.0,
                        .seed = 0xffffffffffffffffu,
                        .config_hash = 0x0123456789abcdefu,
                        .data_checksum = 0x8000000000000000u};
    for (int i = 0; i < MR_STATE_SUMS; i++) s.epoch_sums[i] = 1.0 / (3.0 + i);
    return s;
}

void folder_make(char path[256], mr_comm *world)
{
    if (world->rank == 0) {
        const char *tmp = getenv("TMPDIR");
        snprintf(path, 256, "%s/mr-io-XXXXXX", tmp ? tmp : "/tmp");
        assert_non_null(mkdtemp(path));
    }
    assert_int_equal(world->bcast(world, path, 256, MR_U8, 0), MR_OK);
}

void folder_remove(const char *path, mr_comm *world)
{
    assert_int_equal(world->barrier(world), MR_OK);
    char command[400];
    snprintf(command, sizeof command, "rm -rf '%s'", path);
    if (world->rank == 0) assert_int_equal(system(command), 0);
}

mr_checkpoint_save_args toy_args(toy *t, const char *dir, const mr_train_state *s, mr_comm *world)
{
    return (mr_checkpoint_save_args){.dir = dir,
                                     .params = &t->ps,
                                     .state = s,
                                     .config_json = "{\"model\": {\"hidden\": 5}}",
                                     .world = world,
                                     .keep = 9};
}

mr_status toy_save(toy *t, const char *dir, int64_t step, mr_comm *world, bool is_best, int keep)
{
    mr_train_state s = toy_state(step);
    mr_checkpoint_save_args a = toy_args(t, dir, &s, world);
    a.is_best = is_best;
    a.keep = keep;
    return mr_checkpoint_save(&a);
}
