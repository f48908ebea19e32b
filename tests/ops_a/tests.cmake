# Kernels and ops of norm, dropout, attention, embedding.
mr_add_test(ops_a SOURCES ops_a/test_ops_a.c LABELS op TIMEOUT 300)
