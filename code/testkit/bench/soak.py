#!/usr/bin/env python3
"""Runs a server and a pipeline for a long time at half of the rate that they reach, and shows what grows.

First, clients send as fast as they can for `--probe` seconds, and the rate at which the pipeline has read the rows is the one that
is reached. Then they send at half of it. At even distances a line is printed: memory of the server, files and bytes of the state
and of the streams, rows that were kept and not read yet, and the longest request. At the end the sums of the windows must be
those of the rows that were kept. Fails if memory, files of the state or the rows that wait grow from the second quarter to the
last by more than half.
"""

import argparse
import json
import multiprocessing
import pathlib
import random
import tempfile
import time

from pushed import Poster, Server, share

SCRIPT = """SET epoch = '1s';
CREATE TABLE events (user_id BIGINT, amount BIGINT, ts TIMESTAMP, WATERMARK FOR ts AS ts - INTERVAL '30 seconds')
    WITH (connector = 'http', path = '{folder}/streams', idle_timeout = '2s');
CREATE TABLE out WITH (connector = 'json', path = '{folder}/out', roll = '1 minute', type = 'sink');
INSERT INTO out SELECT count(*) AS events, sum(amount) AS amount, count(DISTINCT user_id) AS users, tumble(interval '10 seconds') AS w
    FROM events GROUP BY w;
"""
PER_REQUEST = 100


def body(keys, rng):
    """NDJSON of events of now."""
    now = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime())
    rows = (f'{{"user_id":{rng.randrange(keys)},"amount":1,"ts":"{now}"}}\n' for _ in range(PER_REQUEST))
    return "".join(rows).encode()


def client(server, seed, keys, rate, end, kept, longest):
    """Posts events until `end`: `rate` per second, or as many as possible with 0."""
    rng, poster, number = random.Random(seed), Poster(server, "events"), 0
    begin = time.monotonic()
    while time.monotonic() < end:
        if rate and (wait := begin + number * PER_REQUEST / rate - time.monotonic()) > 0:
            time.sleep(wait)
        started = time.monotonic()
        key = f"{seed}-{begin}-{number}"
        status = poster.post(body(keys, rng), key)
        if status == 200:
            with kept.get_lock():
                kept.value += PER_REQUEST
            longest.value = max(longest.value, time.monotonic() - started)
        elif status == 429:
            time.sleep(0.2)
        else:
            raise SystemExit(f"a request was answered with {status}")
        number += 1


def rows_read(server):
    """Rows that the pipeline has read, by the metrics of the server."""
    with server.connect() as connection:
        connection.sendall(server.head("GET", "/metrics", more="Connection: close\r\n"))
        text = b"".join(iter(lambda: connection.recv(65536), b"")).decode()
    counts = [line for line in text.splitlines() if line.startswith("buzz_stream_rows_in_total")]
    return sum(int(float(line.rsplit(" ", 1)[1])) for line in counts)


def size(folder):
    """Files and bytes below a folder."""
    files = bytes_ = 0
    for path in pathlib.Path(folder).rglob("*"):
        try:
            if path.is_file():
                files, bytes_ = files + 1, bytes_ + path.stat().st_size
        except FileNotFoundError:
            pass
    return files, bytes_


def run(server, arguments, rate, seconds, each=None):
    """Runs clients. Calls `each` with the time, the kept rows and the longest request since the call before."""
    kept, longest = multiprocessing.Value("q", 0), multiprocessing.Value("d", 0)
    end = time.monotonic() + seconds
    clients = [multiprocessing.Process(target=client, args=(server, seed, arguments.keys, rate / arguments.clients, end, kept, longest))
               for seed in range(arguments.clients)]
    started = time.monotonic()
    for process in clients:
        process.start()
    while time.monotonic() < end:
        time.sleep(max(0, min(arguments.every, end - time.monotonic())))
        if each:
            each(time.monotonic() - started, kept.value, longest.value)
            longest.value = 0
    for process in clients:
        process.join()
        if process.exitcode:
            raise SystemExit("a client has failed")
    return kept.value


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bin", required=True, type=pathlib.Path, help="folder of the programs")
    parser.add_argument("--folder", required=True, type=pathlib.Path, help="folder on the disk that is measured")
    parser.add_argument("--seconds", type=float, default=1800)
    parser.add_argument("--probe", type=float, default=20, help="seconds in which the rate is found")
    parser.add_argument("--every", type=float, default=10, help="seconds between two lines")
    parser.add_argument("--clients", type=int, default=2)
    parser.add_argument("--keys", type=int, default=10_000)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    buzz = (arguments.bin / "buzz").resolve()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        server = Server(buzz, folder, state=True)
        try:
            soak(server, folder, arguments)
        finally:
            server.kill()


def soak(server, folder, arguments):
    server.must("POST", "/api/v1/pipelines", {"name": "soak", "query": SCRIPT.format(folder=folder), "parallelism": 2})
    started = time.monotonic()
    probed = run(server, arguments, 0, arguments.probe)
    while rows_read(server) < probed:
        if server.must("GET", "/api/v1/pipelines/soak/jobs")["data"][0]["state"] == "Failed":
            raise SystemExit(server.must("GET", "/api/v1/pipelines/soak/jobs"))
        time.sleep(0.2)
    reached = probed / (time.monotonic() - started)
    rate = reached / 2
    print(f"reached {reached:,.0f} events/s, each of which was kept and read; from here on {rate:,.0f}")
    print(f"{'seconds':>8} {'events':>11} {'waiting':>9} {'memory MB':>10} {'state files':>11} {'state MB':>9} {'stream files':>12} "
          f"{'stream MB':>9} {'longest ms':>10}", flush=True)
    lines = []

    def each(seconds, kept, longest):
        state, streams = size(f"{folder}/state"), size(f"{folder}/streams")
        waiting = max(0, probed + kept - rows_read(server))
        lines.append((server.resident() / 1e6, state[0], waiting))
        print(f"{seconds:>8.0f} {kept:>11} {waiting:>9} {lines[-1][0]:>10.0f} {state[0]:>11} {state[1] / 1e6:>9.1f} {streams[0]:>12} "
              f"{streams[1] / 1e6:>9.1f} {longest * 1000:>10.0f}", flush=True)

    kept = run(server, arguments, rate, arguments.seconds, each) + probed
    check(server, folder, kept)
    quarter = len(lines) // 4
    for name, at, least in (("memory", 0, 300), ("files of the state", 1, 500), ("rows that wait", 2, rate * 5)):
        before, after = (share(sorted(line[at] for line in part), 50) for part in (lines[quarter:2 * quarter], lines[-quarter:]))
        if quarter and after > max(least, before * 1.5):
            raise SystemExit(f"{name} grew from {before:,.0f} to {after:,.0f}")
    print("nothing grew by more than half")


def check(server, folder, kept):
    """Waits until all rows are in windows that are closed, and compares the sums."""
    end, events = time.monotonic() + 180, 0
    while time.monotonic() < end:
        files = pathlib.Path(f"{folder}/out").rglob("*.json")
        rows = [json.loads(line) for file in files for line in file.read_text().splitlines() if line]
        events = sum(row["events"] for row in rows)
        if events == kept == sum(row["amount"] for row in rows):
            print(f"{kept:,} events were kept, and are in {len(rows)} windows")
            return
        time.sleep(1)
    late = server.must("GET", "/api/v1/pipelines/soak/jobs/job_soak/checkpoints")
    raise SystemExit(f"{kept} events were kept, and {events} are in windows; the last epochs: {late['data'][:3]}")


if __name__ == "__main__":
    main()
