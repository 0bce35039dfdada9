#!/usr/bin/env python3
"""Queries a server with the clients that people use, and compares values with what they must be.

    clients.py --buzz PATH

Starts `buzz serve` on tables that it writes with pyarrow. Uses psycopg, psycopg2, asyncpg, SQLAlchemy, ADBC, polars, pandas and the
client of the Model Context Protocol (which also starts `buzz mcp`), psql, pgcli and dbt if they are installed, and sends the statements of
further tools in tools.sql. Prints one line per client and exits with 1 if one differs.
"""

import argparse
import asyncio
import datetime
import decimal
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import urllib.request
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

KEY = "a-key-for-the-clients"
UTC = datetime.timezone.utc

# Column, Arrow type, value of the first row, its value in Python through PostgreSQL, if it is another one.
COLUMNS = [
    ("id", pa.int64(), 1, None),
    ("i8", pa.int8(), -128, None),
    ("i16", pa.int16(), 32767, None),
    ("i32", pa.int32(), -(2**31), None),
    ("i64", pa.int64(), 2**63 - 1, None),
    ("u8", pa.uint8(), 255, None),
    ("u16", pa.uint16(), 65535, None),
    ("u32", pa.uint32(), 2**32 - 1, None),
    ("u64", pa.uint64(), 2**64 - 1, decimal.Decimal(2**64 - 1)),
    ("f64", pa.float64(), -1.5e300, None),
    ("price", pa.decimal128(38, 2), decimal.Decimal("-12345678901234567890123456789012345.67"), None),
    ("wide", pa.decimal256(76, 10), decimal.Decimal("9" * 66 + "." + "9" * 10), None),
    ("name", pa.string(), "é,\"\t\\ '", None),
    ("raw", pa.binary(), b"\x00\xff", None),
    ("yes", pa.bool_(), True, None),
    ("day", pa.date32(), datetime.date(9999, 12, 31), None),
    ("clock", pa.time64("us"), datetime.time(23, 59, 59, 999999), None),
    ("at", pa.timestamp("us"), datetime.datetime(1, 1, 1, 0, 0, 0, 1), None),
    ("at_utc", pa.timestamp("us", "UTC"), datetime.datetime(2023, 11, 14, 22, 13, 20, 123456, UTC), None),
    ("list", pa.list_(pa.int32()), [1, None], None),
    ("texts", pa.list_(pa.string()), ["a,b", None, ""], None),
    ("pair", pa.struct([("a", pa.int32()), ("b", pa.string())]), {"a": 1, "b": "x"}, None),
]


def table():
    """Returns the table: the second row has nulls only, apart from its id."""
    arrays = [pa.array([value, 2 if name == "id" else None], kind) for name, kind, value, _ in COLUMNS]
    return pa.table(arrays, names=[name for name, *_ in COLUMNS])


def trips():
    """Returns the table that the statements of tools read."""
    times = [datetime.datetime(2011, 3, 13, 7, 6, 40), datetime.datetime(2014, 5, 13, 16, 53, 20)]
    columns = {"payment_type": ["CASH", "Credit"], "pickup_at": pa.array(times, pa.timestamp("us")), "fare_amount": [7.5, 8.25]}
    return pa.table(columns)


def expected():
    """Returns the first row as clients of PostgreSQL return it."""
    return [value if python is None else python for _, _, value, python in COLUMNS]


def check(client, got, want):
    """Compares two rows."""
    for (name, *_), one, other in zip(COLUMNS, got, want):
        if isinstance(one, memoryview):
            one = bytes(one)
        if isinstance(one, str) and isinstance(other, dict):
            one = json.loads(one)
        same = one == other and (type(one) is type(other) or not isinstance(other, (bool, bytes, str)))
        if isinstance(other, float):
            same = math.isclose(one, other, rel_tol=0)
        assert same, f"{client}: column {name}: {one!r} instead of {other!r}"
    assert len(got) == len(want), f"{client}: {len(got)} columns instead of {len(want)}"


TABLES = ["kinds", "numbers", "trips"]


