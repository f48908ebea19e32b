/* Threads, advice and places on described machines; bindings of ranks that meet. */
#define _GNU_SOURCE
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/mem.h"
#include "dist/topo.h"
#include "ranks_main.h"

static mr_comm *world;
static const char big[] = "pack:2 numa:2 core:8 pu:2"; /* 32 cores; thread 2 c, 2 c + 1 on core c */

static mr_topo machine(const char *synthetic, const char *bound_to)
{
    mr_topo t;
    assert_int_equal(mr_topo_read(&t, synthetic, bound_to), MR_OK);
    return t;
}

static void test_counts(void **state)
{
    (void)state;
    mr_topo t = machine(big, NULL);
    assert_int_equal(t.packages, 2);
    assert_int_equal(t.numa_nodes, 4);
    assert_int_equal(t.cores, 32);
    assert_int_equal(t.pus, 64);
    assert_int_equal(t.own_cores, 32);
    assert_false(t.is_bound);
    assert_int_equal(t.numa_node, -1);
    assert_int_equal(t.local_size, 1);
    t = machine(big, "0-15"); /* one NUMA node */
    assert_true(t.is_bound);
    assert_int_equal(t.own_cores, 8);
    assert_int_equal(t.numa_node, 0);
    t = machine(big, "33,35,37"); /* one hardware thread each of three cores */
    assert_int_equal(t.own_cores, 3);
    assert_int_equal(t.numa_node, 2);
    t = machine(big, "14-17"); /* two cores of two NUMA nodes */
    assert_int_equal(t.own_cores, 2);
    assert_int_equal(t.numa_node, -1);
    t = machine(big, "0-63");
    assert_false(t.is_bound);
    t = machine(big, "60-99"); /* what does not exist does not count */
    assert_int_equal(t.own_cores, 2);
    t = machine("numa:1 pu:6", "1,2"); /* a virtual machine without cores */
    assert_int_equal(t.cores, 6);
    assert_int_equal(t.own_cores, 2);
}

static void test_bad_descriptions(void **state)
{
    (void)state;
    mr_topo t = {.cores = -7};
    mr_errors_to_log(false);
    assert_int_equal(mr_topo_read(&t, "core:banana", NULL), MR_ERR_INTERNAL);
    assert_int_equal(mr_topo_read(&t, big, "64-70"), MR_ERR_INTERNAL);
    assert_int_equal(mr_topo_read(&t, big, "a,b"), MR_ERR_INTERNAL);
    mr_errors_to_log(true);
    assert_int_equal(t.cores, -7);
}

/* sharers and local_size as mr_topo_meet would find them. */
static int threads(const char *bound_to, int local_size, int sharers)
{
    mr_topo t = machine(big, bound_to);
    t.local_size = local_size;
    t.sharers = sharers;
    return mr_topo_threads(&t);
}

static void test_threads(void **state)
{
    (void)state;
    unsetenv("OMP_NUM_THREADS");
    assert_int_equal(threads(NULL, 1, 1), 32);
    assert_int_equal(threads(NULL, 4, 4), 8); /* not bound: cores / ranks */
    assert_int_equal(threads(NULL, 5, 5), 6);
    assert_int_equal(threads(NULL, 100, 100), 1);
    assert_int_equal(threads("0-7", 4, 1), 4);  /* bound: own cores */
    assert_int_equal(threads("0", 2, 1), 1);    /* what mpirun -np 2 does */
    assert_int_equal(threads("0-15", 4, 2), 4); /* two ranks bound to the same NUMA node */
    setenv("OMP_NUM_THREADS", "3", 1);
    assert_int_equal(threads("0-15", 4, 2), 3);
    setenv("OMP_NUM_THREADS", "5,2", 1);
    assert_int_equal(threads("0-15", 4, 2), 5);
    static const char *const nothing[] = {"", "0", "-2", "many", "7x"};
    for (size_t i = 0; i < sizeof nothing / sizeof *nothing; i++) {
        setenv("OMP_NUM_THREADS", nothing[i], 1);
        assert_int_equal(threads("0-15", 4, 2), 4);
    }
    unsetenv("OMP_NUM_THREADS");
}

static const char *advice(const char *bound_to, int local_size, int sharers)
{
    static char text[512];
    mr_topo t = machine(big, bound_to);
    t.local_size = local_size;
    t.sharers = sharers;
    snprintf(t.host, sizeof t.host, "node7");
    return mr_topo_advice(&t, text, sizeof text) ? text : NULL;
}

