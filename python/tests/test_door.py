"""Servers that are not Buzz, and servers that stop in the middle of an answer."""

import contextlib
import http.server
import io
import json
import os
import shutil
import ssl
import subprocess
import tempfile
import threading
import unittest
from pathlib import Path
from unittest import mock

import pyarrow as pa

import buzz

KEY = "a-key-of-the-tests"


def rows(count=10):
    """Returns rows as an Arrow file."""
    sink = io.BytesIO()
    table = pa.table({"n": list(range(count))})
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


ARROW = {"Content-Type": "application/vnd.apache.arrow.file", "buzz-summary": '{"rows": 10}', "buzz-warnings": "[]"}


@contextlib.contextmanager
def server(respond, certificate=None):
    """Starts a server whose queries are answered by `respond`, and returns a connection to it.

    `certificate` is a file with a certificate and its key; with it, the server uses TLS.
    """

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            self.send(200, {}, b"")

        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            respond(self)

        def send(self, status, headers, body):
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        listening.daemon_threads = True
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            listening.socket = context.wrap_socket(listening.socket, server_side=True)
        scheme = "http" if certificate is None else "https"
        threading.Thread(target=listening.serve_forever, args=(0.01,), daemon=True).start()
        try:
            with buzz.connect(url=f"{scheme}://127.0.0.1:{listening.server_port}", key=KEY) as connection:
                yield connection
        finally:
            listening.shutdown()


def chunked(parts, ends):
    """Returns a response of `parts`, with its end if `ends`."""

    def respond(handler):
        handler.send_response(200)
        for name, value in {**ARROW, "Transfer-Encoding": "chunked"}.items():
            handler.send_header(name, value)
        handler.end_headers()
        for part in parts:
            handler.wfile.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
        if ends:
            handler.wfile.write(b"0\r\n\r\n")
        handler.close_connection = True

    return respond