class Server:
    """A server on the tables `kinds`, `numbers` and `trips`."""

    def __init__(self, buzz, folder):
        self.buzz, self.folder = buzz, folder
        pq.write_table(table(), folder / "kinds.parquet")
        pq.write_table(pa.table({"n": pa.array(range(1_000_000), pa.int64())}), folder / "numbers.parquet")
        pq.write_table(trips(), folder / "trips.parquet")
        entries = [{"name": name, "uri": f"{name}.parquet"} for name in TABLES]
        (folder / "buzz.json").write_text(json.dumps({"catalogs": entries}))
        command = [buzz, "serve", "--listen", "127.0.0.1:0", "--postgres", "127.0.0.1:0"]
        environment = {**os.environ, "BUZZ_KEY": KEY, "BUZZ_HISTORY": ""}
        self.process = subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True)
        greeting = ""
        while "PostgreSQL:" not in greeting:
            line = self.process.stderr.readline()
            assert line, f"the server ended: {greeting}"
            greeting += line
        threading.Thread(target=self.process.stderr.read, daemon=True).start()
        self.http = re.search(r"HTTP: +http://(\S+)", greeting)[1]
        self.host, self.port = re.search(r"PostgreSQL: +(\S+):(\d+)", greeting).groups()
        self.url = f"postgresql://ann:{KEY}@{self.host}:{self.port}/buzz"

    def running(self):
        """Returns the number of running queries."""
        request = urllib.request.Request(f"http://{self.http}/metrics", headers={"Authorization": f"Bearer {KEY}"})
        return int(re.search(r"^buzz_queries_running (\d+)$", urllib.request.urlopen(request).read().decode(), re.M)[1])

    def wait_until(self, count):
        """Waits until `count` queries run."""
        deadline = time.monotonic() + 20
        while self.running() != count:
            assert time.monotonic() < deadline, f"{self.running()} queries run instead of {count}"
            time.sleep(0.05)


ALL = "SELECT * FROM kinds ORDER BY id"
# Runs for minutes.
SLOW = "SELECT count(*) FROM numbers a JOIN numbers b ON a.n + b.n > 5 AND a.n % 7 <> b.n % 11"


def psycopg3(server):
    import psycopg

    for binary in (False, True):
        with psycopg.connect(server.url) as connection, connection.cursor(binary=binary) as cursor:
            rows = cursor.execute(ALL).fetchall()
            check(f"psycopg, binary={binary}", rows[0], expected())
            assert all(value is None for value in rows[1][1:])
            name = cursor.execute(
                "SELECT name FROM kinds WHERE i32 = %s AND day = %s AND price < %s AND at_utc = %s AND raw = %s",
                (-(2**31), datetime.date(9999, 12, 31), decimal.Decimal("-1.5"), COLUMNS[18][2], b"\x00\xff"),
            ).fetchall()
            assert name == [(COLUMNS[12][2],)], name
        with psycopg.connect(server.url) as connection:
            with connection.cursor(name="parts", binary=binary) as cursor:
                cursor.itersize = 100_000
                cursor.execute("SELECT n FROM numbers ORDER BY n")
                assert [row[0] for row in cursor] == list(range(1_000_000))
    with psycopg.connect(server.url) as connection, connection.cursor() as cursor:
        with cursor.copy("COPY (SELECT id, name FROM kinds ORDER BY id) TO STDOUT") as copy:
            assert list(copy.rows()) == [("1", COLUMNS[12][2]), ("2", None)]
    connection = psycopg.connect(server.url)
    threading.Thread(target=lambda: (server.wait_until(1), connection.cancel()), daemon=True).start()
    try:
        connection.execute(SLOW)
        raise AssertionError("the query was not cancelled")
    except psycopg.errors.QueryCanceled:
        pass
    server.wait_until(0)
    for sql, error in [
        ("SELECT * FROM kindz", psycopg.errors.UndefinedTable),
        ("SELECT nam FROM kinds", psycopg.errors.UndefinedColumn),
        ("SELEC 1", psycopg.errors.SyntaxError),
        ("DELETE FROM kinds", psycopg.errors.ReadOnlySqlTransaction),
    ]:
        with psycopg.connect(server.url) as failing:
            try:
                failing.execute(sql)
                raise AssertionError(f"{sql} succeeds")
            except error:
                pass
    try:
        psycopg.connect(server.url.replace(KEY, "a-wrong-key-of-ann"))
        raise AssertionError("a wrong key is accepted")
    except psycopg.OperationalError as failed:
        assert "password authentication failed" in str(failed), failed


def psycopg2(server):
    import psycopg2

    connection = psycopg2.connect(server.url)
    cursor = connection.cursor()
    cursor.execute(ALL)
    row = list(cursor.fetchone())
    check("psycopg2", row, expected())
    cursor.execute("SELECT id FROM kinds WHERE name = %s AND yes = %s", (COLUMNS[12][2], True))
    assert cursor.fetchall() == [(1,)]
    named = connection.cursor("named")
    named.execute("SELECT n FROM numbers ORDER BY n LIMIT 5000")
    assert [row[0] for row in named] == list(range(5000))


