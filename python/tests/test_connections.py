"""Connections: how they start, end, and fail."""

import gc
import json
import os
import signal
import subprocess
import sys
import threading
import unittest
import urllib.error
import urllib.request
from pathlib import Path
from unittest import mock

import buzz
from support import ENDLESS, Fixture, connection, is_alive, key_of, running, until


def own(**arguments):
    """Returns a new connection with a server of its own."""
    return buzz.connect(Fixture.shared().tables, **arguments)


def process_of(connection):
    return connection._server._process


def answers(url):
    """Returns true if a server listens at `url`."""
    try:
        urllib.request.urlopen(f"{url}/healthz").close()
    except urllib.error.URLError:
        return False
    return True


class Ends(unittest.TestCase):
    def test_close_stops_the_server_and_can_be_repeated(self):
        one = own()
        self.assertTrue(answers(one.url))
        one.close()
        one.close()
        self.assertTrue(one.closed)
        self.assertIsNotNone(process_of(one).returncode)
        self.assertFalse(answers(one.url))
        with self.assertRaisesRegex(buzz.InvalidError, "the connection is closed"):
            one.sql("SELECT 1")
        self.assertIn("closed", repr(one))

    def test_with_block_closes(self):
        with own() as one:
            self.assertEqual(one.sql("SELECT 1 AS a").to_pylist(), [{"a": 1}])
        self.assertTrue(one.closed)
        self.assertFalse(answers(one.url))

    def test_collected_connection_stops_its_server(self):
        one = own()
        process, url = process_of(one), one.url
        del one
        gc.collect()
        self.assertIsNotNone(process.returncode)
        self.assertFalse(answers(url))

    def test_close_cancels_the_query_of_another_thread(self):
        one = own()
        errors = []

        def ask():
            try:
                one.sql(ENDLESS)
            except buzz.Error as error:
                errors.append(error)

        thread = threading.Thread(target=ask)
        thread.start()
        until(lambda: running(one) == 1, "the query runs")
        one.close()
        thread.join(120)
        self.assertEqual([type(error) for error in errors], [buzz.CancelledError])

    def test_server_that_was_killed_is_named(self):
        one = own()
        os.killpg(process_of(one).pid, signal.SIGKILL)
        process_of(one).wait()
        with self.assertRaisesRegex(buzz.UnavailableError, "has ended.*connect again"):
            one.sql("SELECT 1")
        one.close()

    def test_forked_process_does_not_stop_or_hold_the_server(self):
        one = own()
        pid = os.fork()
        if pid == 0:
            # Collects the connection in the child.
            one = None
            gc.collect()
            signal.pause()
            os._exit(0)
        try:
            self.assertEqual(one.sql("SELECT 1 AS a").to_pylist(), [{"a": 1}])
            one.close()
            self.assertFalse(answers(one.url))
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)

    def program(self, text):
        """Starts a Python with a connection `one`, which runs `text` and prints. Returns the process and its first line."""
        places = json.dumps({name: str(place) for name, place in Fixture.shared().tables.items() if name != "semicolons"})
        start = f"import buzz, os, signal, sys; one = buzz.connect({places}); print(one.url, one._server._process.pid, flush=True)\n"
        process = subprocess.Popen(
            [sys.executable, "-c", start + text], stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        self.addCleanup(process.stdout.close)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        url, pid = process.stdout.readline().split()
        return process, url, int(pid)

    def test_server_does_not_outlive_a_killed_python(self):
        process, url, pid = self.program(f"one.sql({ENDLESS!r})")
        process.kill()
        process.wait()
        until(lambda: not is_alive(pid), "the watcher has ended")
        self.assertFalse(answers(url))

    def test_server_does_not_outlive_a_python_that_exits(self):
        for text in ("sys.exit()", "os._exit(3)", "raise ValueError", "os.abort()"):
            with self.subTest(text):
                process, url, pid = self.program(f"sys.stderr.close(); {text}")
                process.wait(120)
                until(lambda pid=pid: not is_alive(pid), "the watcher has ended")
                self.assertFalse(answers(url))

    def test_interrupt_of_a_terminal_cancels_the_query_and_keeps_the_server(self):
        text = (
            f"try: one.sql({ENDLESS!r})\n"
            "except KeyboardInterrupt: print('interrupted', flush=True)\n"
            "print(one.sql('SELECT 41 + 1 AS a').to_pylist(), flush=True)\n"
        )
        process, url, pid = self.program("print(one._server.key, flush=True)\n" + text)
        key = process.stdout.readline().strip()
        request = urllib.request.Request(f"{url}/metrics", headers={"Authorization": f"Bearer {key}"})

        def count():
            with urllib.request.urlopen(request) as response:
                return [line for line in response.read().decode().splitlines() if line.startswith("buzz_queries_running")]

        until(lambda: count() == ["buzz_queries_running 1"], "the query runs")
        # As a terminal does: to all processes of the group.
        os.killpg(process.pid, signal.SIGINT)
        self.assertEqual(process.stdout.readline(), "interrupted\n")
        self.assertEqual(process.stdout.readline(), "[{'a': 42}]\n")
        self.assertEqual(process.wait(120), 0)


class Cancels(unittest.TestCase):
    def test_keyboard_interrupt_cancels_the_query_on_the_server(self):
        has_ended = threading.Event()

        def interrupt():
            until(lambda: has_ended.is_set() or running(connection()) == 1, "the query runs")
            # A query that failed early must not interrupt another test.
            if not has_ended.is_set():
                os.kill(os.getpid(), signal.SIGINT)

        thread = threading.Thread(target=interrupt)
        thread.start()
        try:
            with self.assertRaises(KeyboardInterrupt):
                connection().sql(ENDLESS)
        finally:
            has_ended.set()
            thread.join()
        until(lambda: running(connection()) == 0, "the query was cancelled")
        self.assertEqual(connection().sql("SELECT 1 AS a").to_pylist(), [{"a": 1}])

    def test_timeout_cancels_the_query_on_the_server(self):
        with self.assertRaisesRegex(buzz.LimitError, "timeout of 0.5 s"):
            connection().sql(ENDLESS, timeout=0.5)
        until(lambda: running(connection()) == 0, "the query was cancelled")
        self.assertEqual(connection().sql("SELECT 1 AS a", timeout=600).to_pylist(), [{"a": 1}])

    def test_wrong_timeouts_are_errors(self):
        for timeout in (0, -1, float("nan"), float("inf"), "5", True):
            with self.subTest(timeout):
                with self.assertRaisesRegex(buzz.InvalidError, "`timeout` is .*pass seconds"):
                    connection().sql("SELECT 1", timeout=timeout)


class Together(unittest.TestCase):
    def test_two_connections_have_their_own_tables(self):
        fixture = Fixture.shared()
        with buzz.connect({"t": fixture.tables["kinds"]}) as one, buzz.connect({"t": fixture.tables["numbers"]}) as other:
            self.assertEqual(one.sql("SELECT COUNT(*) AS n FROM t").to_pylist(), [{"n": 3}])
            self.assertEqual(other.sql("SELECT MAX(n) AS n FROM t").to_pylist(), [{"n": 999_999}])
            one.close()
            self.assertEqual(other.sql("SELECT MIN(n) AS n FROM t").to_pylist(), [{"n": 0}])

    def test_threads_share_a_connection(self):
        wrong = []

        def ask(number):
            for times in range(5):
                sql = "SELECT COUNT(*) AS n, $x AS x FROM numbers WHERE n < $x"
                got = connection().sql(sql, x=number * 1000 + times).to_pylist()
                if got != [{"n": number * 1000 + times, "x": number * 1000 + times}]:
                    wrong.append((number, got))

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(wrong, [])

    def test_second_client_uses_a_running_server(self):
        with buzz.connect(url=connection().url, key=key_of(connection())) as other:
            self.assertEqual(other.sql("SELECT COUNT(*) AS n FROM kinds").to_pylist(), [{"n": 3}])
        # The server belongs to the other connection.
        self.assertTrue(answers(connection().url))
        with mock.patch.dict(os.environ, {"BUZZ_KEY": key_of(connection())}):
            buzz.connect(url=connection().url + "/").close()


class Errors(unittest.TestCase):
    def test_kinds_of_errors_are_classes_with_the_message_of_buzz(self):
        cases = [
            ("SELECT * FROM kindz", {}, buzz.InvalidError, "table `kindz` does not exist; did you mean `kinds`?"),
            ("SELECT idd FROM kinds", {}, buzz.InvalidError, "column `idd` does not exist"),
            ("SELEC 1", {}, buzz.InvalidError, "SELEC"),
            ("SELECT 1; SELECT 2", {}, buzz.InvalidError, "statement"),
            ("DELETE FROM kinds", {}, buzz.InvalidError, "DELETE"),
            ("SELECT 1 / (id - 1) FROM kinds", {}, buzz.InvalidError, "division by zero"),
            ("SELECT * FROM numbers", {"max_scan_bytes": 10}, buzz.LimitError, "max_scan_bytes"),
            ("SELECT 1", {"task": 1}, buzz.InvalidError, "did you mean `tasks`?"),
            ("SELECT 1", {"tasks": "many"}, buzz.InvalidError, "tasks"),
        ]
        for sql, options, cls, message in cases:
            with self.subTest(sql):
                with self.assertRaises(cls) as caught:
                    connection().sql(sql, options=options)
                self.assertIn(message, str(caught.exception))
        self.assertEqual(connection().sql("SELECT 1 AS a").to_pylist(), [{"a": 1}])

    def test_damaged_or_missing_table_is_an_error_of_the_data(self):
        folder = Path(Fixture.shared().folder)
        copy = folder / "removed.parquet"
        copy.write_bytes((folder / "kinds of values.parquet").read_bytes())
        with buzz.connect({"t": copy}) as one:
            self.assertEqual(one.sql("SELECT COUNT(*) AS n FROM t").to_pylist(), [{"n": 3}])
            copy.unlink()
            with self.assertRaisesRegex(buzz.DataError, "removed.parquet"):
                one.sql("SELECT SUM(id) FROM t")

    def test_wrong_key_and_missing_server_are_errors(self):
        with self.assertRaisesRegex(buzz.InvalidError, "does not accept the key"):
            buzz.connect(url=connection().url, key="a-key-that-is-wrong")
        one = own()
        url, key = one.url, key_of(one)
        client = buzz.connect(url=url, key=key)
        one.close()
        with self.assertRaisesRegex(buzz.UnavailableError, "does not answer"):
            client.sql("SELECT 1")
        with self.assertRaisesRegex(buzz.UnavailableError, "does not answer"):
            buzz.connect(url=url, key=key)

    def test_wrong_arguments_are_errors_that_name_them(self):
        url = connection().url
        cases = [
            (dict(url=url), "requires the server's key"),
            (dict(key="k"), "`key` belongs to"),
            (dict(url=url, key="a key"), "the key cannot be used"),
            (dict(url=url, key="k\r\nX: y"), "the key cannot be used"),
            (dict(url=url, key=""), "the key cannot be used"),
            (dict(url=url, key="k", tables={"t": "x"}), "`tables` belongs to"),
            (dict(url=url, key="k", stack="dev"), "`stack` belongs to"),
            (dict(stack=""), "`stack` is ''"),
            (dict(options=["tasks"]), "`options` is a `list`"),
            (dict(options={"tasks": None}), "option 'tasks' is None"),
            (dict(options={"task": 4}), "did you mean `tasks`"),
            (dict(options={"tasks": "4\0"}), "character 0"),
            (dict(tables={"t": 5}), "table `t` is 5"),
            (dict(tables={"t": ""}), "table `t` is ''"),
            (dict(tables={"": "x"}), "name of a table is ''"),
            (dict(tables={"t": {"type": "Csv"}}), "uri"),
            (dict(tables={"t": {"uri": "x", "type": "Csw"}}), "Csw"),
            (dict(tables={"t": {"uri": object()}}), "entry of table `t` cannot be written as JSON"),
            (dict(tables="missing.json"), "missing.json"),
            (dict(tables=5), "tables is 5"),
            (dict(program="/nowhere/buzz"), r"`/nowhere/buzz` \(program\) does not exist"),
            (dict(program=sys.executable), "."),
        ]
        with mock.patch.dict(os.environ):
            os.environ.pop("BUZZ_KEY", None)
            for arguments, message in cases:
                with self.subTest(repr(arguments)):
                    with self.assertRaisesRegex(buzz.InvalidError, message):
                        buzz.connect(**arguments)

    def test_wrong_urls_are_errors(self):
        for url in ("", "127.0.0.1:8642", "ftp://h", "http://", "http://h:0", "http://h:x", "http://a b", "http://h\r\nX: y",
                    "http://[::1", "http://h?x=1", "http://ann:secret@h", 5, b"http://h"):  # fmt: skip
            with self.subTest(url):
                with self.assertRaisesRegex(buzz.InvalidError, "write http://HOST:PORT"):
                    buzz.connect(url=url, key="a-key")

    def test_missing_program_is_an_error_that_says_how_to_build_it(self):
        with mock.patch.dict(os.environ, {"PATH": "", "BUZZ": ""}):
            with self.assertRaisesRegex(buzz.InvalidError, "make build"):
                buzz.connect()
        with mock.patch.dict(os.environ, {"BUZZ": "/nowhere/buzz"}):
            with self.assertRaisesRegex(buzz.InvalidError, r"\(\$BUZZ\) does not exist"):
                buzz.connect()

    def script(self, text):
        """Returns the path of a program that runs `text` in a shell instead of `buzz`."""
        file = Fixture.shared().folder / "not buzz"
        file.write_text(f"#!/bin/sh\n{text}\n")
        file.chmod(0o755)
        self.addCleanup(file.unlink, missing_ok=True)
        return file

    def test_other_programs_are_errors(self):
        cases = [
            ("exit 3", "ended with exit code 3"),
            ("echo hello >&2; exit 1", "hello"),
            ("echo 'error: a thing is wrong' >&2; echo >&2; echo Usage >&2; exit 2", "^a thing is wrong$"),
            ("exec 2>&-; exec sleep 600", "did not print its address"),
        ]
        for text, message in cases:
            with self.subTest(text), mock.patch("buzz._process._ENDED_SECONDS", 0.5):
                with self.assertRaisesRegex(buzz.InvalidError, message):
                    buzz.connect(program=self.script(text))
        no_program = self.script("")
        no_program.write_bytes(b"\x7fELF")
        with self.assertRaisesRegex(buzz.InvalidError, "cannot be started"):
            buzz.connect(program=no_program)

    def test_silent_program_is_an_error(self):
        with mock.patch("buzz._process._START_SECONDS", 0.5):
            with self.assertRaisesRegex(buzz.UnavailableError, "did not listen within 0.5 s"):
                buzz.connect(program=self.script("exec sleep 600"))

    def test_server_that_does_not_stop_is_killed(self):
        text = "trap '' TERM; echo 'HTTP:       http://127.0.0.1:1' >&2; while :; do sleep 1; done"
        one = buzz.connect(program=self.script(text))
        with mock.patch("buzz._process._STOP_SECONDS", 0.5):
            one.close()
        self.assertFalse(is_alive(process_of(one).pid))

    def test_statement_must_be_a_text(self):
        for statement in ("", " \n", None, 5, b"SELECT 1"):
            with self.subTest(statement):
                with self.assertRaisesRegex(buzz.InvalidError, "the statement is"):
                    connection().sql(statement)


class Tables(unittest.TestCase):
    def test_names_and_places_are_data(self):
        place = Fixture.shared().tables["kinds"]
        for name in ("a b", "x=y", '"; DROP TABLE t; --', "--tables", "é☃", "$x", "Kinds"):
            with self.subTest(name):
                quoted = '"' + name.replace('"', '""') + '"'
                with buzz.connect({name: place}) as one:
                    self.assertEqual(one.sql(f"SELECT COUNT(*) AS n FROM {quoted}").to_pylist(), [{"n": 3}])

    def test_file_of_tables_is_read(self):
        fixture = Fixture.shared()
        file = fixture.folder / "tables of mine.json"
        file.write_text(json.dumps({"catalogs": [{"name": "t", "uri": str(fixture.tables["kinds"])}]}))
        for tables in (file, str(file)):
            with buzz.connect(tables) as one:
                self.assertEqual(one.sql("SELECT COUNT(*) AS n FROM t").to_pylist(), [{"n": 3}])

    def test_relative_places_are_below_the_working_directory(self):
        fixture = Fixture.shared()
        before = os.getcwd()
        self.addCleanup(os.chdir, before)
        os.chdir(fixture.folder)
        (fixture.folder / "buzz.json").write_text(json.dumps({"catalogs": [{"name": "t", "uri": "kinds of values.parquet"}]}))
        self.addCleanup((fixture.folder / "buzz.json").unlink)
        one = buzz.connect()
        self.addCleanup(one.close)
        other = buzz.connect({"u": "kinds of values.parquet"})
        self.addCleanup(other.close)
        os.chdir(before)
        self.assertEqual(one.sql("SELECT COUNT(*) AS n FROM t").to_pylist(), [{"n": 3}])
        self.assertEqual(other.sql("SELECT COUNT(*) AS n FROM u").to_pylist(), [{"n": 3}])
        with self.assertRaisesRegex(buzz.InvalidError, "table `t` does not exist"):
            other.sql("SELECT * FROM t")

    def test_options_apply_to_all_queries_and_to_one(self):
        with own(options={"max_scan_bytes": 10}) as one:
            with self.assertRaisesRegex(buzz.LimitError, "max_scan_bytes"):
                one.sql("SELECT SUM(n) FROM numbers")
            self.assertEqual(one.sql("SELECT MAX(n) AS n FROM numbers", options={"max_scan_bytes": "1GB"}).summary.rows, 1)
            with buzz.connect(url=one.url, key=key_of(one), options={"max_scan_bytes": 0}) as other:
                self.assertEqual(other.sql("SELECT SUM(n) AS n FROM numbers").summary.rows, 1)
