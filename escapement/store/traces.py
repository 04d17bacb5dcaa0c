"""Reading traces back: from journals today, from Delta tables beside them next.

Everything that reads goes through `SpanStore`, so that where a row comes from is decided in one place.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from escapement.store import journal, layout
from escapement.store.journal import Record
from escapement.store.pieces import Delta
from escapement.store.rows import StepRow, TraceRow
from escapement.words import ids, semconv
from escapement.words.errors import StoreError, TraceNotFoundError

_JOURNAL = re.compile(r"(tr_[0-9a-f]{12})-.+\.jsonl")
_NESTING = 64  # a fork of a fork of a fork …: more than anyone makes by hand


class SpanStore:
    """The reading end of the store at `root`. Raises StoreError if it cannot be read."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._layout = layout.open_existing(root)

    def trace_ids(self) -> list[str]:
        """The ids of all traces, newest first."""
        born = {trace_id: min(map(_first_time, paths)) for trace_id, paths in self._journals().items()}
        return sorted(born, key=lambda trace_id: (born[trace_id], trace_id), reverse=True)

    def traces(self) -> Iterator[TraceRow]:
        """Every trace, newest first."""
        journals = self._journals()
        rows = [self._load(trace_id, paths) for trace_id, paths in journals.items()]
        yield from sorted(rows, key=lambda row: (row.created, row.trace_id), reverse=True)

    def load(self, trace_id: str) -> TraceRow:
        """One trace by its full id, with what it took over from the traces it was forked from."""
        return self._whole(trace_id, ())

    def resolve(self, reference: str) -> str:
        """The full id that a prefix of one, `@last`, or `@-N` (the N-th newest) stands for.

        Raises TraceNotFoundError when that is none, or several (then with `.candidates`).
        """
        reference = reference.strip()
        if reference.startswith("@"):
            return self._by_age(reference)
        prefix = ids.as_prefix(reference)
        if prefix is None:
            raise TraceNotFoundError(
                f"{reference!r} is not a trace id: ids are 'tr_' and 12 hex digits, as `escapement list` shows them"
            )
        found = sorted(trace_id for trace_id in self._journals() if trace_id.startswith(prefix))
        if len(found) == 1:
            return found[0]
        if found:
            raise TraceNotFoundError(f"{reference!r} could be any of {len(found)} traces: {_some(found)}", found)
        raise TraceNotFoundError(f"no trace {reference!r} in {self.root}; {self._what_there_is()}")

    def _by_age(self, reference: str) -> str:
        number = re.fullmatch(r"@(?:last|-([1-9][0-9]{0,5}))", reference)
        if number is None:
            raise TraceNotFoundError(
                f"{reference!r} is not a trace: `@last` is the newest one, `@-2` the one before it"
            )
        newest = self.trace_ids()
        age = int(number.group(1) or 1)
        if age > len(newest):
            raise TraceNotFoundError(f"no trace {reference!r} in {self.root}; {self._what_there_is()}")
        return newest[age - 1]

    def _what_there_is(self) -> str:
        count = len(self._journals())
        if not count:
            return "nothing has been recorded there yet (ESCAPEMENT_STORAGE_DIR names another directory)"
        return f"it holds {count}: `escapement list` shows them"

    def _journals(self) -> dict[str, list[Path]]:
        try:
            paths = sorted(self._layout.journals.iterdir())
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise StoreError(f"the span store at {self.root} cannot be read: {error.strerror}") from error
        found: dict[str, list[Path]] = {}
        for path in paths:
            if match := _JOURNAL.fullmatch(path.name):
                found.setdefault(match.group(1), []).append(path)
        return found

    def _whole(self, trace_id: str, heirs: tuple[str, ...]) -> TraceRow:
        paths = self._journals().get(trace_id)
        if not paths:
            raise TraceNotFoundError(f"no trace {trace_id} in {self.root}; {self._what_there_is()}")
        row = self._load(trace_id, paths)
        served = [step for step in row.steps if step.source is not None]
        if not served or trace_id in heirs or len(heirs) > _NESTING:
            return row
        sources: dict[str, TraceRow | None] = {}
        for step in served:
            assert step.source is not None
            source_id, number = step.source
            if source_id not in sources:
                try:
                    sources[source_id] = self._whole(source_id, (*heirs, trace_id))
                except TraceNotFoundError:
                    sources[source_id] = None
            source = sources[source_id]
            original = source.step(number) if source is not None else None
            if source is None or original is None:
                continue  # stays an unanswered step, and reads as one
            for name in ("fingerprint", "name", "end", "start", "span_id", "parent_span_id", "otel_trace_id"):
                setattr(step, name, getattr(original, name))
            step.attributes = {**original.attributes, **step.attributes}
        row.sources = {key: source for key, source in sources.items() if source is not None}
        return row

    def _load(self, trace_id: str, paths: list[Path]) -> TraceRow:
        builder = _Builder(trace_id)
        for path in paths:
            # Whether the writer lives is asked first: one that ends in between has written its last record by then.
            alive = journal.has_writer(path)
            try:
                records, damaged = journal.read(path)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise StoreError(f"{path} cannot be read: {error.strerror}") from error
            builder.add(records, damaged, alive)
        return builder.build()


