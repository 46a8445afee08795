#!/usr/bin/env bash
# On GPUs, with dask-cuda (pip install 'subpixmap[cuda]'): one worker process for each GPU, reading while it computes.
#
#   workflows/gpus.sh here  run --region philippines --years 2018-2023 --yes     the GPUs of this machine
#   workflows/gpus.sh hosts run --region philippines --years 2018-2023 --yes     those of all HOSTS, by ssh
#
# A block of 4096 px keeps a GPU busy; BLOCK changes it. HOSTS share the file system of the run folder and this environment.
set -euo pipefail

MODE=${1:-}
shift || true
BLOCK=${BLOCK:-4096}
HOSTS=${HOSTS:-localhost}
PYTHON=${PYTHON:-python}
SCHEDULER_FILE=${SCHEDULER_FILE:-$PWD/scheduler.json}

options=(--device cuda --block "$BLOCK")

here() {
  # subpixmap starts the dask-cuda cluster itself.
  "$PYTHON" -m subpixmap "$@" "${options[@]}"
}

hosts() {
  # One scheduler here, `dask cuda worker` on every host: it starts a process for each GPU there and sees to it that
  # each sees its own. One thread: torch holds the GPU, reading has a thread of its own inside the task.
  rm -f "$SCHEDULER_FILE"
  "$PYTHON" -m distributed.cli.dask_scheduler --scheduler-file "$SCHEDULER_FILE" --port 0 &
  local started=($!)
  trap 'kill "${started[@]}" 2>/dev/null || true' EXIT
  while [ ! -s "$SCHEDULER_FILE" ]; do sleep 0.2; done
  local host
  for host in $HOSTS; do
    ssh "$host" "cd '$PWD' && '$PYTHON' -m dask_cuda.cli worker --scheduler-file '$SCHEDULER_FILE' --nthreads 1" &
    started+=($!)
  done
  "$PYTHON" -m subpixmap "$@" "${options[@]}" --scheduler "$SCHEDULER_FILE"
}

case "$MODE" in
  here) here "$@" ;;
  hosts) hosts "$@" ;;
  *) sed -n '2,7s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
