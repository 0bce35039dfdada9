#!/usr/bin/env bash
# Builds the packages twice from the committed sources, in two folders and from scratch, and compares them. Takes twice
# the time of a first `make package`, and about 20 GB below WORK (by default a temporary folder).
set -euo pipefail
cd "$(dirname "$0")/../.."
. infra/bin/lib.sh

work=$(mktemp -d "${WORK:-${TMPDIR:-/tmp}}/buzz-twice-XXXXXX")
trap 'rm -rf "$work"' EXIT
unset BINARIES
for turn in one other/place; do
    say "building in $work/$turn …"
    mkdir -p "$work/$turn/buzz"
    git archive HEAD | tar -x -C "$work/$turn/buzz"
    CARGO_TARGET_DIR=$work/$turn/target PACKAGES=$work/$turn/packages "$work/$turn/buzz/infra/bin/package.sh"
    # The paths differ; nothing else may.
    sed -i "s|$work/$turn/packages/||" "$work/$turn/packages/packages.env"
done
diff -r "$work/one/packages" "$work/other/place/packages" >&2 || fail "two builds of the same sources differ"
say "two builds gave the same packages:"
cat "$work/one/packages/packages.env" >&2
