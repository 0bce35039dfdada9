#!/usr/bin/env python3
"""Measures continuous queries: two queries, two formats, four numbers of keys. Prints Markdown.

Each measurement is a new process. Events per second are bids by the wall clock and per CPU-second, of the best of several
runs; epochs have 500,000 bids. Next to it stand

- the floor: plain DataFusion with the same rows in the same format as one batch query, without state or epochs,
- the same run with a state: its files and records are on the disk before each epoch ends,
- bytewax and pathway, other engines, if `--tools` names a Python that has them, over the first bids.

Then: the state over a million slices, and a key that 90 % of the bids have.
"""

import argparse
import datetime
import os
import pathlib
import re
import subprocess
import sys
import tempfile

from measure import measure

QUERIES = {
    # Query 5 of Nexmark: the auctions with the most bids of 10 s, every 2 s.
    "q5": """INSERT INTO out SELECT auction, n, w FROM (SELECT *, rank() OVER (PARTITION BY w ORDER BY n DESC) AS r FROM (
        SELECT auction, count(*) AS n, hop(interval '2 seconds', interval '10 seconds') AS w FROM bids GROUP BY 1, 3))
        WHERE r = 1;""",
    # Like query 7: highest bid, number and sum per key and 10 s.
    "q7": """INSERT INTO out SELECT auction, max(price), count(*), sum(price), tumble(interval '10 seconds') AS w
        FROM bids GROUP BY 1, w;""",
}
# The outer aggregates read all columns, so that the optimizer removes none.
FLOOR = {
    "q5": """SELECT count(*), sum(n) FROM (SELECT *, rank() OVER (PARTITION BY w ORDER BY n DESC) AS r FROM (
        SELECT auction, s - back AS w, sum(n) AS n FROM (SELECT auction, date_bin(interval '2 seconds',
        CAST(date_time AS TIMESTAMP)) AS s, count(*) AS n FROM bids GROUP BY 1, 2) CROSS JOIN (VALUES (interval '0 seconds'),
        (interval '2 seconds'), (interval '4 seconds'), (interval '6 seconds'), (interval '8 seconds')) AS v(back)
        GROUP BY 1, 2)) WHERE r = 1""",
    "q7": """SELECT count(*), sum(most), sum(n), sum(total) FROM (SELECT auction, date_bin(interval '10 seconds',
        CAST(date_time AS TIMESTAMP)) AS s, max(price) AS most, count(*) AS n, sum(price) AS total FROM bids GROUP BY 1, 2)""",
}
ENGINES = ("bytewax", "pathway")
FORMATS = {"json": "NDJSON", "arrow": "Arrow"}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", required=True, type=pathlib.Path, help="folder of the programs")
    parser.add_argument("--folder", required=True, type=pathlib.Path, help="folder of the generated bids")
    parser.add_argument("--events", type=int, default=4_000_000, help="events to generate; 46 of 50 are bids")
    parser.add_argument("--keys", default="1,10000,100000,1000000")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--tools", type=pathlib.Path, help="a Python with other engines")
    parser.add_argument("--tool-events", type=int, default=200_000, help="bids for other engines")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    print(f"Measured on {datetime.date.today():%d %B %Y} with {os.cpu_count()} processors; {arguments.events * 46 // 50:,} bids at "
          f"368,000 per second of event time; best of {arguments.runs} runs. The load of the machine was "
          f"{os.getloadavg()[0]:.1f} at the start.\n")
    windows(arguments)
    if arguments.tools:
        other_engines(arguments)
    slices(arguments)
    hot_key(arguments)


def table(*columns):
    """Prints the head of a table and returns the function that prints a row of it."""
    def row(*values):
        print("| " + " | ".join(str(value) for value in values) + " |", flush=True)

    row(*columns)
    row(*("---:" if number else "---" for number, _ in enumerate(columns)))
    return row


