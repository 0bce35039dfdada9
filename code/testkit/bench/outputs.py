#!/usr/bin/env python3
"""Measures the time to write a whole table into a file of each format, with `buzz` and with DuckDB.

Each measurement is a new process that runs `SELECT * FROM lineitem`. The time of `buzz` is that of the whole process, and its
summary's time is printed beside it. The time of DuckDB is measured inside the process, to exclude the start of Python. Memory
is the peak resident set size. Prints the medians, and fails if a file of `buzz` does not have all rows.
"""
import os
import re
import statistics
import subprocess
import sys
import tempfile

from measure import measure
from tpch import generate, parser_of

DUCKDB = """
import sys, time
import duckdb
threads, table, output, options = sys.argv[1:]
started = time.perf_counter()
connection = duckdb.connect(config={"threads": int(threads)})
connection.execute(f"COPY (SELECT * FROM read_parquet('{table}')) TO '{output}' ({options})")
print(f"time: {time.perf_counter() - started:.4f} s", file=sys.stderr)
"""

# The options of DuckDB for a format of `buzz`. It writes Arrow only with an extension.
FORMATS = {
    "parquet": "FORMAT parquet, COMPRESSION zstd",
    "csv": "FORMAT csv, HEADER",
    "ndjson": "FORMAT json",
    "json": "FORMAT json, ARRAY true",
    "arrow": None,
}

COUNT = """
import sys
import duckdb
print(duckdb.sql(f"SELECT count(*) FROM '{sys.argv[1]}'").fetchone()[0])
"""


def count(path, format_name):
    """Returns the number of rows of a file, or None if DuckDB cannot read the format."""
    if format_name == "arrow":
        return None
    named = path + {"parquet": ".parquet", "csv": ".csv", "ndjson": ".ndjson", "json": ".json"}[format_name]
    os.rename(path, named)
    try:
        counted = subprocess.run([sys.executable, "-c", COUNT, named], check=True, capture_output=True, text=True)
        return int(counted.stdout)
    finally:
        os.rename(named, path)


def main():
    parser = parser_of(__doc__)
    parser.add_argument("--only", nargs="*", choices=list(FORMATS), help="formats")
    arguments = parser.parse_args()
    generate(arguments.folder, arguments.scale)
    table = os.path.join(arguments.folder, "lineitem.parquet")
    expected = count(table, "parquet")
    print(f"lineitem, {expected} rows, {arguments.threads} threads, median of {arguments.runs}")
    print("            buzz s  summary s  DuckDB s  buzz to DuckDB   buzz MB  DuckDB MB   file MB")
    wrong = []
    for name, options in FORMATS.items():
        if arguments.only and name not in arguments.only:
            continue
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            output = os.path.join(folder, "rows")
            engines = {"buzz": [os.path.join(arguments.bin, "buzz"), "--threads", arguments.threads, "sql",
                                "SELECT * FROM lineitem", "--table", f"lineitem={table}", "--format", name, "--output", output]}
            if options:
                engines["duckdb"] = [sys.executable, "-c", DUCKDB, arguments.threads, table, output + "-duckdb", options]
            seconds, megabytes, summaries = {}, {}, []
            for turn in range(arguments.runs + 1):
                for engine, command in engines.items():
                    measured = measure(command)
                    said = float(re.search(r"time: ([\d.]+) s", measured.stderr).group(1))
                    if turn > 0:  # the first turn warms the page cache
                        seconds.setdefault(engine, []).append(said if engine == "duckdb" else measured.seconds)
                        megabytes.setdefault(engine, []).append(measured.megabytes)
                        if engine == "buzz":
                            summaries.append(said)
            size = os.path.getsize(output) / 1e6
            if count(output, name) not in (expected, None):
                wrong.append(name)
            own, other = statistics.median(seconds["buzz"]), statistics.median(seconds.get("duckdb", [0]))
            ratio = f"{own / other:14.2f}" if other else f"{'':14}"
            memory = [statistics.median(megabytes.get(engine, [0])) for engine in ("buzz", "duckdb")]
            print(f"{name:8}{own:10.2f}{statistics.median(summaries):11.2f}{other:10.2f}{ratio}{memory[0]:12.0f}{memory[1]:11.0f}{size:10.0f}",
                  flush=True)
    if wrong:
        sys.exit(f"files without all rows: {', '.join(wrong)}")


if __name__ == "__main__":
    main()
