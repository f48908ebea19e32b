# Data sets: rows, checks, files, import, synthetic sets.
mr_add_test(data_h5 SOURCES data/test_h5.c data/support.c LABELS data)
mr_add_test(data_synth SOURCES data/test_synth.c data/support.c LABELS data)
