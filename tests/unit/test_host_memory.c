/* Free memory of hosts that are described in files: meminfo alone, control groups of version 1 and
 * 2, limits of parents. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/host_memory.h"

static char root[256];

static void put(const char *name, const char *text)
{
    char path[1024];
    snprintf(path, sizeof path, "%s/%s", root, name);
    for (char *p = path + strlen(root) + 1; (p = strchr(p, '/')); *p++ = '/') {
        *p = 0;
        mkdir(path, 0700);
    }
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static void expect(int64_t bytes, const char *limit)
{
    const char *of = NULL;
    assert_int_equal(mr_host_memory_free(root, &of), bytes);
    assert_non_null(strstr(of, limit));
}

static void test_levels(void **state)
{
    (void)state;
    expect(INT64_MAX, "nothing");
    put("proc/meminfo",
        "MemTotal:       9000 kB\nMemFree:         10 kB\nMemAvailable:  4000 kB\n");
    expect(4000 * 1024, "free memory of the host");
    put("proc/self/cgroup", "0::/\n");
    expect(4000 * 1024, "free memory of the host");
    /* version 2: no limit, a limit that is larger, a smaller one, one of a parent */
    put("proc/self/cgroup", "0::/job/step\n");
    put("sys/fs/cgroup/job/step/memory.max", "max\n");
    put("sys/fs/cgroup/job/step/memory.current", "1000\n");
    expect(4000 * 1024, "free memory of the host");
    put("sys/fs/cgroup/job/step/memory.max", "9000000\n");
    expect(4000 * 1024, "free memory of the host");
    put("sys/fs/cgroup/job/step/memory.max", "3000\n");
    expect(2000, "memory.max");
    put("sys/fs/cgroup/job/step/memory.stat", "anon 500\ninactive_file 300\n");
    expect(2300, "memory.max");
    put("sys/fs/cgroup/job/memory.max", "2000\n");
    put("sys/fs/cgroup/job/memory.current", "1900\n");
    expect(100, "memory.max");
    put("sys/fs/cgroup/job/memory.current", "2100\n");
    expect(0, "memory.max");
    /* version 1 */
    put("proc/self/cgroup", "7:cpu:/x\n4:memory:/uid/job\n0::/\n");
    put("sys/fs/cgroup/memory/uid/job/memory.limit_in_bytes", "5000\n");
    put("sys/fs/cgroup/memory/uid/job/memory.usage_in_bytes", "4000\n");
    expect(1000, "memory.limit_in_bytes");
    put("sys/fs/cgroup/memory/memory.limit_in_bytes", "700\n");
    put("sys/fs/cgroup/memory/memory.usage_in_bytes", "100\n");
    expect(600, "memory.limit_in_bytes");
}

static void test_this_machine(void **state)
{
    (void)state;
    const char *of = NULL;
    int64_t n = mr_host_memory_free("", &of);
    assert_true(n > 0 && n < (int64_t)1 << 50);
    assert_true(mr_process_memory_free(&of) > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_levels),
                                       cmocka_unit_test(test_this_machine)};
    snprintf(root, sizeof root, "%s/mr_host_XXXXXX",
             access("/dev/shm", W_OK) ? "/tmp" : "/dev/shm");
    if (!mkdtemp(root)) return 1;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    char command[512];
    snprintf(command, sizeof command, "rm -rf %s", root);
    return system(command) ? 1 : failed;
}
