# Files of a run: safetensors, checkpoints, run folder, TensorBoard events, npy.
mr_add_test(safetensors SOURCES io/test_safetensors.c LABELS io)
mr_add_test(checkpoint SOURCES io/test_checkpoint.c io/support.c NPROCS 1 4 LABELS io dist)
mr_add_test(checkpoint_job SOURCES io/test_checkpoint_job.c io/support.c NPROCS 1 3
            LABELS io dist fault)
mr_add_test(checkpoint_damage SOURCES io/test_checkpoint_damage.c io/support.c LABELS io)
mr_add_test(run_folder SOURCES io/test_run_folder.c io/support.c NPROCS 1 3 LABELS io)
mr_add_test(compare SOURCES io/test_compare.c LABELS io)

add_executable(test_write_files io/write_files.c io/support.c)
target_link_libraries(test_write_files PRIVATE mr_test_support)
mr_add_script(files io/test_files.py LABELS io
              ARGS ${MPIEXEC_EXECUTABLE} $<TARGET_FILE:test_write_files>)
mr_add_script(full_disk io/test_full_disk.sh LABELS io fault ARGS $<TARGET_FILE:test_write_files>)
mr_add_script(resume io/test_resume.py LABELS io dist TIMEOUT 300
              ARGS ${MPIEXEC_EXECUTABLE} $<TARGET_FILE:mealrec-dist>)
