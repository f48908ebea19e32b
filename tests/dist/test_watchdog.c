/* The watchdog in one process: limits, communicators that never return or fail behind the caller's
 * back, the judgement on made-up rings, damaged ring files. Whole jobs: train/test_hang.py. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/mem.h"
#include "dist/comm.h"
#include "dist/watchdog.h"

static volatile int n_fired;
static mr_hang last;

static void on_fire(const mr_hang *h, void *user)
{
    (void)user;
    last = *h;
    n_fired++;
}

static void start(double least)
{
    mr_watch_opts o = {.least_seconds = least, .on_fire = on_fire};
    n_fired = 0;
    assert_int_equal(mr_watch_start(&o), MR_OK);
}

static mr_comm *faulty(int64_t at, mr_fake_act act, mr_comm **self_p, mr_comm **fake_p)
{
    mr_comm *c = NULL;
    assert_int_equal(mr_comm_self(self_p), MR_OK);
    assert_int_equal(mr_comm_fake_act(*self_p, at, act, fake_p), MR_OK);
    assert_int_equal(mr_comm_traced(*fake_p, &c), MR_OK);
    return c;
}

/* A collective that never returns is made to, and the status says why. */
static void test_aborted(void **state)
{
    (void)state;
    int64_t before = mr_mem_now_bytes();
    mr_comm *self = NULL, *fake = NULL, *c = faulty(3, MR_FAKE_LOOP, &self, &fake);
    int64_t x = 7, made = mr_ring_mine()->last;
    start(0.3);
    mr_watch_phase(MR_AT_STEP);
    for (int i = 0; i < 8; i++) mr_watch_beat(i); /* so that 0.3 s is the limit */
    assert_true(mr_watch_limit() == 0.3);
    mr_ring_at("forward");
    assert_int_equal(c->allreduce(c, &x, 1, MR_I64, MR_SUM), MR_OK);
    assert_int_equal(c->barrier(c), MR_OK);
    assert_int_equal(n_fired, 0);
    double began = mr_ring_now();
    assert_int_equal(c->allreduce(c, &x, 1, MR_I64, MR_SUM), MR_ERR_WATCHDOG);
    double took = mr_ring_now() - began;
    assert_int_equal(n_fired, 1);
    assert_true(took >= 0.25 && took < 2.3);
    char text[64];
    snprintf(text, sizeof text, "#%lld allreduce of 1 (forward)", (long long)made + 3);
    assert_non_null(strstr(last.text, text));
    mr_watch_stop();
    mr_comm_destroy(&c);
    mr_comm_destroy(&self);
    assert_int_equal(mr_mem_now_bytes(), before);
}

/* An error that nobody is told of until the watchdog asks. */
static void test_late_error(void **state)
{
    (void)state;
    mr_comm *self = NULL, *fake = NULL, *c = faulty(2, MR_FAKE_LATE, &self, &fake);
    start(30);
    assert_int_equal(c->barrier(c), MR_OK);
    assert_int_equal(c->barrier(c), MR_OK);
    mr_errors_to_log(false);
    for (int i = 0; i < 100 && c->barrier(c) == MR_OK; i++) usleep(20000);
    assert_int_equal(c->barrier(c), MR_ERR_COMM);
    mr_errors_to_log(true);
    mr_watch_stop();
    mr_comm_destroy(&c);
    mr_comm_destroy(&self);
}

