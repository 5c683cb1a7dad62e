#!/usr/bin/env bash
# Install kdjax on a host with NVIDIA GPUs, and run a command there on all of them.
#
#   launch/gpu.sh -- kdjax distill --config=configs/distill/scenes.py --workdir=runs/clip
#
# Without a command it only installs. The command replaces the script, so SIGTERM makes it
# save and exit with 143; the same command goes on.
#
#   --venv=DIR             of the virtual environment; by default .venv of the checkout
#   --python=PYTHON        3.11 or newer, which makes it; by default python3
#   --extra=EXTRA          cuda13 or cuda12; by default what the driver is new enough for
#   --extras=LIST          other extras of kdjax; by default data,gcs
#   --dry-run              print every command, and run none but the question for the driver

set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$root/launch/common.sh"

venv=$root/.venv python=python3 extra='' extras=data,gcs
parse 'venv python extra extras' '' "$@"
((${#others[@]} == 0)) || refuse "${others[0]} is no option"

if [[ ! $extra ]]; then
  driver=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null) &&
    [[ $driver =~ ^[0-9]+\. ]] ||
    refuse "nvidia-smi finds no driver here; --extra=cuda13 installs without it"
  case ${driver%%.*} in # docs.jax.dev/en/latest/installation.html
    5[89]? | [6-9]??) extra=cuda13 ;;
    52[5-9] | 5[3-7]?) extra=cuda12 ;;
    *) refuse "driver ${driver%%$'\n'*} is too old for JAX, which needs 525 or newer" ;;
  esac
fi
[[ $extra == cuda1[23] ]] || refuse "--extra=$extra is neither cuda13 nor cuda12"

run "$python" -m venv "$venv"
run "$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
  -e "${root}[$extra,$extras]"
if ((${#command[@]})); then
  export PATH=$venv/bin:$PATH
  run exec "${command[@]}"
fi
