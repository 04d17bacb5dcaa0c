"""Metrics of calls, by OpenTelemetry's API: into the application's meter provider, whenever it has one.

Where it has none and OTLP export is on, a provider of ours sends them. Live calls have the names of the GenAI
conventions; what was replayed is counted apart, so that nobody adds up tokens that nobody paid for.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Final

from opentelemetry import metrics as otel
from opentelemetry.metrics import Meter, MeterProvider, NoOpMeterProvider

from escapement.engine import usage
from escapement.engine.exporting import Outlet
from escapement.engine.telemetry import own_version
from escapement.store.journal import Record
from escapement.store.prices import Prices
from escapement.store.rows import StepRow
from escapement.words import semconv
from escapement.words.config import Settings
from escapement.words.errors import ConfigError
from escapement_exporters.export.worker import Worker
from escapement_exporters.otlp import endpoint
from escapement_exporters.otlp.endpoint import Endpoint

_log = logging.getLogger("escapement")

_TOKENS: Final = [4**power for power in range(14)]
_SECONDS: Final = [0.01 * 2**power for power in range(14)]
"""Bounds of buckets, as the conventions have them."""
_DOLLARS: Final = [0.0001 * 2**power for power in range(22)]
_AT_EXIT: Final = 2.0
_NAMES: Final = (
    semconv.OPERATION_NAME, semconv.PROVIDER_NAME, semconv.REQUEST_MODEL, semconv.RESPONSE_MODEL,
    semconv.SERVER_ADDRESS, semconv.SERVER_PORT,
)  # fmt: skip
"""Attributes of every measurement, where they are known."""
_OF_TOOLS: Final = (semconv.PROVIDER_NAME, semconv.REQUEST_MODEL)
_OF_ANSWER: Final = (
    semconv.RESPONSE_MODEL, semconv.ERROR_TYPE, semconv.STATUS, semconv.RESPONSE_TIME_TO_FIRST_CHUNK,
    semconv.USAGE_INPUT_TOKENS, semconv.USAGE_OUTPUT_TOKENS, semconv.USAGE_CACHE_READ, semconv.USAGE_CACHE_WRITE,
    semconv.TOOLS_CALLED,
)  # fmt: skip


def outlet(settings: Settings) -> Outlet:
    """What measures a run."""
    to = endpoint.find(settings, "metrics")
    otel.get_meter_provider()  # makes the one that OTEL_PYTHON_METER_PROVIDER names
    if to is not None and _of_application() is None:
        _own(to)  # at once: it cannot be made any more when the program ends
    return Measured(settings, to)


class Measured(Outlet):
    """The outlet of one run. Prices are looked up, and measurements made, on a thread of ours."""

    def __init__(self, settings: Settings, to: Endpoint | None) -> None:
        self._settings = settings
        self._to = to
        self._prices: Prices | None = None
        self._asked: dict[str, Record] = {}
        self._diverged = False
        self._heads = False
        self._calls = 0
        self._spent: float | None = 0.0

    def take(self, records: Sequence[Record]) -> None:
        for record in records:
            kind = record["record"]
            if kind == "trace":
                self._heads = True
            elif kind == "start":
                self._asked[record["span_id"]] = record
            elif kind == "span":
                start = self._asked.pop(record["span_id"], None)
                if start is not None and self._is_heard():
                    answer = record["attributes"]
                    kept = {name: answer[name] for name in _OF_ANSWER if name in answer}
                    self._leave(_Call(start["attributes"] | kept, start["start"], record["end"]))
            elif kind == "miss" and self._is_heard():
                self._leave(_Counted(semconv.METRIC_MISSES))
                if not self._diverged:
                    self._diverged = True
                    self._leave(_Counted(semconv.METRIC_DIVERGENCES))
            elif kind == "killed" and self._is_heard():
                self._leave(_Counted(semconv.METRIC_LOOPS))

    def serve(self, row: StepRow, record: Record) -> None:
        if self._is_heard():
            self._leave(_Call(row.attributes, row.start, row.start, served=True))

    def close(self, status: str, error: str | None) -> None:
        self._asked.clear()
        if self._heads and self._is_heard():
            self._leave(_Ended(status))

    def after_fork(self) -> None:
        self._asked = {}
        self._heads = False

    def counts(self) -> Counter[str]:
        return Counter()

    def _is_heard(self) -> bool:
        return self._to is not None or _of_application() is not None

    def _leave(self, what: _Measurable) -> None:
        if _worker.has_room:
            _worker.put((self, what))

    # -- on our thread -------------------------------------------------------------------------------------------

    def measure(self, what: _Measurable) -> None:
        """Make a measurement, where somebody listens."""
        provider = _of_application() or (_own(self._to) if self._to is not None else None)
        if provider is None:
            return
        instruments = _instruments(provider)
        if isinstance(what, _Counted):
            instruments[what.name].add(1, what.attributes)
        elif isinstance(what, _Ended):
            if self._calls and self._spent is not None:
                instruments[semconv.METRIC_RUN_COST].record(self._spent, {semconv.TRACE_STATUS: what.status})
        elif what.served:
            instruments[semconv.METRIC_HITS].add(1, _common(what.attributes))
            if saved := self._cost(what):
                instruments[semconv.METRIC_SAVED].add(saved, _common(what.attributes))
        else:
            self._measure_call(what, instruments)

    def _measure_call(self, call: _Call, instruments: Mapping[str, Any]) -> None:
        given = call.attributes
        common = _common(given)
        error = given.get(semconv.ERROR_TYPE) or _status(given)
        outcome = {semconv.ERROR_TYPE: error} if error else {}
        instruments[semconv.CLIENT_OPERATION_DURATION].record((call.end - call.start) / 1e9, common | outcome)
        first = given.get(semconv.RESPONSE_TIME_TO_FIRST_CHUNK)
        if isinstance(first, int | float):
            instruments[semconv.CLIENT_TIME_TO_FIRST_CHUNK].record(first, common)
        for name, kind in ((semconv.USAGE_INPUT_TOKENS, "input"), (semconv.USAGE_OUTPUT_TOKENS, "output")):
            tokens = given.get(name)
            if type(tokens) is int and tokens >= 0:
                instruments[semconv.CLIENT_TOKEN_USAGE].record(tokens, common | {semconv.TOKEN_TYPE: kind})
        cost = self._cost(call)
        if cost:
            instruments[semconv.METRIC_COST].add(cost, common)
        self._calls += 1
        self._spent = None if cost is None or self._spent is None else self._spent + cost
        used = {name: given[name] for name in _OF_TOOLS if name in given}
        for names, metric in (
            (semconv.TOOLS_CALLED, semconv.TOOL_CALLS),
            (semconv.TOOLS_FAILED, semconv.TOOL_FAILURES),
        ):
            for tool in given.get(names) or ():
                instruments[metric].add(1, {semconv.TOOL_NAME: tool} | used)

    def _cost(self, call: _Call) -> float | None:
        """US dollars, at list prices or the user's; None where they are not known."""
        if self._prices is None:
            self._prices = Prices.of(self._settings)
        return usage.cost_of(call.attributes, call.start, self._prices)


