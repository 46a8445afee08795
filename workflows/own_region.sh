#!/usr/bin/env bash
# Your own region and your own units: check the machine, plan, map, count, and hand the numbers on.
#
#   REGION=aoi.geojson workflows/own_region.sh            all of it
#   REGION=aoi.geojson workflows/own_region.sh plan       check the machine and plan, read no pixel
#   REGION=aoi.geojson workflows/own_region.sh sample     draw the cells that people label, for estimates with intervals
#   REGION=aoi.geojson workflows/own_region.sh --dry-run  print the commands, run nothing
#
# REGION is a file of polygons, west,south,east,north, or a name (`subpixmap regions`). Every step may be repeated.
set -euo pipefail

if [ "${1:-}" = --dry-run ]; then SUBPIXMAP_DRY_RUN=1; shift; fi
STEP=${1:-all}
REGION=${REGION:-}
YEARS=${YEARS:-2018-2023}
OUT=${OUT:-runs/own}
SOURCE=${SOURCE:-earth-search}     # or planetary-computer, the URL of a STAC API, or a local catalogue
MODEL=${MODEL:-}                   # your checkpoint (see teach_your_own.sh); the shipped ones have only seen simulated data
ADMIN=${ADMIN:-}                   # units to count in; without them the features of REGION
ID_COLUMN=${ID_COLUMN:-}
CELLS=${CELLS:-300}                # cells to label
SUBPIXMAP=${SUBPIXMAP:-subpixmap}

units=(${ADMIN:+--admin "$ADMIN"} ${ID_COLUMN:+--id-column "$ID_COLUMN"})
options=(--region "$REGION" --years "$YEARS" --out "$OUT" --source "$SOURCE" ${MODEL:+--model "$MODEL"} "${units[@]}")

do_() {
  if [ -n "${SUBPIXMAP_DRY_RUN:-}" ]; then printf '%s\n' "$(printf '%q ' "$@")"; else "$@"; fi
}

plan() {
  # What is missing on this machine, then what the run will read and need. --probe maps one block and tells the time.
  do_ "$SUBPIXMAP" doctor --out "$OUT" --source "$SOURCE"
  do_ "$SUBPIXMAP" plan "${options[@]}" --probe
}

all() {
  do_ "$SUBPIXMAP" run "${options[@]}" --yes
  do_ "$SUBPIXMAP" verify "$OUT"
  do_ "$SUBPIXMAP" export "$OUT" --format xlsx
  do_ "$SUBPIXMAP" export "$OUT" --format cog
}

sample() {
  # A map total is no estimate. Label OUT/sample/cells.gpkg, then: sample import, estimate, report.
  do_ "$SUBPIXMAP" sample design "$OUT" --n "$CELLS"
}

if [ -z "$REGION" ]; then sed -n '2,9s/^# \{0,1\}//p' "$0" >&2; exit 2; fi
case "$STEP" in
  plan) plan ;;
  all) plan; all ;;
  sample) sample ;;
  *) sed -n '2,9s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
