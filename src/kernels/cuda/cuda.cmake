# The CUDA backend: compiled wherever nvcc is found, run only where there is a GPU.
enable_language(CUDA)
find_package(CUDAToolkit REQUIRED)
set(CMAKE_CUDA_FLAGS_RELEASE "-O3")
file(GLOB MR_CUDA_SOURCES CONFIGURE_DEPENDS src/kernels/cuda/*.cu src/kernels/cuda/*.c
     src/tensor/device_cuda.c)
add_library(mr_cuda OBJECT ${MR_CUDA_SOURCES})
set_target_properties(mr_cuda PROPERTIES CUDA_STANDARD 17)
target_compile_options(mr_cuda PRIVATE
  $<$<COMPILE_LANGUAGE:CUDA>:--extended-lambda -Xcompiler=-Wall>)
if(MR_WERROR)
  target_compile_options(mr_cuda PRIVATE $<$<COMPILE_LANGUAGE:CUDA>:-Werror=all-warnings>)
endif()
target_link_libraries(mr_cuda PRIVATE mr_flags CUDA::cudart CUDA::cublas)
target_sources(mealrec PRIVATE $<TARGET_OBJECTS:mr_cuda>)
target_link_libraries(mealrec PUBLIC CUDA::cudart CUDA::cublas)
target_compile_definitions(mealrec PUBLIC MR_HAVE_CUDA=1)
