# Communicators and the batches of ranks.
mr_add_test(comm SOURCES dist/test_comm.c NPROCS 1 2 3 4 8 LABELS dist)
mr_add_test(comm_fake SOURCES dist/test_comm_fake.c NPROCS 1 3 LABELS dist fault)
mr_add_test(watchdog SOURCES dist/test_watchdog.c LABELS dist fault)
mr_add_test(comm_staged SOURCES dist/test_comm_staged.c NPROCS 1 2 3 LABELS dist)
mr_add_test(agree SOURCES dist/test_agree.c NPROCS 1 4 LABELS dist)
mr_add_test(shard SOURCES dist/test_shard.c NPROCS 1 2 3 4 8 LABELS dist fault)
mr_add_test(topo SOURCES dist/test_topo.c NPROCS 1 3 LABELS dist)
mr_add_test(sampler SOURCES dist/test_sampler.c LABELS dist)
mr_add_test(augment SOURCES dist/test_augment.c LABELS dist)

add_executable(test_job_program dist/job.c)
target_link_libraries(test_job_program PRIVATE mealrec)
mr_add_script(job dist/test_job.sh LABELS dist
              ARGS ${MPIEXEC_EXECUTABLE} $<TARGET_FILE:test_job_program>)
