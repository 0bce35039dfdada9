#!/usr/bin/env python3
"""Measures the time from an event that is posted to the row that a pipeline makes of it.

A server takes events at a fixed rate and runs a pipeline with `epoch = '200ms'` that prints each of them, which a client follows
as server-sent events. The time of an event is the moment before its request is sent; the other end is the moment at which its
row was received. Both are of one clock. Prints percentiles for each rate; the rows that arrived must be all events, once each.
"""

import argparse
import json
import multiprocessing
import pathlib
import tempfile
import threading
import time

from pushed import Poster, Server, share

SCRIPT = """SET epoch = '{epoch}';
CREATE TABLE events (id BIGINT, sent BIGINT) WITH (connector = 'http', path = '{folder}/streams');
SELECT id, sent FROM events;
"""


def post(server, rate, per_request, seconds, worker, workers, results):
    """Posts the share of one of `workers` clients of `rate` events per second, at even distances."""
    poster = Poster(server, "events")
    every, sent, late = per_request * workers / rate, 0, 0.0
    begin = time.monotonic() + worker * per_request / rate
    number = 0
    while number * every < seconds:
        due = begin + number * every
        if (wait := due - time.monotonic()) > 0:
            time.sleep(wait)
        late = max(late, time.monotonic() - due)
        now = time.monotonic_ns()
        first = (worker << 40) + number * per_request
        rows = "".join(f'{{"id":{first + row},"sent":{now}}}\n' for row in range(per_request)).encode()
        status = poster.post(rows, f"{worker}-{number}")
        if status != 200:
            raise SystemExit(f"a request was answered with {status}")
        sent += per_request
        number += 1
    results.put((sent, late))


def follow(server, pipeline, seen, stop):
    """Notes when the rows of a pipeline arrive, by id, until `stop` is set."""
    with server.connect() as connection:
        connection.settimeout(0.2)
        connection.sendall(server.head("GET", f"/api/v1/pipelines/{pipeline}/jobs/job_{pipeline}/output"))
        rest = b""
        while not stop.is_set():
            try:
                piece = connection.recv(1 << 20)
            except TimeoutError:
                continue
            if not piece:
                return
            now = time.monotonic_ns()
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                if line.startswith(b"data:") and b'"value"' in line:
                    row = json.loads(json.loads(line[5:])["value"])
                    seen.append((row["id"], now - row["sent"]))


def measure(buzz, rate, arguments):
    per_request = max(1, rate // 100)
    workers = 8
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        server = Server(buzz, folder, state=True)
        seen, stop = [], threading.Event()
        try:
            script = SCRIPT.format(folder=folder, epoch=arguments.epoch)
            server.must("POST", "/api/v1/pipelines", {"name": "latency", "query": script, "parallelism": 1})
            while server.must("GET", "/api/v1/pipelines/latency/jobs")["data"][0]["state"] != "Running":
                time.sleep(0.1)
            follower = threading.Thread(target=follow, args=(server, "latency", seen, stop))
            follower.start()
            results = multiprocessing.Queue()
            posters = [multiprocessing.Process(target=post, args=(server, rate, per_request, arguments.seconds, worker, workers, results))
                       for worker in range(workers)]
            for poster in posters:
                poster.start()
            outcomes = [results.get(timeout=arguments.seconds + 120) for _ in posters]
            sent, late = sum(outcome[0] for outcome in outcomes), max(outcome[1] for outcome in outcomes)
            end = time.monotonic() + 60
            while len(seen) < sent and time.monotonic() < end:
                time.sleep(0.1)
        finally:
            stop.set()
            server.kill()
        follower.join()
    ids = [row[0] for row in seen]
    if len(ids) != sent or len(set(ids)) != sent:
        raise SystemExit(f"{sent} events were posted, and {len(ids)} rows arrived, {len(set(ids))} different ones")
    times = sorted(row[1] / 1e6 for row in seen)
    print(f"{rate:>8} {per_request:>8} {sent:>9} {share(times, 50):>8.0f} {share(times, 90):>8.0f} {share(times, 99):>8.0f} {times[-1]:>8.0f} "
          f"{late * 1000:>8.0f}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bin", required=True, type=pathlib.Path, help="folder of the programs")
    parser.add_argument("--folder", required=True, type=pathlib.Path, help="folder on the disk that is measured")
    parser.add_argument("--rates", default="100,10000", help="events per second")
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--epoch", default="200ms")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    buzz = (arguments.bin / "buzz").resolve()
    print(f"epoch = '{arguments.epoch}'; milliseconds from an event to its row, and by which the latest request was late")
    print(f"{'events/s':>8} {'per POST':>8} {'events':>9} {'p50':>8} {'p90':>8} {'p99':>8} {'longest':>8} {'late':>8}")
    for rate in arguments.rates.split(","):
        measure(buzz, int(rate), arguments)


if __name__ == "__main__":
    main()
