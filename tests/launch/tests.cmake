# The scripts of launch/ and tests/run.sh.
mr_add_script(launch_scripts launch/test_scripts.sh LABELS cli)
