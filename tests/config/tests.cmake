# Configuration, command line, progress line.
mr_add_test(config SOURCES config/test_config.c config/test_config_errors.c LABELS unit)
mr_add_test(progress SOURCES config/test_progress.c LABELS unit)
mr_add_test(args SOURCES config/test_args.c LABELS unit)
if(TARGET mealrec-dist)
  mr_add_script(cli_config config/test_cli_config.py LABELS cli)
  # Stands in for an OpenBLAS that does not know the CPU.
  add_library(fake_libraries MODULE config/fake_libraries.c)
  mr_add_script(cli_library_settings config/test_library_settings.py
                ARGS $<TARGET_FILE:fake_libraries> LABELS cli)
endif()
