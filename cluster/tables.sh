#!/bin/bash
# Every table and figure on a Slurm cluster: ranks share the work, and what is measured is kept.
#
#   sbatch --ntasks-per-node=8 --gpus-per-node=8 cluster/tables.sh runs/carb runs/cl runs/lead run_dir=runs/tables shards=[...]
#
# What follows the script's name goes to `scemae tables`. No --signal: a job that is stopped loses the units under way alone.
#SBATCH --job-name=scemae-tables
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=4
#SBATCH --open-mode=append
#SBATCH --requeue

# sbatch runs a copy of this file out of its spool folder; the job's record knows where the original lies.
command=$(scontrol show job "$SLURM_JOB_ID" | sed -n 's/^ *Command=//p' | head -n 1)
script=${command%" $*"}                       # the arguments stand behind it
[ -f "$script" ] || script=${command%% *}
exec bash "$(dirname "$script")/ranks.sh" tables "$@"
