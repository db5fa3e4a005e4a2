#!/bin/bash
# A sweep on one node of a Slurm cluster or more. Submit the same line again to resume.
#
#   sbatch --nodes=4 --cpus-per-task=32 --gpus-per-node=4 cluster/sweep.sh \
#          run_dir=runs/sweep correspond.backbone=runs/mae ...
#
# Arguments after the script's name are settings of `scemae sweep`. Without GPUs leave out
# --gpus-per-node. Account, partition and time: add lines below, or give them to sbatch. The one
# task of each node starts a Ray of this job alone; trials share the task's processors and GPUs.
#SBATCH --job-name=scemae-sweep
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=4
#SBATCH --open-mode=append
#SBATCH --requeue
# When a node is lost, its trials go on elsewhere; when the first one is, the job is requeued.
#SBATCH --no-kill
#SBATCH --signal=TERM@120            # to every node 120 s before the limit: trials save

export SLURM_NO_KILL=set                      # the same for its step
export SCEMAE_WAIT=0                          # a node may leave early; the first one ends the job
export SCEMAE_ANY_REQUEUES=1                  # the first node may be the one that is lost
export SCEMAE_CPUS=${SLURM_CPUS_PER_TASK:-1}

# sbatch runs a copy of this file in its spool folder; the job's record has the original's path.
command=$(scontrol show job "$SLURM_JOB_ID" | sed -n 's/^ *Command=//p' | head -n 1)
script=${command%" $*"}                       # without the arguments behind it
[ -f "$script" ] || script=${command%% *}
exec bash "$(dirname "$script")/ranks.sh" sweep "$@"
