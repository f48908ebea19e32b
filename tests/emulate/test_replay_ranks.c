/* Recorded steps and blocks of several ranks that start once more, on the emulated GPU: the same
 * bits, counts of bytes and entries of the ring as without recording, few recordings; what ranks
 * agree on, and what goes wrong when they do not. Losses are also those of CPUs, which know no rows
 * behind those of a batch. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/log.h"
#include "base/mem.h"
#include "dist/ring.h"
#include "small_main.h"
#include "trainer_pair.h"

#define OK(call) assert_int_equal((call), MR_OK)
#define COUNT(a) (sizeof(a) / sizeof *(a))

static mr_comm *world;
static mr_dataset data;

/* A model, how it is shared, rows of a batch, and how many batches of an epoch are made. */
typedef struct job {
    const char *name, *backbone, *item_shard, *exchange_rows, *batch;
    int64_t batches;
} job;

static void configure(mr_config *c, const job *j, const char *device, bool captures)
{
    const char *const words[][2] = {
        {"model.name", j->name},
        {"model.backbone", j->backbone},
        {"dist.item_shard", j->item_shard},
        {"dist.exchange_rows", j->exchange_rows},
        {"dist.comm", strcmp(device, "cuda") ? "auto" : "nccl"},
        {"dist.virtual_shards", "4"},
        {"train.batch", j->batch},
        {"train.eval_batch", "12"},
        {"run.device", device},
        {"data.max_len", "4"},
        {"run.capture", captures ? "true" : "false"},
    };
    pair_small_model(c);
    for (size_t i = 0; i < COUNT(words); i++)
        OK(mr_config_set(c, words[i][0], words[i][1], "test"));
    OK(mr_config_check(c));
}

/* What a step is noted as: calls and bytes of collectives on device memory by purpose, entries of
 * the ring, calls of kernels, launches. */
typedef struct noted {
    mr_count of[2][MR_FOR_COUNT];
    int64_t ring, calls, launches;
} noted;

static noted note(const mr_trainer *t)
{
    noted n;
    memset(&n, 0, sizeof n);
    memcpy(n.of[0], t->dev_world->stats.made_for, sizeof n.of[0]);
    memcpy(n.of[1], t->dev_items->stats.made_for, sizeof n.of[1]);
    n.ring = mr_ring_mine()->last;
    n.calls = t->dev->counts.calls;
    n.launches = t->dev->counts.launches;
    return n;
}

/* a step further on than b */
static noted since(noted a, const noted *b)
{
    for (int k = 0; k < 2; k++)
        for (int p = 0; p < MR_FOR_COUNT; p++) {
            a.of[k][p].calls -= b->of[k][p].calls;
            a.of[k][p].bytes_in -= b->of[k][p].bytes_in;
            a.of[k][p].bytes_out -= b->of[k][p].bytes_out;
        }
    a.ring -= b->ring;
    a.calls -= b->calls;
    a.launches -= b->launches;
    return a;
}

typedef struct difference {
    int losses, notes;
} difference;

/* One epoch of both, batch by batch; how many steps differ in losses, and in what was noted of
 * them. Rows are exchanged with a fixed number by both. */
static difference epoch(mr_trainer *t, mr_trainer *eager, int64_t e, int64_t n)
{
    difference d = {0, 0};
    for (int64_t i = 0; i < n; i++) {
        noted a = note(t);
        OK(mr_trainer_step_and(t, e, i, i + 1 < n ? i + 1 : -1));
        a = since(note(t), &a);
        noted b = note(eager);
        OK(mr_trainer_step_and(eager, e, i, i + 1 < n ? i + 1 : -1));
        b = since(note(eager), &b);
        d.losses += memcmp(t->losses, eager->losses, sizeof t->losses) != 0;
        d.notes += memcmp(&a, &b, sizeof a) != 0;
    }
    return d;
}

