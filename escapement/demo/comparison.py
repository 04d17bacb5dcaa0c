"""A run and its replay, compared field by field."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from escapement.demo.agent import Transcript


@dataclass(frozen=True, slots=True)
class Run:
    """One run of the agent: what came back, and how long it took in seconds."""

    trace_id: str
    transcript: Transcript
    seconds: float


@dataclass(frozen=True, slots=True)
class Check:
    """One thing compared: how it was live, how it was in the replay, and what came of it."""

    what: str
    live: str
    replay: str
    verdict: str
    passed: bool


def compare(live: Transcript, replay: Transcript) -> list[Check]:
    """Every field of every step, gathered into a line for each kind. All passed: the two are equal."""
    return [
        _check("text", ("label", "sdk", "text"), _characters, live, replay),
        _check("stream chunks", ("chunks",), _chunks, live, replay),
        _check("usage", ("usage",), _usage, live, replay),
        _check("response ids", ("id",), _ids, live, replay),
        _check("models, stops", ("model", "stop"), _stops, live, replay),
    ]


def differing(one: Transcript, other: Transcript) -> list[str]:
    """The labels of the steps whose text is not the same."""
    return [a.label for a, b in zip(one.steps, other.steps, strict=True) if a.text != b.text]


def _check(
    what: str,
    fields: tuple[str, ...],
    count: Callable[[Transcript], str],
    live: Transcript,
    replay: Transcript,
) -> Check:
    wrong = [
        ours.label
        for ours, theirs in zip(live.steps, replay.steps, strict=False)
        if any(getattr(ours, field) != getattr(theirs, field) for field in fields)
    ]
    if len(live.steps) != len(replay.steps):
        wrong.append(f"{len(live.steps)} steps became {len(replay.steps)}")
    verdict = f"differs: {', '.join(wrong)}" if wrong else "same"
    return Check(what, count(live), count(replay), verdict, not wrong)


def _characters(transcript: Transcript) -> str:
    return f"{sum(len(step.text) for step in transcript.steps)} characters"


def _chunks(transcript: Transcript) -> str:
    streams = [step for step in transcript.steps if step.chunks]
    return f"{sum(len(step.chunks) for step in streams)} in {len(streams)} streams"


def _usage(transcript: Transcript) -> str:
    usages = [step.usage for step in transcript.steps]
    tokens = sum(usage.get("completion_tokens", usage.get("output_tokens", 0)) for usage in usages)
    return f"{tokens} output tokens"


def _ids(transcript: Transcript) -> str:
    return f"{len({step.id for step in transcript.steps})} different"


def _stops(transcript: Transcript) -> str:
    done = sum(step.stop in ("stop", "end_turn", "stop_sequence") for step in transcript.steps)
    return f"{done} done, {len(transcript.steps) - done} cut off"
