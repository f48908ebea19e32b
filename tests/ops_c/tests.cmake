# Losses, TedRec's adaptor and fusion, ranking.
mr_add_test(ops_c SOURCES ops_c/test_ops_c.c LABELS op TIMEOUT 300)
mr_add_test(ops_bf16 SOURCES ops_c/test_ops_bf16.c LABELS op)
mr_add_test(ops_c_formulas SOURCES ops_c/test_formulas.c LABELS op)
mr_add_test(metrics SOURCES ops_c/test_metrics.c LABELS train)
mr_add_test(ops_c_dist SOURCES ops_c/test_ops_c_dist.c NPROCS 1 2 3 4 LABELS op dist)
mr_add_test(rank SOURCES ops_c/test_rank.c NPROCS 1 2 3 LABELS train dist)

# Run by hand: times of item_loss and of full ranking.
add_executable(bench_item_loss ops_c/bench_item_loss.c)
target_link_libraries(bench_item_loss PRIVATE mealrec)
add_executable(bench_rank ops_c/bench_rank.c)
target_link_libraries(bench_rank PRIVATE mealrec)
