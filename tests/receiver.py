"""A receiver of OTLP over a real socket, HTTP or gRPC: it can be killed and started again on its port, refuse what is
large, be slow, and answer with an error."""

from __future__ import annotations

import gzip
import threading
import time
from collections import Counter
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

import grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span

LIMIT = 4 * 1024 * 1024


class Receiver:
    """`error`: an HTTP status or a gRPC code to answer with instead of taking anything."""

    def __init__(self, protocol: str = "http/protobuf", *, limit: int = LIMIT) -> None:
        self.protocol = protocol
        self.limit = limit
        self.delay = 0.0
        self.error: Any = None
        self.requests: list[trace_service_pb2.ExportTraceServiceRequest] = []
        self.metrics: list[metrics_service_pb2.ExportMetricsServiceRequest] = []
        self.headers: list[dict[str, str]] = []
        self.refused = 0
        self.port = 0
        self._server: Any = None
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def spans(self) -> list[Span]:
        with self._lock:
            return [
                span
                for request in self.requests
                for around in request.resource_spans
                for scope in around.scope_spans
                for span in scope.spans
            ]

    def ids(self) -> Counter[str]:
        return Counter(span.span_id.hex() for span in self.spans)

    def take(self, path: str, data: bytes, headers: dict[str, str]) -> bytes:
        time.sleep(self.delay)
        with self._lock:
            self.headers.append(headers)
            if path.endswith("/metrics"):
                self.metrics.append(metrics_service_pb2.ExportMetricsServiceRequest.FromString(data))
                return metrics_service_pb2.ExportMetricsServiceResponse().SerializeToString()
            self.requests.append(trace_service_pb2.ExportTraceServiceRequest.FromString(data))
            return trace_service_pb2.ExportTraceServiceResponse().SerializeToString()

    def start(self) -> None:
        """On the port that it had before, if it had one."""
        self._server = _grpc(self) if self.protocol == "grpc" else _http(self)

    def kill(self) -> None:
        if self._server is None:
            return
        if self.protocol == "grpc":
            self._server.stop(None).wait()
        else:
            self._server.shutdown()
            self._server.server_close()
        self._server = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


def _http(receiver: Receiver) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            data = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                data = gzip.decompress(data)
            status = receiver.error or (413 if len(data) > receiver.limit else 200)
            if status == 200:
                answer = receiver.take(self.path, data, {name.lower(): value for name, value in self.headers.items()})
            else:
                receiver.refused += 1
                answer = b""
            self.send_response(status)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", receiver.port), Handler)
    server.daemon_threads = True
    receiver.port = server.server_address[1]
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    return server


def _grpc(receiver: Receiver) -> grpc.Server:
    def take(path: str, request: Any, context: grpc.ServicerContext) -> bytes:
        if receiver.error is not None:
            receiver.refused += 1
            context.abort(receiver.error, "not now")
        return receiver.take(
            path, request.SerializeToString(), {str(k): str(v) for k, v in context.invocation_metadata()}
        )

    class Traces(trace_service_pb2_grpc.TraceServiceServicer):
        def Export(self, request: Any, context: Any) -> Any:
            return trace_service_pb2.ExportTraceServiceResponse.FromString(take("traces", request, context))

    class Metrics(metrics_service_pb2_grpc.MetricsServiceServicer):
        def Export(self, request: Any, context: Any) -> Any:
            return metrics_service_pb2.ExportMetricsServiceResponse.FromString(take("/metrics", request, context))

    server = grpc.server(
        futures.ThreadPoolExecutor(4),
        options=[("grpc.max_receive_message_length", receiver.limit), ("grpc.so_reuseport", 0)],
    )
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(Traces(), server)  # type: ignore[no-untyped-call]
    metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server(Metrics(), server)  # type: ignore[no-untyped-call]
    receiver.port = server.add_insecure_port(f"127.0.0.1:{receiver.port}")
    server.start()
    return server
