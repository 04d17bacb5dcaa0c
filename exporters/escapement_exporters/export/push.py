"""Sending what is there already: a trace of the store, or what waits in the spool."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from escapement.store.prices import Prices
from escapement.store.rows import TraceRow
from escapement_exporters import content
from escapement_exporters.export.spool import Spool
from escapement_exporters.otlp.batches import Batch, Batches, count
from escapement_exporters.otlp.sending import Receiver, deliver
from escapement_exporters.spans import RunSpans, Span, resource, surroundings

Progress = Callable[[int, int], None]
_WITHIN = 30.0


@dataclass(slots=True, eq=False)
class Pushed:
    """Spans by what became of them: `sent`, `slimmed`, `rejected` (taken, and not wanted), `dropped` (refused), `left`
    (to be pushed again); and the last reason for anything but `sent`."""

    counted: Counter[str] = field(default_factory=Counter)
    reason: str = ""

    @property
    def complete(self) -> bool:
        return not any(self.counted[what] for what in ("rejected", "dropped", "left"))


def push_trace(row: TraceRow, receiver: Receiver, progress: Progress, prices: Prices | None = None) -> Pushed:
    """Send all spans of a trace, with what was said in it if telemetry may hold that."""
    pushed = Pushed()
    batches = Batches()
    around = resource(row, surroundings())
    total = 1 + len(row.steps) + len(row.spans)
    for number, span in enumerate(_spans(row, prices)):
        progress(number, total)
        for batch in batches.add(span, pushed, around, row.origin.get("escapement")):
            _send(batch, receiver, pushed)
    for batch in batches.flush():
        _send(batch, receiver, pushed)
    return pushed


def _spans(row: TraceRow, prices: Prices | None) -> Iterator[Span]:
    run = RunSpans(row, prices=prices)
    said = content.Content(row.pieces) if content.wanted() else None
    yield run.root()
    for step in row.steps:
        yield run.step(step, said.of(step) if said is not None else None)
    for record in row.spans:
        if record["span_id"] != row.span_id:
            yield run.other(record, said is not None)


def push_spool(spool: Spool, receiver: Receiver, progress: Progress) -> Pushed:
    """Send what waits, oldest first, until there is nothing more or the receiver takes nothing more."""
    pushed = Pushed()
    total = len(spool.waiting())
    done = 0
    while (segment := spool.take()) is not None:
        progress(done, max(total, done + 1))
        done += 1
        before = pushed.counted["left"]
        _send(Batch(segment.data, count(segment.data)), receiver, pushed)
        if pushed.counted["left"] > before:
            segment.put_back()
            pushed.counted["left"] = sum(count(path.read_bytes()) for path, _ in spool.waiting() if path.exists())
            break
        segment.done()
    return pushed  # what is still there, another sender is at


def _send(batch: Batch, receiver: Receiver, pushed: Pushed) -> None:
    if pushed.counted["left"]:
        pushed.counted["left"] += batch.spans  # it takes nothing: asking again for each would take minutes
        return
    for part, answer in deliver(receiver, batch, _WITHIN):
        what = {"sent": "sent", "later": "left"}.get(answer.outcome, "dropped")
        pushed.counted[what] += part.spans
        pushed.counted["rejected"] += answer.rejected
        if what != "sent" or answer.rejected:
            pushed.reason = answer.reason
