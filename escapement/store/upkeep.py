"""Upkeep: deleting traces, merging small files, keeping the store within what the user allows it.

All of it holds the store's lock, and each step is one commit or one unlink: cut off anywhere, the store is whole, and
doing it again finishes the job.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from escapement.store import journal, schema, sealing, tables
from escapement.store.layout import Layout
from escapement.store.traces import SpanStore
from escapement.words.config import Settings
from escapement.words.errors import StoreError

_MANY_FILES: Final = 32  # more small files than this make reading slow enough to merge them


@dataclass(slots=True)
class Compacted:
    """What compacting did: what was sealed, and files of each table before and after."""

    sealed: sealing.Sealed
    merged: dict[str, tuple[int, int]] = field(default_factory=dict)


def running(layout: Layout) -> set[str]:
    """The ids of traces that are being written."""
    return {trace_id for trace_id, path in sealing.journals(layout) if journal.has_writer(path)}


def delete(layout: Layout, trace_ids: Sequence[str]) -> int:
    """Delete traces: their rows, their payload, their journals, from the disk; how many traces.

    The caller holds the lock. Raises StoreError for one that is being recorded; then nothing is deleted.
    """
    still = sorted(running(layout) & set(trace_ids))
    if still:
        raise StoreError(f"{', '.join(still)}: still being recorded. Stop the program first, then delete.")
    for name in (schema.SPANS, schema.PARTS):
        table = tables.Table(layout, name)
        table.refresh()
        table.delete(trace_ids)
    for trace_id, path in sealing.journals(layout):
        if trace_id in trace_ids:
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
    for path in _damaged(layout):
        if path.name.startswith(tuple(trace_ids)):
            path.unlink()
    vacuum(layout)
    return len(set(trace_ids))


def compact(layout: Layout, *, progress: sealing.Progress = lambda done, all: None) -> Compacted:
    """Seal what is finished and merge small files. The caller holds the lock."""
    done = Compacted(sealing.seal(layout, progress=progress))
    for name in (schema.PARTS, schema.SPANS):
        table = tables.Table(layout, name)
        table.refresh()
        done.merged[name] = table.compact()
    return done


def vacuum(layout: Layout, *, hours: int = 0) -> int:
    """Remove what nothing needs: files that were merged or deleted, sealed journals. The caller holds the lock."""
    count = 0
    for name in (schema.SPANS, schema.PARTS):
        table = tables.Table(layout, name)
        table.refresh()
        count += len(table.vacuum(hours=hours))
    for draft in layout.journals.glob(".tr_*"):  # of an import that was cut off
        if abs(time.time() - sealing.changed(draft)) > 3600:
            draft.unlink(missing_ok=True)
            count += 1
    if hours == 0:
        count += sealing.sweep(layout, grace=0)
    return count


def tidy(layout: Layout, settings: Settings) -> list[str]:
    """What is done by the way after sealing: merging where it pays, old files, retention; the traces that went."""
    spans = tables.Table(layout, schema.SPANS)
    spans.refresh()
    files = [os.path.dirname(file) for file in spans.files()]
    if len(files) - len(set(files)) > _MANY_FILES:
        for name in (schema.PARTS, schema.SPANS):
            table = tables.Table(layout, name)
            table.refresh()
            table.compact()
    went = retain(layout, settings)
    vacuum(layout, hours=1)
    return went


def retain(layout: Layout, settings: Settings) -> list[str]:
    """Delete the traces that are older than `retention_age`, and the oldest as long as the store is over
    `retention_size`; which. Never one that is being written."""
    age, most = settings.retention_age, settings.retention_size
    if age is None and most is None:
        return []
    store = SpanStore(layout.remote or layout.root)
    protected = running(layout)
    found = store.sql(
        "SELECT trace_id, coalesce(max(end_unix_nano), max(start_unix_nano)) AS last FROM stored "
        "GROUP BY trace_id ORDER BY last"
    ).rows
    chosen: list[str] = []
    if age is not None:
        before = time.time_ns() - int(age * 1e9)
        chosen += [trace_id for trace_id, last in found if last < before]
    if most is not None:
        chosen += _oldest(layout, store, [trace_id for trace_id, _ in found if trace_id not in chosen], most)
    chosen = [trace_id for trace_id in chosen if trace_id not in protected]
    if chosen:
        delete(layout, chosen)
    return chosen


def _oldest(layout: Layout, store: SpanStore, by_age: Sequence[str], most: int) -> list[str]:
    """As many of the oldest traces as the store is over its size by, going by the bytes of their payload."""
    excess = size(layout) - most
    if excess <= 0:
        return []
    weights = store.weights()
    whole = sum(weights.values()) or 1
    ratio = size(layout) / whole  # what a byte of payload comes to on disk, compression and rows included
    chosen: list[str] = []
    for trace_id in by_age:
        if excess <= 0:
            break
        chosen.append(trace_id)
        excess -= int(weights.get(trace_id, 0) * ratio)
    return chosen


def size(layout: Layout) -> int:
    """Bytes of the store: the files that its tables need, and its journals."""
    total = sum(sealing.bytes_of(path) for _, path in sealing.journals(layout))
    for name in (schema.SPANS, schema.PARTS):
        table = tables.Table(layout, name)
        table.refresh()
        total += sum(int(action["size_bytes"]) for action in table.actions())
    return total


def _damaged(layout: Layout) -> Iterable[Path]:
    return list(layout.damaged.iterdir()) if layout.damaged.is_dir() else ()
