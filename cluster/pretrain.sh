#!/bin/bash
# Stage 1 on a Slurm cluster: N nodes x M ranks. Submit the same line again to resume.
#
#   sbatch --nodes=2 --ntasks-per-node=8 --gpus-per-node=8 cluster/pretrain.sh \
#          run_dir=runs/mae data.shards=data/celeba/train
#
# Arguments after the script's name are settings of `scemae pretrain`. Without GPUs leave out
# --gpus-per-node. Account, partition and time: add lines below, or give them to sbatch.
#SBATCH --job-name=scemae-pretrain
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=2
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=TERM@120            # to every rank 120 s before the limit: it saves, ends with 75

# sbatch runs a copy of this file in its spool folder; the job's record has the original's path.
command=$(scontrol show job "$SLURM_JOB_ID" | sed -n 's/^ *Command=//p' | head -n 1)
script=${command%" $*"}                       # without the arguments behind it
[ -f "$script" ] || script=${command%% *}
exec bash "$(dirname "$script")/ranks.sh" pretrain "$@"
