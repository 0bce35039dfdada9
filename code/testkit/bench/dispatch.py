"""Measures Fuse's processor time to issue invocations: the real Fuse with a function that responds immediately.

A real HBee runs the first task. Its outcome, with a new delivery id each time, is the response to all tasks.
"""
import asyncio
import json
import os
import statistics
import tempfile
import uuid

from lambda_stand_in import Function, Server

SQL = "SELECT payment_type, COUNT(*) AS n, SUM(fare_amount) AS fare FROM trips GROUP BY payment_type"


class InstantFunction:
    """A function that returns the outcome of the first task for every task."""

    def __init__(self, hbee):
        self.hbee = hbee
        self.count = 0
        self.outcome = None
        self.first = asyncio.Lock()

    async def handle(self, _method, _path, headers, body):
        if headers.get("x-amz-invocation-type") == "dryrun":
            return 204, b""
        async with self.first:
            if self.outcome is None:
                outcome = await self.hbee.invoke(body)
                self.outcome = outcome.decode().split(json.loads(outcome)["delivery"])
        self.count += 1
        return 200, str(uuid.uuid4()).join(self.outcome).encode(), {"X-Amz-Executed-Version": "1"}


def one_file(sample):
    """Returns the path of one Parquet file of the sample."""
    for folder, _, files in os.walk(sample):
        for name in sorted(files):
            if name.endswith(".parquet") and "_delta_log" not in folder:
                return os.path.join(folder, name)
    raise FileNotFoundError(f"{sample} has no Parquet file")


async def measure(bin_folder, sample, log, tasks, runs):
    """Returns the median processor seconds of a query with `tasks` tasks, and of its planning alone."""
    with tempfile.TemporaryDirectory() as folder:
        table, results = os.path.join(folder, "trips"), os.path.join(folder, "results")
        os.mkdir(table)
        os.mkdir(results)
        for number in range(tasks):
            os.symlink(os.path.abspath(one_file(sample)), os.path.join(table, f"{number:04}.parquet"))
        nowhere = {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}
        hbee = await Function.start(os.path.join(bin_folder, "hbee_lambda"), 2048, nowhere, log)
        function = InstantFunction(hbee)
        server = await Server.start(function.handle)
        variables = {
            "AWS_ENDPOINT_URL_LAMBDA": f"http://{server.address}",
            "BUZZ_HBEE_FUNCTION": "hbee",
            "BUZZ_RESULTS": results,
        }
        fuse = await Function.start(os.path.join(bin_folder, "fuse_lambda"), 3008, variables, log)
        try:
            query = {"sql": SQL, "catalogs": [{"name": "trips", "type": "Parquet", "uri": table}]}
            options = {"tasks": tasks, "reducer": "inline"}
            ask = {"query": query, "options": options}
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
        finally:
            await fuse.stop()
            await hbee.stop()
            await server.stop()
