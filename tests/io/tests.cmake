# Files of a run: safetensors, checkpoints, run folder, TensorBoard events, npy.
mr_add_test(safetensors SOURCES io/test_safetensors.c LABELS io)
mr_add_test(checkpoint SOURCES io/test_checkpoint.c io/support.c NPROCS 1 4 LABELS io dist)
mr_add_test(checkpoint_damage SOURCES io/test_checkpoint_damage.c io/support.c LABELS io)
mr_add_test(run_folder SOURCES io/test_run_folder.c io/support.c NPROCS 1 3 LABELS io)
