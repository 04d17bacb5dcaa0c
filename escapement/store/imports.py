"""Traces of others on their way into a store.

An imported trace is an ordinary journal, written beside the others under a name of its own and given that name when it
is whole. So there is nothing of it until there is all of it, and what reads journals knows nothing of imports.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import IO

import orjson

from escapement.store import layout, schema, sealing, tables
from escapement.store.documents import read_document
from escapement.store.exchange import content_hash, exported_by
from escapement.store.journal import Journal, Record
from escapement.store.layout import Layout
from escapement.store.pieces import as_json
from escapement.store.rows import StepRow, TraceRow
from escapement.store.traces import SpanStore
from escapement.words import semconv
from escapement.words.errors import StoreError, TraceImportError, TraceNotFoundError


def import_document(storage_dir: Path | str, data: bytes | bytearray, name: str = "the document") -> tuple[str, bool]:
    """Put the trace of a document into a store; its id, and whether it was not there before.

    Raises TraceImportError for a document that is none, or whose trace is in the store with another content, and
    StoreError where the store cannot be written. The store is then as it was.
    """
    row = read_document(data, name)
    return row.trace_id, keep(storage_dir, row, digest=blake2b(data, digest_size=16).hexdigest(), name=name)


def keep(storage_dir: Path | str, row: TraceRow, *, digest: str = "", name: str = "the document") -> bool:
    """Put a trace that was read from a document (whose hash is `digest`) into a store; False if it is there already.

    Raises TraceImportError and StoreError as `import_document` does.
    """
    if _is_there(storage_dir, row, digest, name):
        return False
    store = layout.create(storage_dir)
    with sealing.upkeep(store):
        # Again, now that nobody else imports, seals or deletes.
        return not _is_there(storage_dir, row, digest, name) and _write(store, row, digest or content_hash(row))


def _is_there(storage_dir: Path | str, row: TraceRow, digest: str, name: str) -> bool:
    try:
        there = SpanStore(storage_dir).load(row.trace_id)
    except TraceNotFoundError:
        return False
    if digest and (there.imported or {}).get("digest") == digest:
        return True  # the very same file; comparing content takes putting all requests together
    if content_hash(there) == content_hash(row):
        return True
    raise TraceImportError(
        f"{name} holds trace {row.trace_id}, and the store has another one of that id, of {len(there.steps)} steps "
        f"instead of {len(row.steps)}. Import it into another storage_dir, or delete the one that is there. "
        "Nothing was changed"
    )


def _write(store: Layout, row: TraceRow, digest: str) -> bool:
    """Write the journal. False if another process has just done that."""
    try:
        descriptor, draft = tempfile.mkstemp(prefix=f".{row.trace_id}-", suffix=".import", dir=store.journals)
        try:
            with os.fdopen(descriptor, "wb") as file:
                _put(file, row, digest)
                file.flush()
                os.fsync(file.fileno())
            os.link(draft, _path(store, row.trace_id, digest))
        finally:
            os.unlink(draft)
        _settle(store.journals)
    except FileExistsError:
        return False
    except OSError as error:
        raise StoreError(
            f"trace {row.trace_id} cannot be written to {store.root}: {error.strerror or error}. Nothing was imported"
        ) from error
    return True


def _path(store: Layout, trace_id: str, digest: str) -> Path:
    """The first name that is free. A journal that was sealed and then deleted must not have its name used again:
    the tables would take it for one that they have."""
    spans = tables.Table(store, schema.SPANS)
    spans.refresh()
    number = 1
    while True:
        path = store.journals / f"{trace_id}-import-{digest[:12]}-{number}.jsonl"
        if not spans.holds(path.stem):
            return path
        number += 1


def _settle(folder: Path) -> None:
    with contextlib.suppress(OSError):  # not every file system lets folders be synced
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _put(file: IO[bytes], row: TraceRow, digest: str) -> None:
    for record in _records(row, digest):
        file.write(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE))
    file.write(b"{}\n" * row.damaged)  # a line that says nothing, for each that was damaged


def keep_part(store: Layout, row: TraceRow, *, first: bool) -> None:
    """Put a part of a trace that comes in parts into a store, behind those that are there; the `first` has its header.
    The last is one that says how it ended. Raises StoreError; nothing of it is there then."""
    failures: list[OSError] = []
    part = Journal(store, row.trace_id, on_loss=failures.append)
    try:
        head = _header(row) if first else {"record": "continues", "trace": row.trace_id, "time": row.created}
        last = {"record": "continued", "time": time.time_ns()} if row.ended is None else _end(row)
        part.write(head, *_content(row), last)
    finally:
        part.close()
    if failures:
        part.path.unlink(missing_ok=True)
        reason = failures[0].strerror or failures[0]
        raise StoreError(f"trace {row.trace_id} cannot be written to {store.root}: {reason}") from failures[0]


def _records(row: TraceRow, digest: str) -> Iterator[Record]:
    imported = {"time": time.time_ns(), "by": exported_by(), "digest": digest}
    yield _header(row) | {"imported": imported}
    yield from _content(row)
    if row.ended is not None:
        yield _end(row)


def _header(row: TraceRow) -> Record:
    return {
        "record": "trace",
        "format": layout.FORMAT,
        "trace": row.trace_id,
        "trace_id": row.otel_trace_id,
        "span_id": row.span_id,
        "name": row.name,
        "tags": row.tags,
        "metadata": row.metadata,
        "mode": row.mode,
        "parent": row.parent,
        "time": row.created,
        "origin": row.origin,
    }


def _content(row: TraceRow) -> Iterator[Record]:
    written: set[str] = set()
    for step in row.steps:
        yield from _step_records(step, row.pieces, written)
    for span in row.spans:
        yield {"record": "span", **span}


def _end(row: TraceRow) -> Record:
    return {"record": "end", "status": row.status, "error": row.error, "time": row.ended, "lost": row.lost}


def _step_records(step: StepRow, pieces: Mapping[str, bytes], written: set[str]) -> Iterator[Record]:
    assert step.delta is not None
    new = {name: as_json(pieces[name]) for name in step.delta.add if name in pieces and name not in written}
    written.update(new)
    asked = {name: value for name, value in step.attributes.items() if not semconv.is_of_answer(name)}
    yield {
        "record": "start",
        "trace_id": step.otel_trace_id,
        "span_id": step.span_id,
        "parent": step.parent_span_id,
        "name": step.name,
        "start": step.start,
        "attributes": asked if step.end is not None else step.attributes,
        "pieces": new,
    }
    if step.end is not None:
        yield {
            "record": "span",
            "trace_id": step.otel_trace_id,
            "span_id": step.span_id,
            "name": step.name,
            "end": step.end,
            "status": "ERROR" if semconv.ERROR_TYPE in step.attributes else "UNSET",
            "attributes": {name: value for name, value in step.attributes.items() if name not in asked},
        }
