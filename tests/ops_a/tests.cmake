# Kernels and ops of norm, dropout, attention, embedding.
mr_add_test(ops_a SOURCES ops_a/test_ops_a.c LABELS op TIMEOUT 300)
mr_add_test(kernels_norm SOURCES ops_a/test_kernels_norm.c ops_a/kernel_pair.c LABELS kernel)
mr_add_test(kernels_attention SOURCES ops_a/test_kernels_attention.c ops_a/kernel_pair.c
            LABELS kernel)
mr_add_test(kernels_embed SOURCES ops_a/test_kernels_embed.c ops_a/kernel_pair.c LABELS kernel)
mr_add_test(lookup_ranks SOURCES ops_a/test_lookup_ranks.c NPROCS 1 2 3 4 LABELS op dist)