class Answers(unittest.TestCase):
    def refused(self, respond, cls, message):
        with server(respond) as connection:
            with self.assertRaisesRegex(cls, message):
                connection.sql("SELECT n FROM t", timeout=60)

    def test_rows_arrive_in_parts(self):
        body = rows()
        with server(chunked([body[:7], body[7:100], body[100:]], ends=True)) as connection:
            result = connection.sql("SELECT n FROM t")
        self.assertEqual(result.to_pylist(), [{"n": number} for number in range(10)])

    def test_answer_that_ends_early_is_an_error(self):
        body = rows()
        for cut in (0, 1, len(body) // 2, len(body)):
            with self.subTest(cut):
                self.refused(chunked([body[:cut]] if cut else [], ends=False), buzz.UnavailableError, "before the last row")

    def test_answer_with_a_length_that_ends_early_is_an_error(self):
        def respond(handler):
            handler.send(200, {**ARROW, "Content-Length": str(len(rows()) + 1)}, rows())
            handler.close_connection = True

        self.refused(respond, buzz.UnavailableError, "before the last row")

    def test_damaged_rows_are_an_error(self):
        body = rows()
        for damaged in (b"", b"x", body[:-9], body[: len(body) // 2], b"\0" * 1000, body[8:]):
            with self.subTest(len(damaged)):
                self.refused(chunked([damaged] if damaged else [], ends=True), buzz.InternalError, "cannot be read")

    def test_headers_that_are_no_json_are_ignored(self):
        with server(lambda handler: handler.send(200, {**ARROW, "buzz-summary": "{", "buzz-warnings": "x"}, rows())) as one:
            result = one.sql("SELECT n FROM t")
        self.assertEqual((result.summary.rows, result.warnings, result.query_id), (0, [], ""))

    def test_each_kind_is_a_class(self):
        for name in ("Invalid", "Data", "Unavailable", "Limit", "Cancelled", "Internal"):
            body = json.dumps({"error": {"kind": name, "message": "x é\n y"}}).encode()
            with server(lambda handler, body=body: handler.send(500, {}, body)) as connection:
                with self.assertRaises(buzz.Error) as caught:
                    connection.sql("SELECT 1")
            self.assertIs(type(caught.exception), getattr(buzz, f"{name}Error"))
            self.assertEqual((str(caught.exception), caught.exception.kind), ("x é\n y", name))

    def test_kind_of_a_later_version_is_an_error(self):
        body = json.dumps({"error": {"kind": "New", "message": "later"}}).encode()
        self.refused(lambda handler: handler.send(400, {}, body), buzz.Error, "later")

    def test_other_servers_are_named(self):
        for status, headers, body, cls in (
            (404, {}, b"<html>not found</html>", buzz.InvalidError), (502, {}, b"bad gateway", buzz.UnavailableError),
            (302, {"Location": "/login"}, b"", buzz.InvalidError), (200, {}, b"<html>", buzz.InvalidError),
            (400, {}, b'{"error": "text"}', buzz.InvalidError), (400, {}, b"[]", buzz.InvalidError),
        ):  # fmt: skip
            with self.subTest(status=status, body=body):
                self.refused(
                    lambda handler, status=status, headers=headers, body=body: handler.send(status, headers, body),
                    cls,
                    "the address that `buzz serve` prints",
                )

    def test_answer_that_is_no_http_is_an_error(self):
        def respond(handler):
            handler.wfile.write(b"SSH-2.0-OpenSSH\r\n")
            handler.close_connection = True

        self.refused(respond, buzz.UnavailableError, "does not answer")

    def test_slow_answer_ends_at_the_timeout(self):
        silence = threading.Event()

        def respond(handler):
            handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/vnd.apache.arrow.file\r\nContent-Length: 9\r\n\r\nA")
            silence.wait(120)

        with server(respond) as connection:
            with self.assertRaisesRegex(buzz.LimitError, "timeout of 0.3 s"):
                connection.sql("SELECT 1", timeout=0.3)
            silence.set()

    def test_key_and_values_are_sent_and_not_shown(self):
        seen = []

        def respond(handler):
            seen.append(handler.headers["Authorization"])
            handler.send(200, ARROW, rows())

        with server(respond) as connection:
            connection.sql("SELECT 1")
            self.assertNotIn(KEY, repr(connection))
        self.assertEqual(seen, [f"Bearer {KEY}"])


@unittest.skipUnless(shutil.which("openssl"), "openssl, which makes a certificate, is not installed")
class Encrypted(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        key, certificate = Path(folder.name, "key.pem"), Path(folder.name, "certificate.pem")
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
             "-keyout", key, "-out", certificate, "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"],
            check=True, capture_output=True,
        )  # fmt: skip
        self.both = Path(folder.name, "both.pem")
        self.both.write_bytes(key.read_bytes() + certificate.read_bytes())
        self.certificate = certificate

    def test_certificate_that_is_not_trusted_is_an_error_with_the_remedy(self):
        with self.assertRaisesRegex(buzz.InvalidError, "is not trusted: .*SSL_CERT_FILE"):
            with server(lambda handler: handler.send(200, ARROW, rows()), self.both):
                pass

    def test_certificate_of_the_environment_is_trusted(self):
        body = rows(1000)
        with mock.patch.dict(os.environ, {"SSL_CERT_FILE": str(self.certificate)}):
            with server(chunked([body[:100], body[100:]], ends=True), self.both) as connection:
                self.assertEqual(connection.sql("SELECT n FROM t", timeout=60).to_arrow().num_rows, 1000)
            with server(chunked([body[:100]], ends=False), self.both) as connection:
                with self.assertRaisesRegex(buzz.UnavailableError, "before the last row|does not answer"):
                    connection.sql("SELECT n FROM t")

    def test_close_cancels_a_query_of_another_thread(self):
        started, end = threading.Event(), threading.Event()
        errors = []

        def respond(handler):
            started.set()
            end.wait(120)

        def ask(connection):
            try:
                connection.sql("SELECT 1")
            except buzz.Error as error:
                errors.append(type(error))

        with mock.patch.dict(os.environ, {"SSL_CERT_FILE": str(self.certificate)}):
            with server(respond, self.both) as connection:
                thread = threading.Thread(target=ask, args=(connection,))
                thread.start()
                self.assertTrue(started.wait(120))
                connection.close()
                thread.join(120)
                end.set()
        self.assertEqual(errors, [buzz.CancelledError])
