#!/usr/bin/env bash
# Submit kdjax commands to Slurm; launch/slurm_job.sh is the job.
#
#   launch/slurm.sh --nodes=4 --gpus-per-node=8 --time=24:00:00 --partition=PARTITION -- \
#       kdjax distill --config=configs/distill/scenes.py --workdir=/nfs/runs/clip
#   launch/slurm.sh --gpus-per-node=1 --time=4:00:00 --commands=seeds.txt
#
# kdjax is the one on PATH; the checkout and the workdir lie on a file system that the nodes
# share, or the workdir in a bucket. A job that is preempted, or is near its time limit,
# saves and goes back into the queue.
#
#   --nodes=N              by default 1
#   --gpus-per-node=N      none by default
#   --task=gpu|node        one process for each GPU (the default) or for each node
#   --commands=FILE        instead of one command a file with one on each line: an array of
#                          jobs. Empty lines, and what a # begins, do not count.
#   --dry-run              print every command, and run none
#
# Any other option goes to sbatch, such as --cpus-per-task=12, --account=ACCOUNT,
# --signal=TERM@600 (120 seconds before the time limit by default) or --array=0-9%2.

set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$here/common.sh"

nodes=1 gpus_per_node=0 task=gpu commands=''
parse 'nodes gpus-per-node task commands' '' "$@"
need_number 1 nodes
need_number 0 gpus-per-node
case $task in
  gpu) tasks=$((gpus_per_node > 0 ? gpus_per_node : 1)) ;;
  node) tasks=1 ;;
  *) refuse "--task=$task is neither gpu nor node" ;;
esac

if [[ $commands ]]; then
  ((${#command[@]} == 0)) || refuse "give --commands=FILE or a command after --, not both"
  [[ -r $commands && ! -d $commands ]] || refuse "--commands=$commands cannot be read"
  mapfile -t lines <"$commands"
  for index in "${!lines[@]}"; do
    line=${lines[index]%$'\r'}
    lines[index]=$line
    if [[ $line =~ ^[[:space:]]*(#|$) ]]; then
      unset "lines[index]"
      continue
    fi
    name="line $((index + 1)) of $commands"
    need_program "$line" "$name"
    if [[ $line == *\\ ]] || ! bash -n <<<"words=($line"$'\n)' 2>/dev/null; then
      refuse "$name cannot be read as the words of a command"
    fi
  done
  ((${#lines[@]})) || refuse "--commands=$commands has no command"
  array=(--array="0-$((${#lines[@]} - 1))")
else
  need_command
  lines=("$(quoted "${command[@]}")")
  array=()
fi

gpus=()
((gpus_per_node == 0)) || gpus=(--gpus-per-node="$gpus_per_node")
run sbatch --nodes="$nodes" --ntasks-per-node="$tasks" "${gpus[@]}" "${array[@]}" \
  "${others[@]}" "$here/slurm_job.sh" "${lines[@]}"
