# CUDA kernels against the CPU kernels; skipped (77) where there is no GPU. Without nvcc there is
# nothing to compare. The dry run checks the test itself: the CPU table against itself.
if(MR_HAVE_CUDA)
  mr_add_test(kernels_cuda SOURCES gpu/test_kernels_cuda.c gpu/twin.c gpu/cases_b.c gpu/cases_c.c
              gpu/cases_d.c gpu/cases_e.c gpu/cases_f.c
              LABELS gpu TIMEOUT 300)
  add_test(NAME kernels_cuda_dry COMMAND test_kernels_cuda dry)
  mr_register(kernels_cuda_dry "" LABELS gpu)
endif()
# What a step asks of its device, on the guard device.
mr_add_test(device_use SOURCES gpu/test_device_use.c LABELS gpu train)
# Counts rounded up, on the guard device.
mr_add_test(rounded_counts SOURCES gpu/test_rounding.c LABELS gpu train)
# Rows rounded up, on a CPU in float64.
mr_add_test(padded_rows SOURCES gpu/test_padded.c LABELS gpu train)
# The checks of tests/gpu.sh themselves, on the CPU.
if(TARGET mealrec-dist)
  mr_add_script(gpu_checks_dry gpu/gpu_checks.py ARGS ${CMAKE_BINARY_DIR} --device guard
                LABELS gpu TIMEOUT 300)
endif()
# The figures of a GPU with tiny sizes and without one: how they are taken, no measurement.
if(TARGET mealrec-dist)
  mr_add_script(gpu_figures gpu/test_figures.py LABELS gpu TIMEOUT 900)
endif()
