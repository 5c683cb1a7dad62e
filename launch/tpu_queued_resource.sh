#!/usr/bin/env bash
# Run a kdjax command on all hosts of a Cloud TPU slice, got as a queued resource.
#
#   launch/tpu_queued_resource.sh --name=clip --zone=us-central1-a --type=v5litepod-64 \
#       --spot --restarts=20 --delete -- \
#       kdjax distill --config=configs/distill/scenes.py --workdir=gs://BUCKET/clip
#
# Asks for the slice unless it is there, waits until it is active, installs kdjax on each
# host and runs the command on all. The same command goes on where a run stopped.
#
#   --name=NAME            of the queued resource and of its slice
#   --zone=ZONE            such as us-central1-a
#   --type=TYPE            accelerator type, such as v5litepod-64, v5p-128 or v6e-32
#   --project=PROJECT      instead of the one of gcloud's configuration
#   --runtime-version=V    of the TPU's software; by default the one for its type
#   --spot                 cheaper, and can be taken away at any time
#   --restarts=N           after a failure or a preemption start again up to N times, on a
#                          new slice where the old one is gone; by default 0. A command
#                          that exits with 2, for its input is wrong, is not repeated.
#   --install=SPEC         a pip requirement, such as 'kdjax[tpu,gcs]==0.1.0'; by default
#                          the last commit of this checkout
#   --poll=SECONDS         between looks at the queue; by default 30
#   --delete               delete the slice in the end, also after a failure or Ctrl-C
#   --dry-run              print every command, and run none
#
# Any other option goes to `gcloud compute tpus queued-resources create`, such as
# --service-account=EMAIL or --valid-until-duration=6h.

set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$root/launch/common.sh"

name='' zone='' type='' project='' runtime_version='' spot='' restarts=0 install='' poll=30
delete=''
parse 'name zone type project runtime-version restarts install poll' 'spot delete' "$@"
need name zone type
need_number 0 restarts poll
[[ $name =~ ^[a-z][-a-z0-9]*$ ]] ||
  refuse "--name=$name may have small letters, digits and hyphens, a letter first"
need_command
need_bucket

if [[ ! $runtime_version ]]; then
  case $type in # cloud.google.com/tpu/docs/runtimes
    v6e-*) runtime_version=v2-alpha-tpuv6e ;;
    v5p-*) runtime_version=v2-alpha-tpuv5 ;;
    v5litepod-*) runtime_version=v2-alpha-tpuv5-lite ;;
    v[234]-*) runtime_version=tpu-ubuntu2204-base ;;
    *) refuse "no runtime is known for --type=$type: give --runtime-version=VERSION" ;;
  esac
fi
where=(--zone="$zone" ${project:+--project="$project"})

queued_resources() {
  run gcloud compute tpus queued-resources "$@" "${where[@]}"
}

# Print the state of the queued resource, and nothing where there is none.
state() {
  queued_resources list --filter="name~/$name\$" --format='value(state.state)'
}

delete_slice() {
  queued_resources delete "$name" --force --quiet ||
    echo "${0##*/}: $name is not deleted, and costs" >&2
}

# Get the slice: ask for it if need be, and wait until it is active. From here on there is
# one to delete.
acquire() {
  local now asked=''
  while now=$(state); do
    [[ ! $delete ]] || trap delete_slice EXIT
    case $now in
      ACTIVE) return ;;
      '')
        [[ ! $asked ]] || break
        asked=yes
        queued_resources create "$name" --node-id="$name" --accelerator-type="$type" \
          --runtime-version="$runtime_version" ${spot:+--spot} "${others[@]}" || return
        ;;
      FAILED | SUSPENDED)
        [[ ! $asked ]] || break
        queued_resources delete "$name" --force --quiet || return
        ;;
      *) sleep "$poll" ;;
    esac
  done
  [[ $dry_run ]] && return
  echo "${0##*/}: $name is not active: its state is '$now'" >&2
  return 1
}

on_all_hosts() {
  run gcloud compute tpus tpu-vm ssh "$name" --worker=all "${where[@]}" --command="$1"
}

# The runtimes' own Python is too old for kdjax; uv brings one. Another commit of the same
# version is not new to uv.
install() {
  local spec=$install unpack=''
  if [[ ! $spec ]]; then
    local archive=$root/dist/$name.tar.gz
    spec='./kdjax[tpu,gcs,data]'
    unpack='rm -rf kdjax && mkdir kdjax && tar -xzf kdjax.tar.gz -C kdjax && '
    run mkdir -p "$root/dist" &&
      run git -C "$root" archive --format=tar.gz --output="$archive" HEAD &&
      run gcloud compute tpus tpu-vm scp "$archive" "$name:kdjax.tar.gz" --worker=all \
        "${where[@]}" || return
  fi
  on_all_hosts "${unpack}python3 -m pip install --user --quiet uv && \
~/.local/bin/uv venv --quiet --allow-existing --python 3.12 kdjax-venv && \
~/.local/bin/uv pip install --quiet --python kdjax-venv/bin/python \
--reinstall-package kdjax $(quoted "$spec")"
}

# A broken connection leaves processes behind, and a TPU serves one at a time.
train() {
  local stop='pkill -x kdjax; timeout 60 sh -c '
  stop+='"while pgrep -x kdjax >/dev/null; do sleep 1; done" || pkill -KILL -x kdjax'
  # shellcheck disable=SC2016 # the hosts' PATH
  on_all_hosts "$stop; mkdir -p kdjax && cd kdjax && "'export PATH=$HOME/kdjax-venv/bin:$PATH'"\
 && exec $(quoted "${command[@]}")"
}

for ((left = restarts; ; left--)); do
  status=0
  installing='' # uv exits with 2 where the network fails
  { acquire && installing=yes && install && installing='' && train; } || status=$?
  [[ $status == 0 || $left == 0 || ($status == 2 && ! $installing) ]] && exit "$status"
  echo "${0##*/}: exit status $status; starting again, $left times at most" >&2
done
