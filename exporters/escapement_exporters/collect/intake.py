"""What a collector has taken in, on its way into the span store.

Spans come in any order, and one at a time; a trace is made of them when they are all there. Until then they are in an
intake journal, which is written before the sender is told that they were taken: what was accepted survives the death
of the process. In memory is only where in it each trace's spans are.

    <store>/intake/<pid>-<n>.jsonl     {"trace": …, "root": …, "spans": […]}, and {"done": trace, "size": …} once they
                                       are in the store. It is locked while its writer lives; who finds one that is
                                       not takes it over.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import orjson

from escapement.store import imports, journal, layout, segments
from escapement.store.layout import Layout
from escapement.store.traces import SpanStore
from escapement.words.errors import StoreError
from escapement_exporters.foreign import rebuilding
from escapement_exporters.foreign.decoding import Span

QUIET: Final = 2.0
"""Seconds without a span after which a trace whose root has come is whole."""
IDLE: Final = 30.0
"""Seconds after which what is there of any other is kept; what comes later is added to it."""
_FILE: Final = 64_000_000  # bytes of an intake journal after which another is begun
_PART: Final = 16_000_000  # bytes of one trace that are kept without waiting for more
_BATCH: Final = 4_000_000  # bytes of traces that are put into the store at once
_TRACES: Final = 20_000
"""Traces that are waited for, and traces that are remembered, at most."""


_log = logging.getLogger("escapement")


class Busy(Exception):
    """There is more than can be taken now: the sender is to come again."""


class Full(Exception):
    """The journal cannot be written."""


@dataclass(slots=True)
class _File:
    path: Path
    descriptor: int
    length: int = 0
    open: dict[str, int] = field(default_factory=dict)
    """Traces with spans in it that are not in the store, and how many bytes of them."""


@dataclass(slots=True)
class Waiting:
    """A trace that is coming in."""

    places: list[tuple[_File, int, int]] = field(default_factory=list)
    size: int = 0
    rooted: bool = False
    seen: float = 0.0
    began: int = 1 << 62
    """When its first span did, in nanoseconds since the epoch."""
    found: bool = False
    """Whether something of it may be in the store already: it was taken over, or could not be kept at once."""


class Intake:
    """The journal, and the traces that are in it. To be used by one thread, but for `keep`, by one other.

    `most` bounds the bytes that wait; past it `Busy` is raised.
    """

    def __init__(self, storage_dir: Path | str, *, most: int = 1 << 30, fsync: bool = False) -> None:
        self.store: Layout = layout.create(storage_dir)
        self._storage_dir = storage_dir
        self._most = most
        self._fsync = fsync
        self._folder = self.store.root / "intake"
        self._folder.mkdir(mode=0o700, exist_ok=True)
        self._waiting: OrderedDict[str, Waiting] = OrderedDict()
        self._kept: OrderedDict[str, int] = OrderedDict()
        """Traces that are in the store, and how many steps they have."""
        self._files: list[_File] = []
        self._began = time.time_ns()
        self.accepted = self.traces = self.waiting_bytes = 0
        self.failed: dict[str, str] = {}
        """Traces that could not be kept, and why. Their spans stay in the journal."""
        self._take_over()
        self._current = self._begin()

    # -- taking in -----------------------------------------------------------------------------------------------

    def accept(self, spans: Sequence[Span]) -> None:
        """Write spans to the journal; they are safe when this returns. Raises Busy and Full, with nothing taken."""
        groups: dict[str, list[Span]] = {}
        for span in spans:
            groups.setdefault(span.trace_id, []).append(span)
        if self.waiting_bytes >= self._most:
            raise Busy
        lines = []
        for trace, group in groups.items():
            rooted = any(not span.parent for span in group)
            began = min(span.start for span in group)
            record = {"trace": trace, "root": rooted, "began": began, "spans": group}
            lines.append((trace, rooted, began, orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)))
        file = self._current
        at = file.length
        self._append(b"".join(line for *_, line in lines))
        for trace, rooted, began, line in lines:
            self._note(trace, file, at, len(line), rooted, began)
            at += len(line)
        self.accepted += len(spans)
        if file.length >= _FILE:
            self._current = self._begin()

    def _append(self, data: bytes) -> None:
        file = self._current
        try:
            journal.append(file.descriptor, data, file.length, fsync=self._fsync)
        except OSError as error:
            raise Full(f"{file.path} cannot be written: {error.strerror or error}") from error
        file.length += len(data)

    def _note(self, trace: str, file: _File, at: int, size: int, rooted: bool, began: int) -> Waiting:
        waiting = self._waiting.setdefault(trace, Waiting())
        waiting.places.append((file, at, size))
        waiting.size += size
        waiting.rooted = waiting.rooted or rooted
        waiting.began = min(waiting.began, began)
        waiting.seen = time.monotonic()
        self._waiting.move_to_end(trace)
        file.open[trace] = file.open.get(trace, 0) + size
        self.waiting_bytes += size
        return waiting

    # -- keeping -------------------------------------------------------------------------------------------------

    def due(self, *, all: bool = False) -> list[str]:
        """The traces that are whole, or have been waited for long enough."""
        now = time.monotonic()
        crowd = len(self._waiting) - _TRACES
        return [
            trace
            for number, (trace, waiting) in enumerate(self._waiting.items())
            if all
            or number < crowd
            or waiting.size >= _PART
            or now - waiting.seen >= (QUIET if waiting.rooted else IDLE)
        ]

    def take(self, traces: Iterable[str]) -> dict[str, Waiting]:
        """What is there of the first of these traces, no longer waited for: to be given to `keep`, then to `done`."""
        taken: dict[str, Waiting] = {}
        size = 0
        for trace in traces:
            if size >= _BATCH:
                break
            taken[trace] = self._waiting.pop(trace)
            size += taken[trace].size
        return taken

    def keep(self, taken: Mapping[str, Waiting]) -> dict[str, int | str | None]:
        """Put what is there of traces into the store: how many steps each has now, or why it cannot be kept; None where
        the store cannot be written now. Raises nothing."""
        outcomes: dict[str, int | str | None] = {}
        known = self._known({trace: waiting for trace, waiting in taken.items() if trace not in self._kept})
        for trace, waiting in taken.items():
            try:
                steps, seen = known.get(trace, (self._kept.get(trace), frozenset()))
                outcomes[trace] = self._keep(waiting, steps, seen)
            except StoreError as error:
                _log.error("Escapement: %s", error)
                outcomes[trace] = None
            except Exception as error:  # whatever is wrong with one trace, the others are to be kept
                outcomes[trace] = str(error) or type(error).__name__
                _log.error("Escapement: trace %s stays in the intake: %s", trace, error)
        return outcomes

    def _keep(self, waiting: Waiting, steps: int | None, seen: frozenset[str]) -> int:
        spans = [span for span in map(_span, _spans(waiting.places)) if span.span_id not in seen]
        if not spans:
            return steps or 0
        row = rebuilding.trace_of(spans, after=steps or 0)
        if not waiting.rooted:
            row.ended = None
        imports.keep_part(self.store, row, first=steps is None)
        return max([steps or 0, *(step.step for step in row.steps)])

    def _known(self, taken: Mapping[str, Waiting]) -> dict[str, tuple[int | None, frozenset[str]]]:
        """Of traces that may be in the store: their steps (None where they are not), and the ids of their spans.

        What began before this collector did may have been kept by another; what lacks a parent may have been forgotten.
        """
        asked = {
            rebuilding.trace_id_of(trace): trace
            for trace, waiting in taken.items()
            if waiting.found or waiting.began < self._began or not waiting.rooted
        }
        found: dict[str, tuple[int | None, frozenset[str]]] = {}
        for trace_id, parts in SpanStore(self._storage_dir).segments_of(list(asked)).items() if asked else ():
            row = segments.assemble(trace_id, parts)
            ids = {step.span_id for step in row.steps} | {str(span["span_id"]) for span in row.spans} | {row.span_id}
            steps = max((step.step for step in row.steps), default=0)
            found[asked[trace_id]] = steps, frozenset(ids)
        return found

    def done(self, taken: Mapping[str, Waiting], outcomes: Mapping[str, int | str | None]) -> bool:
        """What `keep` made of them. Whether the store could be written."""
        marks: dict[int, tuple[_File, list[bytes]]] = {}
        for trace, waiting in taken.items():
            outcome = outcomes[trace]
            if outcome is None:
                self._put_back(trace, waiting)
                continue
            self.waiting_bytes -= waiting.size
            if isinstance(outcome, str):
                self.failed[trace] = outcome
                continue
            self.traces += trace not in self._kept
            self._kept[trace] = outcome
            self._kept.move_to_end(trace)
            for file, _, size in waiting.places:
                file.open[trace] -= size
                if not file.open[trace]:
                    del file.open[trace]
                line = orjson.dumps({"done": trace, "size": size}, option=orjson.OPT_APPEND_NEWLINE)
                marks.setdefault(id(file), (file, []))[1].append(line)
        for file, lines in marks.values():
            with contextlib.suppress(OSError):  # they are then looked for in the store, and found
                file.length += os.write(file.descriptor, b"".join(lines))
        while len(self._kept) > _TRACES:
            self._kept.popitem(last=False)
        self._tidy()
        return None not in outcomes.values()

    def _put_back(self, trace: str, waiting: Waiting) -> None:
        """Wait for a trace again; something may have come meanwhile."""
        newer = self._waiting.get(trace)
        if newer is not None:
            waiting.places += newer.places
            waiting.size += newer.size
            waiting.rooted = waiting.rooted or newer.rooted
        waiting.found = True
        self._waiting[trace] = waiting

    def keep_all(self) -> None:
        """Put all there is into the store: nothing more will come."""
        while due := self.due(all=True):
            taken = self.take(due)
            if not self.done(taken, self.keep(taken)):
                return  # it stays in the journal, for the next collector

    def close(self) -> None:
        """Let go of the files; those with nothing left in them are removed."""
        self._tidy(also=self._current)
        for file in self._files:
            os.close(file.descriptor)
        self._files.clear()

    # -- files ---------------------------------------------------------------------------------------------------

    def _begin(self) -> _File:
        number = len(self._files)
        while True:
            path = self._folder / f"{os.getpid()}-{time.time_ns()}-{number}.jsonl"
            try:
                flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
                descriptor = os.open(path, flags, 0o600)
            except FileExistsError:
                number += 1
                continue
            except OSError as error:
                raise StoreError(f"{path} cannot be made: {error.strerror or error}") from error
            with contextlib.suppress(OSError):  # some network file systems know no locks
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            file = _File(path, descriptor)
            self._files.append(file)
            return file

    def _take_over(self) -> None:
        """Go on with what collectors left that are not there any more."""
        for path in sorted(self._folder.glob("*.jsonl")):
            descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(descriptor)  # its collector lives
                continue
            file = _File(path, descriptor)
            self._files.append(file)
            for at, size, record in _lines(path):
                file.length = at + size
                trace = record.get("trace")
                if isinstance(trace, str):
                    self._note(trace, file, at, size, bool(record.get("root")), 0).found = True
                elif isinstance(done := record.get("done"), str) and done in self._waiting:
                    self._forget(done, file, int(record.get("size") or 0))
            os.ftruncate(descriptor, file.length)  # half a line that nobody was told was taken
        self._tidy()

    def _forget(self, trace: str, file: _File, size: int) -> None:
        """The first spans of a trace in a file, of so many bytes, are in the store."""
        waiting = self._waiting[trace]
        left = size
        for place in [place for place in waiting.places if place[0] is file]:
            if left <= 0:
                break
            left -= place[2]
            waiting.places.remove(place)
            waiting.size -= place[2]
            self.waiting_bytes -= place[2]
            file.open[trace] -= place[2]
        if not file.open.get(trace):
            file.open.pop(trace, None)
        if not waiting.places:
            del self._waiting[trace]

    def _tidy(self, also: _File | None = None) -> None:
        """Remove the files with nothing in them that is not in the store."""
        for file in list(self._files):
            if not file.open and (file is also or file is not getattr(self, "_current", None)):
                self._files.remove(file)
                os.close(file.descriptor)
                file.path.unlink(missing_ok=True)


def _span(record: dict[str, Any]) -> Span:
    return Span(**record)


def _spans(places: Iterable[tuple[_File, int, int]]) -> Iterator[dict[str, Any]]:
    for file, at, size in places:
        yield from orjson.loads(os.pread(file.descriptor, size, at))["spans"]


def _lines(path: Path) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """The whole lines of a journal: where each is, its length, and what it says."""
    at = 0
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                return
            with contextlib.suppress(orjson.JSONDecodeError):
                record = orjson.loads(line)
                if isinstance(record, dict):
                    yield at, len(line), record
            at += len(line)
