#!/usr/bin/env bash
# tools.sh NAME REQUIREMENT…: installs Python tools once, in a separate virtual environment below the cache folder.
# Prints the folder of their programs.
set -euo pipefail
name=$1
shift
place=${BUZZ_TOOLS:-${XDG_CACHE_HOME:-$HOME/.cache}/buzz-tools}/$name
wanted="$*"
if [ "$(cat "$place/installed" 2>/dev/null)" != "$wanted" ]; then
    echo "installing $wanted …" >&2
    rm -rf "$place"
    python3 -m venv "$place"
    "$place/bin/pip" install --quiet --disable-pip-version-check "$@" >&2
    echo "$wanted" >"$place/installed"
fi
echo "$place/bin"
