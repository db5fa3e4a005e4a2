#!/bin/bash
# Every table and figure on a Slurm cluster: ranks share the work and keep what they have measured.
#
#   sbatch --ntasks-per-node=8 --gpus-per-node=8 cluster/tables.sh \
#          runs/carb runs/cl runs/lead run_dir=runs/tables shards=[...]
#
# Arguments after the script's name go to `scemae tables`. There is no --signal: a job that is
# stopped loses only the measurements that it is at.
#SBATCH --job-name=scemae-tables
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=4
#SBATCH --open-mode=append
#SBATCH --requeue

# sbatch runs a copy of this file in its spool folder; the job's record has the original's path.
command=$(scontrol show job "$SLURM_JOB_ID" | sed -n 's/^ *Command=//p' | head -n 1)
script=${command%" $*"}                       # without the arguments behind it
[ -f "$script" ] || script=${command%% *}
exec bash "$(dirname "$script")/ranks.sh" tables "$@"
