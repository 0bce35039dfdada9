#!/usr/bin/env python3
"""zip.py PROGRAM ZIP: packs one program as a function's `bootstrap`, reproducibly."""

import os
import sys
import zipfile
from pathlib import Path


def main():
    program, target = map(Path, sys.argv[1:])
    # The oldest time of the format and fixed permissions, so that the zip depends only on the program.
    entry = zipfile.ZipInfo("bootstrap", date_time=(1980, 1, 1, 0, 0, 0))
    entry.create_system = 3  # Unix, so that the permissions apply
    entry.external_attr = 0o100755 << 16
    entry.compress_type = zipfile.ZIP_DEFLATED
    unfinished = target.with_suffix(".part")
    with zipfile.ZipFile(unfinished, "w") as archive:
        archive.writestr(entry, program.read_bytes(), compresslevel=9)
    os.replace(unfinished, target)


if __name__ == "__main__":
    main()