class _Builder:
    """Puts the records of a trace's journals together."""

    def __init__(self, trace_id: str) -> None:
        self.trace_id = trace_id
        self.header: Record = {}
        self.steps: dict[str, StepRow] = {}
        self.pieces: dict[str, bytes] = {}
        self.spans: list[Record] = []
        self.ends: list[Record] = []
        self.alive = False
        self.died = False
        self.damaged = 0

    def add(self, records: list[Record], damaged: int, alive: bool) -> None:
        ended = False
        written: dict[int, StepRow] = {}
        for record in records:
            try:
                ended |= self._add(record, written)
            except (KeyError, TypeError, ValueError):
                damaged += 1
        self.damaged += damaged
        self.alive |= alive
        # A forked child's journal has no first record of its own, and does not end the trace.
        self.died |= not alive and not ended and any(record["record"] == "trace" for record in records)

    def _add(self, record: Record, written: dict[int, StepRow]) -> bool:
        """Take in a record; `written` are the steps of the same journal, which bases are looked up in."""
        kind = record["record"]
        if kind == "trace":
            self.header = self.header or record
        elif kind == "start":
            attributes = record["attributes"]
            row = StepRow(
                step=attributes[semconv.STEP],
                lane=attributes[semconv.LANE],
                fingerprint=attributes[semconv.FINGERPRINT],
                name=record["name"],
                start=record["start"],
                end=None,
                otel_trace_id=record["trace_id"],
                span_id=record["span_id"],
                parent_span_id=record.get("parent", ""),
                attributes=attributes,
                trace_id=self.trace_id,
            )
            self.steps[record["span_id"]] = row
            row.delta = Delta(**attributes[semconv.REQUEST_BODY])
            row.base = written.get(row.delta.base)
            written[row.step] = row
            for name, piece in record.get("pieces", {}).items():
                self.pieces[name] = piece.encode() if isinstance(piece, str) else base64.b64decode(piece["base64"])
        elif kind == "span" and record["span_id"] in self.steps:
            row = self.steps[record["span_id"]]
            row.end = record["end"]
            row.name = record["name"]
            row.attributes.update(record["attributes"])
        elif kind == "span":
            self.spans.append(record)
        elif kind == "served":
            self.steps[f"served-{record['step']}"] = StepRow(
                step=record["step"],
                lane=record["lane"],
                fingerprint="",
                name="",
                start=record["time"],
                end=None,
                otel_trace_id="",
                span_id="",
                parent_span_id="",
                attributes={semconv.STEP: record["step"], semconv.LANE: record["lane"], semconv.MODE: "replay"},
                trace_id=self.trace_id,
                source=(record["source"], record["source_step"]),
            )
        elif kind == "end":
            self.ends.append(record)
            return True
        return False

    def build(self) -> TraceRow:
        header = self.header
        steps = sorted(self.steps.values(), key=lambda row: (row.step, row.start))
        end: dict[str, Any] = max(self.ends, key=lambda record: record["time"], default={})
        if self.alive:
            status = end.get("status", "running")
        else:
            status = "interrupted" if self.died or not end else end["status"]
        return TraceRow(
            trace_id=self.trace_id,
            name=header.get("name") or "",
            tags=tuple(header.get("tags", ())),
            metadata=header.get("metadata", {}),
            mode=header.get("mode", "record"),
            parent=header.get("parent"),
            created=header.get("time", 0),
            status=status,
            ended=end.get("time"),
            error=end.get("error"),
            lost=sum(record.get("lost", 0) for record in self.ends),
            damaged=self.damaged,
            otel_trace_id=header.get("trace_id", ""),
            origin=header.get("origin", {}),
            steps=steps,
            pieces=self.pieces,
            spans=self.spans,
        )


def _first_time(path: Path) -> int:
    """When a journal was begun, from its first line; 0 where that cannot be read."""
    try:
        with path.open("rb") as file:
            record = orjson.loads(file.readline())
        return int(record["time"])
    except (OSError, orjson.JSONDecodeError, KeyError, TypeError, ValueError):
        return 0


def _some(found: list[str], most: int = 6) -> str:
    more = f", and {len(found) - most} more" if len(found) > most else ""
    return ", ".join(found[:most]) + more
