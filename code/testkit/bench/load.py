#!/usr/bin/env python3
"""Queries a server with many callers at once, compares each answer, and shows memory and the shares of the callers.

The answers must be those of `buzz sql`, which runs each statement alone. The callers belong to `--users` users; each caller sends its
next statement when it has the answer of the one before. At even distances a line is printed: answers, memory of the server and
the longest query. Fails if an answer is wrong, if a query fails, if memory grows from the second quarter to the last by more than
half, or if one user has less than half of the answers of another.
"""

import argparse
import json
import os
import pathlib
import random
import re
import secrets
import signal
import subprocess
import tempfile
import threading
import time

from pushed import share

# Statements with another cost each: a filter, an aggregate, a top-k, a join, a window. Their rows are in one order.
STATEMENTS = [
    "SELECT count(*) AS n, sum(fare_amount) AS fares FROM trips WHERE passenger_count = 2",
    "SELECT payment_type, count(*) AS n, max(trip_distance) AS longest FROM trips GROUP BY payment_type ORDER BY payment_type",
    "SELECT pickup_at, trip_distance FROM trips ORDER BY trip_distance DESC, pickup_at LIMIT 20",
    "SELECT a.payment_type, count(*) AS n FROM trips a JOIN (SELECT payment_type, max(trip_distance) AS most FROM trips GROUP BY payment_type) b"
    " ON a.payment_type = b.payment_type WHERE a.trip_distance > b.most / 2 GROUP BY a.payment_type ORDER BY a.payment_type",
    "SELECT pickup_at, n FROM (SELECT pickup_at, trip_distance, row_number() OVER (PARTITION BY payment_type ORDER BY trip_distance DESC, pickup_at)"
    " AS n FROM trips) WHERE n <= 3 ORDER BY pickup_at, n LIMIT 50",
]