def asyncpg(server):
    import asyncpg

    async def ask():
        connection = await asyncpg.connect(server.url)
        rows = await connection.fetch(ALL)
        check("asyncpg", list(rows[0].values()), expected())
        assert all(value is None for value in list(rows[1].values())[1:])
        assert await connection.fetchval("SELECT count(*) FROM numbers WHERE n < $1", 7) == 7
        assert await connection.fetchval("SELECT id FROM kinds WHERE at_utc = $1", COLUMNS[18][2]) == 1
        async with connection.transaction():
            parts = [row["n"] async for row in connection.cursor("SELECT n FROM numbers ORDER BY n LIMIT 1000")]
        assert parts == list(range(1000))
        await connection.close()
        async with asyncpg.create_pool(server.url, min_size=2, max_size=4) as pool:
            counts = await asyncio.gather(*(pool.fetchval("SELECT count(*) FROM numbers") for _ in range(12)))
        assert counts == [1_000_000] * 12

    asyncio.run(ask())


def sqlalchemy(server):
    import sqlalchemy

    for driver in ("psycopg", "psycopg2"):
        engine = sqlalchemy.create_engine(server.url.replace("postgresql:", f"postgresql+{driver}:"))
        inspector = sqlalchemy.inspect(engine)
        assert sorted(inspector.get_table_names()) == TABLES, inspector.get_table_names()
        assert inspector.get_schema_names() == ["information_schema", "public"], inspector.get_schema_names()
        columns = {column["name"]: column["type"] for column in inspector.get_columns("kinds")}
        assert list(columns) == [name for name, *_ in COLUMNS]
        assert str(columns["price"]) == "NUMERIC(38, 2)" and str(columns["at_utc"]) == "TIMESTAMP", columns
        assert inspector.get_pk_constraint("kinds")["constrained_columns"] == []
        assert inspector.get_foreign_keys("kinds") == [] and inspector.get_indexes("kinds") == []
        kinds = sqlalchemy.Table("kinds", sqlalchemy.MetaData(), autoload_with=engine)
        with engine.connect() as connection:
            found = connection.execute(sqlalchemy.select(kinds.c.name).where(kinds.c.i32 == -(2**31))).all()
            assert found == [(COLUMNS[12][2],)], found


def adbc(server):
    from adbc_driver_flightsql import DatabaseOptions, dbapi

    key = {"username": "ann", "password": KEY}
    bearer = {DatabaseOptions.AUTHORIZATION_HEADER.value: f"Bearer {KEY}"}
    for options in (key, bearer):
        with dbapi.connect(f"grpc://{server.http}", db_kwargs=options, autocommit=True) as connection, connection.cursor() as cursor:
            cursor.execute(ALL)
            got = cursor.fetch_arrow_table()
            assert got.equals(table()), (got.schema, table().schema)
            cursor.execute("SELECT count(*) FROM numbers WHERE n < ?".replace("?", "$1"), [7])
            assert cursor.fetchall() == [(7,)]
            cursor.execute("SELECT n FROM numbers ORDER BY n")
            assert cursor.fetch_arrow_table()["n"].to_pylist() == list(range(1_000_000))
            objects = connection.adbc_get_objects(depth="columns").read_all().to_pylist()
            tables = objects[0]["catalog_db_schemas"][0]["db_schema_tables"]
            assert [one["table_name"] for one in tables] == TABLES, tables
            assert len(tables[0]["table_columns"]) == len(COLUMNS)
            assert connection.adbc_get_table_schema("kinds") == table().schema
            assert cursor.adbc_execute_schema(ALL) == table().schema
            assert connection.adbc_get_table_types() == ["TABLE"]
    with dbapi.connect(f"grpc://{server.http}", db_kwargs=key, autocommit=True) as connection, connection.cursor() as cursor:
        threading.Thread(target=lambda: (server.wait_until(1), cursor.adbc_cancel()), daemon=True).start()
        try:
            cursor.execute(SLOW)
            cursor.fetchall()
            raise AssertionError("the query was not cancelled")
        except dbapi.Error as error:
            assert "ancel" in str(error), error
        server.wait_until(0)
    try:
        with dbapi.connect(f"grpc://{server.http}", db_kwargs={**key, "password": "wrong"}, autocommit=True) as connection:
            connection.cursor().execute(ALL)
        raise AssertionError("a wrong key is accepted")
    except dbapi.Error:
        pass


