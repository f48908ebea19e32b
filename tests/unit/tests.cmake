# Tests of single modules: base, configuration, parsers.
mr_add_test(base SOURCES unit/test_base.c LABELS unit)
