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
target_link_libraries(mr_cuda PRIVATE mr_flags CUDA::cudart CUDA::cublas CUDA::cublasLt)
# NCCL is optional: without it ranks talk through MPI, with copies through host memory. Where CUDA
# came with Python packages, name their folder: -DMR_NCCL_ROOT=.../site-packages/nvidia/nccl.
set(MR_NCCL_ROOT "" CACHE PATH "folder with include/nccl.h and lib/libnccl.so")
find_path(MR_NCCL_INC nccl.h HINTS ${MR_NCCL_ROOT}/include ${CUDAToolkit_INCLUDE_DIRS})
find_library(MR_NCCL_LIB NAMES nccl libnccl.so.2 HINTS ${MR_NCCL_ROOT}/lib
             ${CUDAToolkit_LIBRARY_DIR})
if(MR_NCCL_INC AND MR_NCCL_LIB)
  add_library(mr_nccl OBJECT src/dist/comm_nccl.c)
  target_include_directories(mr_nccl SYSTEM PRIVATE ${MR_NCCL_INC})
  target_link_libraries(mr_nccl PRIVATE mr_flags CUDA::cudart)
  target_sources(mealrec PRIVATE $<TARGET_OBJECTS:mr_nccl>)
  target_link_libraries(mealrec PUBLIC ${MR_NCCL_LIB})
  target_compile_definitions(mealrec PUBLIC MR_HAVE_NCCL=1)
else()
  message(STATUS "NCCL was not found: ranks with GPUs exchange through MPI")
endif()
target_sources(mealrec PRIVATE $<TARGET_OBJECTS:mr_cuda>)
target_link_libraries(mealrec PUBLIC CUDA::cudart CUDA::cublas CUDA::cublasLt)
target_compile_definitions(mealrec PUBLIC MR_HAVE_CUDA=1)
