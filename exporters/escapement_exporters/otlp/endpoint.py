"""Where telemetry goes: `otlp_endpoint`, or the standard variables where they are set explicitly."""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Final, Literal
from urllib.parse import urlsplit

from escapement.words.config import Settings
from escapement.words.errors import ConfigError

Protocol = Literal["grpc", "http/protobuf"]
Signal = Literal["traces", "metrics"]

_GRPC_PORT: Final = 4317
NEEDS: Final = "OTLP export needs the packages of the extra `otlp`: pip install 'escapement[otlp]'"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A receiver. `url` is None where the exporters find it in the variables themselves."""

    url: str | None
    protocol: Protocol
    shown: str


def find(settings: Settings, signal: Signal) -> Endpoint | None:
    """Where a signal goes; None where nobody asked for it. Raises ConfigError for a protocol that is not known."""
    disabled = os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    if disabled or _variable(f"OTEL_{signal.upper()}_EXPORTER").lower() == "none":
        return None
    given = settings.otlp_endpoint
    shown = given or _of_signal(signal, "ENDPOINT")
    if not shown:
        return None
    protocol = _protocol(signal, shown)
    url = given
    if given and protocol == "http/protobuf" and not given.endswith(f"/v1/{signal}"):
        url = f"{given.removesuffix('/v1/traces')}/v1/{signal}"
    parts = urlsplit(shown)
    return Endpoint(url, protocol, parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl())


def _protocol(signal: Signal, url: str) -> Protocol:
    named = _of_signal(signal, "PROTOCOL").lower()
    if named in ("grpc", "http/protobuf"):
        return named  # type: ignore[return-value]
    if named:
        raise ConfigError(f"OTEL_EXPORTER_OTLP_PROTOCOL takes grpc or http/protobuf, not {named!r}")
    try:
        port = urlsplit(url).port
    except ValueError:
        port = None
    return "grpc" if port == _GRPC_PORT else "http/protobuf"


def _of_signal(signal: Signal, what: str) -> str:
    return _variable(f"OTEL_EXPORTER_OTLP_{signal.upper()}_{what}") or _variable(f"OTEL_EXPORTER_OTLP_{what}")


def _variable(name: str) -> str:
    return os.environ.get(name, "").strip()


def check(to: Endpoint) -> None:
    """Whether what sends to a receiver is installed. Raises ConfigError. Nothing heavy is imported for it."""
    module = f"opentelemetry.exporter.otlp.proto.{to.protocol.partition('/')[0]}"
    try:
        found = find_spec(module) is not None
    except ImportError:
        found = False
    if not found:
        raise ConfigError(f"{NEEDS} ({module} is missing)")


def has_provider() -> bool:
    """Whether the application has a tracer provider of its own. It has read the standard variables as we do, and its
    exporters get a twin of each span."""
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider

    return isinstance(trace.get_tracer_provider(), TracerProvider)
