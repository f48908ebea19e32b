# Kernels and ops of the U-Net and of diffusion, the noise schedule.
mr_add_test(ops_b SOURCES ops_b/test_ops_b.c LABELS op TIMEOUT 300)
mr_add_test(values_b SOURCES ops_b/test_values_b.c LABELS op)
mr_add_test(kernels_b SOURCES ops_b/test_kernels_b.c ops_b/naive_b.c LABELS kernel TIMEOUT 300)
mr_add_test(draw SOURCES ops_b/test_draw.c LABELS kernel TIMEOUT 120)
mr_add_test(schedule SOURCES ops_b/test_schedule.c LABELS unit)

# Speed, by hand: cmake --build <dir> --target bench_unet && tests/bench_unet [samples]
add_executable(bench_unet EXCLUDE_FROM_ALL ops_b/bench_unet.c)
target_link_libraries(bench_unet PRIVATE mealrec)
