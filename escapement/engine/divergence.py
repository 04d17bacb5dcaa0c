"""Why a replay left its trace: the nearest recorded step, the first difference from it, and what to do about it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import orjson

from escapement.engine import kinds
from escapement.engine.callers import user_code
from escapement.engine.differences import ABSENT, ALIKE, Difference, differences, first_difference, likeness, middles
from escapement.engine.matching import Matcher
from escapement.engine.normalising import Normalising
from escapement.providers import multipart
from escapement.store.messages import operation_of
from escapement.store.pieces import same_start
from escapement.store.rows import StepRow, TraceRow
from escapement.words.errors import ReplayDivergenceError, StoreError

_CANDIDATES = 40  # recorded steps that are compared; a divergence is explained once, so this may take milliseconds
_WIDTH = 64
_ASKED = 40
_LINE = 96
_NAMED = 3
_LITTLE = 4  # times as much is gone, and is left, as stands in place of what is gone


class _Candidate(NamedTuple):
    row: StepRow
    document: Any
    likeness: float


class _Finding(NamedTuple):
    """A kind, the sentence that says so (empty: the difference does), and the recorded step it speaks of (0: none)."""

    kind: str
    sentence: str = ""
    step: int = 0


def explain(
    *,
    trace: TraceRow,
    matcher: Matcher,
    fingerprint: str,
    request: bytes,
    title: str,
    lane: str,
    step: int,
    normalising: Normalising,
    strict: bool,
) -> ReplayDivergenceError:
    """The error for a request that the trace holds no answer for. `title` is operation and model, `strict` says whether
    it is refused."""
    reason, speaking = matcher.why_not(fingerprint)
    lines: list[str] = []
    candidates: Sequence[int] = (speaking,) if speaking else ()
    difference: Difference | None = None
    if reason == "exhausted":
        found = _Finding("extra_call", step=speaking)
        lines.append(
            f"  the trace answered this request before (last in step {speaking}), and not as often as it is made now"
        )
    elif reason == "unanswered":
        found = _Finding("", step=speaking)
        lines.append(f"  step {speaking} made this request, but its answer had not arrived when the recording ended")
    else:
        wanted = normalising.document(_document(request))
        ranked = _nearest(trace, matcher, wanted, lane, normalising)
        candidates = tuple(candidate.row.step for candidate in ranked[:_NAMED])
        found = _Finding("extra_call")
        if ranked:
            nearest = ranked[0]
            difference = first_difference(nearest.document, wanted)
            found = _finding(difference, nearest, ranked, wanted, matcher)
            lines += _compared(nearest.row.step, difference, found)
        elif not matcher.total:
            lines.append("  nothing was recorded in this trace")
    if found.sentence:
        lines.append(f"  {found.sentence}")
    due = matcher.expected()
    expected = {"step": due.step, "name": due.name, "asks": _asks(trace, due)} if due is not None else None
    lines.append(f"  replayed {matcher.served} of {matcher.total} steps{_following(expected)}")
    field = difference.path if difference is not None else ""
    fix = kinds.fixes(found.kind, field, found.step, step, strict)
    if reason == "unanswered":
        fix.remove("record again")
    lines += _ways(fix)
    code = user_code()
    head = f"[{reason}] trace {trace.trace_id} step {step} (lane {lane}) {title}"
    return ReplayDivergenceError(
        "\n".join([f"{head}   {code}" if code else head, *lines]),
        reason=reason,
        kind=found.kind,
        trace_id=trace.trace_id,
        step=step,
        lane=lane,
        code=code,
        field=field,
        candidates=candidates,
        diff=_as_dict(difference),
        expected=expected,
        fix=fix,
    )


def incomplete(trace_id: str, step: int) -> ReplayDivergenceError:
    """The error for reading on where a recorded stream had been given up."""
    fix = ("read as far as the recorded run did", "go live at this step with escapement.fork()", "record again")
    return ReplayDivergenceError(
        f"[incomplete] trace {trace_id} step {step}: the recorded program stopped reading this stream here, "
        "so what would have followed is not known.\n" + "\n".join(_ways(fix)),
        reason="incomplete",
        trace_id=trace_id,
        step=step,
        code=user_code(),
        fix=fix,
    )


def unreachable(trace_id: str, step: int, what: str) -> ReplayDivergenceError:
    """The error for calling a model in a way that no hook sees, so that no trace can answer it."""
    fix = ("strict_replay=False lets it go on, unrecorded", "call the model over HTTP instead")
    return ReplayDivergenceError(
        f"[unreachable] trace {trace_id} after step {step}: the program is about to {what}, "
        "which Escapement can neither record nor replay.\n" + "\n".join(_ways(fix)),
        reason="unreachable",
        trace_id=trace_id,
        step=step,
        code=user_code(),
        fix=fix,
    )


# -- which recorded step it is compared with -------------------------------------------------------------------------


def _nearest(trace: TraceRow, matcher: Matcher, wanted: Any, lane: str, normalising: Normalising) -> list[_Candidate]:
    """Recorded steps, the most alike first; of two that are as alike, the one that was due earlier in this lane."""
    rows = list(itertools.islice(matcher.remaining(), _CANDIDATES)) or trace.steps[-_CANDIDATES:]
    found = []
    for row in sorted(rows, key=lambda row: (row.lane != lane, row.step)):
        try:
            document = normalising.document(_document(trace.request_body(row)))
        except StoreError:
            continue
        found.append(_Candidate(row, document, likeness(document, wanted)))
    return sorted(found, key=lambda candidate: -candidate.likeness)


def _document(body: bytes) -> Any:
    """A body to compare: JSON, the fields of a form, or its text."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        boundary = body[2 : body.find(b"\r\n")].decode("latin-1")
        form = multipart.fields(body, f"multipart/form-data; boundary={boundary}") if body[:2] == b"--" else {}
        return form or body.decode("utf-8", "replace")


