#!/usr/bin/env bash
# Build the wheel, look whether it holds what git holds, install it, and use it outside the repository.
#   .ci/wheel.sh          borrows the packages of .venv and plans the demo (seconds)
#   .ci/wheel.sh --empty  a new environment with everything from the package index, and a whole demo run (minutes; needs the network)
set -euo pipefail
cd "$(dirname "$0")/.."
repository=$PWD
python=${PYTHON:-$repository/.venv/bin/python}
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

"$python" -m pip wheel --disable-pip-version-check -q --no-deps --no-build-isolation --wheel-dir "$out" .
wheel=$(echo "$out"/subpixmap-*.whl)
tracked=$(git ls-files subpixmap 2>/dev/null) || tracked=$(find subpixmap -type f -not -path '*/__pycache__/*')  # not a clone
held=$("$python" -m zipfile --list "$wheel" | awk '{print $1}')
diff <(sort <<< "$tracked") <(grep '^subpixmap/' <<< "$held" | sort)
for text in LICENSE NOTICE; do
  grep -q "dist-info/licenses/$text$" <<< "$held"
done

"$python" -m venv "$out/new"
if [ "${1:-}" = --empty ]; then
  "$out/new/bin/python" -m pip install --disable-pip-version-check -q -c constraints.txt "$wheel"
else
  "$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > "$(echo "$out"/new/lib/python3*/site-packages)/borrowed.pth"
  "$out/new/bin/python" -m pip install --disable-pip-version-check -q --no-deps --no-index "$wheel"
fi

mkdir "$out/elsewhere"
cd "$out/elsewhere"
export -n PYTHONPATH
where=$("$out/new/bin/python" -c 'import subpixmap; print(subpixmap.__file__)')
case $where in "$out"/new/*) ;; *) echo "wheel.sh: $where was imported, not the wheel" >&2; exit 1 ;; esac
"$out/new/bin/subpixmap" plan --region demo --years 2020 --out planned --quiet > /dev/null
test -s planned/plan.json
if [ "${1:-}" = --empty ]; then
  "$out/new/bin/subpixmap" run --region demo --years 2020-2021 --out demo </dev/null
  "$out/new/bin/python" "$repository/workflows/compare_with_truth.py" demo --within 0.05
fi
echo "$(basename "$wheel"): holds what git holds, and works outside the repository"
