# The table of kernel times.
if(TARGET mealrec-dist)
  mr_add_script(bench_kernels bench_kernels/test_bench_kernels.py LABELS cli kernel)
endif()
