"""Segments as rows of the tables, and back again, with nothing lost in between.

What people filter on has a column; everything else is in `attributes`, a map of text. There a value that is not text
is its JSON, and so is a text that could be taken for JSON: reading it back is never a guess.
"""

from __future__ import annotations

import base64
import datetime
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Any

import orjson

from escapement.store import schema
from escapement.store.messages import Messages
from escapement.store.pieces import Delta, digest
from escapement.store.rows import StepRow
from escapement.store.segments import Segment, place, served
from escapement.words import semconv

Row = dict[str, Any]

KEPT = (
    "trace_id", "kind", "journal", "step", "lane", "fingerprint", "name", "otel_trace_id", "span_id", "parent_span_id",
    "span_kind", "scope", "start_unix_nano", "end_unix_nano", "status", "status_message",
    *schema.PROMOTED.values(),
    "source_trace_id", "source_step", "request_base", "request_keep", "request_add", "request_suffix",
    "response_part", "chunk_sizes", "chunk_times_us",
    "tags", "metadata", "mode", "parent_trace_id", "lost", "damaged", "row_count", "origin", "imported", "events",
    "attributes",
)  # fmt: skip
"""The columns that a trace is rebuilt from, all under the row's checksum. The others follow from them."""

SHOWN = ("service", "response_size", "messages")
"""What only lists, statistics and SQL show, under a checksum of its own: reading a trace does without them."""

_SPECIAL = frozenset(
    {
        semconv.REQUEST_BODY,
        semconv.RESPONSE_BODY,
        semconv.RESPONSE_BODY_BASE64,
        semconv.RESPONSE_CHUNKS,
        semconv.STEP,
        semconv.LANE,
        semconv.FINGERPRINT,
    }
)
_TYPES: Mapping[str, type] = (
    dict.fromkeys(schema.STRINGS, str) | dict.fromkeys(schema.INTEGERS, int) | dict.fromkeys(schema.FLOATS, float)
)
_JSON = frozenset('{["-0123456789tfn \t\r\n')  # what JSON begins with
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_MOST = 2**63 - 1


def rows(segment: Segment, *, messages: bool = True) -> list[Row]:
    """The rows of a segment for the table `spans`. Without `messages` that column stays empty, which is quicker."""
    service = str(segment.header.get("origin", {}).get("service") or "")
    reader = Messages(segment.pieces) if messages else None
    found = [_trace(segment)]
    for key, step in segment.steps.items():
        row = _served(step) if step.source is not None else _step(step, key)
        if reader is not None and step.source is None:
            row["messages"] = reader.new(step)
        found.append(row)
    found += [_span(record) for record in segment.spans]
    found[0]["row_count"] = len(found)
    for row in found:
        row["trace_id"] = segment.trace_id
        row["journal"] = segment.journal
        row["service"] = service
        _finish(row, segment)
    return found


def parts(segment: Segment) -> list[Row]:
    """The rows of a segment for the table `parts`: the pieces of requests, and answers."""
    data = dict(segment.pieces)
    for step in segment.steps.values():
        if step.has_body:
            body = step.body()
            data[digest(body)] = body
    for record in segment.spans:
        if (answer := _body(record["attributes"])) is not None:
            data[digest(answer)] = answer
    day = _day(segment.began or min((step.start for step in segment.steps.values()), default=0))
    return [{"date": day, "trace_id": segment.trace_id, "hash": key, "data": piece} for key, piece in data.items()]


# -- to rows ---------------------------------------------------------------------------------------------------------


