"""As much of TraceQL's metrics as the dashboard uses, over spans that were exported: a Tempo cannot be had from PyPI.

`{ a && b } | function(attribute) by (attribute) | topk(n)`, where a missing attribute fits no comparison.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from tests.receiver import Receiver
from tests.test_otlp_json import attributes


@dataclass(frozen=True, slots=True)
class Exported:
    """A span with what TraceQL calls it by: `span.…`, `resource.…`, `duration` in seconds."""

    start: int
    fields: dict[str, Any]


def exported(receiver: Receiver) -> Iterator[Exported]:
    for request in receiver.requests:
        for around in request.resource_spans:
            resource = {f"resource.{name}": value for name, value in attributes(around.resource.attributes).items()}
            for scope in around.scope_spans:
                for span in scope.spans:
                    own = {f"span.{name}": value for name, value in attributes(span.attributes).items()}
                    took = (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9
                    yield Exported(span.start_time_unix_nano, {**resource, **own, "duration": took})


def evaluate(query: str, spans: list[Exported], bucket: Callable[[int], Any]) -> dict[tuple[Any, str], float]:
    """Values by the bucket that a span begins in, and by what its series is called (empty without `by`)."""
    parsed = re.fullmatch(
        r"\{ (?P<filter>.*) \} \| (?P<function>\w+)\((?P<given>.*?)\)( by \((?P<by>.*?)\))?( \| topk\(\d+\))?", query
    )
    assert parsed is not None, query
    attribute, _, share = parsed["given"].partition(", ")
    groups: dict[tuple[Any, str], list[float]] = defaultdict(list)
    for span in spans:
        if all(_fits(span.fields, part) for part in parsed["filter"].split(" && ")):
            value = span.fields.get(attribute) if attribute else 1
            if value is not None:
                series = str(span.fields.get(parsed["by"])) if parsed["by"] else ""
                groups[bucket(span.start), series].append(value)
    return {key: _function(parsed["function"], values, share) for key, values in groups.items()}


def _fits(fields: dict[str, Any], comparison: str) -> bool:
    name, operator, wanted = comparison.split(" ", 2)
    value = fields.get(name)
    if wanted == "nil":
        assert operator == "!="
        return value is not None
    text = wanted.strip('"')
    if value is None:
        return False
    if operator == "=~":
        return re.fullmatch(text, str(value)) is not None
    return (str(value) == text) == (operator == "=")


def _function(name: str, values: list[float], share: str) -> float:
    if name == "quantile_over_time":
        return sorted(values)[round(float(share) * (len(values) - 1))]
    total = sum(values)
    return {
        "count_over_time": float(len(values)),
        "sum_over_time": total,
        "avg_over_time": total / len(values),
        "max_over_time": max(values),
    }[name]
