#!/bin/bash
# The ranks of one stage inside a Slurm job: starts them, and is the one place that says who requeues.
#
#   bash cluster/ranks.sh pretrain key=value ...     (how pretrain.sh, correspond.sh and `scemae submit` all end)
#
# It meets scemae in a command line, the environment set below, and the exit status of a rank:
#   0        done
#   1        failed for good: the next start would fail again
#   75       asked to stop, or lost a peer; what could be saved is saved
#   128+n    killed by signal n: a rank was shot, or its node is dying
#
# Who requeues. On preemption and on a dead node Slurm does, and it ends this script. On its time limit Slurm does not,
# nor when a rank dies: then this script does, for any status but 0 and 1, up to SCEMAE_MAX_RESTARTS times (50), and
# only while Slurm still counts the job as running: after scancel it stays cancelled.
# Seen with Slurm 22.05 when a node crashed: its peers leave with 75, srun waits for the dead ranks until Slurm finds the
# node down (then Slurm requeues) or --wait ends (then this script does); the job stays COMPLETING until the node is
# known to be down, and starts on others. A job started on a dead node: srun ends with 233 and the same follows.
# Never was a job held or failed by that.
#
# From outside: SCEMAE_COMMAND (default: scemae), words as a shell reads them, starts the program, in a container if you like.

# The id of an element of an array names it alone; its SLURM_JOB_ID may name all of them.
export SCEMAE_JOB_ID=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}
export SCEMAE_JOB_ID=${SCEMAE_JOB_ID:-$SLURM_JOB_ID}

field() {                                     # field NAME: one entry of this job's record
    scontrol show job "$SCEMAE_JOB_ID" | tr ' ' '\n' | sed -n "s/^$1=//p" | head -n 1
}

# In braces: bash reads all of it before it starts, so an edit of this file cannot disturb a job that runs.
{
restarts=${SLURM_RESTART_COUNT:-0}
queued=$(field $([ "$restarts" -gt 0 ] && echo SubmitTime || echo EligibleTime))
export SCEMAE_JOB=slurm-$SLURM_JOB_ID         # the same after a requeue: a restart takes over from its dead predecessor
export SCEMAE_SUBMITTED=$(date -d "$queued" +%s)   # when this start was queued, in unix seconds
export MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
# Ranks of one node talk over loopback, where nobody else can connect. A sweep's other nodes may come later.
[ "$SLURM_NNODES" = 1 ] && [ "$1" != sweep ] && export MASTER_ADDR=127.0.0.1
# Below the ports that outgoing connections take; another one per job and per start, should a socket linger.
export MASTER_PORT=$((10000 + (SLURM_JOB_ID * 16 + restarts) % 20000))
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}   # srun does not inherit it
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$SRUN_CPUS_PER_TASK}

trap : TERM USR1 USR2                         # meant for the ranks; this shell waits for them
trap '' PIPE                                  # a message that nobody reads must not keep it from requeueing

# A rank that fails for good ends with 99 here: srun reports the highest status, and 99 outranks the 75 of the peers
# that it left alone, and differs from the 1 of an srun that has troubles of its own.
rank='trap : TERM INT USR1 USR2               # each process of a rank gets the signal: this shell waits for scemae
      export RANK=$SLURM_PROCID WORLD_SIZE=$SLURM_NTASKS LOCAL_RANK=$SLURM_LOCALID
      eval "${SCEMAE_COMMAND:-scemae} \"\$@\""
      status=$?
      case $status in 1 | 2 | 126 | 127) exit 99 ;; esac    # 126, 127: there is no such program
      # With --no-kill a job outlives the node of this script, and Slurm does not requeue it: then a rank on another does.
      if [ $status -ne 0 ] && [ $SLURM_PROCID -ne 0 ] && [ -n "$SCEMAE_ANY_REQUEUES" ] && sleep 30 && [ "$(field JobState)" = RUNNING ] &&
          [ "$(field Restarts)" = "${SLURM_RESTART_COUNT:-0}" ]; then
          scontrol requeue "$SCEMAE_JOB_ID"
      fi
      exit $status'
export -f field

# --label: every line says whose it is. The other two: once a rank has ended, the others have a minute to save (a sweep's
# nodes all the time they want).
srun --label --kill-on-bad-exit=0 --wait="${SCEMAE_WAIT:-60}" bash -c "$rank" rank "$@"
status=$?

[ $status -eq 0 ] && exit 0
[ $status -eq 99 ] && exit 1
if [ "$restarts" -ge "${SCEMAE_MAX_RESTARTS:-50}" ]; then
    echo "ranks.sh: ended with status $status after $restarts restarts, not requeued; see above for the cause" >&2
    exit $status
fi
until state=$(field JobState); [ -n "$state" ]; do sleep 10; done   # a busy controller may not answer at once
# Cut off until now, this may be the script of an earlier start, and the job be running elsewhere: not ours to requeue.
if [ "$state" = RUNNING ] && [ "$(field Restarts)" = "$restarts" ]; then
    echo "ranks.sh: ended with status $status, requeued (restart $((restarts + 1)))" >&2
    scontrol requeue "$SCEMAE_JOB_ID"
fi
exit $status
}
