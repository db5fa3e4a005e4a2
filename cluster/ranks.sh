#!/bin/bash
# Starts the ranks of one stage inside a Slurm job, and requeues the job where Slurm does not.
#
#   bash cluster/ranks.sh pretrain key=value ...    (pretrain.sh, `scemae submit` and so on call it)
#
# It passes scemae a command line and the environment set below, and reads each rank's exit status:
#   0        done
#   1        failed: the next start would fail again
#   75       asked to stop, or lost another rank; what could be saved is saved
#   128+n    killed by signal n, or the node is failing
#
# Who requeues. Slurm does on preemption and when a node dies; it ends this script then. It does not
# at the time limit or when a rank dies: then this script does, for any status but 0 and 1, up to
# SCEMAE_MAX_RESTARTS times (50), and only while Slurm counts the job as running, so that a
# cancelled job stays cancelled.
# Observed with Slurm 22.05 when a node crashes: the ranks of the other nodes end with 75, and srun
# waits for the dead ranks until Slurm finds the node down (then Slurm requeues) or --wait is over
# (then this script does). The job stays COMPLETING until the node is known to be down, and starts
# on others. If a job starts on a dead node, srun ends with 233, and the same follows. No job was
# held or failed in these tests.
#
# SCEMAE_COMMAND (default: scemae) starts the program, in a container for example; it is evaluated
# as words of a shell.

# SLURM_JOB_ID may be the same for all elements of an array, so make one id for each.
export SCEMAE_JOB_ID=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}
export SCEMAE_JOB_ID=${SCEMAE_JOB_ID:-$SLURM_JOB_ID}

field() {                                     # field NAME: a value of this job's record
    scontrol show job "$SCEMAE_JOB_ID" | tr ' ' '\n' | sed -n "s/^$1=//p" | head -n 1
}

# In braces, so that bash reads all of it first: editing this file does not affect running jobs.
{
restarts=${SLURM_RESTART_COUNT:-0}
queued=$(field $([ "$restarts" -gt 0 ] && echo SubmitTime || echo EligibleTime))
export SCEMAE_JOB=slurm-$SLURM_JOB_ID         # kept on a requeue: the restart takes over the run
export SCEMAE_SUBMITTED=$(date -d "$queued" +%s)   # when this start was queued, Unix time
export MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
# Ranks of one node use loopback, where no other host can connect. A sweep's nodes may join later.
[ "$SLURM_NNODES" = 1 ] && [ "$1" != sweep ] && export MASTER_ADDR=127.0.0.1
# Below the ports of outgoing connections; differs by job and start, as an old socket may linger.
export MASTER_PORT=$((10000 + (SLURM_JOB_ID * 16 + restarts) % 20000))
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}   # srun does not inherit it
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$SRUN_CPUS_PER_TASK}

trap : TERM USR1 USR2                         # these are for the ranks; wait for them
trap '' PIPE                                  # a closed log must not keep it from requeueing

# A rank that failed ends with 99: srun reports the highest status, and 99 is above the 75 of the
# other ranks, which lost it, and is not the 1 of an srun that failed itself.
rank='trap : TERM INT USR1 USR2               # scemae gets the signal too: wait for it
      export RANK=$SLURM_PROCID WORLD_SIZE=$SLURM_NTASKS LOCAL_RANK=$SLURM_LOCALID
      export GROUP_WORLD_SIZE=$SLURM_STEP_NUM_NODES
      eval "${SCEMAE_COMMAND:-scemae} \"\$@\""
      status=$?
      case $status in 1 | 2 | 126 | 127) exit 99 ;; esac    # 126, 127: there is no such program
      # With --no-kill a job goes on when the node of this script is lost, and Slurm does not
      # requeue it: then a rank on another node does.
      if [ $status -ne 0 ] && [ $SLURM_PROCID -ne 0 ] && [ -n "$SCEMAE_ANY_REQUEUES" ] &&
          sleep 30 && [ "$(field JobState)" = RUNNING ] &&
          [ "$(field Restarts)" = "${SLURM_RESTART_COUNT:-0}" ]; then
          scontrol requeue "$SCEMAE_JOB_ID"
      fi
      exit $status'
export -f field

# --label: every line starts with its rank. The other two: once a rank has ended, the others have
# 60 s to save (the nodes of a sweep as long as they need).
srun --label --kill-on-bad-exit=0 --wait="${SCEMAE_WAIT:-60}" bash -c "$rank" rank "$@"
status=$?

[ $status -eq 0 ] && exit 0
[ $status -eq 99 ] && exit 1
if [ "$restarts" -ge "${SCEMAE_MAX_RESTARTS:-50}" ]; then
    echo "ranks.sh: ended with status $status after $restarts restarts, not requeued; see above" >&2
    exit $status
fi
until state=$(field JobState); [ -n "$state" ]; do sleep 10; done   # the controller may be busy
# A script that was cut off from the controller may belong to an earlier start: then do not requeue.
if [ "$state" = RUNNING ] && [ "$(field Restarts)" = "$restarts" ]; then
    echo "ranks.sh: ended with status $status, requeued (restart $((restarts + 1)))" >&2
    scontrol requeue "$SCEMAE_JOB_ID"
fi
exit $status
}
