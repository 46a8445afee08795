#!/usr/bin/env bash
# Fetch axe-core (MPL-2.0, Deque Systems), pinned by version and hash, into a folder: it tests the page, it is not shipped.
# Usage: .ci/axe.sh FOLDER; prints the path of axe.min.js.
set -euo pipefail
version=4.14.1
sha256=e6b0ce02b84d892e2e33e403485e7f3d6c29e2be6df65daf44d89ba564139745
mkdir -p "$1"
if [ ! -f "$1/axe-core-$version.tgz" ]; then
  npm pack --silent --pack-destination "$1" "axe-core@$version" >/dev/null
fi
echo "$sha256  $1/axe-core-$version.tgz" | sha256sum --check --quiet
tar -xzf "$1/axe-core-$version.tgz" -C "$1" package/axe.min.js
echo "$1/package/axe.min.js"
