#!/usr/bin/env python3
"""Prints the cost of a stack: per day (DAYS=7), of the last queries, and while idle. Computed from the functions'
metrics, the logs of combs and of queries, the stored bytes and list prices. Excludes credits, free tiers and taxes."""

import csv
import datetime
import json
import os
from pathlib import Path

from stack_aws import aws, fail, function_name, log_group, milliseconds, name_of, stage_and_region

# List prices in dollars, of autumn 2026, as in code/hosts/aws/src/price.rs. Those of a function are the same in the regions of
# the table.
TABLE = Path(__file__).resolve().parents[2] / "code/hosts/aws/src/prices.csv"
USUAL_REGION = "us-east-2"
GB_SECOND = {"x86_64": 0.0000166667, "arm64": 0.0000133334}
FARGATE_ARM64 = 0.8
INVOCATION = 0.20 / 1e6
ADDRESS_HOUR = 0.005
STORED_GB_MONTH = {"images": 0.10, "logs": 0.03, "bucket": 0.023}
COMB_SECONDS_MIN = 60  # Fargate bills at least one minute


def prices_of(region):
    """Returns the region whose prices are taken, and its prices by column of the table."""
    with TABLE.open() as file:
        rows = {row.pop("region"): {column: float(value) for column, value in row.items()} for row in csv.DictReader(file)}
    region = region if region in rows else USUAL_REGION
    return region, rows[region]


def function(name):
    """Returns the configuration of a function: memory, processor and variables."""
    told = aws("lambda", "get-function-configuration", "--function-name", name, missing={})
    if not told:
        fail(f"function {name} does not exist: is the stage deployed in {os.environ['REGION']}?")
    return told


def daily_sums(name, metric, start, end):
    """Returns the daily sums of a metric of a function."""
    told = aws(
        "cloudwatch", "get-metric-statistics", "--namespace", "AWS/Lambda", "--metric-name", metric, "--statistics", "Sum",
        "--dimensions", f"Name=FunctionName,Value={name}", "--period", "86400",
        "--start-time", start.isoformat(), "--end-time", end.isoformat(),
    )  # fmt: skip
    return {point["Timestamp"][:10]: point["Sum"] for point in told["Datapoints"]}


def comb_seconds(stage, start):
    """Returns the seconds that combs ran, by the day of their start. A log stream spans the life of a comb."""
    seconds = {}
    told = aws("logs", "describe-log-streams", "--log-group-name", log_group("comb", stage), missing={"logStreams": []})
    for stream in told["logStreams"]:
        began = stream.get("firstEventTimestamp", stream["creationTime"]) / 1000
        ended = stream.get("lastEventTimestamp", stream["creationTime"]) / 1000
        if began >= start.timestamp():
            day = datetime.datetime.fromtimestamp(began, datetime.timezone.utc).strftime("%Y-%m-%d")
            seconds[day] = seconds.get(day, 0) + max(COMB_SECONDS_MIN, ended - began)
    return seconds


def requests_per_day(asked):
    """Returns the S3 requests of queries by day: the counts of GET and of PUT. A query that failed counts until it failed."""
    requests = {}
    for timestamp, _, fields in asked:
        day = datetime.datetime.fromtimestamp(timestamp / 1000, datetime.timezone.utc).strftime("%Y-%m-%d")
        gets, puts = requests.get(day, (0, 0))
        requests[day] = (gets + int(fields.get("get_requests") or 0), puts + int(fields.get("put_requests") or 0))
    return requests


def per_day(stage, days, requests):
    """Yields rows (day, calls of Fuse, GB-seconds, hours of combs, S3 requests, dollars), newest last."""
    today = datetime.datetime.now(datetime.timezone.utc).replace(hour=0, minute=0, second=0, microsecond=0)
    start, end = today - datetime.timedelta(days=days - 1), today + datetime.timedelta(days=1)
    fuse, hbee = function_name("fuse", stage), function_name("hbee", stage)
    told = {name: function(name) for name in (fuse, hbee)}
    variables = told[fuse].get("Environment", {}).get("Variables", {})
    processor = told[fuse].get("Architectures", ["x86_64"])[0]
    _, prices = prices_of(os.environ["REGION"])
    sums = {(name, metric): daily_sums(name, metric, start, end) for name in told for metric in ("Duration", "Invocations")}
    combs = comb_seconds(stage, start)
    vcpus, memory_gb = float(variables.get("BUZZ_COMB_VCPUS", 2)), float(variables.get("BUZZ_COMB_MEMORY_MB", 4096)) / 1024
    comb_hour = vcpus * prices["fargate_vcpu_hour"] + memory_gb * prices["fargate_gb_hour"]
    comb_hour *= FARGATE_ARM64 if processor == "arm64" else 1
    if variables.get("BUZZ_COMB_NETWORK", "public_ipv4") == "public_ipv4":
        comb_hour += ADDRESS_HOUR

    for back in range(days - 1, -1, -1):
        day = (today - datetime.timedelta(days=back)).strftime("%Y-%m-%d")
        gb_seconds = sum(sums[name, "Duration"].get(day, 0) / 1000 * told[name]["MemorySize"] / 1024 for name in told)
        invocations = sum(sums[name, "Invocations"].get(day, 0) for name in told)
        hours = combs.get(day, 0) / 3600
        gets, puts = requests.get(day, (0, 0))
        dollars = gb_seconds * GB_SECOND[processor] + invocations * INVOCATION + hours * comb_hour
        dollars += (gets * prices["s3_get_1000"] + puts * prices["s3_put_1000"]) / 1000
        yield day, sums[fuse, "Invocations"].get(day, 0), gb_seconds, hours, gets + puts, dollars


