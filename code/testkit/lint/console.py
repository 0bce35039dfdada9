#!/usr/bin/env python3
"""Checks that the built console is of its present sources, and that its lock file names no registry.

    python3 code/testkit/lint/console.py

`make console` builds it. The first line of `dist/console.js` has the digest of the sources, which `build.mjs` writes.
"""

import hashlib
import re
import sys
from pathlib import Path

CONSOLE = Path(__file__).resolve().parents[2] / "doors/serve/console"


def digest():
    """Returns the digest of the sources, as `build.mjs` computes it."""
    sources = [path.relative_to(CONSOLE).as_posix() for path in (CONSOLE / "src").iterdir()]
    digest = hashlib.sha256()
    for name in sorted([*sources, "build.mjs", "package-lock.json", "package.json"]):
        digest.update(name.encode() + b"\0" + (CONSOLE / name).read_bytes() + b"\0")
    return digest.hexdigest()


def problems():
    """Yields the reasons for which the console must be built again."""
    built = CONSOLE / "dist/console.js"
    with built.open(encoding="utf-8") as file:
        found = re.match(r"/\* sources ([0-9a-f]{64}) \*/", file.readline())
    if not found:
        yield f"{built.name} does not begin with the digest of its sources"
    elif found[1] != digest():
        yield "the console is older than its sources; run `make console` and commit dist/"
    lock = (CONSOLE / "package-lock.json").read_text(encoding="utf-8")
    if '"resolved"' in lock:
        yield "package-lock.json names a registry; remove its `resolved` fields"


def main():
    found = list(problems())
    for problem in found:
        print(f"error: {problem}", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
