"""Sealing: journals whose writer is done move into the Delta tables.

It can be cut off anywhere and begun again by anybody: a journal is taken in once (its name is the transaction id of
the commit), `parts` before `spans`, and the file goes only when it has been in the tables for a while, so that a
reader who has just listed it can still open it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from escapement.store import columns, journal, schema, segments, shell, tables
from escapement.store.layout import Layout
from escapement.words.errors import StoreError

GRACE: Final = 10.0
"""Seconds for which a sealed journal stays, for readers that have listed it."""
WORTH: Final = 1_000_000
"""Bytes of finished journals that are worth sealing: a commit costs the same, however little is in it."""
MANY: Final = 200
"""Finished journals that are worth sealing, however short."""
_BATCH: Final = 64_000_000  # bytes of journals in one commit
_JOURNAL = re.compile(r"(tr_[0-9a-f]{12})-[^/]+\.jsonl")

Progress = Callable[[int, int], None]
"""Told how much of how much is done."""


@dataclass(slots=True)
class Sealed:
    """What a sealing did. `failed` names journals that could not be taken in, and why; they stay as they are."""

    journals: int = 0
    spans: int = 0
    removed: int = 0
    failed: dict[str, str] = field(default_factory=dict)


def journals(layout: Layout) -> list[tuple[str, Path]]:
    """Trace id and path of every journal. Raises StoreError."""
    try:
        names = sorted(os.listdir(layout.journals))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StoreError(f"the span store at {layout.root} cannot be read: {error.strerror}") from error
    return [(match.group(1), layout.journals / name) for name in names if (match := _JOURNAL.fullmatch(name))]


def unsealed(listed: Sequence[tuple[str, Path]], spans: tables.Table) -> list[tuple[str, Path]]:
    """Those of the journals that were listed that the table has not taken in."""
    sealed = spans.holding([path.stem for _, path in listed])
    return [(trace_id, path) for trace_id, path in listed if path.stem not in sealed]


@contextmanager
def upkeep(layout: Layout, *, wait: float = 60.0) -> Iterator[None]:
    """Hold the store's lock: one process at a time seals, compacts, deletes. Raises StoreError after `wait` seconds."""
    if not layout.root.is_dir():
        raise StoreError(f"there is no span store at {layout.root}: the first recording makes it")
    try:
        descriptor = os.open(layout.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StoreError(f"the span store at {layout.root} cannot be changed: {error.strerror or error}") from error
    try:
        deadline = time.monotonic() + wait
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise StoreError(
                        f"another process has been at work on the span store at {layout.root} for {wait:.0f} s: "
                        "try again when it is done"
                    ) from None
                time.sleep(0.02)
            except OSError:
                break  # no locks on this file system: Delta's own conflict check remains
        yield
    finally:
        os.close(descriptor)


def seal(layout: Layout, *, grace: float = GRACE, progress: Progress = lambda done, all: None) -> Sealed:
    """Take every finished journal into the tables. The caller holds the lock. Raises StoreError."""
    sealed = Sealed()
    spans, parts = tables.Table(layout, schema.SPANS), tables.Table(layout, schema.PARTS)
    spans.refresh()
    parts.refresh()
    waiting = [item for item in unsealed(journals(layout), spans) if not journal.has_writer(item[1])]
    sizes = {path: bytes_of(path) for _, path in waiting}
    total, done = sum(sizes.values()), 0
    batch: list[tuple[str, Path]] = []
    size = 0
    for number, item in enumerate(waiting, 1):
        batch.append(item)
        size += sizes[item[1]]
        if size >= _BATCH or number == len(waiting):
            _seal(layout, batch, spans, parts, sealed)
            done += size
            progress(done, total)
            batch, size = [], 0
    if sealed.journals:
        with contextlib.suppress(OSError):
            shell.write(layout)
    sealed.removed = sweep(layout, grace=grace)
    return sealed


def sweep(layout: Layout, *, grace: float = GRACE) -> int:
    """Remove the journals that have been in the tables for `grace` seconds; how many. The caller holds the lock."""
    spans = tables.Table(layout, schema.SPANS)
    spans.refresh()
    removed = 0
    paths = [path for _, path in journals(layout)]
    sealed = spans.holding([path.stem for path in paths])
    # A clock that was set back makes a journal come from the future: that is no reason to keep it.
    done = [path for path in paths if path.stem in sealed and abs(time.time() - changed(path)) >= grace]
    try:
        for name in (schema.PARTS, schema.SPANS) if done and layout.remote is None else ():
            tables.flush(layout.table(name))  # the tables have what the journals had, even if the power goes
    except OSError:
        return 0
    for path in done:
        with contextlib.suppress(OSError):
            path.unlink()
            removed += 1
    return removed


def _seal(
    layout: Layout, batch: list[tuple[str, Path]], spans: tables.Table, parts: tables.Table, sealed: Sealed
) -> None:
    """One commit to each table."""
    names: list[str] = []
    span_rows: list[columns.Row] = []
    part_rows: list[columns.Row] = []
    kept = parts.holding([path.stem for _, path in batch])
    for trace_id, path in batch:
        try:
            segment = segments.read(path, trace_id)
            if segment.status == "running":
                continue  # its writer has come back to life: a reader took the lock for it
            mine = columns.rows(segment)
            pieces = columns.parts(segment)
            tables.arrow(schema.SPANS, mine)  # what does not fit must not keep the others out
        except FileNotFoundError:
            continue
        except Exception as error:
            sealed.failed[path.name] = f"{type(error).__name__}: {error}"
            continue
        if segment.damaged:
            _keep_damaged(layout, path)
        names.append(path.stem)
        span_rows += mine
        if path.stem not in kept:
            part_rows += pieces
    if not names:
        return
    new = [name for name in names if name not in kept]
    if new:
        part_rows.sort(key=lambda row: (row["date"], row["trace_id"]))
        parts.append(tables.arrow(schema.PARTS, part_rows), new)
    span_rows.sort(key=lambda row: (row["date"], row["trace_id"], row.get("start_unix_nano") or 0))
    spans.append(tables.arrow(schema.SPANS, span_rows), names)
    sealed.journals += len(names)
    sealed.spans += len(span_rows)
    now = time.time()
    for _, path in batch:
        with contextlib.suppress(OSError):
            os.utime(path, (now, now))  # the grace counts from here


def _keep_damaged(layout: Layout, path: Path) -> None:
    """A copy of a journal with damaged lines: somebody may still make sense of them."""
    with contextlib.suppress(OSError):
        layout.damaged.mkdir(mode=0o700, exist_ok=True)
        os.link(path, layout.damaged / path.name)


def is_worth_it(layout: Layout) -> bool:
    """Whether so much has been finished that sealing pays."""
    found = [(path, bytes_of(path)) for _, path in journals(layout)]
    if layout.remote is None and len(found) < MANY and sum(size for _, size in found) < WORTH:
        return False
    count = total = 0
    for path, size in found:
        if not journal.has_writer(path):
            count += 1
            total += size
            if layout.remote is not None or count >= MANY or total >= WORTH:
                return True
    return False


def start(storage_dir: Path | str) -> None:
    """Have another process seal the store if that is worth it. Takes some milliseconds then, and never raises."""
    with contextlib.suppress(OSError, StoreError, subprocess.SubprocessError):
        if is_worth_it(Layout.of(storage_dir)):
            _spawn(storage_dir)


def _spawn(storage_dir: Path | str) -> None:
    """A process that is nobody's child: no program that waits for its own children meets it."""
    if not os.path.basename(sys.executable or "").startswith(("python", "pypy")):
        return  # embedded: what is named there is some other program
    command = [sys.executable, "-m", "escapement.store", str(storage_dir)]
    subprocess.run(
        ["/bin/sh", "-c", '"$0" "$@" </dev/null >/dev/null 2>&1 &', *command],
        check=False,
        timeout=5,
        start_new_session=True,
    )


def bytes_of(path: Path) -> int:
    """The length of a file; 0 of one that is gone."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def changed(path: Path) -> float:
    """When a file was last changed, in seconds since the epoch; now, for one that is gone."""
    try:
        return path.stat().st_mtime
    except OSError:
        return time.time()
