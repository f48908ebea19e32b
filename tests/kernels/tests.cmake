# Kernels of the families linear, loss, optim and tedrec; the activations, the basic ops.
set(MR_WAYS kernels/kernel_ways.c ops_a/kernel_pair.c)
mr_add_test(act SOURCES kernels/test_act.c LABELS kernel)
mr_add_test(kernels_linear SOURCES kernels/test_kernels_linear.c ${MR_WAYS} LABELS kernel)
mr_add_test(kernels_loss SOURCES kernels/test_kernels_loss.c ${MR_WAYS} LABELS kernel)
mr_add_test(ops_basic SOURCES kernels/test_ops_basic.c LABELS op)
mr_add_test(kernels_tedrec SOURCES kernels/test_kernels_tedrec.c ${MR_WAYS} LABELS kernel)
mr_add_test(kernels_rank SOURCES kernels/test_kernels_rank.c ${MR_WAYS} LABELS kernel)
mr_add_test(kernels_fuse SOURCES kernels/test_kernels_fuse.c ${MR_WAYS} LABELS kernel)
