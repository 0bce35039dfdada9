#!/usr/bin/env python3
"""Measures a deployed Buzz on this machine, and prints the figures as Markdown.

Reports the time of the example query in the local cloud by phase, Fuse's processor time to issue invocations, the
intake rate of a comb, the sizes of the packages, and the time from a function's start to its first request for an
event. Run it on an idle machine.
"""
import argparse
import asyncio
import datetime
import gzip
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

import dispatch
import shaped
from lambda_stand_in import Function
from local_cloud import local_cloud

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.join(HERE, "../../..")
QUERY = os.path.join(ROOT, "code/examples/query-delta-taxi.json")
SAMPLE_PLACE = "s3://cloudfuse-taxi-data/delta-tables/nyc-taxi-daily"
COMB_START_DELAY = 20
TASKS = 500
WIDE_TASKS = 900


def say(text):
    print(text, file=sys.stderr, flush=True)


def table(head, rows):
    lines = [head, ["---" if index == 0 else "---:" for index in range(len(head))], *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


# The example query.


def ask(endpoint, reducer):
    """Invokes the example query. Returns the caller's milliseconds and the summary of the answer."""
    with open(QUERY, encoding="utf-8") as file:
        event = {"query": json.load(file), "options": {"reducer": reducer}}
    url = f"{endpoint}/2015-03-31/functions/buzz-rust-fuse-local/invocations"
    started = time.perf_counter()
    with urllib.request.urlopen(urllib.request.Request(url, json.dumps(event).encode()), timeout=300) as answer:
        said = json.load(answer)
    milliseconds = 1000 * (time.perf_counter() - started)
    if said.get("status") != "answered":
        sys.exit(f"the example query failed: {said}")
    return milliseconds, said["summary"]


def phases(programs, sample, runs):
    """Returns the rows of the table (by reducer, cold and warm) and the summary of a query."""
    rows = []
    for reducer in ("inline", "comb"):
        cold, warm = [], []
        for _ in range(runs):
            options = ["--comb-start-delay", str(COMB_START_DELAY), "--upload", f"{sample}={SAMPLE_PLACE}"]
            with tempfile.TemporaryDirectory() as folder, local_cloud(programs, folder, *options) as endpoint:
                cold.append(ask(endpoint, reducer))
                warm += [ask(endpoint, reducer) for _ in range(5)]
        for name, measured in (("cold", cold), ("warm", warm)):
            rows.append([f"{reducer}, {name}", *phase_medians(measured)])
        say(f"example, {reducer}: done")
    return rows, cold[0][1]


def phase_medians(measured):
    """Returns medians: the caller's time, the start and call of Fuse, and the phases of the query."""

    def median(value):
        return f"{statistics.median(value(caller, summary['milliseconds']) for caller, summary in measured):.0f}"

    return [
        median(lambda caller, ms: caller),
        median(lambda caller, ms: caller - ms["total"]),
        median(lambda caller, ms: ms["open"]),
        median(lambda caller, ms: ms["plan"]),
        median(lambda caller, ms: ms["total"] - ms["open"] - ms["plan"] - ms["run"]),
        median(lambda caller, ms: ms["run"]),
    ]


# The programs.


def sizes(programs, folder):
    """Returns the rows of the table: each program with its stripped and compressed size."""
    rows = []
    for name in ("fuse_lambda", "hbee_lambda", "hcomb"):
        stripped, packed = os.path.join(folder, name), os.path.join(folder, f"{name}.zip")
        subprocess.run(["strip", "-o", stripped, os.path.join(programs, name)], check=True)
        if name == "hcomb":  # layers of an image are compressed with gzip
            with open(stripped, "rb") as source, gzip.open(packed, "wb") as target:
                shutil.copyfileobj(source, target)
        else:
            subprocess.run([sys.executable, os.path.join(ROOT, "infra/bin/zip.py"), stripped, packed], check=True)
        rows.append([name, *(f"{os.path.getsize(path) / 1e6:.1f} MB" for path in (stripped, packed))])
        say(f"size of {name}: done")
    return rows


async def starts(programs, runs, log):
    """Returns the rows of the table: milliseconds from each process start to its first request for an event."""
    rows = []
    for name in ("fuse_lambda", "hbee_lambda"):
        variables = {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "BUZZ_HBEE_FUNCTION": "hbee", "BUZZ_RESULTS": "s3://b/r/"}
        times = []
        for _ in range(runs):
            function = await Function.start(os.path.join(programs, name), 2048, variables, log)
            try:
                times.append(1000 * await function.seconds_to_next())
            finally:
                await function.stop()
        say(f"start of {name}: done")
        rows.append([name, f"{statistics.median(times):.1f} ms", f"{min(times):.1f} to {max(times):.1f} ms"])
    return rows


def intake(programs, sample):
    """Returns the rows of the table: throughput by the number of concurrent deliveries."""
    command = [os.path.join(programs, "comb-intake"), os.path.join(programs, "hcomb"), sample]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    rows = []
    for line in done.stdout.splitlines():
        said = json.loads(line)
        megabytes = said["bytes"] / 1e6
        per_second = [megabytes / said[key] for key in ("seconds", "comb_cpu_seconds", "sender_cpu_seconds")]
        rows.append([said["at_once"], *(f"{value:,.0f} MB/s" for value in per_second)])
    say("intake: done")
    return rows


def width(programs, sample, log):
    """Returns a paragraph about the tasks that run at the same time, as on AWS; nothing without the package `h2`."""
    try:
        found = asyncio.run(dispatch.width(programs, sample, log, WIDE_TASKS))
    except ModuleNotFoundError as error:
        say(f"width: left out: {error}")
        return ""
    say("width: done")
    most, connections, seconds, used, issued = found
    return f"""
Against an HTTPS server with 128 HTTP/2 streams on each connection, as Lambda has (`make bench-width`), **{most} of {WIDE_TASKS} tasks** that take
a second each ran at the same time, over {connections} connections. The query took {seconds:.1f} s with planning; Fuse's processor time is
{1000 * used:.0f} ms, of which planning takes {1000 * (used - issued):.0f} ms.
"""


def machine():
    with open("/proc/meminfo", encoding="utf-8") as file:
        gigabytes = int(re.search(r"MemTotal:\s+(\d+)", file.read()).group(1)) / (1 << 20)
    return f"a virtual machine with {os.cpu_count()} processors ({platform.machine()}) and {gigabytes:.0f} GiB"


def report(arguments, log):
    programs, sample, runs, load = arguments.bin, arguments.sample, arguments.runs, os.getloadavg()[0]
    subprocess.run([os.path.join(programs, "buzz"), "sample", sample], check=True, stdout=subprocess.DEVNULL)
    with tempfile.TemporaryDirectory() as folder:
        size_rows = sizes(programs, folder)
    start_rows = asyncio.run(starts(programs, 4 * runs + 1, log))
    asked, planned = asyncio.run(dispatch.measure(programs, sample, log, TASKS, runs))
    say("dispatch: done")
    wide = width(programs, sample, log)
    intake_rows = intake(programs, sample)
    phase_rows, summary = phases(programs, sample, runs)
    with tempfile.TemporaryDirectory() as folder:
        shaped_rows = shaped.measure(programs, sample, folder, arguments.tpch, runs)
    say("shaped store: done")
    return f"""# Figures of a deployed Buzz, on one machine

Measured on {datetime.date.today():%d %B %Y} on {machine()}, {arguments.build} build,
with `make bench-cloud`. The local cloud runs the programs as processes: without network and S3 latency, and functions
start as fast as processes. The figures are the times of Buzz alone, to which AWS adds its own; they are medians. The
load of the machine from other work was {load:.1f} at the beginning.

## The example query

`code/examples/query-delta-taxi.json` over the sample (files: {summary["files_read"]} of {summary["files_found"]}, \
tasks: {summary["tasks"]}), invoked as `aws lambda invoke` does.
Combs start {COMB_START_DELAY} seconds after the request, as on Fargate. Milliseconds:

{table(["", "caller waits", "start of Fuse, call", "open", "plan", "wait for combs, answer", "run"], phase_rows)}

*Cold*: no process runs when the query arrives. *Run* includes the start of HBees, the tasks and the reduction.

## Statements on a store that is as slow as S3

{shaped.ABOUT}

{table(shaped.HEAD, shaped_rows)}

## Dispatch

Fuse's processor time (user and system) for a query of {TASKS} tasks, with an HBee function that responds immediately, is
{1000 * asked:.0f} ms, of which planning takes {1000 * planned:.0f} ms. The remaining **{1000 * (asked - planned):.0f} ms \
for {TASKS} invocations** are spent on creating, serializing, signing and sending tasks, reading outcomes with rows,
committing them, and the final reduction.
{wide}
## Intake of a comb

Rows of the sample are delivered over loopback, with Arrow Flight, to the inbox of a comb, which stores and commits
them. Bytes are those of the batches in memory.

{table(["concurrent deliveries", "throughput", "per processor second of the comb", "of the sender"], intake_rows)}

## Programs

{table(["program", "stripped", "compressed"], size_rows)}

Functions are compressed as zips, the comb as a layer of its image. Most of each program is DataFusion: operators,
functions and kernels, compiled for every data type. AWS accepts functions of up to 250 MB unpacked.

From the start of the process to its first request for an event:

{table(["function", "median", "range"], start_rows)}
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bin", required=True, help="folder of the programs")
    parser.add_argument("--sample", required=True, help="folder of the sample table; created if it does not exist")
    parser.add_argument("--runs", type=int, default=5, help="repetitions of each measurement")
    parser.add_argument("--tpch", help="folder of the Parquet files of TPC-H, one for each table or folders; left out without it")
    parser.add_argument("--build", help="name of the build profile; by default the name of the folder")
    parser.add_argument("--output", help="output file; by default standard output")
    arguments = parser.parse_args()
    arguments.bin = os.path.abspath(arguments.bin)
    arguments.build = arguments.build or os.path.basename(arguments.bin)
    with tempfile.TemporaryFile() as log:
        try:
            text = report(arguments, log)
        except Exception:
            log.seek(0)
            sys.stderr.write(log.read().decode()[-4000:])
            raise
    if arguments.output:
        with open(arguments.output, "w", encoding="utf-8") as out:
            out.write(text)
    else:
        print(text)


if __name__ == "__main__":
    main()
