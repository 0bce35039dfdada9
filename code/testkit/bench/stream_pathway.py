#!/usr/bin/env python3
"""Runs the aggregates of `stream.py` in pathway, in one process, over a file of JSON lines.

`q5` counts bids by auction and `hop(2 s, 10 s)`, without the choice of the best auctions; `q7` has maximum, count and sum by
`tumble(10 s)`. The file is read as a whole, so windows are not closed by a watermark, and rows are counted when they are final.
No state is kept. Prints the number of rows.
"""
import argparse
import datetime

import pathway as pw

SECOND = datetime.timedelta(seconds=1)
WINDOWS = {
    "q5": pw.temporal.sliding(hop=2 * SECOND, duration=10 * SECOND),
    "q7": pw.temporal.tumbling(duration=10 * SECOND),
}


class Bid(pw.Schema):
    """The columns of a bid that are read."""

    auction: int
    price: int
    date_time: str


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("query", choices=sorted(WINDOWS))
    parser.add_argument("file")
    arguments = parser.parse_args()
    bids = pw.io.jsonlines.read(arguments.file, schema=Bid, mode="static")
    bids = bids.select(bids.auction, bids.price, time=bids.date_time.str.slice(0, 23).dt.strptime("%Y-%m-%dT%H:%M:%S%.f"))
    windows = bids.windowby(bids.time, window=WINDOWS[arguments.query], instance=bids.auction)
    if arguments.query == "q5":
        closed = windows.reduce(pw.this._pw_window_start, auction=pw.this._pw_instance, n=pw.reducers.count())
    else:
        closed = windows.reduce(
            pw.this._pw_window_start,
            auction=pw.this._pw_instance,
            most=pw.reducers.max(pw.this.price),
            n=pw.reducers.count(),
            total=pw.reducers.sum(pw.this.price),
        )
    rows = 0

    def count(key, row, time, is_addition):
        nonlocal rows
        rows += 1 if is_addition else -1

    pw.io.subscribe(closed, on_change=count)
    pw.run(monitoring_level=pw.MonitoringLevel.NONE)
    print(rows)


if __name__ == "__main__":
    main()
