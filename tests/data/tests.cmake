# Data sets: rows, checks, files, import, synthetic sets.
mr_add_test(data_h5 SOURCES data/test_h5.c data/support.c LABELS data)
mr_add_test(data_h5_parallel SOURCES data/test_h5_parallel.c data/support.c NPROCS 1 2 3
            LABELS data dist)
mr_add_test(data_synth SOURCES data/test_synth.c data/support.c LABELS data TIMEOUT 600)
mr_add_test(data_import SOURCES data/test_import.c data/support.c LABELS data)
mr_add_test(data_npy SOURCES data/test_npy.c data/support.c LABELS data)
mr_add_script(data_import_cli data/test_import_cli.py LABELS data cli)
mr_add_script(data_encode_titles data/test_encode_titles.py LABELS data)
