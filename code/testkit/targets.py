#!/usr/bin/env python3
"""Prints the options by which `cargo test` runs all test targets of the workspace but those named, so that the named ones can
run beside the others."""

import argparse
import json
import subprocess
import sys


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--without", nargs="+", default=[], metavar="TARGET", help="test targets to leave out")
    arguments = parser.parse_args()
    command = ["cargo", "metadata", "--no-deps", "--format-version", "1"]
    packages = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)["packages"]
    names = {target["name"] for package in packages for target in package["targets"] if "test" in target["kind"]}
    unknown = sorted(set(arguments.without) - names)
    if unknown:
        sys.exit(f"error: there is no test target {', '.join(unknown)}; there are {', '.join(sorted(names))}")
    print(" ".join(f"--test {name}" for name in sorted(names - set(arguments.without))))


if __name__ == "__main__":
    main()
