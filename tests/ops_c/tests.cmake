# Losses, TedRec's adaptor and fusion, ranking.
mr_add_test(ops_c SOURCES ops_c/test_ops_c.c LABELS op TIMEOUT 300)
mr_add_test(ops_c_dist SOURCES ops_c/test_ops_c_dist.c NPROCS 1 2 3 4 LABELS op dist)
mr_add_test(rank SOURCES ops_c/test_rank.c NPROCS 1 2 3 LABELS train dist)
