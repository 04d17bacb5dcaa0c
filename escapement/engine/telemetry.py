"""OpenTelemetry in this process: whose spans are whose.

The application's provider is the application's, whenever it comes. Ours only stands in while there is none: for tracers
that would do nothing, so that what other instrumentation does during a run lands in its trace. It is never set as the
global provider, because that can be done once, and whoever comes second loses its telemetry with a line in a log.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final, cast

from opentelemetry import trace as otel
from opentelemetry.sdk.environment_variables import OTEL_SDK_DISABLED
from opentelemetry.sdk.trace import SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON

from escapement.engine import lanes
from escapement.engine.overheard import JournalProcessor, Sink
from escapement.words import semconv

_log = logging.getLogger("escapement")
_UNLIMITED: Final = SpanLimits(*[SpanLimits.UNSET] * 8)
_next_trace_id: ContextVar[int] = ContextVar("escapement_next_trace_id", default=0)
_OF_SDKS: Final = ("com.anthropic.sdk",)
"""How the scopes of SDKs begin that trace themselves, and send a header for it, where somebody listens. Where ours
stands in nobody does, and our spans say more."""


class _Ids(RandomIdGenerator):
    """Random ids, but for trace ids: that of a run is settled before its span starts, and what others begin in a run
    is part of it. A backend would show an agent whose calls are instrumented twice as many traces."""

    def generate_trace_id(self) -> int:
        return _next_trace_id.get() or _trace_id_here() or super().generate_trace_id()


def _trace_id_here() -> int:
    """Of the run that this happens in; 0 where there is none."""
    scope = lanes.current()
    if scope is None:
        return 0
    return otel.get_current_span(cast(Sink, scope.run).root_context).get_span_context().trace_id


IDS = _Ids()


class Provider(TracerProvider):
    """Our provider: always on, without limits, and writing before a span's start or end returns."""

    def __init__(self) -> None:
        super().__init__(sampler=ALWAYS_ON, span_limits=_UNLIMITED, shutdown_on_exit=False, id_generator=IDS)
        # OTEL_SDK_DISABLED turns telemetry off; a recording that the user asked for is not telemetry.
        self._disabled = False
        super().add_span_processor(JournalProcessor())
        self.heard = False
        """Whether anybody but the journal looks at our spans: the program added processors to what stood in."""

    def add_span_processor(self, span_processor: SpanProcessor) -> None:
        self.heard = True
        super().add_span_processor(span_processor)


@cache
def provider() -> Provider:
    """The one of this process."""
    return Provider()


@cache
def tracer() -> otel.Tracer:
    return provider().get_tracer(semconv.SCOPE, own_version())


@cache
def own_version() -> str:
    try:
        return version("escapement")
    except PackageNotFoundError:
        return "0"


def service_name() -> str:
    """The name that the program has in telemetry, where it has one."""
    named = os.environ.get("OTEL_SERVICE_NAME", "").strip()
    pairs = (pair.partition("=") for pair in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "").split(","))
    return named or next((value.strip() for key, _, value in pairs if key.strip() == "service.name"), "")


@contextmanager
def settled(trace_id: int) -> Iterator[None]:
    """A span of our provider that begins a trace in here begins this one."""
    token = _next_trace_id.set(trace_id)
    try:
        yield
    finally:
        _next_trace_id.reset(token)


# -- standing in -----------------------------------------------------------------------------------------------------


class StandIn(otel.ProxyTracerProvider):
    """What `get_tracer_provider()` gives while the application has none and a run is open.

    To whoever asks it is OpenTelemetry's own proxy, so others set providers of theirs; processors can be added to it.
    """

    def add_span_processor(self, span_processor: SpanProcessor) -> None:
        provider().add_span_processor(span_processor)

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return provider().force_flush(timeout_millis)

    def shutdown(self) -> None:
        """Nothing: what stands in is not the application's to end."""


_stand_in: Final = StandIn()
_instead_of: tuple[otel.ProxyTracerProvider, property] | None = None
"""What was there before ours stood in."""


