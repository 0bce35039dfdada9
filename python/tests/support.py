"""Tables and connections that the tests share."""

import datetime
import decimal
import os
import re
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

import buzz

UTC = datetime.timezone.utc

#: Rows of the table `numbers`.
MANY = 1_000_000

#: A statement that takes hours: the condition must be computed for 10^12 pairs.
ENDLESS = "SELECT COUNT(*) FROM numbers a JOIN numbers b ON a.n * b.n % 7 > b.n % 5"

_PAIR = pa.struct([("a", pa.int32()), ("b", pa.string())])

# Column, type and the value of the first row. The second row has the value of `_SECOND`, if any, otherwise a null.
_COLUMNS = [
    ("id", pa.int64(), 1),
    ("i8", pa.int8(), -128),
    ("i16", pa.int16(), 32767),
    ("i32", pa.int32(), -(2**31)),
    ("i64", pa.int64(), 2**63 - 1),
    ("u8", pa.uint8(), 255),
    ("u16", pa.uint16(), 65535),
    ("u32", pa.uint32(), 2**32 - 1),
    ("u64", pa.uint64(), 2**64 - 1),
    ("f32", pa.float32(), 0.5),
    ("f64", pa.float64(), -1.5e300),
    ("price", pa.decimal128(10, 2), decimal.Decimal("-12345678.90")),
    ("large", pa.decimal128(38, 4), decimal.Decimal("9" * 34 + ".9999")),
    ("wide", pa.decimal256(76, 10), decimal.Decimal("9" * 66 + "." + "9" * 10)),
    ("name", pa.string(), "é,\"\t\\ ' <b>\n☃"),
    ("raw", pa.binary(), b"\x00\xff"),
    ("yes", pa.bool_(), True),
    ("day", pa.date32(), datetime.date(9999, 12, 31)),
    ("clock", pa.time64("us"), datetime.time(23, 59, 59, 999999)),
    ("at_ms", pa.timestamp("ms"), datetime.datetime(1969, 12, 31, 23, 59, 59, 999000)),
    ("at", pa.timestamp("us"), datetime.datetime(1, 1, 1, 0, 0, 0, 1)),
    ("at_utc", pa.timestamp("us", "UTC"), datetime.datetime(2023, 11, 14, 22, 13, 20, 123456, UTC)),
    ("at_ns", pa.timestamp("ns"), datetime.datetime(2023, 11, 14, 22, 13, 20, 123456)),
    ("list", pa.list_(pa.int32()), [1, None, 3]),
    ("texts", pa.list_(pa.string()), ["a,b", None, ""]),
    ("pair", _PAIR, {"a": 1, "b": None}),
    ("pairs", pa.list_(_PAIR), [{"a": 1, "b": "x"}, None]),
    ("nothing", pa.int32(), None),
]
_SECOND = {"id": 2, "list": [], "texts": [None], "name": ""}


def kinds():
    """Returns the table `kinds`."""
    rows = [{name: value for name, _, value in _COLUMNS}, _SECOND, {"id": 3}]
    return pa.Table.from_pylist(rows, pa.schema([(name, kind) for name, kind, _ in _COLUMNS]))


class Fixture:
    """The folder of tables, whose name has a space, and a connection to a server on them."""

    _shared = None
    _lock = threading.Lock()

    @classmethod
    def shared(cls):
        """Returns the fixture of this run."""
        with cls._lock:
            if cls._shared is None:
                cls._shared = cls()
            return cls._shared

    def __init__(self):
        self._folder = tempfile.TemporaryDirectory(prefix="buzz python ")
        self.folder = Path(self._folder.name)
        pq.write_table(kinds(), self.folder / "kinds of values.parquet")
        numbers = pa.table({"n": pa.array(range(MANY), pa.int64()), "text": pa.array(map(str, range(MANY)))})
        pq.write_table(numbers, self.folder / "numbers.parquet")
        (self.folder / "broken.parquet").write_bytes(b"PAR1 this is no Parquet PAR1")
        (self.folder / "semicolons.csv").write_text("a;b\n1;x y\n2;\n")
        self.tables = {
            "kinds": self.folder / "kinds of values.parquet",
            "numbers": str(self.folder / "numbers.parquet"),
            "semicolons": {"uri": str(self.folder / "semicolons.csv"), "type": "Csv", "delimiter": ";"},
        }
        self.connection = buzz.connect(self.tables)

    def close(self):
        """Stops the server and removes the folder."""
        self.connection.close()
        self._folder.cleanup()


def connection():
    """Returns the connection that the tests share."""
    return Fixture.shared().connection


def key_of(connection):
    """Returns the key of the server of `connection`."""
    return connection._server.key


def running(connection):
    """Returns the number of queries that run on the server of `connection`."""
    request = urllib.request.Request(
        f"{connection.url}/metrics", headers={"Authorization": f"Bearer {key_of(connection)}"}
    )
    with urllib.request.urlopen(request) as response:
        return int(re.search(r"^buzz_queries_running (\d+)$", response.read().decode(), re.M)[1])


def until(condition, what):
    """Waits until `condition()` is true. Fails after two minutes, so that a test cannot hang."""
    deadline = time.monotonic() + 120
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within two minutes: {what}")
        time.sleep(0.05)


def is_alive(pid):
    """Returns true if the process `pid` exists and is not a zombie."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return not Path("/proc").exists()
