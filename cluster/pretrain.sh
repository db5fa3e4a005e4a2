#!/bin/bash
# Stage 1 on a Slurm cluster: N nodes x M ranks, resumed by the same line.
#
#   sbatch --nodes=2 --ntasks-per-node=8 --gpus-per-node=8 cluster/pretrain.sh run_dir=runs/mae data.shards=data/celeba/train
#
# What follows the script's name goes to `scemae pretrain` as key=value. Without GPUs leave --gpus-per-node out. Edit the
# lines below for your cluster (account, partition, time), or give them to sbatch; ranks.sh does the rest.
#SBATCH --job-name=scemae-pretrain
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=2
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=TERM@120            # to every rank, two minutes before the limit: they save and end with status 75

# sbatch runs a copy of this file out of its spool folder; the job's record knows where the original lies.
command=$(scontrol show job "$SLURM_JOB_ID" | sed -n 's/^ *Command=//p' | head -n 1)
script=${command%" $*"}                       # the arguments stand behind it
[ -f "$script" ] || script=${command%% *}
exec bash "$(dirname "$script")/ranks.sh" pretrain "$@"
