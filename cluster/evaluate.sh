#!/bin/bash
# Matching and detection on a Slurm cluster: one rank, which continues if Slurm requeues it.
#
#   sbatch --gpus-per-node=1 cluster/evaluate.sh \
#          run_dir=runs/eval backbone=runs/mae projector=runs/carb ...
#
# Arguments after the script's name are settings of `scemae evaluate`. There is no --signal, since
# it has nothing to save at the time limit.
#SBATCH --job-name=scemae-evaluate
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=4
#SBATCH --open-mode=append
#SBATCH --requeue

# sbatch runs a copy of this file in its spool folder; the job's record has the original's path.
command=$(scontrol show job "$SLURM_JOB_ID" | sed -n 's/^ *Command=//p' | head -n 1)
script=${command%" $*"}                       # without the arguments behind it
[ -f "$script" ] || script=${command%% *}
exec bash "$(dirname "$script")/ranks.sh" evaluate "$@"
