#!/usr/bin/env python3
"""Runs TPC-H on `buzz`, plain DataFusion and DuckDB: the same files, two threads each, in alternating runs.

Each measurement is a new process. The time of `buzz` and of plain DataFusion is that of the whole process. The time of
DuckDB is measured inside the process, from opening the files to the last row, to exclude the start of Python. Memory is
the peak resident set size. Prints the medians of every query, their sum, and the ratios of `buzz` to the others.
"""
import argparse
import glob
import json
import os
import re
import statistics
import subprocess
import sys

from measure import measure

TABLES = ["customer", "lineitem", "nation", "orders", "part", "partsupp", "region", "supplier"]

DUCKDB = """
import sys, time
import duckdb
threads, sql, *tables = sys.argv[1:]
started = time.perf_counter()
connection = duckdb.connect(config={"threads": int(threads)})
for table in tables:
    name, path = table.split("=", 1)
    connection.execute(f"CREATE VIEW {name} AS SELECT * FROM read_parquet('{path}')")
rows = connection.execute(sql).fetchall()
print(f"time: {time.perf_counter() - started:.4f} s", file=sys.stderr)
print(len(rows))
"""


def generate(folder, scale):
    """Generates the tables at `scale`, unless they exist."""
    if all(os.path.exists(os.path.join(folder, f"{table}.parquet")) for table in TABLES):
        return
    generator = os.path.join(os.path.dirname(sys.executable), "tpchgen-cli")
    print(f"generating TPC-H at scale factor {scale} in {folder} …", file=sys.stderr)
    subprocess.run([generator, "parquet", "-s", str(scale), "--output-dir", folder], check=True)


def queries(data):
    with open(os.path.join(data, "tables/tpch-sf0.01/queries.json"), encoding="utf-8") as file:
        return [(query["q"], query["sql"]) for query in json.load(file)["queries"]]


def commands(bin_folder, folder, sql, threads):
    """Returns the command of each engine, with the tables that the query uses."""
    words = set(re.findall(r"\w+", sql))
    tables = [f"{table}={os.path.join(folder, table)}.parquet" for table in TABLES if table in words]
    buzz = [os.path.join(bin_folder, "buzz"), "--threads", threads, "sql", sql]
    for table in tables:
        buzz += ["--table", table]
    return {
        "buzz": buzz,
        "datafusion": [os.path.join(bin_folder, "plain-datafusion"), threads, sql, *tables],
        "duckdb": [sys.executable, "-c", DUCKDB, threads, sql, *tables],
    }


def run_query(engines, runs):
    """Returns the medians by engine, the spread, and if buzz printed the same rows as plain DataFusion."""
    seconds = {name: [] for name in engines}
    megabytes = {name: [] for name in engines}
    printed = {}
    for turn in range(runs + 1):
        for name, command in engines.items():
            measured = measure(command)
            printed[name] = measured.stdout
            if turn > 0:  # the first turn warms the page cache
                inside = re.search(r"time: ([\d.]+) s", measured.stderr)
                own = float(inside.group(1)) if name == "duckdb" and inside else measured.seconds
                seconds[name].append(own)
                megabytes[name].append(measured.megabytes)
    medians = {name: (statistics.median(seconds[name]), statistics.median(megabytes[name])) for name in engines}
    spread = max(max(times) / max(min(times), 1e-9) for times in seconds.values())
    return medians, spread, same_text(printed["buzz"], printed["datafusion"])


def same_text(left, right):
    """Returns true if both texts have the same words in any order, with floats rounded to six digits."""
    numbers = re.compile(r"-?\d+\.\d{6,}")
    rounded = [numbers.sub(lambda found: f"{float(found.group()):.6g}", text) for text in (left, right)]
    return sorted(rounded[0].split()) == sorted(rounded[1].split())


def parser_of(description):
    """Returns a parser with the arguments of measurements over the tables."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--bin", required=True, help="folder of the binaries")
    parser.add_argument("--folder", required=True, help="folder of the tables; created if they do not exist")
    parser.add_argument("--scale", type=float, default=1)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", default="2")
    return parser


def main():
    parser = parser_of(__doc__)
    parser.add_argument("--only", type=int, nargs="*", help="numbers of queries")
    arguments = parser.parse_args()

    here = os.path.dirname(os.path.abspath(__file__))
    data = os.environ.get("BUZZ_TEST_DATA") or os.path.join(here, "../../../../shared/data")
    if not os.path.isdir(data):
        print("TPC-H: skipped: the folder of the query texts does not exist; set BUZZ_TEST_DATA")
        return
    generate(arguments.folder, arguments.scale)
    size = sum(os.path.getsize(path) for path in glob.glob(os.path.join(arguments.folder, "*.parquet")))
    print(f"TPC-H, {size / 1e6:.0f} MB of Parquet, {arguments.threads} threads, median of {arguments.runs}")
    print("          seconds                          buzz to            peak MB                 buzz to")
    print("          buzz  datafusion    duckdb  datafusion  duckdb    buzz  datafusion  duckdb  datafusion")

    total = {}
    peak = {}
    worst_spread = 0.0
    for number, sql in queries(data):
        if arguments.only and number not in arguments.only:
            continue
        engines = commands(arguments.bin, arguments.folder, sql, arguments.threads)
        medians, spread, same = run_query(engines, arguments.runs)
        worst_spread = max(worst_spread, spread)
        for name, (seconds, megabytes) in medians.items():
            total[name] = total.get(name, 0) + seconds
            peak[name] = max(peak.get(name, 0), megabytes)
        line(f"q{number}", {name: m[0] for name, m in medians.items()}, {name: m[1] for name, m in medians.items()}, same)
    line("sum, max", total, peak, True)
    print(f"maximum spread of a query between runs: x {worst_spread:.2f}")


def line(name, seconds, megabytes, same):
    text = f"{name:8}{seconds['buzz']:6.3f}{seconds['datafusion']:12.3f}{seconds['duckdb']:10.3f}"
    text += f"    x {seconds['buzz'] / seconds['datafusion']:5.2f}  x {seconds['buzz'] / seconds['duckdb']:5.2f}"
    text += f"{megabytes['buzz']:8.0f}{megabytes['datafusion']:12.0f}{megabytes['duckdb']:8.0f}"
    text += f"     x {megabytes['buzz'] / megabytes['datafusion']:4.2f}"
    print(text + ("" if same else "   DIFFERENT ROWS"), flush=True)


if __name__ == "__main__":
    main()