def mcp(server):
    import httpx2
    from mcp import Client, StdioServerParameters
    from mcp.client.streamable_http import streamable_http_client

    def http(key):
        client = httpx2.AsyncClient(headers={"Authorization": f"Bearer {key}"}, timeout=60)
        return streamable_http_client(f"http://{server.http}/mcp", http_client=client)

    async def ask(client):
        tools = (await client.list_tools()).tools
        assert [tool.name for tool in tools] == ["list_tables", "describe_table", "estimate", "query"], tools
        listed = await client.call_tool("list_tables", {})
        assert [one["name"] for one in listed.structured_content["tables"]] == TABLES, listed
        described = await client.call_tool("describe_table", {"name": "kinds"})
        assert [one["name"] for one in described.structured_content["columns"]] == [name for name, *_ in COLUMNS], described
        estimate = await client.call_tool("estimate", {"sql": SLOW})
        assert "tasks: " in estimate.content[0].text, estimate
        rows = await client.call_tool("query", {"sql": "SELECT n FROM numbers ORDER BY n DESC", "rows_max": 2})
        assert json.loads(rows.content[0].text) == [{"n": 999_999}, {"n": 999_998}], rows
        assert "2 of more than 2" in rows.content[1].text, rows
        rows = await client.call_tool("query", {"sql": ALL, "format": "csv"})
        assert rows.content[0].text.count("\n") == 2 and str(2**64 - 1) in rows.content[0].text, rows
        failed = await client.call_tool("query", {"sql": "SELECT * FROM kindz"})
        assert failed.is_error and "did you mean `kinds`?" in failed.content[0].text, failed

    async def leave(client):
        call = asyncio.create_task(client.call_tool("query", {"sql": SLOW}))
        await asyncio.to_thread(server.wait_until, 1)
        call.cancel()
        await asyncio.to_thread(server.wait_until, 0)

    async def run():
        program = StdioServerParameters(command=server.buzz, args=["mcp"], cwd=server.folder)
        for mode in ("legacy", "auto"):
            async with Client(program, mode=mode) as client:
                await ask(client)
            async with Client(http(KEY), mode=mode) as client:
                await ask(client)
                if mode == "auto":
                    # Without sessions, the message of an older protocol that cancels a call does not reach it.
                    await leave(client)
        try:
            async with Client(http("a-wrong-key-of-ann"), mode="legacy") as client:
                await client.list_tools()
        except BaseException as refused:
            # anyio raises a group.
            assert not isinstance(refused, (AssertionError, KeyboardInterrupt)), refused
        else:
            raise AssertionError("a wrong key is accepted")

    asyncio.run(run())


def psql(server):
    if shutil.which("psql") is None:
        return "not installed"
    environment = {**os.environ, "PGPASSWORD": KEY, "PAGER": "cat"}

    def run(*commands, text=None):
        arguments = ["psql", "-X", "-h", server.host, "-p", server.port, "-U", "ann", "-d", "buzz", "-v", "ON_ERROR_STOP=1"]
        for command in commands:
            arguments += ["-c", command]
        done = subprocess.run(arguments, env=environment, input=text, capture_output=True, text=True)
        assert done.returncode == 0, f"{commands}: {done.stderr}"
        return done.stdout

    listed = run(r"\d")
    assert "public | kinds" in listed and "(3 rows)" in listed, listed
    for family in (r"\dt", r"\dp", r"\dt+", r"\d+", r"\l", r"\dn", r"\du", r"\dv", r"\di", r"\df", r"\dT", r"\d numbers", r"\conninfo"):
        run(family)
    described = run(r"\d kinds")
    assert re.search(r"price +\| numeric\(38,2\)", described) and re.search(r"at_utc +\| timestamp with time zone", described), described
    assert "bigint" in run(r"\d+ kinds")
    assert run(r"\copy (SELECT id, name FROM kinds ORDER BY id) TO STDOUT csv header").startswith("id,name\n1,")
    assert "bigint" in run(text="SELECT id FROM kinds \\gdesc\n")
    for number in (signal.SIGINT, signal.SIGKILL):
        process = subprocess.Popen(
            ["psql", "-X", "-h", server.host, "-p", server.port, "-U", "ann", "-d", "buzz", "-c", SLOW],
            env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )
        server.wait_until(1)
        process.send_signal(number)
        started = time.monotonic()
        server.wait_until(0)
        assert time.monotonic() - started < 5, "the query did not end"
        process.wait()
    return None


def tools(server):
    """Sends the statements of tools that cannot be installed here."""
    import psycopg

    statements, tool, lines = [], "", []
    for line in (Path(__file__).parent / "tools.sql").read_text().splitlines():
        if line.startswith("-- Tool: "):
            tool = line.removeprefix("-- Tool: ")
        elif line and not line.startswith("--"):
            lines.append(line)
            if line.endswith(";"):
                statements.append((tool, "\n".join(lines)))
                lines = []
    failed = []
    with psycopg.connect(server.url, autocommit=True) as connection:
        for tool, sql in statements:
            try:
                connection.execute(sql, prepare=False)
            except psycopg.Error as error:
                failed.append(f"{tool}: {error}: {sql}")
    assert not failed, "\n".join(failed)


