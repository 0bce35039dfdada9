"""A minimal emulation of Lambda's runtime API, for bootstraps, and of its Invoke API, for clients. Measured times are
those of the program, not of a full emulator."""
import asyncio
import json
import os
import time
import uuid

DEADLINE_SECONDS = 900


async def read_request(reader):
    """Reads a request. Returns its method, path, headers and body, or None if the connection was closed."""
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    first, *lines = head.split("\r\n")
    method, path, _ = first.split(" ", 2)
    headers = dict(line.lower().split(": ", 1) for line in lines if ": " in line)
    if "chunked" in headers.get("transfer-encoding", ""):
        chunks = []
        while size := int((await reader.readline()).split(b";")[0], 16):
            chunks.append(await reader.readexactly(size))
            await reader.readline()
        await reader.readline()
        return method, path, headers, b"".join(chunks)
    return method, path, headers, await reader.readexactly(int(headers.get("content-length", 0)))


async def write_answer(writer, status, body=b"", headers=None):
    """Writes a response and keeps the connection open."""
    lines = [f"HTTP/1.1 {status} OK", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    writer.write(("\r\n".join(lines) + "\r\n\r\n").encode() + body)
    await writer.drain()


class Server:
    """An HTTP server. `handle(method, path, headers, body)` returns status, body and optional headers."""

    def __init__(self, handle):
        self.handle = handle
        self.connections = set()

    @classmethod
    async def start(cls, handle):
        """Starts a server on a free port."""
        self = cls(handle)
        self.listener = await asyncio.start_server(self.connected, "127.0.0.1", 0, limit=1 << 24, backlog=1024)
        self.address = "{}:{}".format(*self.listener.sockets[0].getsockname())
        return self

    async def connected(self, reader, writer):
        self.connections.add(asyncio.current_task())
        try:
            while request := await read_request(reader):
                await write_answer(writer, *await self.handle(*request))
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self.connections.discard(asyncio.current_task())
            writer.close()

    async def stop(self):
        self.listener.close()
        for connection in list(self.connections):
            connection.cancel()
        await asyncio.gather(*self.connections)


class Function:
    """One instance of a function: a running bootstrap and its events."""

    def __init__(self):
        self.waiting = asyncio.Queue()
        self.answers = {}
        self.first_next = asyncio.get_running_loop().create_future()

    @classmethod
    async def start(cls, bootstrap, memory_mb, variables, log):
        """Starts `bootstrap`. It inherits only PATH from this process."""
        self = cls()
        self.server = await Server.start(self.handle)
        environment = {
            "PATH": os.environ["PATH"],
            "AWS_LAMBDA_RUNTIME_API": self.server.address,
            "AWS_LAMBDA_FUNCTION_NAME": os.path.basename(bootstrap),
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(memory_mb),
            "AWS_LAMBDA_FUNCTION_VERSION": "1",
            "AWS_REGION": "us-east-2",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "BUZZ_STAGE": "bench",
            **variables,
        }
        self.started = time.perf_counter()
        self.process = await asyncio.create_subprocess_exec(bootstrap, env=environment, stdout=log, stderr=log)
        return self

    async def handle(self, method, path, _headers, body):
        if path.endswith("/invocation/next"):
            if not self.first_next.done():
                self.first_next.set_result(time.perf_counter() - self.started)
            name, event = await self.waiting.get()
            deadline = int((time.time() + DEADLINE_SECONDS) * 1000)
            arn = "arn:aws:lambda:us-east-2:000000000000:function:bench"
            return 200, event, {
                "Lambda-Runtime-Aws-Request-Id": name,
                "Lambda-Runtime-Deadline-Ms": deadline,
                "Lambda-Runtime-Invoked-Function-Arn": arn,
            }
        *_, name, outcome = path.split("/")
        if name in self.answers:
            self.answers.pop(name).set_result((outcome == "response", body))
        return 202, b"{}"

    async def seconds_to_next(self):
        """Returns the seconds from the start of the process to its first request for an event."""
        died = asyncio.ensure_future(self.process.wait())
        await asyncio.wait([self.first_next, died], return_when=asyncio.FIRST_COMPLETED)
        if not self.first_next.done():
            raise RuntimeError(f"the bootstrap ended with exit code {died.result()} before it requested an event")
        died.cancel()
        return self.first_next.result()

    async def invoke(self, event):
        """Sends `event` to the bootstrap and returns its response as bytes."""
        name = str(uuid.uuid4())
        answered = asyncio.get_running_loop().create_future()
        self.answers[name] = answered
        await self.waiting.put((name, event if isinstance(event, bytes) else json.dumps(event).encode()))
        died = asyncio.ensure_future(self.process.wait())
        await asyncio.wait([answered, died], return_when=asyncio.FIRST_COMPLETED)
        if not answered.done():
            raise RuntimeError(f"the bootstrap ended with exit code {died.result()}")
        died.cancel()
        succeeded, body = answered.result()
        if not succeeded:
            raise RuntimeError(body.decode())
        return body

    def cpu_seconds(self):
        """Returns the user and system time of the process so far, in seconds."""
        return cpu_seconds(self.process.pid)

    async def stop(self):
        if self.process.returncode is None:
            self.process.kill()
            await self.process.wait()
        await self.server.stop()


def cpu_seconds(pid):
    """Returns the user and system time of process `pid` so far, in seconds."""
    with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