/* Losses of the first epoch as CPUs have them. */
static void compare_with_cpu(const job *j)
{
    static mr_config c, here;
    configure(&c, j, "cuda", false);
    configure(&here, j, "cpu", false);
    mr_trainer *t = pair_trainer(&c, &data, world, NULL),
               *cpu = pair_trainer(&here, &data, world, NULL);
    bool has_behind = false;
    for (int64_t i = 0; i < j->batches; i++) {
        OK(mr_trainer_step(t, 0, i));
        OK(mr_trainer_step(cpu, 0, i));
        const mr_run *r = t->train_run;
        has_behind |= r->count[MR_SPACE_ROWS] > r->host->rows;
        for (int k = 0; k < t->train_graph->n_losses; k++)
            if (!(fabs(t->losses[k] - cpu->losses[k]) <= 2e-5 * fabs(cpu->losses[k])))
                fail_msg("%s on %s, step %d: loss %d is %.9g, on CPUs %.9g", j->name, j->backbone,
                         (int)i, k, t->losses[k], cpu->losses[k]);
        if (!(fabs(t->grad_norm - cpu->grad_norm) <= 2e-4 * cpu->grad_norm))
            fail_msg("%s on %s, step %d: the gradient's norm is %.9g, on CPUs %.9g", j->name,
                     j->backbone, (int)i, t->grad_norm, cpu->grad_norm);
    }
    int32_t any = has_behind;
    OK(world->allreduce(world, &any, 1, MR_I32, MR_MAX));
    assert_true(any);
    mr_trainer_free(&t);
    mr_trainer_free(&cpu);
}

static void make_pair(mr_trainer **t, mr_trainer **eager, const job *j)
{
    static mr_config c, plain;
    configure(&c, j, "cuda", true);
    configure(&plain, j, "cuda", false);
    OK(mr_config_set(&plain, "dist.exchange", "fixed", "test"));
    *t = pair_trainer(&c, &data, world, NULL);
    *eager = pair_trainer(&plain, &data, world, NULL);
}

/* Three epochs and two evaluations; at most so many recordings in all and in the last epoch. Small
 * batches differ more than large ones, and views in every epoch. */
static void run_job(const job *j, int64_t most_recorded, int64_t most_last)
{
    mr_trainer *t, *eager;
    compare_with_cpu(j);
    make_pair(&t, &eager, j);
    const mr_device_counts *n = &t->dev->counts;
    int64_t before = 0, recorded[3];
    for (int e = 0; e < 3; e++) {
        difference d = epoch(t, eager, e, j->batches);
        assert_int_equal(d.losses, 0);
        assert_int_equal(d.notes, 0);
        recorded[e] = n->recorded - before;
        before = n->recorded;
    }
    int64_t batches = j->batches;
    assert_int_equal(n->recorded + n->replayed, 3 * batches - 2);
    if (world->rank == 0)
        print_message("%s on %s, %d ranks: %d steps an epoch; recorded %d, %d, %d\n", j->name,
                      j->backbone, world->size, (int)batches, (int)recorded[0], (int)recorded[1],
                      (int)recorded[2]);
    assert_in_range(recorded[0] + recorded[1] + recorded[2], 1, most_recorded);
    assert_true(n->replayed > 0);
    assert_in_range(recorded[2], 0, most_last);
    assert_true(pair_has_same_values(t, eager));
    pair_assert_same_scores(t, eager);
    before = n->recorded;
    int64_t replayed = n->replayed;
    pair_assert_same_scores(t, eager); /* the same users: all of them are known */
    assert_int_equal(n->recorded, before);
    assert_true(n->replayed > replayed);
    mr_trainer_free(&t);
    mr_trainer_free(&eager);
}

static void test_models(void **state)
{
    (void)state;
    run_job(&(job){"cl4srec", "sasrec", "all", "0", "32", 4}, 10, 4);
    run_job(&(job){"sasrec", "sasrec", "all", "0", "16", 6}, 12, 2);
    run_job(&(job){"mealrec", "tedrec", "1", "0", "64", 3}, 6, 1);
}

/* One row a step: the other ranks have none. */
static void test_no_rows(void **state)
{
    (void)state;
    run_job(&(job){"sasrec", "sasrec", "all", "0", "1", 4}, 4, 0);
}

static void free_pair(mr_trainer *t, mr_trainer *eager)
{
    mr_trainer_free(&t);
    mr_trainer_free(&eager);
}

static const job small = {"sasrec", "sasrec", "all", "0", "1", 4};

