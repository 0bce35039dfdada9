#!/usr/bin/env bash
# Breaks the planner in three ways, one after the other, and checks that the random statements notice each. Requires
# committed sources; restores them.
set -euo pipefail
cd "$(dirname "$0")/../../../.."
src=code/query/stream/src
git diff --quiet -- "$src" || { echo "error: $src has changes; commit them first" >&2; exit 1; }

mutate() { # name, file, text, replacement
  python3 - "$2" "$3" "$4" <<'PYTHON'
import sys
path, old, new = sys.argv[1:]
text = open(path).read()
if text.count(old) != 1:
    sys.exit(f"error: `{old}` is not once in {path}; adapt {__file__}")
open(path, "w").write(text.replace(old, new))
PYTHON
  if cargo test --workspace --test streams random_statements > /tmp/mutation.log 2>&1; then
    git checkout --quiet -- "$2"; echo "error: not noticed: $1" >&2; exit 1
  fi
  git checkout --quiet -- "$2"
  grep -q "differ from batch" /tmp/mutation.log || { tail -20 /tmp/mutation.log >&2; echo "error: no test ran: $1" >&2; exit 1; }
  echo "noticed: $1 ($(grep -o '[0-9]* of [0-9]* statements equal' /tmp/mutation.log))"
}

mutate "windows close one slide early" "$src/window.rs" \
  "Self::Hop { .. } => end <= watermark," "Self::Hop { slide, .. } => end - slide <= watermark,"
mutate "slices as wide as the slide" "$src/window.rs" \
  "Self::Hop { slide, width } => gcd(slide, width)," "Self::Hop { slide, .. } => slide,"
mutate "raw rows count as closed windows" "$src/lower/flow.rs" \
  "self.closed && (self.part" "(self.closed || !self.pending) && (self.part"
