# Failure injection: the n-th allocation, file call, HDF5 call or collective fails, for n = 1, 2,
# ... until nothing fails. Calls are redirected by the linker to fault/inject*.c.
file(STRINGS ${CMAKE_CURRENT_SOURCE_DIR}/fault/inject_h5.c MR_H5_CALLS
     REGEX "^H5_(MAKE|CALL|CLOSE)[(]")
set(MR_WRAPS mr_alloc mr_plain_alloc write pwrite read pread fsync rename renameat link mkdir
    mkdirat posix_fallocate ftruncate fstat open openat close)
foreach(line ${MR_H5_CALLS})
  string(REGEX MATCH "H5[A-Z][a-z][A-Za-z_0-9]*" call "${line}")
  list(APPEND MR_WRAPS ${call})
endforeach()
list(TRANSFORM MR_WRAPS PREPEND "-Wl,--wrap=")

foreach(name files import train)
  set(sources fault/test_fault_${name}.c fault/walk.c fault/inject.c fault/inject_h5.c
      data/support.c)
  if(name STREQUAL "files")
    list(APPEND sources io/support.c)
  endif()
  add_executable(test_fault_${name} ${sources})
  target_link_libraries(test_fault_${name} PRIVATE mr_test_support)
  target_link_options(test_fault_${name} PRIVATE ${MR_WRAPS})
  add_test(NAME fault_${name} COMMAND test_fault_${name})
  mr_register(fault_${name} "" LABELS fault TIMEOUT 300)
  set_property(TEST fault_${name} APPEND PROPERTY ENVIRONMENT "${MR_LEAKS}")
  if(EXISTS /dev/shm) # thousands of fsyncs
    set_property(TEST fault_${name} APPEND PROPERTY ENVIRONMENT "TMPDIR=/dev/shm")
  endif()
endforeach()
