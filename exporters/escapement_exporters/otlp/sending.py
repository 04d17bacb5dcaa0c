"""Sending encoded requests to a receiver, and what became of them. Whoever asks decides when to try again.

Everything about the connection (headers, certificates, compression, timeouts) is read by OpenTelemetry's own exporters.
Of these only the clients are used: their `export` encodes again, and sleeps between attempts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Final, Literal, Protocol

from escapement.words.errors import ConfigError
from escapement_exporters.otlp import endpoint
from escapement_exporters.otlp.batches import Batch, halves
from escapement_exporters.otlp.endpoint import Endpoint, Signal

Outcome = Literal["sent", "later", "refused", "too large"]

_REFUSED: Final = (400, 422)
_TOO_LARGE: Final = 413
_SERVICES: Final = {"traces": "trace.v1.TraceService", "metrics": "metrics.v1.MetricsService"}


@dataclass(frozen=True, slots=True)
class Answer:
    """What a receiver made of a request; `rejected` counts spans that it did not want."""

    outcome: Outcome
    reason: str = ""
    rejected: int = 0


class Receiver(Protocol):
    """One at a time: not thread-safe."""

    def send(self, data: bytes, within: float) -> Answer:
        """Send one request. Raises nothing; takes about `within` seconds at most."""

    def close(self) -> None: ...


def connect(to: Endpoint, signal: Signal) -> Receiver:
    """A client for a receiver; nothing is sent yet. Raises ConfigError for what the variables say of it wrongly."""
    try:
        return _Grpc(to.url, signal) if to.protocol == "grpc" else _Http(to.url, signal)
    except ImportError as error:
        raise ConfigError(f"{endpoint.NEEDS} ({error.name} is not installed)") from None
    except Exception as error:
        raise ConfigError(f"nothing can be sent to {to.shown}: {error}") from error


def _exporter(kind: str, signal: Signal, url: str | None) -> Any:
    if signal == "traces":
        return import_module(f"opentelemetry.exporter.otlp.proto.{kind}.trace_exporter").OTLPSpanExporter(url)
    return import_module(f"opentelemetry.exporter.otlp.proto.{kind}.metric_exporter").OTLPMetricExporter(url)


def deliver(receiver: Receiver, batch: Batch, within: float) -> Iterator[tuple[Batch, Answer]]:
    """Send a batch, in pieces where it is too large for the receiver; each piece with what became of it."""
    answer = receiver.send(batch.data, within)
    if answer.outcome == "too large" and batch.spans > 1:
        for half in halves(batch):
            yield from deliver(receiver, half, within)
    else:
        yield batch, answer


class _Http:
    def __init__(self, url: str | None, signal: Signal) -> None:
        # `_client` has no public name in 1.45, and `export` takes spans only.
        self._client: Any = _exporter("http", signal, url)._client

    def send(self, data: bytes, within: float) -> Answer:
        try:
            timeout = min(within, self._client._timeout)
            result = self._client._submit(self._client._compress(data), timeout)
            status = result.status_code
            if status is None:
                return Answer("later", _sentence(result.error))
            reason = f"HTTP {status} {result.reason or ''}".strip()
            if 200 <= status < 300:
                return _accepted(result.content())
        except Exception as error:
            return Answer("later", _sentence(error))
        if status == _TOO_LARGE:
            return Answer("too large", reason)
        return Answer("refused" if status in _REFUSED else "later", reason)

    def close(self) -> None:
        self._client.shutdown()


class _Grpc:
    def __init__(self, url: str | None, signal: Signal) -> None:
        self._exporter: Any = _exporter("grpc", signal, url)
        self._path = f"/opentelemetry.proto.collector.{_SERVICES[signal]}/Export"
        self._call = self._method()

    def _method(self) -> Any:
        # The stub takes messages and serialises them; ours are serialised.
        return self._exporter._channel.unary_unary(self._path, request_serializer=None, response_deserializer=None)

    def send(self, data: bytes, within: float) -> Answer:
        import grpc

        try:
            exporter = self._exporter
            return _accepted(self._call(data, metadata=exporter._headers, timeout=min(within, exporter._timeout)))
        except grpc.RpcError as error:
            status: Any = error
            code, details = status.code(), str(status.details() or "")
            reason = f"gRPC {code.name} {details}".strip()
            if code is grpc.StatusCode.RESOURCE_EXHAUSTED and ("larger" in details or "max" in details):
                return Answer("too large", reason)
            if code is grpc.StatusCode.UNAVAILABLE:
                # A channel that failed waits longer and longer before it looks again; who asks has waited already.
                self._exporter._channel.close()
                self._exporter._initialize_channel_and_stub()
                self._call = self._method()
            return Answer("refused" if code is grpc.StatusCode.INVALID_ARGUMENT else "later", reason)
        except Exception as error:
            return Answer("later", _sentence(error))

    def close(self) -> None:
        self._exporter.shutdown()


def _accepted(body: bytes) -> Answer:
    """A receiver that took a request may still say that it did not want all of it."""
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

    try:
        partial = ExportTraceServiceResponse.FromString(body).partial_success
    except Exception:
        return Answer("sent")  # some answer with JSON, or with a word
    return Answer("sent", partial.error_message, partial.rejected_spans)


def _sentence(error: object) -> str:
    return f"{type(error).__name__}: {error}" if error is not None else "no answer"