def _trace(segment: Segment) -> Row:
    """The row of the segment itself: the run, as far as this journal knows it."""
    header, end = segment.header, segment.end
    row: Row = {
        "kind": "trace",
        "start_unix_nano": segment.began or None,
        "end_unix_nano": end.get("time"),
        "status": segment.status,
        "status_message": end.get("error"),
        "lost": segment.lost,
        "damaged": segment.damaged,
    }
    if header:
        row |= {
            "name": header.get("name") or "",
            "tags": list(header.get("tags", ())),
            "metadata": _json(header.get("metadata", {})),
            "mode": header.get("mode", "record"),
            "parent_trace_id": header.get("parent"),
            "otel_trace_id": header.get("trace_id", ""),
            "span_id": header.get("span_id", ""),
            "origin": _json(header.get("origin", {})),
            "imported": _json(header["imported"]) if header.get("imported") else None,
        }
    return row


def _step(step: StepRow, key: str) -> Row:
    row: Row = {
        "kind": "step",
        "step": step.step,
        "lane": step.lane,
        "fingerprint": step.fingerprint,
        "name": step.name,
        "otel_trace_id": step.otel_trace_id,
        "span_id": key,
        "parent_span_id": step.parent_span_id,
        "span_kind": "CLIENT",
        "scope": semconv.SCOPE,
        "start_unix_nano": step.start,
        "end_unix_nano": step.end,
        "status": None if step.end is None else "ERROR" if semconv.ERROR_TYPE in step.attributes else "UNSET",
    }
    if semconv.SERVED_FROM in step.attributes:
        row["source_trace_id"], row["source_step"] = step.attributes[semconv.SERVED_FROM]
    if step.delta is not None:
        row["request_base"], row["request_keep"] = step.delta.base, step.delta.keep
        row["request_add"], row["request_suffix"] = list(step.delta.add), step.delta.suffix
    return row | _attributes(step.attributes)


def _served(step: StepRow) -> Row:
    assert step.source is not None
    return {
        "kind": "served",
        "step": step.step,
        "lane": step.lane,
        "start_unix_nano": step.start,
        "source_trace_id": step.source[0],
        "source_step": step.source[1],
    }


def _span(record: Mapping[str, Any]) -> Row:
    row: Row = {
        "kind": "span",
        "name": record["name"],
        "otel_trace_id": record["trace_id"],
        "span_id": record["span_id"],
        "parent_span_id": record.get("parent"),
        "span_kind": record.get("kind"),
        "scope": record.get("scope"),
        "start_unix_nano": record.get("start"),
        "end_unix_nano": record.get("end"),
        "status": record.get("status"),
        "status_message": record.get("description"),
        "events": _json(record["events"]) if record.get("events") else None,
    }
    return row | _attributes(record["attributes"])


def _attributes(attributes: Mapping[str, Any]) -> Row:
    """Attributes as columns, and the rest of them."""
    row: Row = {}
    rest: list[tuple[str, str]] = []
    for name, value in attributes.items():
        if name in _SPECIAL:
            continue
        if type(value) is _TYPES.get(name) and not (isinstance(value, int) and abs(value) > _MOST):
            row[schema.PROMOTED[name]] = value
        else:
            rest.append((name, encode(value)))
    body = _body(attributes)
    if body is not None:
        row["response_part"], row["response_size"] = digest(body), len(body)
    chunks = attributes.get(semconv.RESPONSE_CHUNKS)
    if chunks is not None:
        row["chunk_sizes"] = [size for size, _ in chunks]
        row["chunk_times_us"] = [at for _, at in chunks]
    row["attributes"] = rest
    return row


def _body(attributes: Mapping[str, Any]) -> bytes | None:
    if semconv.RESPONSE_BODY_BASE64 in attributes:
        return base64.b64decode(attributes[semconv.RESPONSE_BODY_BASE64])
    if semconv.RESPONSE_BODY in attributes:
        return str(attributes[semconv.RESPONSE_BODY]).encode()
    return None


def _finish(row: Row, segment: Segment) -> None:
    """What follows from the other columns: the partition, readable times, the checksum."""
    start, end = row.get("start_unix_nano"), row.get("end_unix_nano")
    row["date"] = _day(start or end or segment.began)
    row |= times(row)
    row["checksum"], row["checksum_shown"] = checksum(row), checksum_shown(row)


