"""An emulation of Lambda's Invoke API as AWS offers it: TLS, HTTP/2 by ALPN, and a limited number of streams on each
connection. Needs the package `h2`, and `openssl` for the certificate."""
import asyncio
import os
import ssl
import subprocess

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings

STREAMS = 128
WINDOW = 1 << 24


def certificate(folder):
    """Makes a certificate of `localhost` in `folder`. Returns the paths of the certificate and of its key."""
    cert, key = os.path.join(folder, "cert.pem"), os.path.join(folder, "key.pem")
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    command += ["-addext", "basicConstraints=critical,CA:FALSE", "-keyout", key, "-out", cert]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return cert, key


class TlsServer:
    """An HTTPS server. `handle(method, path, headers, body)` returns status, body and optional headers.

    Counts the requests that run at the same time, and the connections."""

    def __init__(self, handle, streams):
        self.handle = handle
        self.streams = streams
        self.tasks = set()
        self.running = self.most = self.connections = 0

    @classmethod
    async def start(cls, handle, folder, streams=STREAMS):
        """Starts a server on a free port, with a certificate that clients trust by `SSL_CERT_FILE`."""
        self = cls(handle, streams)
        self.certificate, key = certificate(folder)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, key)
        context.set_alpn_protocols(["h2"])
        self.listener = await asyncio.start_server(self.connected, "localhost", 0, ssl=context, backlog=1024)
        self.url = f"https://localhost:{self.listener.sockets[0].getsockname()[1]}"
        return self

    async def connected(self, reader, writer):
        task = asyncio.current_task()
        self.tasks.add(task)
        self.connections += 1
        try:
            await Connection(self, reader, writer).serve()
        except (ConnectionError, asyncio.CancelledError, h2.exceptions.ProtocolError):
            pass
        finally:
            self.tasks.discard(task)
            writer.close()

    def track(self, coroutine):
        task = asyncio.ensure_future(coroutine)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def stop(self):
        self.listener.close()
        for task in list(self.tasks):
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


class Connection:
    """One connection and its streams."""

    def __init__(self, server, reader, writer):
        self.server, self.reader, self.writer = server, reader, writer
        self.http = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
        limits = {
            h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: server.streams,
            h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: WINDOW,
        }
        self.http.local_settings.update(limits)
        self.requests = {}
        self.room = asyncio.Event()

    async def serve(self):
        self.http.initiate_connection()
        self.http.increment_flow_control_window(WINDOW)
        self.send()
        while received := await self.reader.read(1 << 16):
            for event in self.http.receive_data(received):
                self.on(event)
            self.send()
            await self.writer.drain()

    def send(self):
        self.writer.write(self.http.data_to_send())

    def on(self, event):
        if isinstance(event, h2.events.RequestReceived):
            self.requests[event.stream_id] = (dict(event.headers), bytearray())
        elif isinstance(event, h2.events.DataReceived):
            self.requests[event.stream_id][1].extend(event.data)
            self.http.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.StreamEnded):
            self.server.track(self.answer(event.stream_id, *self.requests.pop(event.stream_id)))
        elif isinstance(event, h2.events.WindowUpdated):
            self.room.set()

    async def answer(self, stream, headers, body):
        server = self.server
        server.running += 1
        server.most = max(server.most, server.running)
        try:
            status, content, *more = await server.handle(headers[":method"], headers[":path"], headers, bytes(body))
        finally:
            server.running -= 1
        fields = {name.lower(): str(value) for name, value in (more[0] if more else {}).items()}
        try:
            self.http.send_headers(stream, [(":status", str(status)), ("content-length", str(len(content))), *fields.items()])
            while content:
                size = min(len(content), self.http.local_flow_control_window(stream), self.http.max_outbound_frame_size)
                if size == 0:
                    self.room.clear()
                    self.send()
                    await self.room.wait()
                    continue
                self.http.send_data(stream, content[:size])
                content = content[size:]
            self.http.end_stream(stream)
            self.send()
        except (h2.exceptions.ProtocolError, ConnectionError):
            pass  # the caller has gone
