#!/usr/bin/env python3
"""Compares `buzz` with plain DataFusion on the same files and the same machine, in alternating runs.

Each measurement is a new process with two threads. Time is that of the whole process, from its start to the last
printed row; memory is the peak resident set size. Prints the medians and the ratio of buzz to plain DataFusion.
"""
import argparse
import json
import os
import re
import statistics
import subprocess
import tempfile

from measure import measure

FLIGHTS = [
    (
        "flights totals",
        "SELECT COUNT(*) AS n, SUM(delay) AS delay, MIN(\"date\") AS lo, MAX(\"date\") AS hi FROM flights3m",
        "SELECT COUNT(*) AS n, SUM(delay) AS delay, MIN(\"date\") AS lo, MAX(\"date\") AS hi FROM flights3m",
        "SELECT SUM(n) AS n, SUM(delay) AS delay, MIN(lo) AS lo, MAX(hi) AS hi FROM m",
    ),
    (
        "flights by origin",
        "SELECT origin, COUNT(*) AS n, SUM(delay) AS d FROM flights3m GROUP BY origin ORDER BY n DESC, origin LIMIT 20",
        "SELECT origin, COUNT(*) AS n, SUM(delay) AS d FROM flights3m GROUP BY origin",
        "SELECT origin, SUM(n) AS n, SUM(d) AS d FROM m GROUP BY origin ORDER BY n DESC, origin LIMIT 20",
    ),
    (
        "flights pairs",
        "SELECT origin, destination, COUNT(*) AS n FROM flights3m GROUP BY 1, 2 ORDER BY n DESC, 1, 2 LIMIT 10",
        "SELECT origin, destination, COUNT(*) AS n FROM flights3m GROUP BY 1, 2",
        "SELECT origin, destination, SUM(n) AS n FROM m GROUP BY 1, 2 ORDER BY n DESC, 1, 2 LIMIT 10",
    ),
]
SAMPLE = [
    (
        "sample, 5 days",
        "SELECT payment_type, COUNT(payment_type) AS n FROM nyc_taxi WHERE pickup_date <= '2009-01-05' GROUP BY payment_type",
        "pickup_date<='2009-01-05'",
    ),
    ("sample, 31 days", "SELECT payment_type, COUNT(payment_type) AS n FROM nyc_taxi GROUP BY payment_type", None),
]


def steps(table, kind, uri, map_sql, reduce_sql, partition_filter, split):
    step = {"name": "m", "step_type": "HBee", "sql": map_sql}
    if partition_filter:
        step["partition_filter"] = partition_filter
    if split:
        step["split"] = "row_groups"
    return {
        "steps": [step, {"name": "r", "step_type": "HComb", "sql": reduce_sql}],
        "capacity": {"zones": 1},
        "catalogs": [{"name": table, "type": kind, "uri": os.path.abspath(uri)}],
    }


def compare(name, runs, commands):
    times = {key: [] for key in commands}
    memory = {key: [] for key in commands}
    for turn in range(runs + 1):
        for key, command in commands.items():
            measured = measure(command)
            if turn > 0:  # the first turn warms the page cache
                times[key].append(measured.seconds)
                memory[key].append(measured.megabytes)
    base = statistics.median(times["plain"]), statistics.median(memory["plain"])
    print(f"{name}")
    for key in commands:
        seconds, megabytes = statistics.median(times[key]), statistics.median(memory[key])
        spread = f"{min(times[key]):.3f}–{max(times[key]):.3f}"
        ratios = f"time x {seconds / base[0]:.2f}, memory x {megabytes / base[1]:.2f}"
        print(f"  {key:12} {seconds:7.3f} s ({spread}) {megabytes:7.1f} MB   {ratios}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bin", required=True, help="folder of the release binaries")
    parser.add_argument("--sample", required=True, help="folder of the sample table; created if it does not exist")
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    buzz, plain = (os.path.join(arguments.bin, name) for name in ("buzz", "plain-datafusion"))
    subprocess.run([buzz, "sample", arguments.sample], check=True)

    here = os.path.dirname(os.path.abspath(__file__))
    data = os.environ.get("BUZZ_TEST_DATA") or os.path.join(here, "../../../../shared/data")
    flights = os.path.join(data, "tables/flights-3m/flights-3m.parquet")
    with tempfile.TemporaryDirectory() as folder:

        def commands(table, path, sql, query):
            file = os.path.join(folder, re.sub(r"\W+", "-", sql[:40]) + ".json")
            with open(file, "w", encoding="utf-8") as out:
                json.dump(query, out)
            ask = [buzz, "--threads", "2", "query", file]
            return {
                "plain": [plain, "2", sql, f"{table}={os.path.abspath(path)}"],
                "buzz": ask,
                "buzz tcp": [*ask, "--set", "transport=tcp"],
            }

        reduce_sql = "SELECT payment_type, SUM(n) AS n FROM m GROUP BY payment_type"
        for name, sql, partition_filter in SAMPLE:
            map_sql = "SELECT payment_type, COUNT(payment_type) AS n FROM nyc_taxi GROUP BY payment_type"
            query = steps("nyc_taxi", "DeltaLake", arguments.sample, map_sql, reduce_sql, partition_filter, False)
            compare(name, arguments.runs, commands("nyc_taxi", arguments.sample, sql, query))
        if not os.path.exists(flights):
            print("flights-3m: skipped: the file does not exist; set BUZZ_TEST_DATA")
            return
        for name, sql, map_sql, reduce_sql in FLIGHTS:
            query = steps("flights3m", "Parquet", flights, map_sql, reduce_sql, None, True)
            ask = commands("flights3m", flights, sql, query)
            for key in ("buzz", "buzz tcp"):
                ask[key] += ["--set", "split_bytes=2MB"]
            compare(name, arguments.runs, ask)


if __name__ == "__main__":
    main()
