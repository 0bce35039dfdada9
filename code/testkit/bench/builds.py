#!/usr/bin/env python3
"""Compares two builds of `buzz` on TPC-H: the same files, in alternating runs, to see what a change costs.

Each measurement is a new process. Prints for each query the minimum of the wall time and of the CPU time of both builds,
and the ratios of the new one to the old one. CPU time depends less than wall time on what else runs on the machine. The
minimum is printed because other processes only ever add to a time. Fails if both builds print different rows.
"""
import argparse
import os
import sys

from measure import measure
from tpch import TABLES, commands, generate, queries, same_text


def best(builds, runs):
    """Returns by build the minimum of wall and CPU seconds, and what it printed."""
    wall, cpu, printed = {}, {}, {}
    for turn in range(runs + 1):
        for name, command in builds.items():
            measured = measure(command)
            printed[name] = measured.stdout
            if turn > 0:  # the first turn warms the page cache
                wall[name] = min(wall.get(name, measured.seconds), measured.seconds)
                cpu[name] = min(cpu.get(name, measured.cpu_seconds), measured.cpu_seconds)
    return wall, cpu, printed


def line(name, wall, cpu):
    text = f"{name:6}{wall['old']:9.3f}{wall['new']:9.3f}   x {wall['new'] / wall['old']:5.3f}"
    print(text + f"{cpu['old']:11.3f}{cpu['new']:9.3f}   x {cpu['new'] / cpu['old']:5.3f}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--old", required=True, help="folder of the old build's `buzz`")
    parser.add_argument("--new", required=True, help="folder of the new build's `buzz`")
    parser.add_argument("--folder", required=True, help="folder of the tables; created if they do not exist")
    parser.add_argument("--scale", type=float, default=1)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", default="2")
    parser.add_argument("--only", type=int, nargs="*", help="numbers of queries")
    arguments = parser.parse_args()
    here = os.path.dirname(os.path.abspath(__file__))
    data = os.environ.get("BUZZ_TEST_DATA") or os.path.join(here, "../../../../shared/data")
    if not os.path.isdir(data):
        sys.exit("the folder of the query texts does not exist; set BUZZ_TEST_DATA")
    generate(arguments.folder, arguments.scale)
    print(f"TPC-H, {len(TABLES)} tables at scale {arguments.scale}, {arguments.threads} threads, best of {arguments.runs}")
    print("            wall seconds                     CPU seconds")
    print("            old      new                     old      new")
    total_wall, total_cpu, different = {}, {}, []
    for number, sql in queries(data):
        if arguments.only and number not in arguments.only:
            continue
        folders = {"old": arguments.old, "new": arguments.new}
        builds = {name: commands(folder, arguments.folder, sql, arguments.threads)["buzz"] for name, folder in folders.items()}
        wall, cpu, printed = best(builds, arguments.runs)
        line(f"q{number}", wall, cpu)
        if not same_text(printed["old"], printed["new"]):
            different.append(number)
        for name in folders:
            total_wall[name] = total_wall.get(name, 0) + wall[name]
            total_cpu[name] = total_cpu.get(name, 0) + cpu[name]
    line("sum", total_wall, total_cpu)
    if different:
        sys.exit(f"both builds print different rows: queries {different}")


if __name__ == "__main__":
    main()