def frames(server):
    """Reads with polars and pandas, through Flight SQL and PostgreSQL."""
    import pandas
    import polars
    import sqlalchemy
    from adbc_driver_flightsql import dbapi

    sql = "SELECT payment_type, pickup_at, fare_amount FROM trips ORDER BY payment_type"
    with dbapi.connect(f"grpc://{server.http}", db_kwargs={"username": "ann", "password": KEY}, autocommit=True) as connection:
        assert polars.read_database(sql, connection).to_arrow().to_pylist() == trips().to_pylist()
        assert pandas.read_sql(sql, connection)["fare_amount"].tolist() == [7.5, 8.25]
    engine = sqlalchemy.create_engine(server.url.replace("postgresql:", "postgresql+psycopg:"))
    frame = pandas.read_sql(sql, engine)
    assert frame["payment_type"].tolist() == ["CASH", "Credit"] and frame["pickup_at"].iloc[0].year == 2011, frame


def pgcli(server):
    """Completes names and runs the backslash commands as pgcli does."""
    try:
        from pgcli.pgexecute import PGExecute
        from pgspecial.main import PGSpecial
    except ImportError:
        return "not installed"
    executor, special = PGExecute("buzz", "ann", KEY, server.host, server.port, None), PGSpecial()
    assert [name for _, name in executor.tables()] == TABLES, list(executor.tables())
    assert len([one for one in executor.table_columns() if one[1] == "kinds"]) == len(COLUMNS)
    for names in (executor.search_path, executor.schemata, executor.views, executor.view_columns, executor.databases, executor.foreignkeys,
                  executor.functions, executor.datatypes):
        list(names() or [])
    for command in (r"\d", r"\d kinds", r"\dt+", r"\l", r"\du", r"\dn", r"\df", r"\dv", r"\di", r"\dx", r"\dT", r"\dp", r"\db", r"\dm", r"\ds"):
        for _, rows, *_ in executor.run(command, special):
            list(rows or [])
    return None


def dbt(server):
    """Checks the connection, shows rows, tests a source and writes the catalog with dbt."""
    program = Path(sys.executable).with_name("dbt")
    if not program.exists():
        return "not installed"
    project = server.folder / "dbt"
    (project / "models").mkdir(parents=True)
    (project / "dbt_project.yml").write_text("name: tried\nversion: '1.0'\nprofile: tried\nmodel-paths: [models]\n")
    output = {"type": "postgres", "host": server.host, "port": int(server.port), "user": "ann", "password": KEY, "dbname": "buzz",
              "schema": "public", "threads": 2}
    (project / "profiles.yml").write_text(json.dumps({"tried": {"target": "dev", "outputs": {"dev": output}}}))
    columns = [{"name": "payment_type", "tests": ["not_null", "unique"]}]
    sources = [{"name": "public", "tables": [{"name": "trips", "columns": columns}]}]
    (project / "models/sources.yml").write_text(json.dumps({"version": 2, "sources": sources}))
    environment = {**os.environ, "DBT_SEND_ANONYMOUS_USAGE_STATS": "0", "DO_NOT_TRACK": "1"}
    shown = ["show", "--inline", "select * from {{ source('public', 'trips') }}"]
    for arguments in (["debug"], shown, ["test"], ["docs", "generate"]):
        done = subprocess.run([program, "--no-use-colors", *arguments], cwd=project, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"dbt {arguments[0]}: {done.stdout[-2000:]}{done.stderr[-500:]}"
        assert arguments is not shown or "Credit" in done.stdout, done.stdout
    catalog = json.loads((project / "target/catalog.json").read_text())
    found = catalog["sources"]["source.tried.public.trips"]["columns"]
    assert {name: column["type"] for name, column in found.items()}["payment_type"] == "text", found
    return None


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--buzz", required=True)
    arguments = parser.parse_args()
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        server = Server(os.path.abspath(arguments.buzz), Path(folder))
        for client in (psql, psycopg3, psycopg2, asyncpg, sqlalchemy, adbc, frames, mcp, tools, pgcli, dbt):
            try:
                note = client(server)
                print(f"{client.__name__}: {note or 'ok'}")
            except Exception:
                failed += 1
                print(f"{client.__name__}: FAILED\n{traceback.format_exc()}")
        server.process.send_signal(signal.SIGTERM)
        code = server.process.wait(timeout=30)
        assert code == 0, f"the server ended with {code}"
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
