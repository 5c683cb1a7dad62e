#!/usr/bin/env bash
#SBATCH --job-name=kdjax
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=TERM@120

# The job that launch/slurm.sh submits: slurm_job.sh COMMAND..., each one line of shell.
# An array's job runs the command of its index.

set -euo pipefail
# A SIGTERM is for the tasks, which save; this shell waits for them.
trap : TERM

lines=("$@") command=() index=${SLURM_ARRAY_TASK_ID:-0}
if ((index >= $#)); then
  echo "slurm_job.sh: there is no command of index $index: counted from 0, $# are given" >&2
  exit 2
fi
# Its end may be a comment.
eval "command=(${lines[index]}"$'\n)'

# JAX gives a task of Slurm one GPU, unless it is told of others.
gpus=${SLURM_GPUS_PER_NODE:-0}
gpus=${gpus##*:} # may be TYPE:NUMBER
if [[ ${SLURM_NTASKS_PER_NODE:-} == 1 ]] && ((gpus > 1)); then
  JAX_LOCAL_DEVICE_IDS=$(seq -s, 0 $((gpus - 1)))
  export JAX_LOCAL_DEVICE_IDS
fi

# The first task to exit must not end the others, which may still be saving.
status=0
srun --kill-on-bad-exit=0 ${SLURM_CPUS_PER_TASK:+--cpus-per-task="$SLURM_CPUS_PER_TASK"} \
  "${command[@]}" || status=$?

# 143: stopped by SIGTERM. "incomplete": unless the job was cancelled.
if ((status == 143)); then
  job=$SLURM_JOB_ID
  [[ ! ${SLURM_ARRAY_JOB_ID:-} ]] || job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID
  scontrol requeue incomplete "$job"
fi
exit "$status"
