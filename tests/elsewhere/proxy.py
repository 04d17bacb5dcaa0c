"""A forward proxy: absolute addresses for HTTP, tunnels for HTTPS."""

from __future__ import annotations

import socket
import socketserver
import threading
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit


class _Handler(socketserver.StreamRequestHandler):
    server: _Listener

    def handle(self) -> None:
        method, target, version = self.rfile.readline().decode().split()
        lines = list(iter(self.rfile.readline, b"\r\n"))
        self.server.asked.append((method, target))
        if method == "CONNECT":
            host, _, port = target.rpartition(":")
            with socket.create_connection((host, int(port))) as there:
                self.wfile.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
                _pass_on(self.connection, there)
            return
        address = urlsplit(target)
        with socket.create_connection((address.hostname, address.port)) as there:
            kept = [line for line in lines if not line.lower().startswith((b"connection:", b"proxy-"))]
            head = f"{method} {address.path} {version}\r\nConnection: close\r\n".encode()
            length = next(int(line.partition(b":")[2]) for line in lines if line.lower().startswith(b"content-length:"))
            there.sendall(head + b"".join(kept) + b"\r\n" + self.rfile.read(length))
            closing = b"\r\nConnection: close\r\n"
            while data := there.recv(65536):
                self.connection.sendall(data.replace(b"\r\n", closing, 1) if closing else data)
                closing = b""


def _pass_on(here: socket.socket, there: socket.socket) -> None:
    """Both ways, until one side closes."""
    back = threading.Thread(target=_copy, args=(there, here), daemon=True)
    back.start()
    _copy(here, there)
    back.join()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    for end in (source, target):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


class _Listener(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing: programs here hang up when they like."""


class Proxy:
    """The proxy, running."""

    def __init__(self) -> None:
        self._listener = _Listener()
        self.url = f"http://127.0.0.1:{self._listener.server_address[1]}"
        threading.Thread(target=self._listener.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def asked(self) -> list[tuple[str, str]]:
        """Method and target of each request."""
        return self._listener.asked

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *exception: object) -> None:
        self._listener.shutdown()
        self._listener.server_close()