static void test_limits(void **state)
{
    (void)state;
    start(0.05);
    assert_true(mr_watch_limit() == 0.5); /* start: 10 times */
    mr_watch_phase(MR_AT_READ);
    for (int i = 0; i < 20; i++) mr_watch_beat(0);
    assert_true(mr_watch_limit() == 3.0); /* reading is not learnt */
    mr_watch_phase(MR_AT_STEP);
    for (int i = 0; i < 5; i++) mr_watch_beat(i);
    assert_true(mr_watch_limit() == 0.5);
    for (int i = 0; i < 4; i++) {
        usleep(40000);
        mr_watch_beat(i);
    }
    double learnt = mr_watch_limit();
    assert_true(learnt >= 5 * 0.04 && learnt < 5 * 0.3);
    for (int i = 0; i < 128; i++) mr_watch_beat(i); /* what was slow is long ago */
    assert_true(mr_watch_limit() == 0.05);
    mr_watch_phase(MR_AT_EVAL);
    assert_true(mr_watch_limit() == 0.5);
    assert_int_equal(n_fired, 0);
    mr_watch_stop();
    assert_true(mr_watch_limit() == 0);
    mr_watch_opts off = {0};
    assert_int_equal(mr_watch_start(&off), MR_OK);
    assert_true(mr_watch_limit() == 0);
}

/* ---- judgements ---- */
enum { N = 4 };

/* All ranks have made `made` collectives and wait in the next one. */
static mr_ring *rings(int64_t made)
{
    mr_ring *r = NULL;
    assert_int_equal(MR_ALLOC(&r, N, "rings"), MR_OK);
    for (int i = 0; i < N; i++) {
        r[i] = (mr_ring){.rank = i, .size = N, .tick = 1000.0, .state = MR_RING_FIRED, .limit = 2};
        snprintf(r[i].host, sizeof r[i].host, "host%d", i);
        snprintf(r[i].label, sizeof r[i].label, "forward");
        r[i].last = made + 1;
        for (int64_t s = 1; s <= made + 1; s++) {
            mr_ring_entry *e = &r[i].entry[s % MR_RING_ENTRIES];
            *e = (mr_ring_entry){.seq = s,
                                 .count = s,
                                 .comm_size = N,
                                 .dtype = MR_F32,
                                 .entered = 990,
                                 .left = s <= made ? 991 : 0};
            snprintf(e->label, sizeof e->label, "label");
        }
    }
    return r;
}

static mr_hang judge(mr_ring *r)
{
    mr_hang h;
    mr_hang_judge(&h, r, N);
    MR_FREE(r);
    return h;
}

static void expect(mr_ring *r, mr_hang_kind kind, int culprit, const char *text)
{
    mr_hang h = judge(r);
    if (h.kind != kind || h.culprit != culprit || !strstr(h.text, text))
        fail_msg("kind %d, rank %d: %s", (int)h.kind, h.culprit, h.text);
}

static void test_judgement(void **state)
{
    (void)state;
    mr_ring *r = rings(600);
    expect(r, MR_HANG_NOBODY, -1, "all 4 ranks wait in #601 allreduce of 601 (label)");
    r = rings(
        600); /* has left 601, the others are inside: it will come to 602 and waits for them */
    for (int i = 0; i < N; i++) r[i].last -= i == 2;
    expect(r, MR_HANG_BEHIND, 2, "behind: rank 2; rank 2 on host2 is in 'forward'");
    r = rings(600); /* all have left it, and wait for their GPUs */
    for (int i = 0; i < N; i++) r[i].entry[601 % MR_RING_ENTRIES].left = r[i].tick;
    expect(r, MR_HANG_NOBODY, -1, "so a GPU or the network holds them up: rank 0");
    r = rings(600);
    r[1].last -= 1, r[3].last -= 1;
    expect(r, MR_HANG_BEHIND, 1, "behind: ranks 1, 3;");
    r = rings(600);
    r[3].tick -= 1.6;
    expect(r, MR_HANG_STOPPED, 3, "rank 3 (process 0 on host3) is stopped");
    r = rings(600);
    r[3].tick -= 1.0; /* a busy machine */
    expect(r, MR_HANG_NOBODY, -1, "all 4 ranks");
    r = rings(600);
    r[0].state = MR_RING_LEFT;
    expect(r, MR_HANG_LEFT, 0, "rank 0 has left the job after #601");
    r = rings(600);
    r[1].size = 0;
    expect(r, MR_HANG_LEFT, 1, "rank 1 has left the job while");
    r = rings(600);
    r[2].entry[500 % MR_RING_ENTRIES].count = 3;
    expect(r, MR_HANG_OTHER, 2, "rank 2 left out a collective or made one too many: there #500");
    r = rings(600);
    r[2].entry[500 % MR_RING_ENTRIES].kind = MR_RING_BARRIER;
    r[2].tick -= 5;
    expect(r, MR_HANG_OTHER, 2, "#500 barrier of 500 (label) is where rank 0 has #500 allreduce");
    r = rings(600); /* counts of parts of the ranks may differ */
    for (int i = 0; i < N; i++) {
        r[i].entry[500 % MR_RING_ENTRIES].comm_size = 2;
        r[i].entry[500 % MR_RING_ENTRIES].count = i;
    }
    expect(r, MR_HANG_NOBODY, -1, "all 4 ranks");
    r = rings(600); /* killed, and the launcher ended the others a second later */
    for (int i = 0; i < N; i++) r[i].state = MR_RING_RUNS;
    r[1].tick -= 0.9;
    expect(r, MR_HANG_STOPPED, 1, "rank 1 (process 0 on host1) was the first to die or to stop");
}

