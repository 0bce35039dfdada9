#!/usr/bin/env python3
"""Measures how Fuse issues invocations: the real Fuse with a function whose response is known.

A real HBee runs the first task. Its outcome, with a new delivery id each time, is the response to all tasks.

As a program: runs tasks that take a second each against a server with TLS, HTTP/2 and 128 streams on each connection, as
Lambda has, and reports how many ran at the same time. Fails below the numbers that are required.
"""
import argparse
import asyncio
import contextlib
import json
import os
import statistics
import sys
import tempfile
import time
import uuid

from lambda_stand_in import Function, Server
from local_cloud import BUCKET, KEYS, local_cloud, put_table

SQL = "SELECT payment_type, COUNT(*) AS n, SUM(fare_amount) AS fare FROM trips GROUP BY payment_type"


class InstantFunction:
    """A function that returns the outcome of the first task for every task, after `seconds`."""

    def __init__(self, hbee, seconds=0):
        self.hbee = hbee
        self.seconds = seconds
        self.count = 0
        self.outcome = None
        self.first = asyncio.Lock()

    async def handle(self, _method, _path, headers, body):
        if headers.get("x-amz-invocation-type", "").lower() == "dryrun":
            return 204, b""
        async with self.first:
            if self.outcome is None:
                outcome = await self.hbee.invoke(body)
                self.outcome = outcome.decode().split(json.loads(outcome)["done"]["delivery"])
        self.count += 1
        if self.seconds:
            await asyncio.sleep(self.seconds)
        return 200, str(uuid.uuid4()).join(self.outcome).encode(), {"X-Amz-Executed-Version": "1"}


def one_file(sample):
    """Returns the path of one Parquet file of the sample."""
    for folder, _, files in os.walk(sample):
        for name in sorted(files):
            if name.endswith(".parquet") and "_delta_log" not in folder:
                return os.path.join(folder, name)
    raise FileNotFoundError(f"{sample} has no Parquet file")


@contextlib.asynccontextmanager
async def deployed(bin_folder, sample, log, tasks, seconds=0, tls=False):
    """Starts Fuse and a function that takes `seconds`, and yields both with the server and a question of `tasks` tasks."""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        table = put_table(folder, "trips", [one_file(sample)] * tasks)
        cloud = stack.enter_context(local_cloud(bin_folder, folder))
        reached = KEYS | {"AWS_ENDPOINT_URL_S3": cloud, "BUZZ_RESULTS": f"s3://{BUCKET}/results/"}
        hbee = await Function.start(os.path.join(bin_folder, "hbee_lambda"), 2048, reached, log)
        function = InstantFunction(hbee, seconds)
        if tls:
            from lambda_tls import TlsServer  # needs a package that is not part of Python

            server = await TlsServer.start(function.handle, folder)
            variables = {"AWS_ENDPOINT_URL_LAMBDA": server.url, "SSL_CERT_FILE": server.certificate}
        else:
            server = await Server.start(function.handle)
            variables = {"AWS_ENDPOINT_URL_LAMBDA": f"http://{server.address}"}
        variables |= reached | {"BUZZ_HBEE_FUNCTION": "hbee"}
        fuse = await Function.start(os.path.join(bin_folder, "fuse_lambda"), 3008, variables, log)
        try:
            query = {"sql": SQL, "catalogs": [{"name": "trips", "type": "Parquet", "uri": table}]}
            yield fuse, function, server, {"query": query, "options": {"tasks": tasks, "reducer": "inline"}}
        finally:
            await fuse.stop()
            await hbee.stop()
            await server.stop()


async def measure(bin_folder, sample, log, tasks, runs):
    """Returns the median processor seconds of a query with `tasks` tasks, and of its planning alone."""
    async with deployed(bin_folder, sample, log, tasks) as (fuse, function, _, ask):
        plan = ask | {"explain": True}
        await fuse.invoke(plan)
        await fuse.invoke(ask)  # the first query opens the connections
        asked, planned = [], []
        for _ in range(runs):
            before, count = fuse.cpu_seconds(), function.count
            answer = json.loads(await fuse.invoke(ask))
            between = fuse.cpu_seconds()
            await fuse.invoke(plan)
            asked.append(between - before)
            planned.append(fuse.cpu_seconds() - between)
            if (function.count - count, answer["summary"]["attempts"]) != (tasks, tasks):
                raise RuntimeError(f"{function.count - count} invocations: {answer['summary']}")
        return statistics.median(asked), statistics.median(planned)


async def width(bin_folder, sample, log, tasks):
    """Runs a query of `tasks` tasks of one second each over TLS and HTTP/2. Returns the most tasks that ran at the same time,
    the connections, the seconds of the query and Fuse's processor seconds, with and without planning."""
    async with deployed(bin_folder, sample, log, tasks, seconds=1, tls=True) as (fuse, function, server, ask):
        plan = ask | {"explain": True}
        await fuse.invoke(plan)  # reads footers, which later questions know
        before = fuse.cpu_seconds()
        await fuse.invoke(plan)
        planned = fuse.cpu_seconds() - before
        before, started = fuse.cpu_seconds(), time.perf_counter()
        answer = json.loads(await fuse.invoke(ask))
        seconds, used = time.perf_counter() - started, fuse.cpu_seconds() - before
        if answer["summary"]["tasks"] != tasks or function.count < tasks:
            raise RuntimeError(f"{function.count} invocations: {answer['summary']}")
        return server.most, server.connections, seconds, used, used - planned


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", required=True, help="folder of the programs")
    parser.add_argument("--sample", required=True, help="folder of the sample table")
    parser.add_argument("--tasks", type=int, default=900, help="tasks of one second each")
    parser.add_argument("--at-once", type=int, default=800, help="tasks that must run at the same time")
    arguments = parser.parse_args()
    with tempfile.TemporaryFile() as log:
        try:
            found = asyncio.run(width(arguments.bin, arguments.sample, log, arguments.tasks))
        except Exception:
            log.seek(0)
            sys.stderr.write(log.read().decode()[-4000:])
            raise
    most, connections, seconds, used, issued = found
    print(
        f"{arguments.tasks} tasks of 1 s: {most} at once over {connections} connections of 128 streams, in {seconds:.2f} s; "
        f"Fuse's processor time {used:.2f} s, without planning {issued:.2f} s"
    )
    if most < arguments.at_once:
        sys.exit(f"error: fewer than {arguments.at_once} tasks ran at the same time")
    # First and second attempts have connections of their own, with 100 calls on each.
    if connections > 2 * -(-arguments.tasks // 100):
        sys.exit(f"error: {connections} connections for {arguments.tasks} tasks, of which 100 share one")


if __name__ == "__main__":
    main()
