#!/usr/bin/env python3
"""Prints the log of a role of the stack: ROLE=fuse|hbee|comb, SINCE=1h, and QUERY_ID=… for the lines of one query."""

import datetime
import os

from stack_aws import aws, log_group, milliseconds, since, stage_and_region


def main():
    stage, _ = stage_and_region()
    group = log_group(os.environ.get("ROLE") or "fuse", stage)
    start = since(os.environ.get("SINCE") or "1h")
    arguments = ["logs", "filter-log-events", "--log-group-name", group, "--start-time", milliseconds(start)]
    if os.environ.get("QUERY_ID"):
        arguments += ["--filter-pattern", f'"{os.environ["QUERY_ID"]}"']
    events = aws(*arguments, missing={"events": []})["events"]
    for event in sorted(events, key=lambda event: event["timestamp"]):
        time = datetime.datetime.fromtimestamp(event["timestamp"] / 1000, datetime.timezone.utc)
        print(f"{time:%Y-%m-%d %H:%M:%S} {event['message'].rstrip()}")
    if not events:
        print(f"nothing in {group} since {start:%Y-%m-%d %H:%M} UTC")


if __name__ == "__main__":
    main()
