"""Checks of `make doctor` on a deployed stack: small queries, each of which needs one more part of it."""

import json
import os
import re
import tempfile
import time
import urllib.request
from pathlib import Path

from stack_aws import aws_or_error, function_name

ROOT = Path(__file__).resolve().parents[2]

# What the table `infra/doctor/rows` has: 1,000 rows of two numbers, `id` from 1 to 1,000, and `grp`, its rest by 7.
ROWS = 1000
TOTAL = ROWS * (ROWS + 1) // 2
GROUPS = {rest: (len(range(rest or 7, ROWS + 1, 7)), sum(range(rest or 7, ROWS + 1, 7))) for rest in range(7)}
LARGE_ROWS = 150_000

# Seconds that an asynchronous query may take, and the pause between two looks at it.
PATIENCE = 120
PAUSE = 0.5


class Stack:
    """A deployed stack, asked through the AWS command line."""

    def __init__(self, function, qualifier):
        self.function, self.qualifier = function, qualifier
        self.dollars = 0.0

    def ask(self, event):
        """Returns the answer to an event and the seconds that it took. Raises `RuntimeError` with the reason of a failure."""
        with tempfile.TemporaryDirectory() as folder:
            given, got = Path(folder, "event.json"), Path(folder, "answer.json")
            given.write_text(json.dumps({**event, "failure": "json"}))
            begun = time.monotonic()
            # The command would send an event again that takes longer than its patience.
            told, error = aws_or_error(
                "lambda", "invoke", "--function-name", self.function, *self.qualifier, "--cli-read-timeout", "900",
                "--payload", f"fileb://{given}", str(got), AWS_MAX_ATTEMPTS="1",
            )  # fmt: skip
            seconds = time.monotonic() - begun
            if error:
                raise RuntimeError(error)
            answer = json.loads(got.read_text() or "null")
        if told.get("FunctionError"):
            raise RuntimeError(f"{answer.get('errorType')}: {answer.get('errorMessage')}")
        if answer.get("status") == "failed":
            raise RuntimeError(f"{answer['error'].get('kind')}: {answer['error'].get('message')}")
        summary = answer.get("summary") or {}
        self.dollars += (summary.get("cost_usd") or 0) + (summary.get("started_usd") or 0)
        return answer, seconds

    def query(self, sql, table=None, **options):
        """Runs a statement, over `table` (type and place) as `rows` if it is given."""
        catalogs = [{"name": "rows", "type": table[0], "uri": table[1]}] if table else []
        zones = options.pop("zones", 1)
        return self.ask({"query": {"sql": sql, "catalogs": catalogs, "capacity": {"zones": zones}}, "options": options})


def advice(error):
    """Returns what to do about an error of a query."""
    for words, to_do in (
        (("AccessDenied", "403", "not authorized"), "compare the roles of the functions with docs/deploy.md, Network and permissions"),
        (("ResourceNotFoundException",), "run `make deploy`: the function or its alias `live` does not exist"),
        (("TooManyRequests", "Rate exceeded", "Rate Exceeded"), "raise the quota of concurrent functions (L-B99A9384)"),
        (("vCPU", "capacity", "Capacity"), "raise the quota of Fargate, or deploy without combs: COMB_NETWORK=none"),
        (("ResourceInitializationError", "CannotPullContainer"), "the combs cannot fetch their image: try COMB_NETWORK=public_ipv4"),
        (("timed out", "Timedout", "Read timeout"), "look at `make logs ROLE=fuse`: a part of AWS cannot be reached"),
        (("build",), "run `make deploy` to its end: Fuse and HBees are of different builds"),
    ):
        if any(word in error for word in words):
            return to_do
    return "look at `make logs ROLE=fuse` and `make logs ROLE=hbee`; docs/troubleshooting.md explains messages"


def check(report, what, run):
    """Runs a check, which returns what it found. Returns true if it passed."""
    try:
        report.ok(what, run())
    except (RuntimeError, OSError, KeyError, TypeError, ValueError) as error:
        said = str(error) if isinstance(error, RuntimeError) else f"{type(error).__name__}: {error}"
        report.bad(what, said, advice(said))
        return False
    return True


def expect(got, expected):
    """Fails unless an answer is the expected one."""
    if got != expected:
        raise RuntimeError(f"wrong answer {got} instead of {expected}")


def configuration(report, function, qualifier):
    """Returns the variables of Fuse, or None if it is not ready."""
    told, error = aws_or_error("lambda", "get-function-configuration", "--function-name", function, *qualifier)
    if error:
        report.bad("function", error, advice(error))
        return None
    if told.get("State", "Active") != "Active" or told.get("LastUpdateStatus", "Successful") == "Failed":
        state = f"{told.get('State')}, {told.get('StateReason') or told.get('LastUpdateStatusReason') or 'no reason'}"
        report.bad("function", f"{function} is {state}", "wait a minute; if it stays so, run `make deploy` again")
        return None
    report.ok("function", f"{function} version {told.get('Version', '?')}, {told.get('MemorySize', '?')} MB, {told.get('Description', '')}")
    return told.get("Environment", {}).get("Variables", {})