# -- what kind of divergence it is -----------------------------------------------------------------------------------


def _finding(
    difference: Difference | None, nearest: _Candidate, ranked: Sequence[_Candidate], wanted: Any, matcher: Matcher
) -> _Finding:
    """The kind of a difference: what it is by itself, or the calls that were made otherwise, which it comes from."""
    if difference is None:
        return _Finding("operation")
    kind = kinds.kind_of(difference, wanted)
    if not kinds.is_spoken(difference):
        return _Finding(kind)
    due, lane = nearest.row.step, nearest.row.lane
    turned = matcher.turned(lane)
    if turned and (kind == "reordered" or not _is_alike(difference)):
        sentence = f"steps {turned[0]} and {turned[1]} were asked for the other way round"
        return _Finding("swapped_order", sentence, turned[0])
    if kind not in ("changed_prompt", "changed_history", "changed_tool_result"):
        return _Finding(kind)
    passed = matcher.passed(lane, due)
    if passed and _is_left_out(difference):
        return _Finding("dropped_call", f"step {passed} was recorded before it, and was not asked for", passed)
    later, skipped = _said_later(difference, nearest, ranked)
    if later:
        asks = f"it asks what step {later} asked"
        if skipped:
            return _Finding("swapped_order", f"{asks}: too early, steps from {due} on come first", due)
        return _Finding("dropped_call", f"{asks}: step {due} was left out, or put off", due)
    if difference.change == "added" and due in matcher.taken and matcher.expected() is None:
        return _Finding("extra_call", "the recorded program had made all its calls by now")
    if kind == "changed_prompt" and kinds.is_new_question(nearest.document, wanted):
        return _Finding("extra_call", "nothing like it was recorded")
    return _Finding(kind)


def _is_alike(difference: Difference) -> bool:
    """Whether it is a change of one thing, and not one thing in place of another."""
    return difference.change == "changed" and likeness(difference.recorded, difference.requested) >= ALIKE