static void test_advice(void **state)
{
    (void)state;
    unsetenv("OMP_NUM_THREADS");
    assert_null(advice(NULL, 4, 4));
    assert_null(advice("0-15", 4, 1));
    assert_null(advice("0-1", 32, 1));
    assert_null(advice("0-15", 8, 2));
    const char *text = advice("0-1", 2, 1); /* one core a rank, thirty idle */
    assert_non_null(text);
    assert_non_null(strstr(text, "on node7 this rank is bound to 1 of 32 cores"));
    assert_non_null(strstr(text, "--map-by ppr:2:node:PE=16"));
    assert_non_null(advice("0-15", 2, 2)); /* two ranks on one NUMA node, three nodes idle */
    setenv("OMP_NUM_THREADS", "4", 1);
    text = advice("0-1", 2, 1);
    assert_non_null(text);
    assert_non_null(strstr(text, "asks for 4 threads on node7 but this rank is bound to 1 of 32"));
    assert_non_null(strstr(text, "--bind-to none"));
    text = advice(NULL, 32, 32); /* nothing to win by another binding */
    assert_non_null(text);
    assert_non_null(strstr(text, "use OMP_NUM_THREADS=1"));
    assert_null(strstr(text, "--bind-to"));
    text = advice("0-1", 32, 1);
    assert_non_null(text);
    assert_non_null(strstr(text, "1 core for each of 32 ranks; use OMP_NUM_THREADS=1"));
    assert_null(advice("0-7", 8, 1));
    setenv("OMP_NUM_THREADS", "1", 1);
    assert_null(advice("0-1", 2, 1)); /* one core for one thread, as asked for */
    unsetenv("OMP_NUM_THREADS");
}

static const char *const no_gpu[] = {""};

static void expect_place(const mr_topo *t, int rank, int size, int n_gpus, const char *const *gpus,
                         bool is_spread, const char *cpus, int gpu, int node)
{
    mr_topo me = *t;
    mr_place p;
    me.local_rank = rank;
    me.local_size = size;
    assert_int_equal(mr_topo_place(&p, &me, big, n_gpus, gpus, is_spread), MR_OK);
    assert_string_equal(p.cpus, cpus);
    assert_int_equal(p.gpu, gpu);
    assert_int_equal(p.numa_node, node);
}

static void test_place(void **state)
{
    (void)state;
    mr_topo t = machine(big, NULL);
    /* no GPU: nothing, or even shares of whole cores */
    expect_place(&t, 1, 4, 0, no_gpu, false, "", -1, -1);
    expect_place(&t, 0, 1, 0, no_gpu, true, "", -1, -1);
    expect_place(&t, 1, 4, 0, no_gpu, true, "16-31", -1, 1);
    expect_place(&t, 2, 3, 0, no_gpu, true, "42-63", -1, -1); /* 11 of 32 cores, two NUMA nodes */
    expect_place(&t, 33, 40, 0, no_gpu, true, "52-53", -1, 3);
    /* two GPUs a socket, the second socket first; eight ranks share four GPUs */
    const char *const gpus[] = {"32-63", "32-63", "0-31", "0-31"};
    expect_place(&t, 0, 4, 4, gpus, false, "32-47", 0, 2);
    expect_place(&t, 1, 4, 4, gpus, false, "48-63", 1, 3);
    expect_place(&t, 3, 4, 4, gpus, false, "16-31", 3, 1);
    expect_place(&t, 5, 8, 4, gpus, false, "56-63", 1, 3);
    expect_place(&t, 0, 1, 4, gpus, false, "32-63", 0, -1); /* alone: all cores near its GPU */
    /* each rank sees its own GPU as number 0, or nothing is known of the GPUs' place */
    expect_place(&t, 3, 4, 1, gpus, false, "56-63", 0, 3);
    const char *const unknown[] = {"", ""};
    expect_place(&t, 1, 2, 2, unknown, false, "32-63", 1, -1);
    const char *const absent[] = {"100-120", "100-120"};
    expect_place(&t, 1, 2, 2, absent, false, "32-63", 1, -1);
    /* bound by the launcher: stays, and still gets its GPU */
    t = machine(big, "0-7");
    expect_place(&t, 1, 4, 4, gpus, true, "", 1, 0);
    expect_place(&t, 6, 8, 4, gpus, false, "", 2, 0);
    mr_place p = {.gpu = -7};
    const char *const wrong[] = {"a-b"};
    t = machine(big, NULL);
    mr_errors_to_log(false);
    assert_int_equal(mr_topo_place(&p, &t, big, 1, wrong, false), MR_ERR_INTERNAL);
    mr_errors_to_log(true);
    assert_int_equal(p.gpu, -7);
}

