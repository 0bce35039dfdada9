#!/usr/bin/env bash
# Breaks the planner in three ways, one after the other, and checks that the random statements notice each: the rule of closed
# windows, the width of slices, and the rule of locality. Requires committed sources; restores them, also if it is interrupted.
# Each mutation compiles the crate and its test once more. Failures are not shrunk, since one is enough.
set -euo pipefail
cd "$(dirname "$0")/../../../.."
src=code/query/stream/src
git diff --quiet -- "$src" || { echo "error: $src has changes; commit them first" >&2; exit 1; }
log=$(mktemp)
trap 'git checkout --quiet -- "$src"; rm -f "$log"' EXIT
trap 'exit 1' INT TERM
export BUZZ_STREAM_STATEMENTS=${BUZZ_STREAM_STATEMENTS:-150} BUZZ_STREAM_SHRINK=0

mutate() { # name, file, text, replacement
  python3 - "$2" "$3" "$4" <<'PYTHON'
import sys
path, old, new = sys.argv[1:]
text = open(path).read()
if text.count(old) != 1:
    sys.exit(f"error: `{old}` is not once in {path}; adapt mutations.sh")
open(path, "w").write(text.replace(old, new))
PYTHON
  if cargo test --workspace --test streams random_statements > "$log" 2>&1; then
    echo "error: not noticed: $1" >&2; exit 1
  fi
  git checkout --quiet -- "$2"
  grep -q "differ from batch" "$log" || { tail -20 "$log" >&2; echo "error: no test ran: $1" >&2; exit 1; }
  echo "noticed: $1 ($(grep -o '[0-9]* of [0-9]* statements equal' "$log"))"
}

mutate "windows are closed one slide early" "$src/window.rs" \
  "Self::Hop { .. } => end <= watermark," "Self::Hop { slide, .. } => end - slide <= watermark,"
mutate "slices as wide as the slide" "$src/window.rs" \
  "Self::Hop { slide, width } => gcd(slide, width)," "Self::Hop { slide, .. } => slide,"
mutate "raw rows count as closed windows" "$src/lower/flow.rs" \
  "self.closed && (self.part" "(self.closed || !self.pending) && (self.part"
