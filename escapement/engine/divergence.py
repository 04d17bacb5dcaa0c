"""Why a replay left its trace: the nearest recorded step, the first difference from it, and what to do about it."""

from __future__ import annotations

import importlib.util
import itertools
import os
import re
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Any, NamedTuple

import orjson

from escapement.engine.matching import Matcher
from escapement.store.rows import StepRow, TraceRow
from escapement.words.errors import ReplayDivergenceError, StoreError

_CANDIDATES = 40  # recorded steps that are compared; a divergence is explained once, so this may take milliseconds
_ABSENT = object()
_WIDTH = 96

_LOOKS = (
    (re.compile(r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d)?|\b\d\d:\d\d(:\d\d)?\b|^1[6-9]\d{8}(\.\d+|\d{3})?$"), "a timestamp"),
    (re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.IGNORECASE), "a uuid"),
    (re.compile(r"(?:^|[\s\"'])(?:/(?:tmp|home|Users|var|private|root)/|[A-Z]:\\)"), "a path"),
    (re.compile(r"\b(?:call|toolu|msg|resp|chatcmpl|run|req)_?-?[A-Za-z0-9]{8,}|\b[0-9a-f]{16,}\b"), "a random id"),
)


class Difference(NamedTuple):
    """Where two documents first part: a path such as `messages[3].content`, and what each has there."""

    path: str
    recorded: Any
    requested: Any


def first_difference(recorded: Any, requested: Any, path: str = "") -> Difference | None:
    """The first place where two JSON documents differ, in the order of the recorded one; None if they are equal.

    JSON inside strings (tool arguments) is looked into.
    """
    if isinstance(recorded, dict) and isinstance(requested, dict):
        for key in itertools.chain(recorded, (key for key in requested if key not in recorded)):
            found = first_difference(
                recorded.get(key, _ABSENT), requested.get(key, _ABSENT), f"{path}.{key}" if path else str(key)
            )
            if found is not None:
                return found
        return None
    if isinstance(recorded, list) and isinstance(requested, list):
        for index in range(max(len(recorded), len(requested))):
            mine = recorded[index] if index < len(recorded) else _ABSENT
            theirs = requested[index] if index < len(requested) else _ABSENT
            found = first_difference(mine, theirs, f"{path}[{index}]")
            if found is not None:
                return found
        return None
    if type(recorded) is type(requested) and recorded == requested:
        return None
    if isinstance(recorded, str) and isinstance(requested, str):
        inner = _embedded(recorded), _embedded(requested)
        if inner[0] is not None and inner[1] is not None:
            found = first_difference(inner[0], inner[1], path)
            if found is not None:
                return found
    return Difference(path, recorded, requested)


def _embedded(text: str) -> Any:
    if text[:1] not in ("{", "["):
        return None
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return None


def explain(
    *,
    trace: TraceRow,
    matcher: Matcher,
    fingerprint: str,
    request: bytes,
    title: str,
    lane: str,
    step: int,
) -> ReplayDivergenceError:
    """The error for a request that the trace holds no answer for. `title` is operation and model."""
    reason, speaking = matcher.why_not(fingerprint)
    lines = [f"ReplayDivergenceError [{reason}] trace {trace.trace_id} step {step} (lane {lane}) {title}"]
    if caller := user_code():
        lines[0] += f"   {caller}"
    candidates: Sequence[int] = (speaking,) if speaking else ()
    difference: Difference | None = None
    if reason == "exhausted":
        lines.append(
            f"  the trace answered this request before (last in step {speaking}), and not as often as it is made now"
        )
    elif reason == "unanswered":
        lines.append(f"  step {speaking} made this request, but its answer had not arrived when the recording ended")
    else:
        ranked = _nearest(trace, matcher, request)
        candidates = tuple(row.step for row, _ in ranked[:3])
        if ranked:
            nearest, difference = ranked[0]
            if difference is None:
                lines.append(f"  nearest recorded step {nearest.step}: the same body, sent to another operation")
            else:
                lines.append(
                    f"  nearest recorded step {nearest.step}, first difference at {difference.path or 'the body'}"
                )
                lines += _show(difference)
        elif not matcher.total:
            lines.append("  nothing was recorded in this trace")
    expected = matcher.expected()
    following = f"; recorded next: step {expected.step} {expected.name}" if expected is not None else ""
    lines.append(f"  replayed {matcher.served} of {matcher.total} steps{following}")
    lines.append(f"  Fix: {_advice(reason, difference)}")
    diff = None
    if difference is not None:
        diff = {
            "path": difference.path,
            "recorded": None if difference.recorded is _ABSENT else difference.recorded,
            "requested": None if difference.requested is _ABSENT else difference.requested,
        }
    return ReplayDivergenceError(
        "\n".join(lines).removeprefix("ReplayDivergenceError "),
        reason=reason,
        trace_id=trace.trace_id,
        step=step,
        candidates=candidates,
        diff=diff,
    )


def incomplete(trace_id: str, step: int) -> ReplayDivergenceError:
    """The error for reading on where a recorded stream had been given up."""
    return ReplayDivergenceError(
        f"[incomplete] trace {trace_id} step {step}: the recorded program stopped reading this stream here, "
        "so what would have followed is not known.\n"
        "  Fix: read as far as the recorded run did, go live at this step with escapement.fork(), or record again",
        reason="incomplete",
        trace_id=trace_id,
        step=step,
    )


