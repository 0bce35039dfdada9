#!/usr/bin/env python3
"""Compares the processor time of HBees from different builds, on the same statements, in the local cloud.

Each program runs tasks of statements over TPC-H's lineitem, which Fuse reduces. Prints the milliseconds of all HBees by
statement, as medians over turns; every turn runs all programs. All programs must have the same BUZZ_BUILD.

    hbee.py --bin FOLDER --lineitem lineitem.parquet small=FILE release=FILE
"""
import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import urllib.request

TICKS = os.sysconf("SC_CLK_TCK")

STATEMENTS = {
    "q1": "SELECT l_returnflag, l_linestatus, SUM(l_quantity), SUM(l_extendedprice), SUM(l_extendedprice * (1 - l_discount)), "
    "SUM(l_extendedprice * (1 - l_discount) * (1 + l_tax)), AVG(l_quantity), AVG(l_discount), COUNT(*) FROM t "
    "WHERE l_shipdate <= DATE '1998-09-02' GROUP BY l_returnflag, l_linestatus",
    "filter": "SELECT SUM(l_extendedprice * l_discount) FROM t WHERE l_shipdate >= DATE '1994-01-01' AND l_shipdate < "
    "DATE '1995-01-01' AND l_discount BETWEEN 0.05 AND 0.07 AND l_quantity < 24",
    "like": "SELECT COUNT(*) FROM t WHERE l_comment LIKE '%special%' AND l_shipmode IN ('AIR', 'RAIL')",
    "groups": "SELECT l_suppkey, SUM(l_extendedprice * (1 - l_discount)), AVG(l_quantity), MAX(l_shipdate) FROM t GROUP BY l_suppkey",
    "top-k": "SELECT l_orderkey, l_extendedprice, l_comment FROM t ORDER BY l_extendedprice DESC, l_orderkey LIMIT 10",
}


def processor_ms():
    """Returns the processor milliseconds that all running HBees have used so far."""
    total = 0
    for process in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.readlink(f"/proc/{process}/exe").endswith("hbee_lambda"):
                with open(f"/proc/{process}/stat", encoding="utf-8") as stat:
                    user, system = stat.read().rsplit(")", 1)[1].split()[11:13]
                total += int(user) + int(system)
        except OSError:
            continue
    return 1000 * total / TICKS


def ask(endpoint, sql):
    catalogs = [{"name": "t", "type": "Parquet", "uri": "s3://cloudfuse-taxi-data/t/lineitem.parquet"}]
    event = {"query": {"sql": sql, "catalogs": catalogs}, "options": {"reducer": "inline", "tasks": 4}}
    url = f"{endpoint}/2015-03-31/functions/buzz-rust-fuse-local/invocations"
    with urllib.request.urlopen(urllib.request.Request(url, json.dumps(event).encode()), timeout=300) as answer:
        said = json.load(answer)
    if said.get("status") != "answered":
        sys.exit(f"`{sql}` failed: {said}")


def turn(programs, hbee, lineitem):
    """Returns the processor milliseconds of each statement, with warm HBees."""
    with tempfile.TemporaryDirectory() as folder:
        own, table = os.path.join(folder, "programs"), os.path.join(folder, "t")
        os.mkdir(own)
        os.mkdir(table)
        for name in ("localcloud", "fuse_lambda", "hcomb"):
            os.symlink(os.path.abspath(os.path.join(programs, name)), os.path.join(own, name))
        # A copy, since processes are identified by the name of their program.
        shutil.copy(hbee, os.path.join(own, "hbee_lambda"))
        os.symlink(os.path.abspath(lineitem), os.path.join(table, "lineitem.parquet"))
        command = [os.path.join(programs, "localcloud"), "serve", "--port", "0", "--folder", os.path.join(folder, "cloud")]
        command += ["--programs", own, "--upload", f"{table}=s3://cloudfuse-taxi-data/t"]
        cloud = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        try:
            endpoint = re.search(r"http://\S+", cloud.stdout.readline()).group()
            spent = {}
            for name, sql in STATEMENTS.items():
                ask(endpoint, sql)
                before = processor_ms()
                for _ in range(3):
                    ask(endpoint, sql)
                spent[name] = (processor_ms() - before) / 3
            return spent
        finally:
            cloud.terminate()
            cloud.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", required=True, help="folder of localcloud, fuse_lambda and hcomb")
    parser.add_argument("--lineitem", required=True, help="the table as one Parquet file")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("hbee", nargs="+", help="NAME=FILE of each program")
    arguments = parser.parse_args()
    programs = dict(pair.split("=", 1) for pair in arguments.hbee)
    spent = {name: [] for name in programs}
    for _ in range(arguments.turns):
        for name, path in programs.items():
            spent[name].append(turn(arguments.bin, path, arguments.lineitem))
    print("program".ljust(12), *(statement.rjust(8) for statement in STATEMENTS), "     sum")
    for name, turns in spent.items():
        medians = [statistics.median(times[statement] for times in turns) for statement in STATEMENTS]
        print(name.ljust(12), *(f"{median:8.0f}" for median in [*medians, sum(medians)]))


if __name__ == "__main__":
    main()
