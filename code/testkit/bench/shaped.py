"""Measures statements on a local cloud whose store is as slow as S3, by the way in which rows are exchanged, next to the time that
the shape of the store alone takes."""
import glob
import json
import os
import statistics
import time
import urllib.request

from local_cloud import local_cloud, put_table

FIRST_BYTE = 0.03
MB_PER_SECOND = 50
HEAD = ["statement", "way", "milliseconds", "MB read", "tasks", "requests", "the store alone", "ratio"]
ABOUT = f"""The store of the local cloud answers after {1000 * FIRST_BYTE:.0f} ms and sends {MB_PER_SECOND} MB/s on each stream. *The store \
alone* is the time below which no reader can be:
a listing, a footer and a column chunk one after the other, and the bytes of the largest task over one stream. With objects it has a write and a \
read more. Functions are warm, and combs run. Processors are those of this machine, for all functions together."""

TRIPS = "SELECT payment_type, COUNT(*) AS n, SUM(fare_amount) AS fare FROM trips GROUP BY payment_type"
WIDE = "SELECT * FROM trips WHERE ABS(fare_amount * 7919 % 1000 - 500) < 0.01"  # no file can be left out
TPCH = {
    "TPC-H 1": "SELECT l_returnflag, l_linestatus, SUM(l_quantity) AS q, SUM(l_extendedprice * (1 - l_discount)) AS p, COUNT(*) AS n "
    "FROM lineitem WHERE l_shipdate <= DATE '1998-09-02' GROUP BY 1, 2 ORDER BY 1, 2",
    "TPC-H 3": "SELECT l_orderkey, SUM(l_extendedprice * (1 - l_discount)) AS revenue, o_orderdate FROM customer, orders, lineitem "
    "WHERE c_mktsegment = 'BUILDING' AND c_custkey = o_custkey AND l_orderkey = o_orderkey AND o_orderdate < DATE '1995-03-15' "
    "AND l_shipdate > DATE '1995-03-15' GROUP BY l_orderkey, o_orderdate ORDER BY revenue DESC, o_orderdate LIMIT 10",
    "TPC-H 6": "SELECT SUM(l_extendedprice * l_discount) AS revenue FROM lineitem WHERE l_shipdate >= DATE '1994-01-01' "
    "AND l_shipdate < DATE '1995-01-01' AND l_discount BETWEEN 0.05 AND 0.07 AND l_quantity < 24",
    "TPC-H 12": "SELECT l_shipmode, SUM(CASE WHEN o_orderpriority = '1-URGENT' THEN 1 ELSE 0 END) AS high FROM orders, lineitem "
    "WHERE o_orderkey = l_orderkey AND l_shipmode IN ('MAIL', 'SHIP') AND l_receiptdate >= DATE '1994-01-01' "
    "AND l_receiptdate < DATE '1995-01-01' GROUP BY l_shipmode ORDER BY l_shipmode",
    "TPC-H 14": "SELECT SUM(CASE WHEN p_type LIKE 'PROMO%' THEN l_extendedprice ELSE 0 END) / SUM(l_extendedprice) AS share "
    "FROM lineitem, part WHERE l_partkey = p_partkey AND l_shipdate >= DATE '1995-09-01' AND l_shipdate < DATE '1995-10-01'",
}


def ask(endpoint, sql, catalogs, reducer):
    """Returns the milliseconds that a caller waits for the answer to `sql`, and its summary."""
    event = {"query": {"sql": sql, "catalogs": catalogs}, "options": {"reducer": reducer, "tasks": 8}}
    url = f"{endpoint}/2015-03-31/functions/buzz-rust-fuse-local/invocations"
    started = time.perf_counter()
    with urllib.request.urlopen(urllib.request.Request(url, json.dumps(event).encode()), timeout=600) as answer:
        said = json.load(answer)
    if said.get("status") != "answered":
        raise RuntimeError(f"{sql}: {said}")
    return 1000 * (time.perf_counter() - started), said["summary"]


def store_alone(summary, reducer):
    """Returns the milliseconds that the shape of the store takes at least."""
    map_tasks = max(1, min(8, summary["tasks"]))
    rounds = 3 + (2 if reducer == "objects" else 0)
    return 1000 * (rounds * FIRST_BYTE + summary["bytes_read"] / map_tasks / (MB_PER_SECOND * 1e6))


def tables_of(folder):
    """Yields the tables in `folder` and their files: each a Parquet file or a folder of such."""
    for path in sorted(glob.glob(os.path.join(folder, "*"))):
        name = os.path.basename(path).removesuffix(".parquet")
        files = [path] if path.endswith(".parquet") else sorted(glob.glob(os.path.join(path, "*.parquet")))
        if files:
            yield name, files


def measure(programs, sample, folder, tpch, runs):
    """Returns the rows of the table. `tpch` is the folder of the tables of TPC-H, or None."""
    files = sorted(glob.glob(os.path.join(sample, "**", "*.parquet"), recursive=True))
    places = {"trips": put_table(folder, "trips", files)}
    statements = {"sample": TRIPS, "wide scan": WIDE}
    if tpch:
        places |= {name: put_table(folder, name, files) for name, files in tables_of(tpch)}
        statements |= TPCH
    catalogs = [{"name": name, "type": "Parquet", "uri": place} for name, place in places.items()]
    shape = ["--s3-first-byte", str(FIRST_BYTE), "--s3-rate", str(MB_PER_SECOND), "--comb-start-delay", "0"]
    rows = []
    with local_cloud(programs, folder, *shape) as endpoint:
        for reducer in ("inline", "objects", "comb"):
            for name, sql in statements.items():
                read = [catalog for catalog in catalogs if catalog["name"] in sql.split() or f"{catalog['name']}," in sql.split()]
                ask(endpoint, sql, read, reducer)  # functions start, and combs
                measured = [ask(endpoint, sql, read, reducer) for _ in range(runs)]
                took = statistics.median(milliseconds for milliseconds, _ in measured)
                summary = measured[0][1]
                alone = store_alone(summary, reducer)
                read_mb = f"{summary['bytes_read'] / 1e6:.1f}"
                rows.append([name, reducer, f"{took:.0f}", read_mb, summary["tasks"], summary["requests"], f"{alone:.0f}", f"{took / alone:.1f}"])
    return rows

