#!/usr/bin/env python3
"""Runs the aggregates of `stream.py` in bytewax, in one process, over a file of JSON lines.

`q5` counts bids by auction and `hop(2 s, 10 s)`, without the choice of the best auctions; `q7` has maximum, count and sum by
`tumble(10 s)`. Rows of closed windows are counted and discarded. No state is kept. Prints the number of rows.
"""
import argparse
import json
from datetime import datetime, timedelta, timezone

import bytewax.operators as op
import bytewax.operators.windowing as windowing
from bytewax.connectors.files import FileSource
from bytewax.dataflow import Dataflow
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from bytewax.testing import run_main

START = datetime(1970, 1, 1, tzinfo=timezone.utc)
WINDOWS = {
    "q5": windowing.SlidingWindower(length=timedelta(seconds=10), offset=timedelta(seconds=2), align_to=START),
    "q7": windowing.TumblingWindower(length=timedelta(seconds=10), align_to=START),
}


class Counted(StatelessSinkPartition):
    """Counts rows and discards them."""

    rows = 0

    def write_batch(self, items):
        Counted.rows += len(items)


class Discarded(DynamicSink):
    def build(self, step_id, worker_index, worker_count):
        return Counted()


def parsed(line):
    bid = json.loads(line)
    time = datetime.fromisoformat(bid["date_time"]).replace(tzinfo=timezone.utc)
    return str(bid["auction"]), (time, bid["price"])


def flow(query, path):
    dataflow = Dataflow("bench")
    lines = op.input("lines", dataflow, FileSource(path, batch_size=10_000))
    bids = op.map("parsed", lines, parsed)
    clock = windowing.EventClock(ts_getter=lambda bid: bid[0], wait_for_system_duration=timedelta(0))
    if query == "q5":
        start, add, merge = lambda: 0, lambda count, _: count + 1, lambda a, b: a + b
    else:
        start = lambda: (0, 0, 0)
        add = lambda state, bid: (max(state[0], bid[1]), state[1] + 1, state[2] + bid[1])
        merge = lambda a, b: (max(a[0], b[0]), a[1] + b[1], a[2] + b[2])
    closed = windowing.fold_window("windows", bids, clock, WINDOWS[query], start, add, merge)
    op.output("out", closed.down, Discarded())
    return dataflow


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("query", choices=sorted(WINDOWS))
    parser.add_argument("file")
    arguments = parser.parse_args()
    run_main(flow(arguments.query, arguments.file))
    print(Counted.rows)


if __name__ == "__main__":
    main()