def unreachable(trace_id: str, step: int, what: str) -> ReplayDivergenceError:
    """The error for calling a model in a way that no hook sees, so that no trace can answer it."""
    return ReplayDivergenceError(
        f"[unreachable] trace {trace_id} after step {step}: the program is about to {what}, "
        "which Escapement can neither record nor replay.\n"
        "  Fix: strict_replay=False lets it go on, unrecorded | call the model over HTTP instead",
        reason="unreachable",
        trace_id=trace_id,
        step=step,
    )


def _advice(reason: str, difference: Difference | None) -> str:
    ways = ["strict_replay=False lets this call go live", "escapement.fork() before it", "record again"]
    if difference is not None:
        look = _looks_like(difference)
        if look in ("a timestamp", "a uuid", "a random id"):
            ways.insert(0, "give the program the same value each time")
    if reason == "unanswered":
        ways.pop()
    return " | ".join(ways)


def _nearest(trace: TraceRow, matcher: Matcher, request: bytes) -> list[tuple[StepRow, Difference | None]]:
    """Recorded steps by how far into the document the first difference lies, farthest first."""
    wanted = _document(request)
    rows = list(itertools.islice(matcher.remaining(), _CANDIDATES)) or trace.steps[-_CANDIDATES:]
    ranked = []
    for order, row in enumerate(rows):
        try:
            body = trace.request_body(row)
        except StoreError:
            continue
        recorded = _document(body)
        difference = first_difference(recorded, wanted)
        ranked.append((-_common(recorded, wanted), order, row, difference))
    ranked.sort(key=lambda entry: entry[:2])
    return [(row, difference) for _, _, row, difference in ranked]


def _document(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return body.decode("utf-8", "replace")


def _common(recorded: Any, requested: Any) -> float:
    """How much two documents have in common, from 0 to 1: the share of equal leaves."""
    mine, theirs = list(_leaves(recorded)), dict(_leaves(requested))
    if not mine:
        return 0.0
    same = sum(bool(theirs.get(path, _ABSENT) == value) for path, value in mine)
    return same / max(len(mine), len(theirs))


def _leaves(document: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(document, dict):
        for key, value in document.items():
            yield from _leaves(value, f"{path}.{key}")
    elif isinstance(document, list):
        for index, value in enumerate(document):
            yield from _leaves(value, f"{path}[{index}]")
    else:
        yield path, document


def _looks_like(difference: Difference) -> str:
    if not isinstance(difference.recorded, str) or not isinstance(difference.requested, str):
        return ""
    mine, theirs = _window(difference.recorded, difference.requested)
    return next((what for pattern, what in _LOOKS if pattern.search(mine) and pattern.search(theirs)), "")


def _show(difference: Difference) -> list[str]:
    mine, theirs = difference.recorded, difference.requested
    if isinstance(mine, str) and isinstance(theirs, str):
        mine, theirs = _window(mine, theirs)
    look = _looks_like(difference)
    texts = [_short(mine), _short(theirs)]
    if look:
        texts[0] = f"{texts[0]}   looks like {look}"
    return [f"  - {texts[0]}", f"  + {texts[1]}"]


def _short(value: Any) -> str:
    if value is _ABSENT:
        return "(nothing)"
    text = value if isinstance(value, str) else orjson.dumps(value, default=str).decode()
    text = text.replace("\n", "\\n")
    return text if len(text) <= _WIDTH else text[: _WIDTH - 1] + "…"


def _window(mine: str, theirs: str) -> tuple[str, str]:
    """The part of two texts around their first difference."""
    same = next(
        (index for index, (a, b) in enumerate(zip(mine, theirs, strict=False)) if a != b), min(len(mine), len(theirs))
    )
    start = max(0, same - _WIDTH // 2)
    lead = "…" if start else ""
    return lead + mine[start : start + _WIDTH - 2], lead + theirs[start : start + _WIDTH - 2]


_LIBRARY = tuple(
    os.path.realpath(sysconfig.get_path(kind)) + os.sep for kind in ("stdlib", "platstdlib", "purelib", "platlib")
)
_OURS = tuple(
    os.path.dirname(spec.origin) + os.sep
    for name in ("escapement", "escapement_instrumentation")
    if (spec := importlib.util.find_spec(name)) is not None and spec.origin is not None
)


def user_frame() -> tuple[str, int] | None:
    """File and line of the innermost frame that is neither a library's nor ours; None where there is none."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        users = _users.get(file)  # a call has some thirty frames below the user's: look, do not call
        if users is None:
            users = _users[file] = _is_users(file)
        if users:
            return file, frame.f_lineno
        frame = frame.f_back
    return None


def user_code() -> str:
    """The user's frame as `file.py:line`; empty where there is none."""
    found = user_frame()
    return f"{os.path.basename(found[0])}:{found[1]}" if found is not None else ""


_users: dict[str, bool] = {}


def _is_users(file: str) -> bool:
    return not (file.startswith("<frozen") or os.path.realpath(file).startswith((*_LIBRARY, *_OURS)))