class Server:
    """A process `buzz serve` over one table, with a key for each user."""

    def __init__(self, buzz, folder, table, users):
        self.keys = {f"user{number}": secrets.token_hex(16) for number in range(users)}
        keys = folder / "keys.json"
        keys.write_text(json.dumps(self.keys))
        keys.chmod(0o600)
        log = folder / "server.log"
        command = [buzz, "serve", "--keys", keys, "--table", table, "--listen", "127.0.0.1:0", "--postgres", "127.0.0.1:0"]
        environment = {name: value for name, value in os.environ.items() if name != "BUZZ_KEY"}
        with open(log, "w") as output:
            self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=output, cwd=folder, env=environment)
        while True:
            found = re.search(r"^HTTP: +(http://\S+)$", log.read_text(), re.MULTILINE)
            if found:
                self.url = found.group(1)
                return
            if self.process.poll() is not None:
                raise SystemExit(log.read_text())
            time.sleep(0.05)

    def resident(self):
        """MiB of memory of the process."""
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"^VmRSS:\s+(\d+) kB", status, re.MULTILINE).group(1)) / 1024

    def stop(self):
        """Ends the process."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Caller(threading.Thread):
    """Sends statements of one user until `end`, and counts what it receives."""

    def __init__(self, server, user, seed, expected, end):
        super().__init__()
        self.server, self.user, self.rng, self.expected, self.end = server, user, random.Random(seed), expected, end
        self.seconds, self.refused, self.faults = [], 0, []

    def run(self):
        import http.client

        connection = None
        while time.monotonic() < self.end:
            sql = self.rng.choice(STATEMENTS)
            body = json.dumps({"sql": sql, "format": "ndjson"})
            started = time.monotonic()
            try:
                if connection is None:
                    connection = http.client.HTTPConnection(self.server.url.removeprefix("http://"), timeout=300)
                headers = {"Authorization": f"Bearer {self.server.keys[self.user]}", "Content-Type": "application/json"}
                connection.request("POST", "/v1/query", body, headers)
                response = connection.getresponse()
                status, answer = response.status, response.read().decode()
            except OSError as error:
                self.faults.append(f"{sql}: {error}")
                connection = None
                continue
            if status == 429:
                self.refused += 1
                time.sleep(float(response.headers.get("Retry-After") or 0.2))
            elif status != 200:
                self.faults.append(f"{sql}: status {status}: {answer[:300]}")
            elif rows(answer) != self.expected[sql]:
                self.faults.append(f"{sql}: another answer: {answer[:300]}")
            else:
                self.seconds.append(time.monotonic() - started)


def rows(text):
    """The rows of NDJSON. Sums of floats depend on the order of their addition: they are compared in 9 digits."""

    def value(cell):
        return float(f"{cell:.9g}") if isinstance(cell, float) else cell

    return [{name: value(cell) for name, cell in json.loads(line).items()} for line in text.splitlines() if line]


def alone(buzz, table, sql):
    """The rows of a statement that runs in a process of its own."""
    done = subprocess.run([buzz, "sql", sql, "--table", table, "--format", "ndjson"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{sql}: {done.stderr}")
    return rows(done.stdout)


def watch(server, callers, arguments, began):
    """Prints a line at even distances until the end. Returns the memory by time, in MiB."""
    memory = []
    while (left := began + arguments.seconds - time.monotonic()) > 0:
        time.sleep(min(arguments.every, left))
        memory.append(server.resident())
        answers, faults = sum(len(caller.seconds) for caller in callers), sum(len(caller.faults) for caller in callers)
        longest = max((max(caller.seconds, default=0) for caller in callers), default=0)
        print(f"{time.monotonic() - began:6.0f} s  {answers:8} answers  {faults} faults  {memory[-1]:6.0f} MiB  longest {longest:5.1f} s", flush=True)
    return memory


def problems_of(callers, memory):
    """Prints the shares and times. Returns what is not as it must be."""
    by_user = {}
    for caller in callers:
        by_user.setdefault(caller.user, []).append(len(caller.seconds))
    totals = {user: sum(counts) for user, counts in by_user.items()}
    counts = sorted(len(caller.seconds) for caller in callers)
    seconds = sorted(second for caller in callers for second in caller.seconds)
    print(f"answers by user: {', '.join(f'{user} {total}' for user, total in sorted(totals.items()))}")
    print(f"answers by caller: {counts[0]} to {counts[-1]}; refused: {sum(caller.refused for caller in callers)}")
    print(f"seconds: median {share(seconds, 50):.2f}, 99 of 100 below {share(seconds, 99):.2f}, longest {share(seconds, 100):.2f}")
    problems = [fault for caller in callers for fault in caller.faults][:10]
    if min(totals.values()) * 2 < max(totals.values()):
        problems.append("one user has less than half of the answers of another")
    quarter = len(memory) // 4
    if quarter and max(memory[-quarter:]) > 1.5 * max(memory[quarter : 2 * quarter]):
        problems.append(f"memory grows: {max(memory[quarter : 2 * quarter]):.0f} MiB in the second quarter, {max(memory[-quarter:]):.0f} in the last")
    return problems


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bin", required=True, type=pathlib.Path, help="folder of the programs")
    parser.add_argument("--sample", required=True, type=pathlib.Path, help="folder of the sample table")
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--callers", type=int, default=50)
    parser.add_argument("--users", type=int, default=5)
    parser.add_argument("--every", type=float, default=5, help="seconds between two lines")
    arguments = parser.parse_args()
    buzz, table = (arguments.bin / "buzz").resolve(), f"trips={arguments.sample.resolve()}"
    expected = {sql: alone(buzz, table, sql) for sql in STATEMENTS}
    with tempfile.TemporaryDirectory() as folder:
        server = Server(buzz, pathlib.Path(folder), table, arguments.users)
        try:
            began = time.monotonic()
            callers = [
                Caller(server, f"user{number % arguments.users}", number, expected, began + arguments.seconds)
                for number in range(arguments.callers)
            ]
            for caller in callers:
                caller.start()
            memory = watch(server, callers, arguments, began)
            for caller in callers:
                caller.join()
            problems = problems_of(callers, memory)
        finally:
            server.stop()
    if problems:
        raise SystemExit("\n".join(["failed:", *problems]))


if __name__ == "__main__":
    main()