def windows(arguments):
    row = table("query, format", "keys", "M events/s", "per CPU-s", "floor, per CPU-s", "with state, per CPU-s",
                "epoch p50, s", "p99", "longest", "with state", "memory, MB", "state, MB")
    for keys in arguments.keys.split(","):
        data = generate(arguments, keys)
        for fmt, shown in FORMATS.items():
            for name, query in QUERIES.items():
                script = script_of(query, fmt, data[fmt])
                runs = [stream(arguments, script) for _ in range(arguments.runs)]
                best = min(runs, key=lambda run: run["wall"])
                kept = min((with_state(arguments, script) for _ in range(arguments.runs)), key=lambda run: run["wall"])
                events, floor = best["rows"], floor_of(arguments, name, data[fmt])
                row(f"{name}, {shown}", f"{int(keys):,}", millions(events / best["wall"]), millions(events / best["cpu"]),
                    millions(events / floor), millions(events / kept["cpu"]), f"{best['p50']:.3f}", f"{best['p99']:.3f}",
                    f"{best['max']:.3f}", f"{kept['max']:.3f}", f"{best['memory']:.0f}", f"{kept['state'] / 1e6:.1f}")
    print()


def millions(number):
    return f"{number / 1e6:.2f}"


def script_of(query, fmt, folder):
    return f"""CREATE TABLE bids (auction BIGINT, price BIGINT, date_time TIMESTAMP, WATERMARK FOR date_time)
        WITH (connector = 'filesystem', format = '{fmt}', path = '{folder}');
        CREATE TABLE out WITH (connector = 'blackhole', type = 'sink');
        SET epoch_rows = 500000;
        {query}"""


def generate(arguments, keys, hot_percent=0):
    """Writes the bids in both formats, unless they exist, and returns their folders."""
    name = f"{keys}-{arguments.events}" + (f"-hot{hot_percent}" if hot_percent else "")
    targets = {fmt: arguments.folder / f"{fmt}-{name}" for fmt in FORMATS}
    done = arguments.folder / f"{name}.done"
    if not done.exists():
        script = f"""CREATE TABLE nexmark WITH (connector = 'nexmark', event_rate = '400000', events = '{arguments.events}',
            real_time = 'false', keys = '{keys}', hot_percent = '{hot_percent}');
            CREATE VIEW b AS SELECT bid.auction AS auction, bid.bidder AS bidder, bid.price AS price, bid.channel AS channel,
            bid.url AS url, date_time FROM nexmark WHERE bid IS NOT NULL;\n"""
        for fmt, target in targets.items():
            for file in target.glob("*"):
                file.unlink()
            script += f"""CREATE TABLE {fmt}_out WITH (connector = 'filesystem', format = '{fmt}', path = '{target}',
                type = 'sink', rows_per_file = '500000'); INSERT INTO {fmt}_out SELECT * FROM b;\n"""
        stream(arguments, script)
        done.touch()
    return targets


def stream(arguments, script, *options):
    """Runs a script to the end of its sources."""
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as file:
        file.write(script)
        file.flush()
        run = measure([str(arguments.bin / "buzz"), "stream", "run", file.name, "--until-end", *options])

    def number(name):
        found = re.search(name + r": ([\d.]+)", run.stderr)
        if not found:
            sys.exit(f"the summary has no `{name}`:\n{run.stderr}")
        return float(found.group(1))

    return {"wall": run.seconds, "cpu": run.cpu_seconds, "memory": run.megabytes, "rows": number("rows in"),
            "p50": number("epoch p50"), "p99": number("p99"), "max": number("max")}


def with_state(arguments, script, *options):
    """Runs a script with a state, and adds the largest number of bytes that an epoch has."""
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        run = stream(arguments, script, "--state", folder, "--name", "bench", *options)
        run["sizes"] = state_bytes(arguments, folder)
    run["state"] = max(run["sizes"], default=0)
    return run