class _Call:
    """A live call that has ended, or one that was served."""

    __slots__ = ("attributes", "end", "served", "start")

    def __init__(self, attributes: Mapping[str, Any], start: int, end: int, *, served: bool = False) -> None:
        self.attributes, self.start, self.end, self.served = attributes, start, end, served


class _Counted:
    """Something that happened once more."""

    __slots__ = ("attributes", "name")

    def __init__(self, name: str, attributes: Mapping[str, Any] | None = None) -> None:
        self.name, self.attributes = name, attributes or {}


class _Ended:
    """A run is over, in the process that it began in."""

    __slots__ = ("status",)

    def __init__(self, status: str) -> None:
        self.status = status


_Measurable = _Call | _Counted | _Ended


def _common(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: attributes[name] for name in _NAMES if name in attributes}


def _status(attributes: Mapping[str, Any]) -> str:
    status = attributes.get(semconv.STATUS)
    return str(status) if isinstance(status, int) and status >= 400 else ""


# -- providers -------------------------------------------------------------------------------------------------------


def _of_application() -> MeterProvider | None:
    """The application's meter provider, if it has one by now.

    Asked at every call, so without `get_meter_provider`, which looks into the environment while there is none.
    """
    current: MeterProvider | None = otel._internal._METER_PROVIDER
    return None if current is None or isinstance(current, NoOpMeterProvider) else current


