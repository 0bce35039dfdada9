#!/usr/bin/env python3
"""zip.py PROGRAM ZIP: packs one program as a function's `bootstrap`, with the same bytes each time."""

import os
import sys
import zipfile
from pathlib import Path


def main():
    program, target = map(Path, sys.argv[1:])
    # The oldest time that the format has, and fixed rights: the zip depends on the program alone.
    entry = zipfile.ZipInfo("bootstrap", date_time=(1980, 1, 1, 0, 0, 0))
    entry.create_system = 3  # Unix, so that the rights count
    entry.external_attr = 0o100755 << 16
    entry.compress_type = zipfile.ZIP_DEFLATED
    unfinished = target.with_suffix(".part")
    with zipfile.ZipFile(unfinished, "w") as archive:
        archive.writestr(entry, program.read_bytes(), compresslevel=9)
    os.replace(unfinished, target)


if __name__ == "__main__":
    main()