def state_bytes(arguments, folder):
    """Returns the bytes of the state in each epoch."""
    command = [str(arguments.bin / "buzz"), "stream", "epochs", "--state", folder, "--last", "100000"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    head = next(number for number, line in enumerate(listed) if "state bytes" in line)
    end = listed[head].index("state bytes") + len("state bytes")
    return [int(line[:end].split()[-1]) for line in listed[head + 1:]]


def floor_of(arguments, name, folder):
    """Returns the CPU-seconds of the same statement as one batch query over the same files, by plain DataFusion."""
    command = [str(arguments.bin / "plain-datafusion"), "2", FLOOR[name], f"bids={folder}/"]
    return min(measure(command).cpu_seconds for _ in range(arguments.runs))


def other_engines(arguments):
    """Compares with other engines over the first bids as JSON lines. The time of their start, without bids, is left out."""
    found = [engine for engine in ENGINES if subprocess.run(
        [str(arguments.tools), "-c", f"import {engine}"], capture_output=True, check=False).returncode == 0]
    if not found:
        return
    print(f"Other engines in one process each, and Buzz with its start, over {arguments.tool_events:,} bids of 10,000 keys in one "
          "file of JSON lines, in M events per CPU-second:\n")
    row = table("aggregate", *found, "Buzz")
    lines = arguments.folder / f"first-{arguments.tool_events}"
    lines.mkdir(exist_ok=True)
    source = sorted(generate(arguments, "10000")["json"].glob("*.json"))[0]
    with open(source, encoding="utf-8") as bids, open(lines / "bids.json", "w", encoding="utf-8") as first:
        count = sum(first.write(line) > 0 for line, _ in zip(bids, range(arguments.tool_events)))
    empty = lines.with_name("first-0.json")
    empty.write_text("")
    for name, shown in (("q5", "count by hop(2 s, 10 s)"), ("q7", "max, count, sum by tumble(10 s)")):
        def cpu(engine, path):
            script = pathlib.Path(__file__).with_name(f"stream_{engine}.py")
            return measure([str(arguments.tools), str(script), name, str(path)]).cpu_seconds

        rates = []
        for engine in found:
            seconds = min(cpu(engine, lines / "bids.json") for _ in range(arguments.runs)) - cpu(engine, empty)
            rates.append(count / max(seconds, 1e-9))
        rates.append(count / min(stream(arguments, script_of(QUERIES[name], "json", lines))["cpu"] for _ in range(arguments.runs)))
        row(shown, *(f"{rate / 1e6:.3f}" for rate in rates))
    print()


def slices(arguments):
    """State over a million slices of 10 ms, 100 events per second, with a state file per epoch."""
    script = """CREATE TABLE impulse WITH (connector = 'impulse', event_rate = '100', events = '1000000', real_time = 'false');
        CREATE TABLE out WITH (connector = 'blackhole', type = 'sink');
        SET epoch_rows = 10000;
        INSERT INTO out SELECT counter % 10 AS k, count(*), hop(interval '10 milliseconds', interval '50 milliseconds') AS w
        FROM impulse GROUP BY 1, w;"""
    sizes = with_state(arguments, script, "--no-sync")["sizes"]
    # The newest is first. In the last epoch of a source that ends, nothing is open.
    sizes = [size for size in sizes if size > 0]
    half = len(sizes) // 2
    newer, older = sizes[:half], sizes[half:]
    print(f"State over 1,000,000 slices, in {len(sizes)} epochs: {min(older):,} to {max(older):,} bytes in the first half, "
          f"{min(newer):,} to {max(newer):,} in the second.")
    if max(newer) > 2 * max(older):
        sys.exit("error: the state grows with the slices")


def hot_key(arguments):
    """A key that 90 % of the bids have, next to keys that have about the same number."""
    query = QUERIES["q7"]
    rates = []
    for hot_percent in (0, 90):
        folder = generate(arguments, "100000", hot_percent)["arrow"]
        best = min((stream(arguments, script_of(query, "arrow", folder)) for _ in range(arguments.runs)),
                   key=lambda run: run["wall"])
        rates.append(f"{millions(best['rows'] / best['cpu'])} (longest epoch {best['max']:.3f} s, {best['memory']:.0f} MB)")
    print(f"q7, Arrow, 100,000 keys, M events per CPU-second: {rates[0]}; if one key has 90 % of the bids: {rates[1]}.")


if __name__ == "__main__":
    main()
