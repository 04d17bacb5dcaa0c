"""What is replayed: a trace of the store, or one in a file, and how far."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from escapement.engine import conversation, editing
from escapement.engine.fingerprint import renewed
from escapement.engine.matching import Matcher
from escapement.engine.normalising import Normalising
from escapement.engine.recording import warn
from escapement.providers.edits import Edit
from escapement.store import documents, imports
from escapement.store.rows import TraceRow
from escapement.store.traces import SpanStore
from escapement.words import semconv
from escapement.words.config import Settings
from escapement.words.errors import ConfigError

MISS = "miss"
"""Until the program asks for something that the trace does not know."""
ERROR = "error"
"""Until the step that failed; where none did, the last one of a run that failed."""


@dataclass(frozen=True, slots=True)
class Source:
    """The trace that a run is answered from."""

    row: TraceRow
    reference: str
    """What another process finds it by."""
    adopt: Callable[[], object]
    """Brings it into the store, for a run that goes on from it."""
    until: int | None = None
    """The first step that is not answered from it but goes live."""
    leaves: bool = False
    """Whether nothing is answered from it any more after the first request that it does not know."""
    edited: frozenset[int] = frozenset()
    """Steps whose answers in `row` are not those of the trace itself."""
    rebuilt: frozenset[str] = frozenset()
    """Of a trace whose requests were rebuilt: the parts of them that can be compared."""

    def matcher(self, normalising: Normalising, redact: bool) -> Matcher:
        """Hands out its steps, by what counts of their requests."""
        return Matcher(self.row.steps, renewed(self.row, normalising, redact), self.until)


def find(
    reference: str | os.PathLike[str],
    settings: Settings,
    until: int | str | None = None,
    edits: Mapping[int, Edit] | None = None,
) -> Source:
    """The trace that is meant, with `edits`. Raises TraceNotFoundError, TraceImportError, StoreError, ConfigError."""
    if documents.is_file(reference):
        row = documents.read_file(reference)
        name, original = os.path.abspath(reference), row

        def adopt() -> object:
            return imports.keep(settings.storage_dir, original)
    else:
        store = SpanStore(settings.storage_dir)
        row = store.load(store.resolve(os.fspath(reference)))
        name = row.trace_id

        def adopt() -> object:
            return None

    step = _step(until, row) if until is not None and until != MISS else None
    if edits:
        row, told = editing.edit(row, edits)
        for one in told:
            warn(one)
    rebuilt = sum(semconv.REBUILT in one.attributes for one in row.steps)
    if rebuilt:
        warn(
            f"{rebuilt} of {len(row.steps)} answers of {row.trace_id} were rebuilt from spans that others made: "
            "they say what the model said, but are not the bytes that it sent (`escapement show` lists what is missing)"
        )
    edited = frozenset(edits or ())
    return Source(row, name, adopt, step, leaves=until == MISS, edited=edited, rebuilt=conversation.kept(row.steps))


def _step(until: object, row: TraceRow) -> int:
    """The step that is meant: by its number, by what went wrong, or by its name (`search`, `search#2`)."""
    last = max((step.step for step in row.steps), default=0)
    if isinstance(until, int) and not isinstance(until, bool) and 1 <= until <= last + 1:
        return until
    if until == ERROR:
        return _failed(row)
    if isinstance(until, str) and until and not until.lstrip("-").isdecimal():
        return _named(until, row)
    known = f"it has steps 1 to {last}, and {last + 1} goes on behind its end" if last else "it has no steps: only 1"
    raise ConfigError(f"until takes the step of {row.trace_id} that is to go live ({known}), not {until!r}")


def _failed(row: TraceRow) -> int:
    failed = [step.step for step in row.steps if semconv.ERROR_TYPE in step.attributes]
    if failed:
        return failed[0]
    if row.steps and row.status not in ("completed", "running"):
        return max(step.step for step in row.steps)
    raise ConfigError(f"until={ERROR!r}: nothing failed in {row.trace_id}, which {row.status}")


def _named(until: str, row: TraceRow) -> int:
    """The first (or `#n`th) step of a name, or of a frame (a tool, an agent, …) of that name."""
    name, _, number = until.rpartition("#")
    name, which = (name, int(number)) if name and number.isdecimal() else (until, 1)
    frames = [span for span in row.spans if span.get("scope") == semconv.SCOPE and _is_called(name, str(span["name"]))]
    found = [step.step for step in row.steps if _is_called(name, step.name)]
    for frame in frames:
        inside = [step.step for step in row.steps if frame["start"] <= step.start <= frame["end"]]
        found += inside[:1]
    found = sorted(set(found))
    if 1 <= which <= len(found):
        return found[which - 1]
    names = sorted({step.name for step in row.steps} | {str(span["name"]) for span in row.spans})
    how_often = f"only {len(found)} steps are called {name!r}" if found else f"no step is called {name!r}"
    raise ConfigError(f"until={until!r}: {how_often} in {row.trace_id}. It has {', '.join(names[:20]) or 'none'}")


def _is_called(name: str, full: str) -> bool:
    """Whether that is a name, or its second word: `search` is the tool of `execute_tool search`."""
    return name in (full, full.partition(" ")[2])