def selects(stack):
    """Requests a constant twice: cold, and warm."""
    first, cold = stack.query("SELECT 1 AS one")
    _, warm = stack.query("SELECT 1 AS one")
    expect(first["rows"], [{"one": 1}])
    return f"`SELECT 1` took {cold:.2f} s at first, then {warm:.2f} s"


def uploads(place):
    """Uploads the table of this check."""
    _, error = aws_or_error("s3", "cp", "--recursive", "--only-show-errors", str(ROOT / "infra/doctor/rows"), place)
    if error:
        raise RuntimeError(error)
    return f"the table of the checks is at {place}"


def counts(stack, kind, place):
    """Reads a table with an HBee."""
    table = (kind, place)
    first, cold = stack.query("SELECT COUNT(*) AS n, SUM(id) AS total FROM rows WHERE grp < 7", table)
    expect(first["rows"], [{"n": ROWS, "total": TOTAL}])
    _, warm = stack.query("SELECT COUNT(*) AS n, SUM(id) AS total FROM rows WHERE grp < 7", table)
    tasks = first["summary"].get("tasks", 0)
    if not tasks:
        raise RuntimeError("no HBee ran")
    return f"{tasks} task{'s' if tasks > 1 else ''} of an HBee took {cold:.2f} s at first, then {warm:.2f} s"


def exchanges(stack, place, combs):
    """Joins two scans: on two combs if the stack has some, else in Fuse."""
    sql = "SELECT a.grp, COUNT(*) AS n, SUM(b.id) AS total FROM rows a JOIN rows b ON a.id = b.id GROUP BY a.grp"
    options = {"zones": 2, "reducer": "comb"} if combs else {}
    answer, seconds = stack.query(sql, ("DeltaLake", place), **options)
    expect({row["grp"]: (row["n"], row["total"]) for row in answer["rows"]}, GROUPS)
    summary = answer["summary"]
    where = f"{summary.get('combs', 0)} combs, {summary.get('combs_started', 0)} of them started" if combs else "Fuse, since the stack has no combs"
    return f"a join was reduced by {where}, in {seconds:.1f} s"


def large(stack):
    """Requests more rows than an answer carries, and fetches them by the link."""
    sql = f"SELECT value AS id, repeat('x', 30) AS text FROM generate_series(1, {LARGE_ROWS})"
    answer, seconds = stack.ask({"query": {"sql": sql, "catalogs": []}, "output": {"format": "csv"}})
    with urllib.request.urlopen(answer["output"]["url"], timeout=60) as response:
        lines = response.read().count(b"\n")
    expect(lines, LARGE_ROWS + 1)
    return f"{answer['output']['bytes'] / 1e6:.1f} MB came by a link, in {seconds:.1f} s"


def later(stack):
    """Submits a query and watches it."""
    begun = time.monotonic()
    answer, _ = stack.ask({"query": {"sql": "SELECT 1 AS one", "catalogs": []}, "async": True})
    query = answer["query_id"]
    while answer.get("status") != "answered":
        if time.monotonic() - begun > PATIENCE:
            raise RuntimeError(f"query {query} is {answer.get('status')} after {PATIENCE} s, timed out")
        time.sleep(PAUSE)
        answer, _ = stack.ask({"watch": query})
    expect(answer["rows"], [{"one": 1}])
    return f"an asynchronous query was answered after {time.monotonic() - begun:.1f} s"


def run(report, stage, region):
    """Runs the checks, from the one that needs least to those that need all. RESULTS names the place of the results where the
    function's configuration cannot be read, as on the local cloud."""
    function, qualifier = function_name("fuse", stage), ["--qualifier", "live"]
    results, combs = os.environ.get("RESULTS"), (os.environ.get("COMB_NETWORK") or "none") != "none"
    if not results:
        variables = configuration(report, function, qualifier)
        if variables is None:
            return
        results, combs = variables.get("BUZZ_RESULTS", ""), bool(variables.get("BUZZ_COMB_CLUSTER"))
    bucket = re.match(r"s3://([^/]+)", results)
    if not bucket:
        report.bad("function", f"its results are at `{results}`", "run `make deploy`: the place is s3://bucket/results/")
        return
    stack, place = Stack(function, qualifier), f"s3://{bucket[1]}/sample/doctor"
    if not check(report, "fuse", lambda: selects(stack)):
        return
    if check(report, "bucket", lambda: uploads(place)):
        if check(report, "hbee", lambda: counts(stack, "Parquet", f"{place}/part-0.parquet")):
            check(report, "delta", lambda: counts(stack, "DeltaLake", place))
            check(report, "exchange", lambda: exchanges(stack, place, combs))
    check(report, "result", lambda: large(stack))
    check(report, "later", lambda: later(stack))
    report.ok("cost", f"these queries cost ${stack.dollars:.6f}")
