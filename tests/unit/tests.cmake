# Tests of single modules: base, configuration, parsers.
mr_add_test(base SOURCES unit/test_base.c LABELS unit)
mr_add_test(host_memory SOURCES unit/test_host_memory.c LABELS unit)
