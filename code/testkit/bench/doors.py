#!/usr/bin/env python3
"""Measures what each door of `buzz serve` costs beside `buzz sql`.

    doors.py --buzz PATH --sample FOLDER [--runs 5]

Run with the Python of a virtual environment that has psycopg, adbc-driver-flightsql and pyarrow. Prints a table: the time of a small query and
of one with 1,000,000 rows by command and by door, the first row warm, the rows per second of each door, the memory of an idle
server, and the size of the console. Times are medians.
"""

import argparse
import gzip
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

import psycopg
from adbc_driver_flightsql import dbapi
from served import Server

KEY = "the-key-of-the-benchmark"
ROWS = 1_000_000
SMALL = "SELECT payment_type, COUNT(*) AS rides FROM trips GROUP BY payment_type ORDER BY 1"
FIRST = "SELECT vendor_id, fare_amount FROM trips LIMIT 1"
LARGE = f"SELECT vendor_id, pickup_at, passenger_count, trip_distance, payment_type, fare_amount, total_amount FROM trips LIMIT {ROWS}"


class Sample(Server):
    """A server on the sample."""

    def __init__(self, buzz, sample, folder):
        super().__init__(buzz, folder, ["--table", f"trips={sample}"], KEY)

    def get(self, path, body=None):
        """Sends a request and returns the body of the response."""
        headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(urllib.request.Request(f"http://{self.http}{path}", data, headers)) as response:
            return response.read()


def doors(server):
    """Returns a function for each door that runs a statement and returns the number of rows that arrived."""
    text = psycopg.connect(f"postgresql://ann:{KEY}@{server.postgres}/buzz", autocommit=True)
    flight = dbapi.connect(f"grpc://{server.http}", db_kwargs={"username": "ann", "password": KEY}, autocommit=True)

    def postgres(sql, binary):
        # The rows as libpq has received them: Python's values would be most of the time.
        with text.cursor(binary=binary) as cursor:
            return cursor.execute(sql).pgresult.ntuples

    def adbc(sql):
        with flight.cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetch_arrow_table().num_rows

    def copy(sql):
        with text.cursor() as cursor, cursor.copy(f"COPY ({sql}) TO STDOUT (FORMAT csv)") as rows:
            return sum(bytes(part).count(b"\n") for part in rows)

    def http(sql, kind):
        body = server.get("/v1/query", {"sql": sql, "format": kind})
        return body.count(b"\n") if kind == "ndjson" else None

    return {
        "PostgreSQL, text": lambda sql: postgres(sql, False),
        "PostgreSQL, binary": lambda sql: postgres(sql, True),
        "PostgreSQL, COPY": copy,
        "Flight SQL": adbc,
        "HTTP, Arrow": lambda sql: http(sql, "arrow"),
        "HTTP, ndjson": lambda sql: http(sql, "ndjson"),
    }


def seconds(run, runs):
    """Returns the median time of `run`, after a run that is not counted."""
    times = []
    for number in range(runs + 1):
        began = time.perf_counter()
        run()
        if number:
            times.append(time.perf_counter() - began)
    return statistics.median(times)


def command(buzz, sample, sql, format_):
    """Runs `buzz sql`."""
    arguments = [buzz, "sql", sql, "--table", f"trips={sample}", "--format", format_]
    subprocess.run(arguments, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--buzz", required=True)
    parser.add_argument("--sample", required=True)
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    buzz, sample = os.path.abspath(arguments.buzz), os.path.abspath(arguments.sample)
    with tempfile.TemporaryDirectory() as folder:
        server = Sample(buzz, sample, folder)
        try:
            time.sleep(2)
            print(f"memory of an idle server: {server.memory():.0f} MB\n")
            print("| way | small query, ms | first row, ms | 1,000,000 rows, s | rows per second |\n|---|---|---|---|---|")
            small = seconds(lambda: command(buzz, sample, SMALL, "csv"), arguments.runs) * 1e3
            large = seconds(lambda: command(buzz, sample, LARGE, "ndjson"), min(arguments.runs, 3))
            print(f"| `buzz sql` | {small:.0f} | | {large:.2f} | {ROWS / large:,.0f} |")
            for name, ask in doors(server).items():
                small = seconds(lambda: ask(SMALL), arguments.runs) * 1e3
                first = seconds(lambda: ask(FIRST), arguments.runs) * 1e3
                rows = ask(LARGE)
                if rows not in (None, ROWS):
                    sys.exit(f"error: {name} has {rows} rows instead of {ROWS}")
                large = seconds(lambda: ask(LARGE), min(arguments.runs, 3))
                print(f"| {name} | {small:.0f} | {first:.0f} | {large:.2f} | {ROWS / large:,.0f} |", flush=True)
            print(f"\nmemory after it: {server.memory():.0f} MB")
            page = server.get("/console/").decode()
            files = ["/console/"] + [f"/console/{file}" for file in re.findall(r'(?:src|href)="([\w.]+\.(?:js|css))"', page)]
            bodies = [server.get(file) for file in files]
            packed = sum(len(gzip.compress(body)) for body in bodies)
            print(f"console: {sum(map(len, bodies)) / 1e3:.0f} kB in {len(files)} files, {packed / 1e3:.0f} kB with gzip")
        finally:
            server.stop()


if __name__ == "__main__":
    main()