def _is_left_out(difference: Difference) -> bool:
    """Whether something is gone, and little or nothing stands in its place."""
    mine, theirs = difference.recorded, difference.requested
    if isinstance(mine, str) and isinstance(theirs, str):
        _, gone, instead = middles(mine, theirs)
        return min(len(gone), len(theirs)) > _LITTLE * len(instead)
    return difference.change == "removed"


def _said_later(difference: Difference, nearest: _Candidate, ranked: Sequence[_Candidate]) -> tuple[int, int]:
    """The step after the nearest that first says what the request has where it differs (0: none does), and how much
    else the user says before it."""
    said = difference.requested
    later = sorted(
        (candidate for candidate in ranked if candidate.row.step > nearest.row.step), key=lambda one: one.row.step
    )
    for candidate in later if said is not ABSENT else ():
        skipped = 0
        for found in differences(nearest.document, candidate.document):
            new = found.requested
            if new == said or (isinstance(new, dict) and said in new.values()):
                return candidate.row.step, skipped
            skipped += isinstance(new, dict) and new.get("role") == "user"
    return 0, 0


# -- how it is said --------------------------------------------------------------------------------------------------


def _compared(step: int, difference: Difference | None, found: _Finding) -> list[str]:
    if difference is None:
        return [f"  nearest recorded step {step}: {kinds.phrase(found.kind, '')}"]
    mine, theirs = difference.recorded, difference.requested
    place = difference.path or "the body"
    if isinstance(mine, str) and isinstance(theirs, str):
        same = same_start(mine, theirs)
        if max(len(mine), len(theirs)) > _WIDTH:
            place += f", character {same + 1}"
        mine, theirs = _window(mine, same), _window(theirs, same)
    return [
        f"  nearest recorded step {step}, first difference at {place}",
        f"  - {_short(mine)}   {kinds.phrase(found.kind, difference.path)}",
        f"  + {_short(theirs)}",
    ]


def _short(value: Any, width: int = _WIDTH) -> str:
    if value is ABSENT:
        return "(nothing)"
    if value == "":
        return '""'
    text = value if isinstance(value, str) else orjson.dumps(value, default=str).decode()
    text = "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)
    return text if len(text) <= width else text[: width - 1] + "…"


def _window(text: str, at: int) -> str:
    """The part of a text around its first difference from another, from the start of a word."""
    if len(text) <= _WIDTH or at < _WIDTH // 2:
        return text[: _WIDTH + 1]
    start = at - _WIDTH // 3
    return "…" + text[start : start + _WIDTH]


def _asks(trace: TraceRow, row: StepRow) -> str:
    """The last that a recorded step says to the model, in short; empty where that cannot be read."""
    operation = operation_of(row)
    try:
        document = _document(trace.request_body(row))
        asked = operation.asked(document) if operation is not None and isinstance(document, dict) else []
    except (StoreError, TypeError, ValueError, AttributeError, KeyError, IndexError):
        return ""
    return _short(" ".join(asked[-1].text.split()), _ASKED) if asked else ""


def _ways(fix: Sequence[str]) -> list[str]:
    """What can be done, in as few lines as hold it."""
    lines = ["  Fix:"]
    for way in fix:
        if len(lines[-1]) + len(way) > _LINE:
            lines.append("      ")
        lines[-1] += f" {way} |" if way is not fix[-1] else f" {way}"
    return lines


def _following(expected: dict[str, Any] | None) -> str:
    if expected is None:
        return ""
    asks = f": {expected['asks']}" if expected["asks"] else ""
    return f"; recorded next: step {expected['step']} {expected['name']}{asks}"


def _as_dict(difference: Difference | None) -> dict[str, Any] | None:
    if difference is None:
        return None
    values = (None if value is ABSENT else value for value in (difference.recorded, difference.requested))
    recorded, requested = values
    return {"path": difference.path, "change": difference.change, "recorded": recorded, "requested": requested}