/* ---- files ---- */
static void test_files(void **state)
{
    (void)state;
    char folder[] = "/tmp/mealrec-ring-XXXXXX", path[200];
    mr_ring *got = NULL;
    int n = 0;
    assert_non_null(mkdtemp(folder));
    mr_errors_to_log(false);
    assert_int_equal(mr_hang_read(folder, &got, &n), MR_ERR_NO_INPUT);
    mr_ring_begin(1, 2, 77);
    assert_int_equal(mr_ring_map(folder, 1, 2, 77), MR_OK);
    mr_ring_at("here");
    mr_ring_enter(MR_RING_BCAST, 2, MR_U8, 5);
    mr_ring_leave();
    mr_ring_enter(MR_RING_BARRIER, 2, MR_U8, 0);
    int64_t last_seq = mr_ring_mine()->last;
    assert_int_equal(mr_hang_read(folder, &got, &n), MR_OK); /* while it is mapped */
    assert_int_equal(n, 2);
    assert_int_equal(got[0].size, 0);
    assert_int_equal(got[1].last, last_seq);
    assert_string_equal(got[1].label, "here");
    MR_FREE(got);
    mr_ring_unmap(true);
    mr_ring_path(path, sizeof path, folder, 1);
    mr_ring *r = NULL;
    assert_int_equal(MR_ALLOC(&r, 1, "ring"), MR_OK);
    assert_int_equal(mr_ring_read(r, path), MR_OK);
    const long places[] = {0, 8, 12, 16, 20, 28, 32}; /* magic ... state */
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        FILE *f = fopen(path, "r+");
        assert_non_null(f);
        unsigned char was[4], bad[4] = {0xff, 0xff, 0xff, 0xff};
        fseek(f, places[i], SEEK_SET);
        assert_int_equal(fread(was, 1, 4, f), 4);
        fseek(f, places[i], SEEK_SET);
        fwrite(bad, 1, 4, f);
        fflush(f);
        assert_int_equal(mr_ring_read(r, path), MR_ERR_DATA);
        assert_int_equal(mr_hang_read(folder, &got, &n), MR_ERR_DATA);
        fseek(f, places[i], SEEK_SET);
        fwrite(was, 1, 4, f);
        fclose(f);
    }
    assert_int_equal(mr_ring_read(r, path), MR_OK);
    assert_int_equal(truncate(path, 100), 0);
    assert_int_equal(mr_ring_read(r, path), MR_ERR_DATA);
    mr_errors_to_log(true);
    MR_FREE(r);
    unlink(path);
    assert_int_equal(rmdir(folder), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_judgement),  cmocka_unit_test(test_files),
        cmocka_unit_test(test_limits),     cmocka_unit_test(test_aborted),
        cmocka_unit_test(test_late_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
