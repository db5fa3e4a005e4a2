#!/bin/bash
# A sweep on a Slurm cluster, on one node or many: the first leads, the others join; resumed by the same line.
#
#   sbatch --nodes=4 --cpus-per-task=32 --gpus-per-node=4 cluster/sweep.sh run_dir=runs/sweep correspond.backbone=runs/mae ...
#
# What follows the script's name goes to `scemae sweep` as key=value. Without GPUs leave --gpus-per-node out. Edit the lines
# below for your cluster (account, partition, time), or give them to sbatch; ranks.sh does the rest. One task per node:
# it starts a Ray of this job alone, and trials share the task's processors and GPUs.
#SBATCH --job-name=scemae-sweep
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=4
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --no-kill                    # a sweep outlives a node: its trials go on elsewhere; without the first it is requeued
#SBATCH --signal=TERM@120            # to every node, two minutes before the limit: trials save, the job ends with status 75

export SLURM_NO_KILL=set                      # the same for its step
export SCEMAE_WAIT=0                          # a node may leave early; the leader decides when it is over
export SCEMAE_ANY_REQUEUES=1                  # the first node may be the one that is lost
export SCEMAE_CPUS=${SLURM_CPUS_PER_TASK:-1}

# sbatch runs a copy of this file out of its spool folder; the job's record knows where the original lies.
command=$(scontrol show job "$SLURM_JOB_ID" | sed -n 's/^ *Command=//p' | head -n 1)
script=${command%" $*"}                       # the arguments stand behind it
[ -f "$script" ] || script=${command%% *}
exec bash "$(dirname "$script")/ranks.sh" sweep "$@"
