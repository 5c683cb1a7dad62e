#!/usr/bin/env bash
# Run a kdjax command on TPU slices of a GKE cluster, as a workload of xpk.
#
#   launch/gke_xpk.sh --name=clip --cluster=CLUSTER --type=v5litepod-256 --slices=2 \
#       --image=REGION-docker.pkg.dev/PROJECT/REPOSITORY/kdjax:tpu -- \
#       kdjax distill --config=configs/distill/scenes.py --workdir=gs://BUCKET/clip
#
# The image is of launch/Dockerfile; the cluster was made by `xpk cluster create`.
#
#   --name=NAME            of the workload
#   --cluster=CLUSTER      where it runs
#   --type=TYPE            of each slice, such as v5litepod-256
#   --image=IMAGE          which the cluster can pull
#   --slices=N             by default 1
#   --restarts=N           after a failure or a preemption start again up to N times; by
#                          default 20. A command that exits with 2, for its input is wrong,
#                          is not repeated.
#   --grace=SECONDS        from a preemption's SIGTERM until the end; by default 120
#   --dry-run              print every command, and run none
#
# Any other option goes to `xpk workload create`, such as --project=PROJECT, --zone=ZONE or
# --priority=high.

set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname "$0")/common.sh"

name='' cluster='' type='' image='' slices=1 restarts=20 grace=120
parse 'name cluster type image slices restarts grace' '' "$@"
need name cluster type image
need_number 1 slices
need_number 0 restarts grace
need_command
need_bucket

# The command is put into a shell, whose SIGTERM reaches what is exec'ed. xpk repeats what
# exits with 127 and above, such as 143; 1 is also that of a host whose others are gone.
run xpk workload create --workload="$name" --cluster="$cluster" --tpu-type="$type" \
  --num-slices="$slices" --docker-image="$image" --max-restarts="$restarts" \
  --restart-on-exit-codes=1 --termination-grace-period-seconds="$grace" "${others[@]}" \
  --command="exec $(quoted "${command[@]}")"
