#!/usr/bin/env python3
"""Lets 50 clients of 3 users ask one server, and checks that rows are right, users get equal shares and memory stays.

    load.py --buzz PATH [--seconds 60] [--clients 50]

Starts `buzz serve` with the key of each user on a table of its own. The clients use HTTP and, if psycopg and ADBC are installed,
PostgreSQL's protocol and Flight SQL. User `ann` has most clients, so that the others wait behind it if slots are not shared by
user. Fails on a wrong row, an error other than a refusal, a client that is still waiting at the end, shares that differ by more than
20 %, or memory that grows by more than a quarter after the first third.
"""

import argparse
import collections
import json
import os
import random
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

from served import Server

USERS = ("ann", "bob", "cem")
ROWS = 20_000
# Seconds between two lines of progress.
SHOWN_EVERY = 5

# Statements, and the rows that they must return, as tuples of whole numbers.
QUESTIONS = [
    (f"SELECT COUNT(*) AS a, SUM(n) AS b FROM numbers WHERE n < {limit}", [(limit, limit * (limit - 1) // 2)])
    for limit in (1, 10, 999, 19_999)
] + [
    ("SELECT n % 7 AS a, COUNT(*) AS b FROM numbers GROUP BY 1 ORDER BY 1", [(k, len(range(k, ROWS, 7))) for k in range(7)]),
    ("SELECT n AS a, n * 2 AS b FROM numbers ORDER BY n DESC LIMIT 500", [(n, 2 * n) for n in range(ROWS - 1, ROWS - 501, -1)]),
    (
        "SELECT COUNT(*) AS a, MAX(x.n) AS b FROM numbers x JOIN numbers y ON x.n = y.n + 1 WHERE y.n % 3 = 0",
        [(len(range(0, ROWS - 1, 3)), max(range(0, ROWS - 1, 3)) + 1)],
    ),
    (
        "SELECT k AS a, n AS b FROM (SELECT n % 5 AS k, n, row_number() OVER (PARTITION BY n % 5 ORDER BY n DESC) AS r FROM numbers)"
        " WHERE r <= 2 ORDER BY n DESC",
        [(n % 5, n) for n in range(ROWS - 1, ROWS - 11, -1)],
    ),
]


class Refused(Exception):
    """A refusal, which a client may try again."""


class Numbers(Server):
    """A server on a table of numbers, with a key for each user."""

    def __init__(self, buzz, folder):
        self.keys = {user: f"the-long-key-of-{user}" for user in USERS}
        (folder / "keys.json").write_text(json.dumps(self.keys))
        (folder / "numbers.csv").write_text("n\n" + "".join(f"{n}\n" for n in range(ROWS)))
        super().__init__(buzz, folder, ["--keys", "keys.json", "--table", "numbers=numbers.csv"])


def http_door(server, user):
    """Returns a function that asks by HTTP."""

    def ask(sql):
        headers = {"Authorization": f"Bearer {server.keys[user]}", "Content-Type": "application/json"}
        request = urllib.request.Request(f"http://{server.http}/v1/query", json.dumps({"sql": sql}).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=300) as response:
                return [tuple(row.values()) for row in json.loads(response.read())]
        except urllib.error.HTTPError as error:
            if error.code == 429:
                raise Refused from error
            raise AssertionError(f"{error.code} {error.read().decode()}") from error

    return ask


def postgres_door(server, user):
    """Returns a function that asks by PostgreSQL's protocol."""
    import psycopg

    connection = psycopg.connect(f"postgresql://{user}:{server.keys[user]}@{server.postgres}/buzz", autocommit=True)

    def ask(sql):
        try:
            return connection.execute(sql).fetchall()
        except psycopg.errors.ConfigurationLimitExceeded as error:
            raise Refused from error

    return ask


def flight_door(server, user):
    """Returns a function that asks by Flight SQL."""
    from adbc_driver_flightsql import dbapi

    key = {"username": user, "password": server.keys[user]}
    connection = dbapi.connect(f"grpc://{server.http}", db_kwargs=key, autocommit=True)

    def ask(sql):
        with connection.cursor() as cursor:
            try:
                cursor.execute(sql)
                return cursor.fetchall()
            except dbapi.Error as error:
                if "RESOURCE_EXHAUSTED" in str(error) or "ResourceExhausted" in str(error):
                    raise Refused from error
                raise

    return ask


def doors():
    """Returns the doors whose clients are installed."""
    found = [http_door]
    for module, door in (("psycopg", postgres_door), ("adbc_driver_flightsql", flight_door)):
        try:
            __import__(module)
            found.append(door)
        except ImportError:
            print(f"{door.__name__.split('_')[0]} is left out: {module} is not installed")
    return found


class Load:
    """The clients and what they saw."""

    def __init__(self, server, until):
        self.server, self.until = server, until
        self.answers, self.by_door = collections.Counter(), collections.Counter()
        self.refused, self.faults, self.lock = 0, [], threading.Lock()

    def run(self, door, user, seed):
        """Sends statements until the end."""
        choose = random.Random(seed)
        try:
            ask = door(self.server, user)
            while time.monotonic() < self.until and not self.faults:
                sql, expected = choose.choice(QUESTIONS)
                try:
                    rows = ask(sql)
                except Refused:
                    with self.lock:
                        self.refused += 1
                    time.sleep(0.2)
                    continue
                with self.lock:
                    self.answers[user] += 1
                    self.by_door[door.__name__.removesuffix("_door")] += 1
                    if [tuple(row) for row in rows] != expected:
                        self.faults.append(f"{door.__name__}: {sql}: {rows[:3]} …, and not {expected[:3]} …")
        except Exception as error:  # whatever a client raises is a fault
            with self.lock:
                self.faults.append(f"{door.__name__} of {user}: {type(error).__name__}: {error}")


def user_of(number, clients):
    """Returns the user of a client: the first has six of ten, the others two each."""
    share = number / clients
    return USERS[0] if share < 0.6 else USERS[1] if share < 0.8 else USERS[2]


def watched(server, load, seconds):
    """Waits until the end, with a line every few seconds. Returns the memory after a third, and the largest one after that."""
    began, early, late, shown = time.monotonic(), 0.0, 0.0, 0.0
    while time.monotonic() < load.until and not load.faults and server.process.poll() is None:
        time.sleep(1)
        memory = server.memory()
        if time.monotonic() - began < seconds / 3:
            early = max(early, memory)
        else:
            late = max(late, memory)
        if time.monotonic() - shown >= SHOWN_EVERY:
            shown = time.monotonic()
            print(f"{shown - began:6.0f} s: {sum(load.answers.values())} answers, {memory:.0f} MB", flush=True)
    return early, late


def problems(load, threads, early, late):
    """Returns what is wrong."""
    found = load.faults[:5]
    waiting = sum(thread.is_alive() for thread in threads)
    if waiting:
        found.append(f"{waiting} clients still wait")
    shares = [load.answers[user] for user in USERS]
    if max(shares) > 1.2 * min(shares):
        found.append(f"the users got {shares} answers, which differ by more than 20 %")
    if late > 1.25 * early:
        found.append(f"memory grew from {early:.0f} to {late:.0f} MB")
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--buzz", required=True)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--clients", type=int, default=50)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        server = Numbers(os.path.abspath(arguments.buzz), Path(folder))
        try:
            load = Load(server, time.monotonic() + arguments.seconds)
            kinds = doors()
            threads = [
                threading.Thread(
                    target=load.run, args=(kinds[number % len(kinds)], user_of(number, arguments.clients), number), daemon=True
                )
                for number in range(arguments.clients)
            ]
            for thread in threads:
                thread.start()
            early, late = watched(server, load, arguments.seconds)
            for thread in threads:
                thread.join(max(0.0, load.until + 120 - time.monotonic()))
            found = problems(load, threads, early, late)
        finally:
            code = server.stop()
    if code != 0:
        found.append(f"the server ended with {code}")
    total = sum(load.answers.values())
    print(f"answers: {total}, {total / arguments.seconds:.1f} per second; by user {dict(load.answers)}; by door {dict(load.by_door)}")
    print(f"refused: {load.refused}; memory: {early:.0f} MB in the first third, {late:.0f} MB after it")
    for problem in found:
        print(f"error: {problem}")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
