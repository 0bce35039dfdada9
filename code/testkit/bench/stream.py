#!/usr/bin/env python3
"""Measures continuous queries: two queries, two formats, four numbers of keys.

Prints a table of events per second by the wall clock and per CPU-second, the time of epochs, and memory. Next to it, plain
DataFusion aggregates the same rows as one batch query, without windows over time, state or epochs: the floor.
"""

import argparse
import os
import pathlib
import re
import subprocess
import tempfile
import time

QUERIES = {
    # Query 5 of Nexmark: the auctions with the most bids of 10 s, every 2 s.
    "q5": """INSERT INTO out SELECT auction, n, w FROM (SELECT *, rank() OVER (PARTITION BY w ORDER BY n DESC) AS r FROM (
        SELECT auction, count(*) AS n, hop(interval '2 seconds', interval '10 seconds') AS w FROM bids GROUP BY 1, 3))
        WHERE r = 1;""",
    # Like query 7: highest bid, number and sum per key and 10 s.
    "q7": """INSERT INTO out SELECT auction, max(price), count(*), sum(price), tumble(interval '10 seconds') AS w
        FROM bids GROUP BY 1, w;""",
}
FLOOR = {
    "q5": "SELECT auction, date_bin(interval '2 seconds', date_time) AS s, count(*) FROM bids GROUP BY 1, 2",
    "q7": "SELECT auction, date_bin(interval '10 seconds', date_time) AS s, max(price), count(*), sum(price) FROM bids GROUP BY 1, 2",
}


def run(command):
    """Returns seconds, CPU-seconds, megabytes and standard error of a process."""
    start = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    error = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.monotonic() - start
    if status != 0:
        raise SystemExit(f"{command}: {error}")
    return wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, error


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bin", required=True, type=pathlib.Path, help="folder of the programs")
    parser.add_argument("--folder", required=True, type=pathlib.Path, help="folder of the generated bids")
    parser.add_argument("--events", type=int, default=4_000_000, help="events to generate; 46 of 50 are bids")
    parser.add_argument("--keys", default="1,10000,100000,1000000")
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    buzz = arguments.bin / "buzz"
    arguments.folder.mkdir(parents=True, exist_ok=True)
    print(f"{'query':5} {'format':7} {'keys':>8} {'M events/s':>11} {'per CPU-s':>10} {'epoch p50':>10} {'p99':>7} {'max':>7} "
          f"{'memory MB':>10} {'floor s':>8} {'stream s':>9}")
    for keys in arguments.keys.split(","):
        generate(buzz, arguments.folder, arguments.events, keys)
        for fmt in ("json", "arrow"):
            data = arguments.folder / f"{fmt}-{keys}-{arguments.events}"
            for name, query in QUERIES.items():
                script = f"""CREATE TABLE bids (auction BIGINT, price BIGINT, date_time TIMESTAMP, WATERMARK FOR date_time)
                    WITH (connector = 'filesystem', format = '{fmt}', path = '{data}');
                    CREATE TABLE out WITH (connector = 'blackhole', type = 'sink');
                    SET epoch_rows = 500000;
                    {query}"""
                best = min((measure(buzz, script) for _ in range(arguments.runs)), key=lambda m: m["wall"])
                floor = floor_of(arguments.bin, name, keys, arguments) if fmt == "arrow" else ""
                events = best["rows"]
                print(f"{name:5} {fmt:7} {keys:>8} {events / best['wall'] / 1e6:>11.2f} {events / best['cpu'] / 1e6:>10.2f} "
                      f"{best['p50']:>10.3f} {best['p99']:>7.3f} {best['max']:>7.3f} {best['memory']:>10.0f} {floor:>8} "
                      f"{best['wall']:>9.2f}", flush=True)
    state(buzz)


def generate(buzz, folder, events, keys):
    targets = {fmt: folder / f"{fmt}-{keys}-{events}" for fmt in ("json", "arrow", "parquet")}
    if all(target.exists() for target in targets.values()):
        return
    script = f"""CREATE TABLE nexmark WITH (connector = 'nexmark', event_rate = '400000', events = '{events}',
        real_time = 'false', keys = '{keys}');
        CREATE VIEW b AS SELECT bid.auction AS auction, bid.bidder AS bidder, bid.price AS price, bid.channel AS channel,
        bid.url AS url, date_time FROM nexmark WHERE bid IS NOT NULL;\n"""
    for fmt, target in targets.items():
        script += f"""CREATE TABLE {fmt}_out WITH (connector = 'filesystem', format = '{fmt}', path = '{target}',
            type = 'sink', rows_per_file = '500000'); INSERT INTO {fmt}_out SELECT * FROM b;\n"""
    run_script(buzz, script)


def run_script(buzz, script, *options):
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as file:
        file.write(script)
        file.flush()
        return run([buzz, "stream", "run", file.name, "--until-end", *options])


def measure(buzz, script):
    wall, cpu, memory, error = run_script(buzz, script)
    number = lambda name: float(re.search(name + r": ([\d.]+)", error).group(1))
    return {"wall": wall, "cpu": cpu, "memory": memory, "rows": number("rows in"), "p50": number("epoch p50"),
            "p99": number("p99"), "max": number("max")}


def floor_of(folder, name, keys, arguments):
    """Seconds of the same aggregate as one batch query over the same rows in Parquet, by plain DataFusion."""
    table = arguments.folder / f"parquet-{keys}-{arguments.events}"
    sql = f"SELECT count(*) FROM ({FLOOR[name]})"
    walls = [run([folder / "plain-datafusion", "2", sql, f"bids={table}"])[0] for _ in range(arguments.runs)]
    return f"{min(walls):.2f}"


def state(buzz):
    """State over a million slices: a tumbling window of 10 ms at 100 events per second, with a file per epoch."""
    with tempfile.TemporaryDirectory() as folder:
        script = """CREATE TABLE impulse WITH (connector = 'impulse', event_rate = '100', events = '1000000', real_time = 'false');
            CREATE TABLE out WITH (connector = 'blackhole', type = 'sink');
            SET epoch_rows = 10000;
            INSERT INTO out SELECT counter % 10 AS k, count(*), hop(interval '10 milliseconds', interval '50 milliseconds') AS w
            FROM impulse GROUP BY 1, w;"""
        run_script(buzz, script, "--state", folder, "--name", "state", "--no-sync")
        listed = subprocess.run([buzz, "stream", "epochs", "--state", folder, "--last", "200"], capture_output=True, text=True)
        sizes = [int(line.split()[5]) for line in listed.stdout.splitlines()[4:] if line.split()[5].isdigit()]
        print(f"state over 1,000,000 slices: {len(sizes)} epochs, {min(sizes)} to {max(sizes)} bytes")


if __name__ == "__main__":
    main()