def _tracer(proxy: Any) -> otel.Tracer:
    """Of a tracer that was handed out while there was no provider, the one that does the work."""
    if _instead_of is not None and proxy._real_tracer is None and otel._TRACER_PROVIDER is None:
        scope = proxy._instrumenting_module_name
        if not scope.startswith(_OF_SDKS):
            return provider().get_tracer(
                scope, proxy._instrumenting_library_version, proxy._schema_url, proxy._attributes
            )
    found: otel.Tracer = _THEIRS.fget(proxy)
    return found


def _set(provider: otel.TracerProvider, *args: Any, **kwargs: Any) -> None:
    """The application's provider comes: its spans are heard from the first on, where a run has asked for them."""
    if _SETS is not None:
        _SETS(provider, *args, **kwargs)
    if _awaited:
        overhear()


_SETS: Final[Callable[..., None] | None] = getattr(otel, "_set_tracer_provider", None)
_THEIRS: Final[Any] = otel.ProxyTracer.__dict__.get("_tracer")
_OURS: Final = property(_tracer)


def stand_in() -> None:
    """Stand in from here on, unless the application has a provider or wants no telemetry. Safe to call twice."""
    global _instead_of
    switched_off = os.environ.get(OTEL_SDK_DISABLED, "").strip().lower() == "true"
    if _instead_of is not None or switched_off or not isinstance(otel.get_tracer_provider(), otel.ProxyTracerProvider):
        return
    if not isinstance(_THEIRS, property) or not hasattr(otel, "_PROXY_TRACER_PROVIDER") or _SETS is None:
        _log.warning("Escapement does not know this OpenTelemetry: spans of other instrumentation are not in the trace")
        return
    _instead_of = otel._PROXY_TRACER_PROVIDER, _THEIRS
    otel._PROXY_TRACER_PROVIDER = _stand_in
    otel._set_tracer_provider = _set  # type: ignore[assignment]
    otel.ProxyTracer._tracer = _OURS  # type: ignore[method-assign, assignment]


def step_back() -> None:
    """No run is open any more. Where the program added processors to what stood in, they go on hearing of its spans."""
    global _instead_of, _awaited
    _awaited = False
    if _instead_of is None or provider().heard:
        return
    before, theirs = _instead_of
    if otel._PROXY_TRACER_PROVIDER is _stand_in:
        otel._PROXY_TRACER_PROVIDER = before
    if otel.ProxyTracer.__dict__["_tracer"] is _OURS:
        otel.ProxyTracer._tracer = theirs  # type: ignore[method-assign, assignment]
    if otel._set_tracer_provider is _set and _SETS is not None:
        otel._set_tracer_provider = _SETS
    _instead_of = None


# -- the application's provider --------------------------------------------------------------------------------------

_lock: Final = threading.Lock()
_overheard: tuple[Any, JournalProcessor] | None = None
_awaited = False
"""A run wants the spans of a provider that is not there yet."""


def overhear() -> None:
    """Have the application's provider tell of its spans, for the runs that ask for them, or do so when there is one.
    Safe to call at any time."""
    global _overheard, _awaited
    current = otel.get_tracer_provider()
    if isinstance(current, otel.ProxyTracerProvider):
        _awaited = True
        return
    with _lock:
        if _overheard is not None and _overheard[0] is current and not _overheard[1].over:
            return
        _overheard = current, JournalProcessor(asked=True)
        try:
            add = getattr(current, "add_span_processor", None)
            if add is not None:
                add(_overheard[1])
        except Exception:
            _log.exception("Escapement: the application's tracer provider does not tell of its spans")


def listening_tracer() -> otel.Tracer | None:
    """A tracer for those who listen to spans besides us: the application's provider, or processors added to ours."""
    if _instead_of is not None and otel._TRACER_PROVIDER is None:  # asked at every call: not by way of the environment
        return tracer() if provider().heard else None
    current = otel.get_tracer_provider()
    if isinstance(current, otel.ProxyTracerProvider | otel.NoOpTracerProvider):
        return None
    return current.get_tracer(semconv.SCOPE, own_version())
