#!/usr/bin/env python3
"""Measures how many events per second `buzz serve` keeps: requests of 1 to 1,000 events, 1 to 1,000,000 keys.

Each row is a run of its own: a server on a new folder, clients in processes of their own that keep their connections open, and, with
--pipeline, a pipeline that follows the stream. A response means that the events are on the disk, and at the end the server
must have counted each event. Prints events per second by the wall clock, and per CPU-second of the server.
"""

import argparse
import json
import multiprocessing
import os
import pathlib
import random
import re
import secrets
import signal
import socket
import subprocess
import tempfile
import time

PIPELINE = """CREATE TABLE events (user_id BIGINT, amount BIGINT, ts TIMESTAMP, WATERMARK FOR ts AS ts - INTERVAL '1 second')
    WITH (connector = 'http', path = '{folder}/streams', idle_timeout = '2s');
CREATE TABLE out WITH (connector = 'blackhole', type = 'sink');
INSERT INTO out SELECT user_id, count(*), sum(amount), tumble(interval '10 seconds') AS w FROM events GROUP BY user_id, w;
"""


def body(events, keys, rng):
    """NDJSON of `events` events."""
    now = time.time()
    row = lambda: json.dumps({"user_id": rng.randrange(keys), "amount": rng.randrange(1000), "page": "/items/%06d" % rng.randrange(10**6),
                              "ts": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now + rng.random()))})
    return "".join(row() + "\n" for _ in range(events)).encode()


def client(seed, address, key, events, keys, seconds, results):
    """Sends requests for `seconds` and puts the number of kept events and of refused requests into `results`."""
    rng = random.Random(seed)
    bodies = [body(events, keys, rng) for _ in range(max(4, min(200, 20_000 // events)))]
    host, port = address
    connection = socket.create_connection((host, port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    reader = connection.makefile("rb")
    kept = refused = number = 0
    latencies = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        rows = bodies[number % len(bodies)]
        head = (f"POST /v1/streams/events HTTP/1.1\r\nHost: {host}:{port}\r\nAuthorization: Bearer {key}\r\n"
                f"Idempotency-Key: {seed}-{number}\r\nContent-Type: application/x-ndjson\r\nContent-Length: {len(rows)}\r\n\r\n")
        start = time.monotonic()
        connection.sendall(head.encode() + rows)
        status = int(reader.readline().split()[1])
        length = 0
        while (line := reader.readline().strip()):
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        answer = reader.read(length)
        number += 1
        if status == 200:
            kept += events
            latencies.append(time.monotonic() - start)
        elif status == 429:
            refused += 1
            time.sleep(0.05)
        else:
            raise SystemExit(f"{status}: {answer.decode()}")
    latencies.sort()
    results.put((kept, refused, latencies[len(latencies) // 2] if latencies else 0, latencies[len(latencies) * 99 // 100] if latencies else 0))


def cpu_seconds(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def start(buzz, folder):
    """Starts a server and returns the process, its address and its key."""
    key = secrets.token_hex(16)
    log = open(folder / "server.log", "w+")
    command = [buzz, "serve", "--streams", folder / "streams", "--listen", "127.0.0.1:0", "--postgres", "127.0.0.1:0"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log, cwd=folder, env={**os.environ, "BUZZ_KEY": key})
    while True:
        found = re.search(r"^HTTP: +http://([\d.]+):(\d+)$", (folder / "server.log").read_text(), re.MULTILINE)
        if found:
            return process, (found.group(1), int(found.group(2))), key
        if process.poll() is not None:
            raise SystemExit((folder / "server.log").read_text())
        time.sleep(0.05)


def counted(address, key):
    """Returns the stream as the server describes it."""
    with socket.create_connection(address) as connection:
        connection.sendall((f"GET /v1/streams/events HTTP/1.1\r\nHost: {address[0]}:{address[1]}\r\nAuthorization: Bearer {key}\r\n"
                            "Connection: close\r\n\r\n").encode())
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    return json.loads(answer.split(b"\r\n\r\n", 1)[1])


def measure(buzz, events, keys, arguments):
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        folder = pathlib.Path(folder)
        server, address, key = start(buzz, folder)
        pipeline = None
        try:
            if arguments.pipeline:
                (folder / "pipeline.sql").write_text(PIPELINE.format(folder=folder))
                pipeline = subprocess.Popen([buzz, "stream", "run", folder / "pipeline.sql", "--state", folder / "state"],
                                            stdout=subprocess.DEVNULL, stderr=open(folder / "pipeline.log", "w"))
            results = multiprocessing.Queue()
            clients = [multiprocessing.Process(target=client, args=(seed, address, key, events, keys, arguments.seconds, results))
                       for seed in range(arguments.clients)]
            before, started = cpu_seconds(server.pid), time.monotonic()
            for process in clients:
                process.start()
            outcomes = [results.get(timeout=arguments.seconds + 120) for _ in clients]
            for process in clients:
                process.join()
            wall, cpu = time.monotonic() - started, cpu_seconds(server.pid) - before
            if pipeline and pipeline.poll() is not None:
                raise SystemExit((folder / "pipeline.log").read_text())
            stream = counted(address, key)
        finally:
            for process in filter(None, (pipeline, server)):
                process.send_signal(signal.SIGKILL)
                process.wait()
    kept = sum(outcome[0] for outcome in outcomes)
    if stream["rows"] != kept:
        raise SystemExit(f"{kept} events were acknowledged, and {stream['rows']} are in the stream")
    print(f"{events:>8} {keys:>8} {kept / wall:>11.0f} {kept / max(cpu, 0.01):>13.0f} {stream['segments'] / wall:>11.1f} "
          f"{max(outcome[2] for outcome in outcomes) * 1000:>8.1f} {max(outcome[3] for outcome in outcomes) * 1000:>8.1f} "
          f"{sum(outcome[1] for outcome in outcomes):>8}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bin", required=True, type=pathlib.Path, help="folder of the programs")
    parser.add_argument("--folder", required=True, type=pathlib.Path, help="folder on the disk that is measured")
    parser.add_argument("--events", default="1,10,100,1000", help="events per request")
    parser.add_argument("--keys", default="1,10000,90000,1000000")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--pipeline", action="store_true", help="a pipeline follows the stream")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    buzz = (arguments.bin / "buzz").resolve()
    print(f"{'per POST':>8} {'keys':>8} {'events/s':>11} {'per CPU-s':>13} {'segments/s':>11} {'p50 ms':>8} {'p99 ms':>8} {'refused':>8}")
    for events in arguments.events.split(","):
        for keys in arguments.keys.split(","):
            measure(buzz, int(events), int(keys), arguments)


if __name__ == "__main__":
    main()
