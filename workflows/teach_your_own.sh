#!/usr/bin/env bash
# From points on high-resolution imagery to a map of your own objects: learn, look at the card, map, evaluate elsewhere.
#
#   POINTS=palms.gpkg LABELLED=areas.geojson DATE=2021-03 workflows/teach_your_own.sh
#   ... workflows/teach_your_own.sh learn        teach the model, stop
#   ... workflows/teach_your_own.sh --dry-run    print the commands, run nothing
#
# LABELLED holds the polygons in which every object is a point. What makes a reference good is in docs/training.md.
set -euo pipefail

if [ "${1:-}" = --dry-run ]; then SUBPIXMAP_DRY_RUN=1; shift; fi
STEP=${1:-all}
POINTS=${POINTS:-}
LABELLED=${LABELLED:-}
DATE=${DATE:-}                     # of the labelled imagery: 2021-03-14, 2021-03 or 2021
OBJECT=${OBJECT:-}                 # name of the objects, when POINTS has no column `object`
MODEL=${MODEL:-models/own.safetensors}
SOURCE=${SOURCE:-earth-search}
REGION=${REGION:-}                 # where to map; without it nothing is mapped
YEARS=${YEARS:-2018-2023}
OUT=${OUT:-runs/own}
FAST=${FAST:-}                     # 1: --compile --mixed, three times as fast with a C++ compiler and AMX, or on a GPU
SUBPIXMAP=${SUBPIXMAP:-subpixmap}

do_() {
  if [ -n "${SUBPIXMAP_DRY_RUN:-}" ]; then printf '%s\n' "$(printf '%q ' "$@")"; else "$@"; fi
}

learn() {
  # Reference, imagery, training, calibration and evaluation. Ctrl-C loses half a minute; the same command goes on.
  do_ "$SUBPIXMAP" learn "$POINTS" --labelled "$LABELLED" --image-date "$DATE" ${OBJECT:+--object "$OBJECT"} \
    --source "$SOURCE" --baselines mean,random_forest ${FAST:+--compile --mixed} -o "$MODEL"
  # Read limits and errors before you map: R2 at 1 ha, and whether it is ahead of the simple methods.
  do_ "$SUBPIXMAP" models "$MODEL"
}

map() {
  do_ "$SUBPIXMAP" run --region "$REGION" --years "$YEARS" --source "$SOURCE" --model "$MODEL" --out "$OUT"
  # Its totals become estimates with a sample of cells that nobody taught it on.
  do_ "$SUBPIXMAP" sample design "$OUT" --model "$MODEL"
}

if [ -z "$POINTS" ] || [ -z "$LABELLED" ] || [ -z "$DATE" ]; then sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2; fi
case "$STEP" in
  learn) learn ;;
  all) learn; if [ -n "$REGION" ]; then map; fi ;;
  *) sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
