#!/usr/bin/env bash
# Coconut palms of the Philippines, province by province, 2018 to 2023.
#
#   workflows/philippines.sh              plan both, map Palawan, stop
#   workflows/philippines.sh plan         plan both, read no pixel
#   workflows/philippines.sh country      the whole country (the plan says how long it takes)
#   workflows/philippines.sh recount      count a finished map again, by municipality (set ADMIN)
#   workflows/philippines.sh --dry-run    print the commands (of a step that follows), run nothing
#
# Every step may be repeated: what is done stays done, more YEARS extend the same folder.
set -euo pipefail

if [ "${1:-}" = --dry-run ]; then SUBPIXMAP_DRY_RUN=1; shift; fi
STEP=${1:-palawan}
YEARS=${YEARS:-2018-2023}
OBJECT=${OBJECT:-coconut}
RUNS=${RUNS:-runs}                 # where the run folders go
SOURCE=${SOURCE:-earth-search}     # or planetary-computer, the URL of a STAC API, or a local catalogue
MODEL=${MODEL:-}                   # your checkpoint; the shipped ones have only seen simulated data
ADMIN=${ADMIN:-}                   # official boundaries; without them the shipped provinces are used
ID_COLUMN=${ID_COLUMN:-}           # their ids, such as ADM3_PCODE or PSGC (guessed when empty)
SCHEDULER=${SCHEDULER:-}           # a running Dask scheduler; without one, the cores of this machine
SUBPIXMAP=${SUBPIXMAP:-subpixmap}

options=(--years "$YEARS" --object "$OBJECT" --source "$SOURCE" ${MODEL:+--model "$MODEL"})
units=(${ADMIN:+--admin "$ADMIN"} ${ID_COLUMN:+--id-column "$ID_COLUMN"})
workers=(${SCHEDULER:+--scheduler "$SCHEDULER"})

do_() {
  if [ -n "${SUBPIXMAP_DRY_RUN:-}" ]; then printf '%s\n' "$(printf '%q ' "$@")"; else "$@"; fi
}

plan() {
  # Asks the catalogue once per period, freezes what will be read, and says how much that is. Read it before you go on:
  # items found and missing by year, gigabytes, hours, memory of a worker.
  do_ "$SUBPIXMAP" plan --region philippines/palawan --out "$RUNS/palawan" "${options[@]}"
  do_ "$SUBPIXMAP" plan --region philippines --out "$RUNS/philippines" "${options[@]}" "${units[@]}"
}

palawan() {
  # One province first: 39,000 km2 with 10 km of sea around it, a thirteenth of the country. Open runs/palawan/report.html
  # and look at the share observed, the clear observations, and the map beside imagery you know, before the rest.
  do_ "$SUBPIXMAP" run --region philippines/palawan --out "$RUNS/palawan" "${options[@]}" "${workers[@]}"
}

country() {
  # The same recipe over UTM zones 50 to 52. --yes: a run of more than a day otherwise asks first. After an interruption the same
  # command goes on where it stopped and ends with the same bytes.
  do_ "$SUBPIXMAP" run --region philippines --out "$RUNS/philippines" "${options[@]}" "${units[@]}" "${workers[@]}" --yes
}

recount() {
  # Other boundaries need no new map: the totals of 1,647 municipalities from the pixels that are there.
  do_ "$SUBPIXMAP" count "$RUNS/philippines" --admin "${ADMIN:?set ADMIN to a file of units}" ${ID_COLUMN:+--id-column "$ID_COLUMN"}
  do_ "$SUBPIXMAP" trend "$RUNS/philippines"
  do_ "$SUBPIXMAP" report "$RUNS/philippines"
}

case "$STEP" in
  plan) plan ;;
  palawan) plan; palawan ;;
  country) plan; country ;;
  recount) recount ;;
  *) sed -n '2,11s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
