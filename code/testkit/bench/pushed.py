"""A server of Buzz, and clients of its HTTP door, for benchmarks of rows that are pushed."""

import json
import os
import pathlib
import re
import secrets
import signal
import socket
import subprocess
import time


class Server:
    """A process `buzz serve` on a folder of its own, with streams and, with `state`, with pipelines."""

    def __init__(self, buzz, folder, state=False):
        self.key = secrets.token_hex(16)
        self.folder = pathlib.Path(folder)
        command = [buzz, "serve", "--streams", self.folder / "streams", "--listen", "127.0.0.1:0", "--postgres", "127.0.0.1:0"]
        if state:
            command += ["--state", self.folder / "state"]
        log = self.folder / "server.log"
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=open(log, "w"), cwd=self.folder,
                                        env={**os.environ, "BUZZ_KEY": self.key})
        while True:
            found = re.search(r"^HTTP: +http://([\d.]+):(\d+)$", log.read_text(), re.MULTILINE)
            if found:
                self.address = (found.group(1), int(found.group(2)))
                return
            if self.process.poll() is not None:
                raise SystemExit(log.read_text())
            time.sleep(0.05)

    def head(self, method, path, length=0, more=""):
        """The head of a request."""
        host, port = self.address
        return (f"{method} {path} HTTP/1.1\r\nHost: {host}:{port}\r\nAuthorization: Bearer {self.key}\r\nContent-Length: {length}\r\n"
                f"{more}\r\n").encode()

    def connect(self):
        """A connection that sends at once."""
        connection = socket.create_connection(self.address)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def ask(self, method, path, body=None):
        """The status and the JSON of the answer to a request."""
        rows = json.dumps(body).encode() if body is not None else b""
        with self.connect() as connection:
            connection.sendall(self.head(method, path, len(rows), "Connection: close\r\n") + rows)
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        head, _, rest = answer.partition(b"\r\n\r\n")
        if b"transfer-encoding: chunked" in head.lower():
            parts = []
            while rest:
                size, _, rest = rest.partition(b"\r\n")
                parts.append(rest[:int(size, 16)])
                rest = rest[int(size, 16) + 2:]
            rest = b"".join(parts)
        return int(head.split()[1]), json.loads(rest or b"null")

    def must(self, method, path, body=None):
        """The JSON of the answer to a request that must succeed."""
        status, answer = self.ask(method, path, body)
        if status != 200:
            raise SystemExit(f"{method} {path}: {status} {answer}")
        return answer

    def resident(self):
        """Bytes of memory of the process."""
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"^VmRSS:\s+(\d+) kB", status, re.MULTILINE).group(1)) << 10

    def kill(self):
        """Ends the process."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


class Poster:
    """A connection that posts rows to a stream, one request after the other."""

    def __init__(self, server, stream):
        self.server, self.stream = server, stream
        self.connection = server.connect()
        self.reader = self.connection.makefile("rb")

    def post(self, rows, key):
        """Posts NDJSON. Returns the status."""
        more = f"Idempotency-Key: {key}\r\nContent-Type: application/x-ndjson\r\n"
        self.connection.sendall(self.server.head("POST", f"/v1/streams/{self.stream}", len(rows), more) + rows)
        status = int(self.reader.readline().split()[1])
        length = 0
        while (line := self.reader.readline().strip()):
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        self.reader.read(length)
        return status


def share(sorted_values, percent):
    """The value below which `percent` of the values are."""
    return sorted_values[min(len(sorted_values) - 1, len(sorted_values) * percent // 100)] if sorted_values else float("nan")
