#!/usr/bin/env bash
# Keep a run up to date, month by month; for cron, some days after the month has ended:
#
#   0 3 8 * *   REGION=philippines/palawan OUT=/data/palawan /path/to/workflows/monthly_update.sh
#
#   REGION=... OUT=... workflows/monthly_update.sh --dry-run     print the commands, run nothing
#
# The months of the year so far are mapped, and those of earlier years since FIRST_YEAR that the folder lacks. The
# catalogue is asked again for the LATE last months, whose items arrive late; blocks whose items did not change stay.
set -euo pipefail

if [ "${1:-}" = --dry-run ]; then SUBPIXMAP_DRY_RUN=1; shift; fi
REGION=${REGION:-}
OUT=${OUT:-}
TODAY=${TODAY:-$(date +%Y-%m-%d)}
FIRST_YEAR=${FIRST_YEAR:-${TODAY%%-*}}
LATE=${LATE:-2}
SOURCE=${SOURCE:-earth-search}
MODEL=${MODEL:-}
SUBPIXMAP=${SUBPIXMAP:-subpixmap}

if [ -z "$REGION" ] || [ -z "$OUT" ] || [ $# -gt 0 ]; then sed -n '2,9s/^# \{0,1\}//p' "$0" >&2; exit 2; fi

do_() {
  if [ -n "${SUBPIXMAP_DRY_RUN:-}" ]; then printf '%s\n' "$(printf '%q ' "$@")"; else "$@"; fi
}

year=$((10#${TODAY%%-*})) month=$((10#$(cut -d- -f2 <<< "$TODAY")))
refresh=()
for back in $(seq 1 "$LATE"); do
  ago=$((year * 12 + month - 1 - back))
  if [ $((ago / 12)) -ge "$FIRST_YEAR" ]; then refresh+=(--refresh "$(printf '%04d-%02d' $((ago / 12)) $((ago % 12 + 1)))"); fi
done

do_ "$SUBPIXMAP" run --region "$REGION" --years "$FIRST_YEAR-$year" --every month --out "$OUT" --source "$SOURCE" \
  ${MODEL:+--model "$MODEL"} "${refresh[@]}" --allow-partial --yes
do_ "$SUBPIXMAP" export "$OUT" --format csv
