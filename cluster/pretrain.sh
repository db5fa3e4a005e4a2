#!/bin/bash
# Stage 1 on a Slurm cluster: N nodes x M ranks, resumed by the same line.
#
#   sbatch --nodes=2 --gpus-per-node=8 --ntasks-per-node=8 cluster/pretrain.sh run_dir=runs/mae data.shards=data/celeba/train
#
# Everything after the script's name goes to `scemae pretrain` as key=value. Without GPUs leave --gpus-per-node out.
#SBATCH --job-name=scemae-pretrain
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=2
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=TERM@120            # to every rank, two minutes before the limit: they save and end with status 75

export MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))

export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK   # srun does not inherit it

# --wait: once a rank has ended, the others have a minute to do so too.
srun --wait=60 bash -c '
    export RANK=$SLURM_PROCID WORLD_SIZE=$SLURM_NTASKS LOCAL_RANK=$SLURM_LOCALID
    exec scemae pretrain "$@"' scemae "$@"
status=$?

if [ $status -eq 75 ]; then           # stopped on request, all saved: queue again under the same job id
    scontrol requeue "$SLURM_JOB_ID"
fi
exit $status
