"""What is replayed: a trace of the store, or one in a file, and how far."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from escapement.store import documents, imports
from escapement.store.rows import TraceRow
from escapement.store.traces import SpanStore
from escapement.words.config import Settings
from escapement.words.errors import ConfigError


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


def find(reference: str | os.PathLike[str], settings: Settings, until: int | None = None) -> Source:
    """The trace that is meant. Raises TraceNotFoundError, TraceImportError, StoreError, and ConfigError for `until`."""
    if documents.is_file(reference):
        row = documents.read_file(reference)
        source = Source(row, os.path.abspath(reference), lambda: imports.keep(settings.storage_dir, row), until)
    else:
        store = SpanStore(settings.storage_dir)
        row = store.load(store.resolve(os.fspath(reference)))
        source = Source(row, row.trace_id, lambda: None, until)
    if until is not None:
        _check(until, row)
    return source


def _check(until: object, row: TraceRow) -> None:
    last = max((step.step for step in row.steps), default=0)
    if isinstance(until, bool) or not isinstance(until, int) or not 1 <= until <= last + 1:
        known = (
            f"it has steps 1 to {last}, and {last + 1} goes on behind its end" if last else "it has no steps: only 1"
        )
        raise ConfigError(f"until takes the step of {row.trace_id} that is to go live ({known}), not {until!r}")