/* Every hardware thread of a host is given to one rank alone when the ranks divide the cores. */
static void test_places_share_out(void **state)
{
    (void)state;
    mr_topo t = machine(big, NULL);
    for (int size = 2; size <= 32; size *= 2) {
        int total = 0;
        for (int r = 0; r < size; r++) {
            mr_place p;
            t.local_rank = r;
            t.local_size = size;
            assert_int_equal(mr_topo_place(&p, &t, big, 0, no_gpu, true), MR_OK);
            int lo, hi;
            assert_int_equal(sscanf(p.cpus, "%d-%d", &lo, &hi), 2);
            assert_int_equal(lo, total);
            total = hi + 1;
        }
        assert_int_equal(total, 64);
    }
}

/* A process of its own: the binding must not outlive the test. */
static void test_bind(void **state)
{
    (void)state;
    if (world->size > 1) skip();
    pid_t child = fork();
    if (child == 0) {
        mr_topo t;
        char one[16];
        cpu_set_t set;
        sched_getaffinity(0, sizeof set, &set);
        int cpu = 0;
        while (!CPU_ISSET(cpu, &set)) cpu++;
        snprintf(one, sizeof one, "%d", cpu);
        bool ok = mr_topo_bind(one) && mr_topo_read(&t, NULL, NULL) == MR_OK && t.own_cores == 1;
        sched_getaffinity(0, sizeof set, &set);
        _exit(ok && CPU_COUNT(&set) == 1 && CPU_ISSET(cpu, &set) ? 0 : 1);
    }
    int status = 1;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
}

/* Ranks count those with the same binding: pairs here, the odd one alone. */
static void test_meet(void **state)
{
    (void)state;
    static const char *const sets[] = {"0-15", "16-31", "32-47", "48-63"};
    mr_topo t = machine(big, sets[world->rank / 2]), me;
    assert_int_equal(mr_topo_meet(&t, world), MR_OK);
    assert_int_equal(t.local_size, world->size);
    assert_int_equal(t.local_rank, world->rank);
    assert_int_equal(t.sharers, (world->rank | 1) < world->size ? 2 : 1);
    t = machine(big, NULL);
    assert_int_equal(mr_topo_meet(&t, world), MR_OK);
    assert_int_equal(t.sharers, world->size);

    /* The machine that runs this, not bound (tests/CMakeLists.txt). */
    char text[512];
    assert_int_equal(mr_topo_of(&me, world), MR_OK);
    assert_int_equal(me.local_size, world->size);
    assert_in_range(me.own_cores, 1, me.cores);
    assert_in_range(me.cores, 1, me.pus);
    assert_in_range(mr_topo_threads(&me) * me.sharers, 1,
                    me.own_cores > me.sharers ? me.own_cores : me.sharers);
    mr_topo_text(&me, text, sizeof text);
    assert_non_null(strstr(text, me.host));
    assert_int_equal(mr_topo_decide_threads(world), mr_topo_threads(&me));
}

static void test_faults(void **state)
{
    (void)state;
    mr_topo t = {.cores = -7};
    mr_status st = MR_ERR_COMM;
    int n = 0;
    int64_t before = mr_mem_now_bytes();
    mr_errors_to_log(false);
    while (st != MR_OK) {
        mr_comm *bad = NULL;
        assert_int_equal(mr_comm_fake(world, ++n, &bad), MR_OK);
        st = mr_topo_of(&t, bad);
        assert_true(st == MR_OK || (st == MR_ERR_COMM && t.cores == -7));
        mr_comm_destroy(&bad);
        assert_int_equal(mr_mem_now_bytes(), before);
    }
    assert_int_equal(n, 4); /* agreement, split, gather, then none */
    mr_errors_to_log(true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_counts),  cmocka_unit_test(test_bad_descriptions),
        cmocka_unit_test(test_threads), cmocka_unit_test(test_advice),
        cmocka_unit_test(test_place),   cmocka_unit_test(test_places_share_out),
        cmocka_unit_test(test_bind),    cmocka_unit_test(test_meet),
        cmocka_unit_test(test_faults),
    };
    RANKS_MAIN(&world, tests);
}
