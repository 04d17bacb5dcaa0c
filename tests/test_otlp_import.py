"""OTLP of others: imported, and replayed to the end with what was said then, and no request.

The files in `golden/foreign` were written by the real instrumentors (`tests.foreign.record`), with Escapement off.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest

import escapement
from escapement.store.rows import TraceRow
from escapement.store.traces import SpanStore
from escapement.words import semconv
from tests.foreign import agent
from tests.provider import Provider
from tests.test_cli import Cli, cli
from tests.test_otlp_json import parsed

__all__ = ["cli"]  # a fixture

GOLDEN = Path(__file__).parent / "golden" / "foreign"
FILES = sorted(path.stem for path in GOLDEN.glob("*.json"))


def golden(name: str) -> tuple[list[agent.Said], dict[str, Any]]:
    document = json.loads((GOLDEN / f"{name}.json").read_text())
    return document["said"], document["otlp"]


def imported(cli: Cli, path: Path, data: bytes, *options: str) -> TraceRow:
    path.write_bytes(data)
    trace_id = cli("import", str(path), *options).out.split()[-1]
    return SpanStore(".escapement").load(trace_id)


def _without_ids(said: list[agent.Said]) -> list[agent.Said]:
    return [{**one, "calls": [{**call, "id": ""} for call in one["calls"]]} for one in said]


def replayed(trace_id: str, program: str, base_url: str) -> tuple[list[agent.Said], list[str]]:
    """What the program says in a strict replay, and the warnings that it gets."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with escapement.replay(trace_id):
            said = agent.run(program, base_url)
    return said, [str(one.message) for one in told if issubclass(one.category, escapement.EscapementWarning)]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("form", ["json", "protobuf"])
def test_what_others_recorded_is_replayed(name: str, form: str, cli: Cli, tmp_path: Path, provider: Provider) -> None:
    said, otlp = golden(name)
    data = json.dumps(otlp).encode() if form == "json" else parsed(otlp).SerializeToString()
    row = imported(cli, tmp_path / "spans", data)
    assert [step.answered for step in row.steps] == [True] * len(said)
    again, told = replayed(row.trace_id, name.rpartition("-")[2], provider.base_url)
    if "response.tool_call.id" in row.steps[0].attributes[semconv.REBUILT]:
        assert name == "traceloop-responses"
        said, again = _without_ids(said), _without_ids(again)
    assert again == said
    assert provider.count == 0
    assert [one for one in told if "rebuilt" in one] == told
    assert len(told) == 1
