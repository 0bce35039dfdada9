#!/usr/bin/env python3
"""Lists the queries that run on a stack, or cancels one: CANCEL=<query id>. Reads the progress that each writes to the
stack's bucket, so the caller needs the rights of an operator: a person who may only invoke Fuse must not learn the ids of
other people's queries. Queries whose caller waits for the answer of the invocation write no progress.

RESULTS=s3://bucket/prefix/ names the place of the results; without it, the configuration of Fuse does."""

import json
import os
import re
import tempfile
import time
import uuid

from stack_aws import aws, fail, function_name, stage_and_region

# No query takes longer: AWS's limit for the Fuse function, after at most 330 s of waiting in Lambda's queue.
SECONDS_MAX = 900 + 330

# Milliseconds without a report after which a query counts as lost, as in code/doors/lambda/src/function.rs.
SILENT_MAX_MS = 30_000
SUBMITTED_MAX_MS = 330_000


def place(stage):
    """Returns the bucket and the prefix of the results."""
    results = os.environ.get("RESULTS")
    if not results:
        told = aws("lambda", "get-function-configuration", "--function-name", function_name("fuse", stage), missing={})
        results = told.get("Environment", {}).get("Variables", {}).get("BUZZ_RESULTS")
        if not results:
            fail(f"function {function_name('fuse', stage)} does not exist: is the stage deployed in {os.environ['REGION']}?")
    found = re.fullmatch(r"s3://([^/]+)/?(.*)", results)
    if not found:
        fail(f"RESULTS is `{results}`; it is a place such as s3://bucket/results/")
    prefix = found[2] if not found[2] or found[2].endswith("/") else f"{found[2]}/"
    return found[1], f"{prefix}queries/"


def first_id(now):
    """Returns an id before those of all queries that may still run: the first 48 bits of an id are its milliseconds."""
    return str(uuid.UUID(int=int((now - SECONDS_MAX) * 1000) << 80))


def objects(bucket, prefix, now):
    """Returns the names of the objects of each query that may still run."""
    listed = aws(
        "s3api", "list-objects-v2", "--bucket", bucket, "--prefix", prefix, "--start-after", prefix + first_id(now),
        "--query", "Contents[].Key",
    )  # fmt: skip
    queries = {}
    for key in listed or []:
        query, _, name = key.removeprefix(prefix).partition("/")
        queries.setdefault(query, set()).add(name)
    return queries


def progress(bucket, key):
    """Returns a report of progress, or None if the object no longer exists."""
    with tempfile.NamedTemporaryFile() as file:
        got = aws("s3api", "get-object", "--bucket", bucket, "--key", key, file.name, missing=False)
        return json.load(file) if got else None


def state(report, now):
    """Returns what a query is doing: its phase, or that it was lost."""
    silent = now * 1000 - report["written_ms"]
    if report["status"] == "submitted":
        return "submitted" if silent <= SUBMITTED_MAX_MS else "never started"
    if silent > SILENT_MAX_MS:
        return "lost"
    return "cancelling" if report["status"] == "cancelling" else report["phase"]


def show(bucket, prefix, now):
    """Prints a line for each query that has not ended, the oldest first."""
    rows = []
    for query, names in sorted(objects(bucket, prefix, now).items()):
        if "progress.json" not in names or "answer.json" in names:
            continue
        report = progress(bucket, f"{prefix}{query}/progress.json")
        if report:
            tasks = f"{report['tasks_done']}/{report['tasks']}"
            seconds = f"{(report['milliseconds'] + max(0, now * 1000 - report['written_ms'])) / 1000:.0f}"
            rows.append([query, state(report, now), tasks, str(report["retries"]), f"{report['bytes_scanned'] / 1e6:.1f}", seconds])
    if not rows:
        print("no query runs")
        return
    table = [["query", "state", "tasks", "retries", "MB read", "seconds"], *rows]
    widths = [max(map(len, column)) for column in zip(*table)]
    for row in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())


def cancel(bucket, prefix, query, now):
    """Requests the cancellation of a query."""
    names = objects(bucket, prefix, now).get(query, set())
    if "progress.json" not in names:
        fail(f"query {query} does not run: none of that id began within {SECONDS_MAX // 60} minutes")
    if "answer.json" in names:
        fail(f"query {query} has ended")
    with tempfile.NamedTemporaryFile() as file:
        file.write(b"{}")
        file.flush()
        aws("s3api", "put-object", "--bucket", bucket, "--key", f"{prefix}{query}/cancel", "--body", file.name)
    print(f"query {query} ends within seconds")


def main():
    stage, _ = stage_and_region()
    (bucket, prefix), now = place(stage), time.time()
    if os.environ.get("CANCEL"):
        cancel(bucket, prefix, os.environ["CANCEL"], now)
    else:
        show(bucket, prefix, now)


if __name__ == "__main__":
    main()
