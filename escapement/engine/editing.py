"""A trace with answers that were edited: what a replay is answered from when somebody asks what would have followed."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import replace

from escapement.engine import redaction
from escapement.providers import answer_attributes, answer_document, recognise, tools_called
from escapement.providers.edits import Edit, edited
from escapement.store.rows import Attributes, StepRow, TraceRow
from escapement.words import semconv
from escapement.words.errors import ConfigError
from escapement.words.http import content_type

_OF_THE_ANSWER = ("gen_ai.response.", "gen_ai.usage.", "openai.response.")
_OF_ITS_BYTES = (
    semconv.RESPONSE_BODY, semconv.RESPONSE_BODY_BASE64, semconv.RESPONSE_CHUNKS, semconv.RESPONSE_WIRE,
    semconv.RESPONSE_ENCODED, semconv.RESPONSE_ENDING, semconv.ATTEMPTS, semconv.TOOLS_CALLED,
)  # fmt: skip


def edit(trace: TraceRow, edits: Mapping[int, Edit]) -> tuple[TraceRow, list[str]]:
    """The trace with other answers at some steps, and what should be told of them.

    Raises ConfigError for a step that the trace has no answer of, and for an edit that its protocol cannot say.
    """
    told: list[str] = []
    steps = {step.step: step for step in trace.steps}
    for number, wanted in edits.items():
        step = steps.get(number) if isinstance(number, int) and not isinstance(number, bool) else None
        if step is None:
            raise ConfigError(f"edits names step {number!r}, and {trace.trace_id} has {_range(trace)}")
        steps[number], lost = _edited(step, wanted)
        told += [f"step {number} of {trace.trace_id}: {one}" for one in lost]
    return replace(trace, steps=list(steps.values()), _by_number={}), told


def _range(trace: TraceRow) -> str:
    return f"steps 1 to {max(step.step for step in trace.steps)}" if trace.steps else "no steps"


def _edited(step: StepRow, wanted: Edit) -> tuple[StepRow, list[str]]:
    attributes = step.attributes
    status = attributes.get(semconv.STATUS)
    if status is None or status >= 400 or semconv.FAILURE_TYPE in attributes:
        what = "was not answered" if status is None else f"ended with {status}" if status >= 400 else "was cut off"
        raise ConfigError(f"step {step.step} of {step.trace_id} {what}: there is no answer to edit")
    operation = recognise(str(attributes.get(semconv.METHOD)), str(attributes.get(semconv.PATH)), "-")
    assert operation is not None
    kind = content_type(attributes[semconv.RESPONSE_HEADERS])
    try:
        pieces, lost = edited(operation, step.body(), kind, wanted)
    except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        raise ConfigError(f"step {step.step} of {step.trace_id} cannot be edited so: {error}") from None
    pieces = [redaction.scrub(piece) for piece in pieces]
    body = b"".join(pieces)
    rest: Attributes = {
        name: value
        for name, value in attributes.items()
        if name not in _OF_ITS_BYTES and not name.startswith(_OF_THE_ANSWER)
    }
    provider = step.attributes.get(semconv.PROVIDER_NAME, "")
    document = answer_document(operation, body, kind)
    rest |= answer_attributes(operation, document, provider) | tools_called(operation, document)
    rest[semconv.RESPONSE_HEADERS] = [
        (name, str(len(body)) if name.lower() == "content-length" else value)
        for name, value in attributes[semconv.RESPONSE_HEADERS]
    ]
    try:
        rest[semconv.RESPONSE_BODY] = body.decode()
    except UnicodeDecodeError:
        rest[semconv.RESPONSE_BODY_BASE64] = base64.b64encode(body).decode()
    if semconv.RESPONSE_CHUNKS in attributes:
        rest[semconv.RESPONSE_CHUNKS] = _spread(pieces, [at for _, at in attributes[semconv.RESPONSE_CHUNKS]])
    first = attributes.get(semconv.RESPONSE_TIME_TO_FIRST_CHUNK)
    if first is not None:
        rest[semconv.RESPONSE_TIME_TO_FIRST_CHUNK] = first
    rest[semconv.EDITED] = True
    rest[semconv.SERVED_FROM] = step.source or (step.trace_id, step.step)
    return replace(step, attributes=rest), lost


def _spread(pieces: Sequence[bytes], times: Sequence[int]) -> list[tuple[int, int]]:
    """Size and time of each chunk: from the first time to the last, evenly."""
    first, last = (times[0], times[-1]) if times else (0, 0)
    apart = (last - first) / max(1, len(pieces) - 1)
    return [(len(piece), first + round(apart * number)) for number, piece in enumerate(pieces)]
