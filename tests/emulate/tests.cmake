# The CUDA backend on an emulated GPU (docs/gpu.md): its sources, translated by the C++ compiler
# against tests/emulate/include, in programs of their own under emulated/ in the build folder. The
# program itself never holds the emulator. Needs no CUDA toolkit, and does not mind one.
check_language(CXX)
if(NOT CMAKE_CXX_COMPILER OR MR_SANITIZE)
  message(STATUS "No C++ compiler, or sanitizers: the CUDA backend is not emulated")
  return()
endif()
enable_language(CXX)
set(MR_EMULATE_DIR ${CMAKE_CURRENT_SOURCE_DIR}/emulate)
file(GLOB MR_EMULATED_KERNELS CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/kernels/cuda/*.cu)
file(GLOB MR_EMULATOR CONFIGURE_DEPENDS ${MR_EMULATE_DIR}/*.cc)
# The compiler tells tests/emulate/access.cc of every load and store; indices outside arrays trap.
if(CMAKE_CXX_COMPILER_ID MATCHES Clang)
  set(calls "SHELL:-mllvm -asan-instrumentation-with-call-threshold=0"
      "SHELL:-mllvm -asan-stack=0" "SHELL:-mllvm -asan-globals=0")
else()
  set(calls --param=asan-instrumentation-with-call-threshold=0 --param=asan-stack=0
      --param=asan-globals=0)
endif()
set(traps -fsanitize=bounds,integer-divide-by-zero -fsanitize-undefined-trap-on-error)
set(MR_EMULATE_OPTIONS -fno-tree-vectorize -fno-tree-slp-vectorize
    -fsanitize=kernel-address ${calls} ${traps})
set_source_files_properties(${MR_EMULATED_KERNELS} ${MR_EMULATE_DIR}/plants.cu PROPERTIES
  LANGUAGE CXX COMPILE_OPTIONS "${MR_EMULATE_OPTIONS}")
# The last three are the files that ask what was compiled in; linked here, they take the place of
# those in the library.
add_library(mr_emulated OBJECT ${MR_EMULATED_KERNELS} ${MR_EMULATOR}
  ${CMAKE_SOURCE_DIR}/src/kernels/cuda/lt.c
  ${CMAKE_SOURCE_DIR}/src/dist/comm_nccl.c
  ${CMAKE_SOURCE_DIR}/src/tensor/device_cuda.c
  ${CMAKE_SOURCE_DIR}/src/tensor/device.c ${CMAKE_SOURCE_DIR}/src/kernels/kernels.c
  ${CMAKE_SOURCE_DIR}/src/train/own_device.c)
# The kernels once more, with activations in bf16.
add_library(mr_emulated_bf16 OBJECT ${MR_EMULATED_KERNELS})
target_compile_definitions(mr_emulated_bf16 PRIVATE MR_ACT_BF16=1)
foreach(target mr_emulated mr_emulated_bf16)
  set_target_properties(${target} PROPERTIES CXX_STANDARD 17 CXX_EXTENSIONS ON)
  target_include_directories(${target} BEFORE PRIVATE ${MR_EMULATE_DIR}/include ${OPENBLAS_INC})
  target_compile_definitions(${target} PRIVATE MR_HAVE_CUDA=1 MR_HAVE_NCCL=1)
  target_compile_options(${target} PRIVATE
    $<$<COMPILE_LANGUAGE:CXX>:-O2 -g -Wall -U_FORTIFY_SOURCE>)
  if(MR_WERROR)
    target_compile_options(${target} PRIVATE $<$<COMPILE_LANGUAGE:CXX>:-Werror>)
  endif()
  target_link_libraries(${target} PRIVATE mealrec)
endforeach()

# mr_emulate(folder name library sources): an executable with an emulated GPU.
function(mr_emulate folder name library)
  set(target emulated_${name})
  add_executable(${target} ${ARGN} $<TARGET_OBJECTS:mr_emulated>
                 $<TARGET_OBJECTS:mr_emulated_bf16>)
  set_target_properties(${target} PROPERTIES LINKER_LANGUAGE CXX
    RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/emulated/${folder})
  # Under its own name as a link: two files of one name would be one target for ninja.
  add_custom_command(TARGET ${target} POST_BUILD COMMAND ${CMAKE_COMMAND} -E create_symlink
    ${target} ${CMAKE_BINARY_DIR}/emulated/${folder}/${name})
  target_compile_definitions(${target} PRIVATE MR_HAVE_CUDA=1)
  target_link_libraries(${target} PRIVATE ${library})
endfunction()
mr_emulate("" mealrec-dist mealrec ${CMAKE_SOURCE_DIR}/src/cli/main.c)
mr_emulate(tests test_kernels_cuda mr_test_support gpu/test_kernels_cuda.c gpu/twin.c gpu/cases_b.c
           gpu/cases_c.c gpu/cases_d.c gpu/cases_e.c gpu/cases_f.c)
foreach(ops kernels/test_ops_basic ops_a/test_ops_a ops_b/test_ops_b ops_c/test_ops_c
            ops_c/test_ops_bf16)
  get_filename_component(name ${ops} NAME)
  mr_emulate(tests ${name} mr_test_support ${ops}.c)
endforeach()
mr_emulate(tests test_comm_nccl mr_test_support ${MR_EMULATE_DIR}/test_comm_nccl.c)
mr_emulate(tests test_device_cuda mr_test_support ${MR_EMULATE_DIR}/test_device_cuda.c)
mr_emulate(tests test_replay mr_test_support ${MR_EMULATE_DIR}/test_replay.c)
mr_emulate(tests test_replay_ranks mr_test_support ${MR_EMULATE_DIR}/test_replay_ranks.c)
mr_emulate(tests plants mealrec ${MR_EMULATE_DIR}/plants.cu)
target_include_directories(emulated_plants BEFORE PRIVATE ${MR_EMULATE_DIR}/include)
set_target_properties(emulated_plants PROPERTIES CXX_STANDARD 17 CXX_EXTENSIONS ON)

# The emulator itself: it names every bug that is planted.
add_test(NAME emulator COMMAND emulated_plants)
mr_register(emulator "" LABELS gpu)
add_test(NAME device_cuda_emulated COMMAND emulated_test_device_cuda)
mr_register(device_cuda_emulated "" LABELS gpu)
# NCCL's communicator against MPI, also recorded; pieces of a graph in three orders.
set(when_np1 late)
set(when_np2 early)
set(when_np3 mixed)
foreach(np 1 2 3)
  add_test(NAME comm_nccl_emulated_np${np} COMMAND ${MPIEXEC_EXECUTABLE} -np ${np}
           $<TARGET_FILE:emulated_test_comm_nccl>)
  mr_register(comm_nccl_emulated_np${np} "" LABELS gpu dist)
  set_property(TEST comm_nccl_emulated_np${np} APPEND PROPERTY ENVIRONMENT
               "MR_EMULATE=when=${when_np${np}}")
endforeach()
# Recorded steps that start once more.
add_test(NAME replay_emulated COMMAND emulated_test_replay)
mr_register(replay_emulated "" LABELS gpu train TIMEOUT 600)
# Memory is opened and closed for every kernel that runs at once: late for the long list of cases.
set(replay_np2 late)
set(replay_np4 mixed,update=refused)
foreach(np 2 4)
  add_test(NAME replay_ranks_emulated_np${np} COMMAND ${MPIEXEC_EXECUTABLE} -np ${np}
           $<TARGET_FILE:emulated_test_replay_ranks>)
  mr_register(replay_ranks_emulated_np${np} "" LABELS gpu train dist TIMEOUT 1200)
  set_property(TEST replay_ranks_emulated_np${np} APPEND PROPERTY ENVIRONMENT
               "MR_EMULATE=when=${replay_np${np}}")
endforeach()
# Every kernel against the CPU's: threads and blocks in three orders.
foreach(order forward backward shuffled)
  add_test(NAME kernels_cuda_emulated_${order} COMMAND emulated_test_kernels_cuda)
  mr_register(kernels_cuda_emulated_${order} "" LABELS gpu)
  set_property(TEST kernels_cuda_emulated_${order} APPEND PROPERTY ENVIRONMENT
               "MR_EMULATE=order=${order}")
endforeach()
# The checks of tests/gpu.sh, those that take seconds; the others by hand (docs/gpu.md).
mr_add_script(gpu_checks_emulated gpu/gpu_checks.py ARGS ${CMAKE_BINARY_DIR}/emulated
              --device emulated --only ops step capture ranks_staged ranks_nccl capture_nccl
              LABELS gpu TIMEOUT 900)
mr_add_script(gpu_launches emulate/test_launches.py ARGS ${CMAKE_BINARY_DIR}/emulated LABELS gpu)
# A GPU that is not there, too old, too small, or lost.
mr_add_script(gpu_failures emulate/test_failures.py ARGS ${CMAKE_BINARY_DIR}/emulated LABELS gpu
              fault TIMEOUT 600)
mr_add_script(replay_failures emulate/test_replay_failures.py ARGS ${CMAKE_BINARY_DIR}/emulated
              LABELS gpu dist fault)
