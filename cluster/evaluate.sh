#!/bin/bash
# Matching and detection on a Slurm cluster: one rank, which starts anew where Slurm requeues it.
#
#   sbatch --gpus-per-node=1 cluster/evaluate.sh run_dir=runs/eval backbone=runs/mae projector=runs/carb ...
#
# What follows the script's name goes to `scemae evaluate` as key=value. No --signal: it has nothing to save at the limit.
#SBATCH --job-name=scemae-evaluate
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=4
#SBATCH --open-mode=append
#SBATCH --requeue

# sbatch runs a copy of this file out of its spool folder; the job's record knows where the original lies.
command=$(scontrol show job "$SLURM_JOB_ID" | sed -n 's/^ *Command=//p' | head -n 1)
script=${command%" $*"}                       # the arguments stand behind it
[ -f "$script" ] || script=${command%% *}
exec bash "$(dirname "$script")/ranks.sh" evaluate "$@"
