# The scripts of launch/ and tests/run.sh.
mr_add_script(launch_scripts launch/test_scripts.sh LABELS cli)
mr_add_script(launch_mpirun launch/test_mpirun.sh LABELS cli dist)
mr_add_script(launch_slurm launch/test_slurm.sh LABELS cli dist)
# A real slurmctld on this machine, installed and started: only when asked for (MR_TEST_SLURM=1).
mr_add_script(launch_slurm_live launch/test_slurm_live.sh LABELS slurm TIMEOUT 600)