@cache
def _own(to: Endpoint) -> MeterProvider | None:
    """A provider that sends to the collector, where the extra `otlp` is installed."""
    try:
        from escapement_exporters.metrics.own import provider

        made = provider(to)
    except (ImportError, ConfigError):
        return None  # the exporter of spans has said so
    _made.append(made)
    return made


_made: list[Any] = []


@cache
def _instruments(provider: MeterProvider) -> dict[str, Any]:
    meter = provider.get_meter(semconv.SCOPE, own_version())
    return {
        semconv.CLIENT_TOKEN_USAGE: _histogram(
            meter, semconv.CLIENT_TOKEN_USAGE, "{token}", "Number of input and output tokens used.", _TOKENS
        ),
        semconv.CLIENT_OPERATION_DURATION: _histogram(
            meter, semconv.CLIENT_OPERATION_DURATION, "s", "GenAI operation duration.", _SECONDS
        ),
        semconv.CLIENT_TIME_TO_FIRST_CHUNK: _histogram(
            meter, semconv.CLIENT_TIME_TO_FIRST_CHUNK, "s", "Time to receive the first chunk of a stream.", _SECONDS
        ),
        semconv.METRIC_COST: meter.create_counter(
            semconv.METRIC_COST, "{USD}", "What live calls cost, of those whose price is known."
        ),
        semconv.METRIC_RUN_COST: _histogram(
            meter, semconv.METRIC_RUN_COST, "{USD}", "What runs cost that made live calls.", _DOLLARS
        ),
        semconv.METRIC_SAVED: meter.create_counter(
            semconv.METRIC_SAVED, "{USD}", "What calls would have cost that were answered from a trace."
        ),
        semconv.TOOL_CALLS: meter.create_counter(semconv.TOOL_CALLS, "{call}", "Tools that live answers asked for."),
        semconv.TOOL_FAILURES: meter.create_counter(
            semconv.TOOL_FAILURES, "{call}", "Results of tools that were errors."
        ),
        semconv.METRIC_LOOPS: meter.create_counter(semconv.METRIC_LOOPS, "{run}", "Runs that a guard has stopped."),
        semconv.METRIC_DIVERGENCES: meter.create_counter(
            semconv.METRIC_DIVERGENCES, "{run}", "Replays that left their trace."
        ),
        semconv.METRIC_HITS: meter.create_counter(
            semconv.METRIC_HITS, "{call}", "Calls that were answered from a trace."
        ),
        semconv.METRIC_MISSES: meter.create_counter(
            semconv.METRIC_MISSES, "{call}", "Calls of a replay that its trace held no answer for."
        ),
    }


def _histogram(meter: Meter, name: str, unit: str, description: str, bounds: Sequence[float]) -> Any:
    return meter.create_histogram(name, unit, description, explicit_bucket_boundaries_advisory=bounds)


# -- the thread ------------------------------------------------------------------------------------------------------


def _work(item: tuple[Measured, _Measurable]) -> None:
    measured, what = item
    measured.measure(what)


def finish(within: float = _AT_EXIT) -> None:
    """Have everything measured that there is, and sent where it is ours to send; wait no longer than that."""
    deadline = time.monotonic() + within
    _worker.finish(within)
    flushing = threading.Thread(target=_flush, name="escapement-metrics-flush", daemon=True)
    if _made and deadline > time.monotonic():
        try:
            flushing.start()
            flushing.join(max(0.0, deadline - time.monotonic()))
        except RuntimeError:
            _log.warning("Escapement: the last metrics were not sent, the interpreter is ending")


def _flush() -> None:
    for provider in list(_made):
        provider.force_flush()


_worker = Worker("escapement-metrics", _work, finish)
atexit.register(finish)


def _after_fork() -> None:
    _worker.after_fork()
    _own.cache_clear()
    _made.clear()


os.register_at_fork(after_in_child=_after_fork)