def times(row: Mapping[str, Any]) -> Row:
    """The readable times of a row."""
    start, end = row.get("start_unix_nano"), row.get("end_unix_nano")
    return {
        "start_time": moment(start) if start else None,
        "end_time": moment(end) if end else None,
        "duration_ns": end - start if start and end else None,
    }


def moment(nanoseconds: int) -> datetime.datetime:
    return _EPOCH + datetime.timedelta(microseconds=nanoseconds // 1000)


def _day(nanoseconds: int) -> datetime.date:
    return moment(nanoseconds).date()


def checksum(row: Mapping[str, Any]) -> int:
    """64 bits of BLAKE2b over the columns that a trace is rebuilt from."""
    values = [row.get(name) for name in KEPT]
    values[-1] = sorted(values[-1].items() if isinstance(values[-1], dict) else values[-1] or ())
    return _hash(values)


def is_sound(row: Mapping[str, Any]) -> bool:
    """Whether what a trace is rebuilt from is what was written. Damage can have any shape, types included."""
    try:
        return bool(checksum(row) == row["checksum"])
    except (TypeError, ValueError):
        return False


def checksum_shown(row: Mapping[str, Any]) -> int:
    """The same over what is only shown."""
    return _hash([row.get(name) for name in SHOWN])


def _hash(values: Sequence[Any]) -> int:
    hashed = blake2b(orjson.dumps(values, option=orjson.OPT_SORT_KEYS), digest_size=8).digest()
    return int.from_bytes(hashed, "big", signed=True)


def encode(value: Any) -> str:
    """A value of an attribute as text."""
    if isinstance(value, str) and not _could_be_json(value):
        return value
    return orjson.dumps(value).decode()


def decode(text: str) -> Any:
    """The value that `encode` made this text of."""
    if text[:1] not in _JSON:
        return text  # trying costs more than looking
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text


def _could_be_json(text: str) -> bool:
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        return False
    return True


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()


# -- from rows -------------------------------------------------------------------------------------------------------


def segments(found: Iterable[Sequence[Any]], pieces: Mapping[str, bytes]) -> list[Segment]:
    """The segments that rows of one trace (columns as in `KEPT`, then `checksum`) belong to. Damaged rows are counted.

    `pieces` are the trace's, checked by the caller: an answer whose piece is missing is an answer that is missing.
    """
    made: dict[str, Segment] = {}
    steps: dict[str, list[tuple[str, StepRow]]] = {}
    counted: Counter[str] = Counter()
    expected: dict[str, int] = {}
    for values in found:
        row = dict(zip((*KEPT, "checksum"), values, strict=True))
        segment = made.setdefault(row["journal"], Segment(row["trace_id"], row["journal"]))
        counted[row["journal"]] += 1
        if not is_sound(row):
            segment.damaged += 1
            continue
        kind = row["kind"]
        if kind == "trace":
            _read_trace(row, segment)
            expected[row["journal"]] = row["row_count"]
        elif kind == "served":
            source = (row["source_trace_id"], row["source_step"])
            step = served(row["trace_id"], row["step"], row["lane"], row["start_unix_nano"], *source)
            segment.steps[f"served-{row['step']}"] = step
        elif kind == "step":
            steps.setdefault(row["journal"], []).append((row["span_id"], _read_step(row, segment, pieces)))
        else:
            segment.spans.append(_read_span(row, segment, pieces))
    for journal, inside in steps.items():
        written: dict[int, StepRow] = {}
        for key, step in sorted(inside, key=lambda item: (item[1].step, item[1].start)):
            place(step, written)
            made[journal].steps[key] = step
    for segment in made.values():
        segment.damaged += abs(counted[segment.journal] - expected.get(segment.journal, 0))  # gone, or there twice
        segment.pieces = dict(pieces)
    return list(made.values())


def _read_trace(row: Row, segment: Segment) -> None:
    segment.status = row["status"]
    segment.lost = row["lost"]
    segment.damaged += row["damaged"]
    segment.began = row["start_unix_nano"] or 0
    if row["end_unix_nano"] is not None:
        segment.end = {"status": row["status"], "time": row["end_unix_nano"], "error": row["status_message"]}
    if row["mode"] is not None:
        segment.header = {
            "record": "trace",
            "name": row["name"],
            "tags": row["tags"],
            "metadata": orjson.loads(row["metadata"]),
            "mode": row["mode"],
            "parent": row["parent_trace_id"],
            "time": row["start_unix_nano"] or 0,
            "trace_id": row["otel_trace_id"],
            "span_id": row["span_id"],
            "origin": orjson.loads(row["origin"]),
            "imported": orjson.loads(row["imported"]) if row["imported"] else None,
        }


def _read_step(row: Row, segment: Segment, pieces: Mapping[str, bytes]) -> StepRow:
    delta = None
    if row["request_base"] is not None:
        delta = Delta(row["request_base"], row["request_keep"], row["request_add"], row["request_suffix"])
        if not all(name in pieces for name in delta.add):
            segment.damaged += 1  # `TraceRow.request_body` says so where it is asked for
    attributes = _read_attributes(row, segment, pieces)
    attributes |= {semconv.STEP: row["step"], semconv.LANE: row["lane"], semconv.FINGERPRINT: row["fingerprint"]}
    if delta is not None:
        attributes[semconv.REQUEST_BODY] = {
            "base": delta.base, "keep": delta.keep, "add": delta.add, "suffix": delta.suffix,
        }  # fmt: skip
    return StepRow(
        step=row["step"],
        lane=row["lane"],
        fingerprint=row["fingerprint"],
        name=row["name"],
        start=row["start_unix_nano"],
        end=row["end_unix_nano"],
        otel_trace_id=row["otel_trace_id"],
        span_id=row["span_id"],
        parent_span_id=row["parent_span_id"],
        attributes=attributes,
        trace_id=row["trace_id"],
        delta=delta,
    )


def _read_span(row: Row, segment: Segment, pieces: Mapping[str, bytes]) -> Row:
    record = {
        "record": "span",
        "trace_id": row["otel_trace_id"],
        "span_id": row["span_id"],
        "parent": row["parent_span_id"],
        "name": row["name"],
        "kind": row["span_kind"],
        "scope": row["scope"],
        "start": row["start_unix_nano"],
        "end": row["end_unix_nano"],
        "status": row["status"],
        "description": row["status_message"],
        "attributes": _read_attributes(row, segment, pieces),
        "events": orjson.loads(row["events"]) if row["events"] else [],
    }
    return {key: value for key, value in record.items() if value is not None}


def _read_attributes(row: Row, segment: Segment, pieces: Mapping[str, bytes]) -> dict[str, Any]:
    rest = row["attributes"] or {}
    attributes = {name: decode(text) for name, text in (rest.items() if isinstance(rest, dict) else rest)}
    for name, column in schema.PROMOTED.items():
        if row[column] is not None:
            attributes[name] = row[column]
    if row["response_part"] is not None:
        body = pieces.get(row["response_part"])
        if body is None:
            segment.damaged += 1  # the answer is gone: the step reads as one without an answer
            attributes.pop(semconv.STATUS, None)
        else:
            try:
                attributes[semconv.RESPONSE_BODY] = body.decode()
            except UnicodeDecodeError:
                attributes[semconv.RESPONSE_BODY_BASE64] = base64.b64encode(body).decode()
    if row["chunk_sizes"] is not None:
        attributes[semconv.RESPONSE_CHUNKS] = [
            list(chunk) for chunk in zip(row["chunk_sizes"], row["chunk_times_us"], strict=True)
        ]
    return attributes
