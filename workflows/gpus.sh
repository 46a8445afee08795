#!/usr/bin/env bash
# On GPUs, with dask-cuda (pip install 'subpixmap[cuda]'): one worker process for each GPU, reading while it computes.
#
#   workflows/gpus.sh here  run --region philippines --years 2018-2023 --yes     the GPUs of this machine
#   workflows/gpus.sh hosts run --region philippines --years 2018-2023 --yes     those of all HOSTS, by ssh
#   workflows/gpus.sh --dry-run hosts run ...                                    print the commands, start nothing
#
# The hosts talk by TLS, with a certificate in CERTIFICATES that only you can read (made when it is not there).
# A block of 4096 px keeps a GPU busy; BLOCK changes it. HOSTS share the file system of the run folder and this environment.
set -euo pipefail

if [ "${1:-}" = --dry-run ]; then SUBPIXMAP_DRY_RUN=1; shift; fi
MODE=${1:-}
shift || true
BLOCK=${BLOCK:-4096}
HOSTS=${HOSTS:-localhost}
PYTHON=${PYTHON:-python}
SCHEDULER_FILE=${SCHEDULER_FILE:-$PWD/scheduler.json}
CERTIFICATES=${CERTIFICATES:-$PWD/certificates}

options=(--device cuda --block "$BLOCK")

do_() {
  if [ -n "${SUBPIXMAP_DRY_RUN:-}" ]; then printf '%s\n' "$(printf '%q ' "$@")"; else "$@"; fi
}

here() {
  # subpixmap starts the dask-cuda cluster itself.
  do_ "$PYTHON" -m subpixmap "$@" "${options[@]}"
}

hosts() {
  # One scheduler here, `dask cuda worker` on every host: it starts a process for each GPU there and sees to it that
  # each sees its own. One thread: torch holds the GPU, reading has a thread of its own inside the task.
  local keys=": what certificates.py prints"
  if [ -z "${SUBPIXMAP_DRY_RUN:-}" ]; then rm -f "$SCHEDULER_FILE"; fi
  if [ -n "${SUBPIXMAP_DRY_RUN:-}" ]; then
    do_ "$PYTHON" "$(dirname "$0")/certificates.py" "$CERTIFICATES"
  else
    keys=$("$PYTHON" "$(dirname "$0")/certificates.py" "$CERTIFICATES")
    eval "$keys"
  fi
  do_ "$PYTHON" -m distributed.cli.dask_scheduler --scheduler-file "$SCHEDULER_FILE" --port 0 --dashboard-address 127.0.0.1:0 &
  local started=($!)
  trap 'kill "${started[@]}" 2>/dev/null || true' EXIT
  while [ -z "${SUBPIXMAP_DRY_RUN:-}" ] && [ ! -s "$SCHEDULER_FILE" ]; do sleep 0.2; done
  local host
  for host in $HOSTS; do
    do_ ssh "$host" "$keys; cd '$PWD' && '$PYTHON' -m dask_cuda.cli worker --scheduler-file '$SCHEDULER_FILE' --nthreads 1" \
      --tls-ca-file "'$CERTIFICATES/dask.crt'" --tls-cert "'$CERTIFICATES/dask.crt'" --tls-key "'$CERTIFICATES/dask.key'" &
    started+=($!)
  done
  if [ -n "${SUBPIXMAP_DRY_RUN:-}" ]; then wait; fi
  do_ "$PYTHON" -m subpixmap "$@" "${options[@]}" --scheduler "$SCHEDULER_FILE"
}

case "$MODE" in
  here) here "$@" ;;
  hosts) hosts "$@" ;;
  *) sed -n '2,9s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
