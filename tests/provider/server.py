"""The HTTP server itself: connections, requests in, responses and chunks out."""

from __future__ import annotations

import socket
import socketserver
import sys
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast

from . import sse
from .exchange import Answer, Dropped, ReceivedRequest
from .fixed import FixedHandler
from .routes import Routes


class Server(ThreadingHTTPServer):
    """Keeps what it got, and its open connections, so that it can close them."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, port: int, latency: float, chunk_delay: float, fixed: bool) -> None:
        self.latency = latency
        self.chunk_delay = chunk_delay
        self.routes = Routes(latency)
        self.requests: list[ReceivedRequest] = []
        self.failures: list[BaseException | None] = []
        self.count = 0
        self.stopping = threading.Event()
        self._connections: set[Any] = set()
        self._lock = threading.Lock()
        super().__init__(("127.0.0.1", port), FixedHandler if fixed else _Handler)

    def add(self, request: ReceivedRequest | None = None) -> None:
        """Counts a request, and keeps it unless it is only to be counted."""
        with self._lock:
            self.count += 1
            if request:
                self.requests.append(request)

    def server_bind(self) -> None:
        # The inherited one looks the host's name up, which can take seconds.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "127.0.0.1", self.server_address[1]

    def get_request(self) -> tuple[Any, Any]:
        connection, address = super().get_request()
        with self._lock:
            self._connections.add(connection)
        return connection, address

    def close_request(self, request: Any) -> None:
        with self._lock:
            self._connections.discard(request)
        super().close_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        # Clients close connections early all the time, some as soon as they have read `[DONE]`.
        error = sys.exception()
        if not isinstance(error, ConnectionError):
            self.failures.append(error)
            super().handle_error(request, client_address)

    def stop(self) -> None:
        self.stopping.set()
        self.shutdown()
        self.server_close()
        with self._lock:
            connections = list(self._connections)
        for connection in connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def do_POST(self) -> None:
        server = cast(Server, self.server)
        path, _, query = self.path.partition("?")
        body = self._body()
        if path == "/_count":
            self._send(Answer(headers={"content-type": "text/plain"}, body=str(server.count).encode()))
            return
        headers = {name.lower(): ", ".join(self.headers.get_all(name, [])) for name in self.headers}
        request = ReceivedRequest(self.command, path, query, headers, body)
        server.add(request)
        try:
            self._send(server.routes.answer(request))
        except Dropped:
            self.close_connection = True

    do_GET = do_PUT = do_PATCH = do_DELETE = do_POST

    def _body(self) -> bytes:
        if self.headers.get("transfer-encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("content-length") or 0))
        parts = []
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _send(self, answer: Answer) -> None:
        server = cast(Server, self.server)
        if server.stopping.wait(answer.delay):
            raise Dropped
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.close_connection = self.close_connection or answer.cut
        if answer.events is None:
            self.send_header("content-length", str(len(answer.body)))
            self.end_headers()
            self.wfile.write(answer.body[: len(answer.body) // 2] if answer.cut else answer.body)
        else:
            self.send_header("transfer-encoding", "chunked")
            self.end_headers()
            self._send_chunks(answer.events, answer.cut)

    def _send_chunks(self, events: list[bytes], cut: bool) -> None:
        server = cast(Server, self.server)
        for chunk in sse.chunks(events[: len(events) // 2] if cut else events):
            self.wfile.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
            self.wfile.flush()
            if server.stopping.wait(server.chunk_delay):
                raise Dropped
        if not cut:
            self.wfile.write(b"0\r\n\r\n")

    def version_string(self) -> str:
        return "cloudflare"

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a test reads what was received from the provider."""


class Provider:
    """A running stand-in for both APIs; with `fixed` it gives constant answers and only counts requests."""

    def __init__(
        self,
        *,
        port: int = 0,
        latency: float = 0.0,
        chunk_delay: float = 0.0,
        fixed: bool = False,
    ) -> None:
        self._server = Server(port, latency, chunk_delay, fixed)
        self._stopped = threading.Lock()
        self.base_url = f"http://127.0.0.1:{self._server.server_port}"
        # The poll interval bounds how long a stop takes.
        serve = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        serve.start()

    @property
    def requests(self) -> list[ReceivedRequest]:
        """What was received, oldest first."""
        return self._server.requests

    @property
    def count(self) -> int:
        """How many requests were received."""
        return self._server.count

    def stop(self) -> None:
        """Stops listening and closes the open connections; later requests fail to connect."""
        if self._stopped.acquire(blocking=False):
            self._server.stop()

    def __enter__(self) -> Provider:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()
        # A client only sees that the connection broke, which a replay would repeat faithfully.
        assert self._server.failures == [], f"the provider itself failed: {self._server.failures}"
