# Communicators and the batches of ranks.
mr_add_test(comm SOURCES dist/test_comm.c NPROCS 1 2 3 4 8 LABELS dist)
mr_add_test(comm_fake SOURCES dist/test_comm_fake.c NPROCS 1 3 LABELS dist fault)
mr_add_test(sampler SOURCES dist/test_sampler.c dist/rows_local.c LABELS dist)
mr_add_test(augment SOURCES dist/test_augment.c LABELS dist)
