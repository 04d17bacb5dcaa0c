"""What happened, for dashboards to tell: a handful of runs, and what each panel has to say of them."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest

import escapement
from escapement.store.prices import Prices
from escapement.store.rows import StepRow, TraceRow
from escapement.store.traces import SpanStore
from escapement.words import semconv
from tests.conftest import ask

TOOL: Any = {
    "type": "function",
    "function": {
        "name": "search",
        "parameters": {"type": "object", "properties": {"q": {"type": "string"}}, "required": ["q"]},
    },
}

Rows = dict[str, list[tuple[str, str, float]]]
"""By panel: day, series and value, sorted."""


@dataclass(frozen=True, slots=True)
class Story:
    """The runs, by what became of them."""

    support: escapement.Trace
    billing: escapement.Trace
    looping: escapement.Trace
    served: escapement.Trace
    """A replay that was served whole: the store knows nothing of it, telemetry does."""
    diverged: escapement.Trace


def agent(client: openai.OpenAI, result: str = "Error: no such page") -> None:
    """Four calls: one plain, one streamed, one that asks for tools, one that says what they gave."""
    ask(client, "one")
    usage: Any = {"include_usage": True}
    said: list[Any] = [{"role": "user", "content": "look it up"}]
    for _ in client.chat.completions.create(model="gpt-4o", messages=said, stream=True, stream_options=usage):
        pass
    answer = client.chat.completions.create(model="gpt-4o", messages=said, tools=[TOOL]).choices[0].message
    said.append(answer.model_dump(exclude_none=True, include={"role", "tool_calls"}))
    said += [{"role": "tool", "tool_call_id": call.id, "content": result} for call in answer.tool_calls or ()]
    client.chat.completions.create(model="gpt-4o", messages=said, tools=[TOOL])


def tell(client: openai.OpenAI, claude: anthropic.Anthropic, otlp_endpoint: str | None = None) -> Story:
    """Have it all happen."""
    to = {"otlp_endpoint": otlp_endpoint}
    with escapement.init("support", **to) as support:
        agent(client)
    with escapement.init("billing", **to) as billing:
        claude.messages.create(model="claude", max_tokens=9, messages=[{"role": "user", "content": "hello"}])
        with pytest.raises(openai.BadRequestError):
            ask(client, model="error-400")
    with (
        pytest.raises(escapement.LoopDetectedError),
        escapement.init("looping", max_identical_calls=2, **to) as looping,
    ):
        ask(client, "again", "gpt-4o-mini")
        ask(client, "again", "gpt-4o-mini")
    with escapement.replay(support.trace_id, **to) as served:
        agent(client)
    with warnings.catch_warnings(), escapement.replay(support.trace_id, **to) as diverged:
        warnings.simplefilter("ignore", escapement.EscapementWarning)
        ask(client, "one")
        ask(client, "something new")
        ask(client, "something newer")
    return Story(support, billing, looping, served, diverged)


def expected(store: Path, story: Story, *, telemetry: bool) -> Rows:
    """What the panels have to say, worked out from the recordings; `telemetry` also knows of the replay that was
    served whole."""
    reader, prices = SpanStore(store), Prices()
    ids = [trace.trace_id for trace in (story.support, story.billing, story.looping, story.diverged)]
    traces = [reader.load(trace_id) for trace_id in ids]
    live = [step for trace in traces for step in trace.steps if step.source is None]
    recorded = {step.step: step for step in traces[0].steps}
    served = [step for trace in traces for step in trace.steps if step.source is not None]
    replayed = [recorded[step.source[1]] for step in served if step.source is not None]
    if telemetry:
        replayed += recorded.values()
    cost = {id(step): _cost(step, prices) for step in live}
    of_runs = [(day(trace.created), dollars) for trace in traces if (dollars := _run_cost(trace, cost)) is not None]
    found = {
        "spend": _summed((day(step.start), _model(step), cost[id(step)] or 0) for step in live),
        "spend_per_run": [*_by_day("mean", of_runs, _mean), *_by_day("p95", of_runs, lambda all: _quantile(all, 0.95))],
        "tokens": _summed(_tokens(live)),
        "duration": _quantiles((day(step.start), ((step.end or 0) - step.start) / 1e9) for step in live),
        "first_chunk": _quantiles(
            (day(step.start), step.attributes[semconv.RESPONSE_TIME_TO_FIRST_CHUNK])
            for step in live
            if semconv.RESPONSE_TIME_TO_FIRST_CHUNK in step.attributes
        ),
        "error_rate": _by_day(
            "errors", [(day(step.start), float(semconv.ERROR_TYPE in step.attributes)) for step in live], _mean
        ),
        "tools": _summed(_tools(live)),
        "stopped": [(day(traces[2].created), "stopped", 1.0)],
        "divergences": [(day(traces[3].created), "divergences", 1.0)],
        "replayed": _summed(
            [*((day(s.start), "live", 1) for s in live), *((day(s.start), "replayed", 1) for s in replayed)]
        ),
        "saved": _summed((day(step.start), _model(step), _cost(step, prices) or 0) for step in replayed),
    }
    return {key: sorted(rows) for key, rows in found.items()}


def _cost(step: StepRow, prices: Prices) -> float | None:
    given = step.attributes
    if given[semconv.STATUS] >= 400:
        return 0.0
    tokens = (given.get(name, 0) for name in (semconv.USAGE_INPUT_TOKENS, semconv.USAGE_OUTPUT_TOKENS))
    cached = (given.get(name, 0) for name in (semconv.USAGE_CACHE_READ, semconv.USAGE_CACHE_WRITE))
    model = given[semconv.RESPONSE_MODEL]
    return prices.cost(given[semconv.PROVIDER_NAME], model, step.start, *tokens, *cached)


def _run_cost(trace: TraceRow, cost: dict[int, float | None]) -> float | None:
    each = [cost[id(step)] for step in trace.steps if step.source is None]
    return None if None in each else sum(filter(None, each))


def _tokens(steps: Iterable[StepRow]) -> Iterator[tuple[str, str, float]]:
    for step in steps:
        for kind, name in (("input", semconv.USAGE_INPUT_TOKENS), ("output", semconv.USAGE_OUTPUT_TOKENS)):
            yield day(step.start), f"{_model(step)} {kind}", step.attributes.get(name, 0)


def _tools(steps: Iterable[StepRow]) -> Iterator[tuple[str, str, float]]:
    """What the agent did about tools: it says of each that was asked for that it failed."""
    for step in steps:
        if semconv.TOOLS_CALLED in step.attributes:
            assert set(step.attributes[semconv.TOOLS_CALLED]) == {"search"}
            yield day(step.start), "calls", len(step.attributes[semconv.TOOLS_CALLED])
            yield day(step.start), "failures", len(step.attributes[semconv.TOOLS_CALLED])


def _model(step: StepRow) -> str:
    return str(step.attributes[semconv.REQUEST_MODEL])


def day(nanoseconds: int) -> str:
    """The day of a time, in UTC."""
    return datetime.fromtimestamp(nanoseconds / 1e9, UTC).strftime("%Y-%m-%d")


def _summed(rows: Iterable[tuple[str, str, float]]) -> list[tuple[str, str, float]]:
    sums: dict[tuple[str, str], float] = defaultdict(float)
    for day, series, value in rows:
        sums[day, series] += value
    return [(*key, value) for key, value in sums.items() if value]


def _by_day(series: str, values: Iterable[tuple[str, float]], of_all: Any) -> list[tuple[str, str, float]]:
    days: dict[str, list[float]] = defaultdict(list)
    for day, value in values:
        days[day].append(value)
    return [(day, series, of_all(all)) for day, all in days.items()]


def _quantiles(values: Iterable[tuple[str, float]]) -> list[tuple[str, str, float]]:
    known = list(values)
    return [
        *_by_day("p50", known, lambda all: _quantile(all, 0.5)),
        *_by_day("p95", known, lambda all: _quantile(all, 0.95)),
    ]


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _quantile(values: list[float], share: float) -> float:
    """Between the two values that it lies between, as DuckDB's `quantile_cont` has it."""
    ordered = sorted(values)
    at = share * (len(ordered) - 1)
    low = ordered[int(at)]
    return low + (at - int(at)) * (ordered[min(int(at) + 1, len(ordered) - 1)] - low)


def rounded(rows: Rows) -> Rows:
    """To be compared: sums of floats depend on their order."""
    return {key: [(day, series, float(f"{value:.9g}")) for day, series, value in found] for key, found in rows.items()}