def queries(stage, start):
    """Yields the log entries of queries: timestamp, outcome and fields."""
    for outcome in ("query answered", "query failed"):
        told = aws(
            "logs", "filter-log-events", "--log-group-name", log_group("fuse", stage), "--start-time", milliseconds(start),
            "--filter-pattern", f'"{outcome}"', missing={"events": []},
        )  # fmt: skip
        for event in told["events"]:
            begin = event["message"].find("{")
            try:
                line = json.loads(event["message"][begin:])
            except ValueError:
                continue  # an unrelated line that contains the words
            fields = {**line, **line.get("fields", {})}
            if fields.get("message") == outcome:
                yield event["timestamp"], outcome, fields


def idle(stage):
    """Yields rows (kind of storage, bytes, dollars per month)."""
    repository = name_of("hcomb", stage)
    images = aws("ecr", "describe-images", "--repository-name", repository, missing={"imageDetails": []})["imageDetails"]
    logs = sum(
        group.get("storedBytes", 0)
        for role in ("fuse", "hbee", "comb")
        for group in aws("logs", "describe-log-groups", "--log-group-name-prefix", log_group(role, stage), missing={"logGroups": []})["logGroups"]
    )
    account = aws("sts", "get-caller-identity")["Account"]
    bucket = name_of(stage, f"{account}-{os.environ['REGION']}")
    objects = aws("s3api", "list-objects-v2", "--bucket", bucket, "--query", "sum(Contents[].Size || `[0]`)", missing=0) or 0
    stored = {"images": sum(image.get("imageSizeInBytes", 0) for image in images), "logs": logs, "bucket": objects}
    for what, size in stored.items():
        yield what, size, size / 1e9 * STORED_GB_MONTH[what]


def main():
    stage, region = stage_and_region()
    days = os.environ.get("DAYS") or "7"
    if not days.isdigit() or not 1 <= int(days) <= 90:
        fail(f"DAYS is `{days}`; it can be 1 to 90")
    days = int(days)
    print(f"stage {stage}, {region}; list prices of {prices_of(region)[0]}, autumn 2026, without free tiers and transfer\n")

    asked = sorted(queries(stage, datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(days=days)), key=lambda row: row[0])
    print("day          calls   GB-seconds   comb hours  S3 requests      dollars")
    total = 0.0
    for day, calls, gb_seconds, hours, requests, dollars in per_day(stage, days, requests_per_day(asked)):
        total += dollars
        print(f"{day} {calls:7.0f} {gb_seconds:12.1f} {hours:12.2f} {requests:12d} {dollars:12.4f}")
    print(f"{'':57}{total:13.4f}\n")

    print(f"{len(asked)} queries; the last ones:")
    for timestamp, outcome, fields in asked[-10:]:
        time = datetime.datetime.fromtimestamp(timestamp / 1000, datetime.timezone.utc)
        cost, tasks, read = (float(fields.get(name) or 0) for name in ("cost_usd", "tasks", "bytes_read"))
        print(f"{time:%Y-%m-%d %H:%M}  {fields.get('query_id', '?')}  {outcome.split()[1]:8} {tasks:5.0f} tasks {read / 1e6:10.1f} MB  ${cost:.6f}")

    print("\nidle, a month:")
    monthly = 0.0
    for what, size, dollars in idle(stage):
        monthly += dollars
        print(f"  {what:8} {size / 1e6:10.1f} MB  ${dollars:.4f}")
    print(f"  {'all':8} {'':13}  ${monthly:.4f}")


if __name__ == "__main__":
    main()