/* Lists that do not fit are exchanged exactly: such steps are recorded anew, and the bits stay. */
static void test_misfits(void **state)
{
    mr_trainer *t, *eager;
    (void)state;
    make_pair(&t, &eager, &(job){"sasrec", "sasrec", "all", "2", "1", 0});
    const mr_device_counts *n = &t->dev->counts;
    difference d = epoch(t, eager, 0, 10);
    assert_int_equal(d.losses + d.notes, 0);
    int64_t misfits = mr_feed_misfits(&t->feed) + mr_feed_misfits(&t->ahead.feed);
    if (world->rank == 0)
        print_message("%d of 10 steps did not fit, recorded %d\n", (int)misfits, (int)n->recorded);
    assert_in_range(misfits, 1, 9);
    assert_true(n->recorded >= misfits - 2 && n->replayed > 0);
    assert_true(pair_has_same_values(t, eager));
    free_pair(t, eager);
}

/* The run of one rank moves: all ranks record anew. Nobody was told that it moved: an error, and
 * nothing starts. */
static void test_moved(void **state)
{
    mr_trainer *t, *eager;
    (void)state;
    make_pair(&t, &eager, &small);
    const mr_device_counts *n = &t->dev->counts;
    assert_int_equal(epoch(t, eager, 0, 4).losses, 0);
    int64_t before = n->recorded;
    if (world->rank == 1) t->train_run->number += 1000;
    difference d = epoch(t, eager, 0, 2);
    assert_int_equal(d.losses + d.notes, 0);
    assert_int_equal(n->recorded, before + 1);
    t->train_run->number += 1000;
    t->places[MR_RECORD_STEP].number += 1000;
    mr_errors_to_log(false);
    assert_int_equal(mr_trainer_step(t, 0, 0), MR_ERR_INTERNAL);
    assert_non_null(strstr(mr_last_error(), "for memory that this rank uses no more"));
    mr_errors_to_log(true);
    assert_int_equal(n->recorded, before + 1);
    free_pair(t, eager);
}

static void test_little_room(void **state)
{
    static const job j = {"sasrec", "sasrec", "all", "0", "32", 0};
    static mr_config c;
    mr_trainer *t, *eager;
    (void)state;
    configure(&c, &j, "cuda", true);
    make_pair(&t, &eager, &j);
    pair_little_room(&c, eager);
    free_pair(t, eager);
}

/* Without the log of a recording its collectives are noted as if they had not been made. */
static void test_unnoted(void **state)
{
    mr_trainer *t, *eager;
    (void)state;
    make_pair(&t, &eager, &small);
    assert_int_equal(epoch(t, eager, 0, 4).notes, 0);
    for (int k = 0; k < MR_KEPT; k++) mr_comm_log_free(&t->log[MR_RECORD_STEP][k]);
    int64_t replayed = t->dev->counts.replayed;
    difference d = epoch(t, eager, 0, 2);
    assert_int_equal(t->dev->counts.replayed, replayed + 2);
    assert_int_equal(d.losses, 0);
    assert_int_equal(d.notes, 2);
    free_pair(t, eager);
}

int main(void)
{
    char id[24];
    mr_comm *mpi = NULL;
    const struct CMUnitTest few[] = {cmocka_unit_test(test_no_rows)};
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_misfits), cmocka_unit_test(test_moved),
                                       cmocka_unit_test(test_unnoted),
                                       cmocka_unit_test(test_little_room),
                                       cmocka_unit_test(test_models)};
    if (mr_comm_mpi_world(&mpi) != MR_OK || mr_comm_traced(mpi, &world) != MR_OK) return 1;
    mr_log_init(world->rank, MR_LOG_ERROR);
    snprintf(id, sizeof id, "host%d", world->rank);
    setenv("NCCL_HOSTID", id, 1);
    OK(small_data(&data, 340, 8, 6));
    bool is_pair = world->size == 2; /* more ranks take minutes a model */
    int failed = is_pair ? cmocka_run_group_tests(tests, NULL, NULL)
                         : cmocka_run_group_tests(few, NULL, NULL);
    mr_dataset_free(&data);
    mr_comm_destroy(&world);
    mr_comm_finalize();
    return failed;
}
