"""What spans say for dashboards: what calls cost and saved, tools, divergences, and how runs ended."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest

import escapement
from escapement.engine import usage
from escapement.store.prices import Prices
from escapement.store.traces import SpanStore
from escapement_exporters.export import pipeline
from tests.conftest import ask
from tests.dashboards import story
from tests.receiver import Receiver
from tests.test_otlp_json import attributes


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as running:
        yield running


def test_what_dashboards_ask_for(
    client: openai.OpenAI, claude: anthropic.Anthropic, store: Path, receiver: Receiver
) -> None:
    told = story.tell(client, claude, receiver.url)
    with (
        pytest.raises(escapement.ReplayDivergenceError),
        escapement.replay(told.support.trace_id, strict_replay=True, otlp_endpoint=receiver.url),
    ):
        ask(client, "one")
        ask(client, "something else")
    pipeline.finish()
    asked = {
        "escapement.call.cost", "escapement.call.failed", "escapement.call.saved", "escapement.divergence",
        "escapement.mode", "escapement.tool.calls", "escapement.tool.failures", "escapement.trace.status",
    }  # fmt: skip

    def of(trace: escapement.Trace) -> list[dict[str, Any]]:
        """What the spans of the trace that came of a run say, the run itself last."""
        sent = [
            span
            for span in receiver.spans
            if attributes(span.attributes).get("escapement.trace.id") == trace.trace_id
            and not span.links
            and not span.name.startswith("replay of")
        ]
        sent.sort(key=lambda span: ("escapement.step" not in attributes(span.attributes), span.start_time_unix_nano))
        return [{k: v for k, v in attributes(span.attributes).items() if k in asked} for span in sent]

    recorded = SpanStore(store).load(told.support.trace_id).steps
    cost = [usage.cost_of(step.attributes, step.start, Prices()) for step in recorded]
    tools = len(recorded[2].attributes["escapement.tools.called"])
    live = {"escapement.call.failed": 0, "escapement.mode": "record"}
    assert of(told.support) == [
        live | {"escapement.call.cost": cost[0]},
        live | {"escapement.call.cost": cost[1]},
        live | {"escapement.call.cost": cost[2], "escapement.tool.calls": tools},
        live | {"escapement.call.cost": cost[3], "escapement.tool.failures": tools},
        {"escapement.mode": "record", "escapement.trace.status": "completed"},
    ]
    assert of(told.billing) == [
        live,  # nobody knows the price of this model
        live | {"escapement.call.failed": 1},
        {"escapement.mode": "record", "escapement.trace.status": "completed"},
    ]
    assert [span["escapement.trace.status"] for span in of(told.looping)[1:]] == ["killed"]  # told once
    *_, first, second, run = of(told.diverged)
    why = first["escapement.divergence"]
    assert [span.get("escapement.divergence") for span in (second, run)] == [why, why]
    assert run["escapement.mode"] == "fork"
    # Replays: served steps say what they saved, and not that tools failed again; only one that stayed a replay says
    # that it diverged, others by what came of them.
    served = [
        attributes(span.attributes)
        for span in receiver.spans
        if "escapement.served_from" in attributes(span.attributes)
    ]
    assert [span["escapement.call.saved"] for span in served] == [*cost, cost[0], cost[0]]
    assert not any(
        {"escapement.call.cost", "escapement.call.failed", "escapement.tool.failures"} & set(span) for span in served
    )
    replays = [attributes(span.attributes) for span in receiver.spans if span.name.startswith("replay of")]
    assert [(span["escapement.trace.status"], "escapement.divergence" in span) for span in replays] == [
        ("completed", False), ("completed", False), ("failed", True),
    ]  # fmt: skip
