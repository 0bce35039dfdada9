#!/usr/bin/env python3
"""Checks that packages are reproducible. The same programs, packaged at another time, in another folder and with
other user settings, give the same names and the same bytes."""

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = ("fuse_lambda", "hbee_lambda", "hcomb")


def programs(folder):
    """Compiles small static programs that differ from each other."""
    folder.mkdir()
    source = folder / "program.c"
    for number, program in enumerate(PROGRAMS):
        source.write_text(f"int main(void) {{ return {number}; }}\n")
        subprocess.run(["cc", "-static", "-s", "-o", folder / program, source], check=True)
    source.unlink()


def package(binaries, packages, **settings):
    """Returns the zips that `make package-lambdas` creates, by name."""
    environment = os.environ | {"BINARIES": str(binaries), "PACKAGES": str(packages), "ARCH": "x86_64"} | settings
    command = ["bash", "-c", f"umask {settings.get('UMASK', '022')}; infra/bin/package.sh lambdas"]
    subprocess.run(command, check=True, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL)
    return {path.name: path.read_bytes() for path in packages.glob("*.zip")}


def main():
    if os.uname().machine != "x86_64" or not shutil.which("cc") or not shutil.which("readelf"):
        print("packages: skipped: no compiler or no readelf")
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        programs(folder / "one")
        shutil.copytree(folder / "one", folder / "two", copy_function=shutil.copyfile)
        for program in PROGRAMS:
            os.utime(folder / "two" / program, (1, 1))
        one = package(folder / "one", folder / "packages-one", TZ="UTC")
        two = package(folder / "two", folder / "packages-two", TZ="Asia/Tokyo", UMASK="077", LC_ALL="C")
        if one != two or len(one) != 2:
            sys.exit(f"packages: the same programs give {sorted(one)} and {sorted(two)}, or other bytes under these names")
        for packed in (folder / "packages-one").glob("*.zip"):
            [entry] = zipfile.ZipFile(packed).infolist()
            if (entry.filename, entry.external_attr >> 16) != ("bootstrap", 0o100755):
                sys.exit(f"packages: {packed.name} holds {entry}")
        (folder / "two/hbee_lambda").write_bytes((folder / "two/hcomb").read_bytes())
        three = package(folder / "two", folder / "packages-three")
        changed = sorted(set(three) - set(two))
        if len(changed) != 1 or not changed[0].startswith("hbee-"):
            sys.exit(f"packages: another HBee changes the names {changed}")
    print(f"packages: the same programs give the same bytes, {', '.join(sorted(one))}")


if __name__ == "__main__":
    main()
