"""The journal: the append-only JSONL file of a run in progress, one writer each.

Every record is one line and one `write()`, made before the program gets its answer, so a killed process loses
nothing that had reached it. The file is locked while its writer lives: a reader that can take the lock, and finds no
`end` record, knows that the writer died.

Records, told apart by `record`: `trace` (the first line), `start` and `span` (a step begins, ends), `served` (a step
that a replay took from another trace), `end`. A long run goes on in another file: `continued` is then the last record
of the one, `continues` the first of the next. A process that takes part in the run of another begins with `joins`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import threading
from collections.abc import Callable
from itertools import count, islice
from pathlib import Path
from typing import Any

import orjson

from escapement.store.layout import Layout
from escapement.words.errors import StoreError

Record = dict[str, Any]
_NUMBERS = count(1)
"""A journal's name is never given again, not even when the file is gone: it says what has been sealed."""


class Journal:
    """The writing end. Never raises once it is open: what cannot be written is counted and reported to `on_loss`."""

    def __init__(
        self,
        layout: Layout,
        trace_id: str,
        *,
        fsync: bool = False,
        on_loss: Callable[[OSError], None] = lambda error: None,
    ) -> None:
        self.path, self._descriptor = _create(layout.journals, trace_id)
        self._fsync = fsync
        self._on_loss = on_loss
        self._lock = threading.RLock()  # a garbage collection in here may end a forgotten stream, which writes
        self.length = 0
        """Bytes written."""
        self._closed = False

    def write(self, *records: Record) -> bool:
        """Append records, all or none. False if that failed."""
        try:
            data = b"".join([orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE) for record in records])
        except (TypeError, ValueError) as error:
            self._on_loss(OSError(f"a record cannot be put into JSON: {error}"))
            return False
        with self._lock:
            if self._closed:
                return False
            try:
                append(self._descriptor, data, self.length, fsync=self._fsync)
            except OSError as error:
                self._on_loss(error)
                return False
            self.length += len(data)
            return True

    def close(self) -> None:
        """Close the file and let go of its lock. Safe to call twice."""
        with self._lock:
            if not self._closed:
                self._closed = True
                os.close(self._descriptor)


def append(descriptor: int, data: bytes, length: int, *, fsync: bool) -> None:
    """Append lines to a file of `length` bytes, all or nothing. Raises OSError."""
    try:
        written = os.write(descriptor, data)
        while written < len(data):
            written += os.write(descriptor, data[written:])
        if fsync:
            os.fsync(descriptor)
    except OSError:
        # A full disk may have taken half a line: take it back, so that the next record starts on its own.
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, length)
        raise


def _create(folder: Path, trace_id: str) -> tuple[Path, int]:
    host = "".join(character if character.isalnum() else "_" for character in socket.gethostname())[:40] or "host"
    for number in islice(_NUMBERS, 1000):
        path = folder / f"{trace_id}-{host}-{os.getpid()}-{number}.jsonl"
        draft = path.with_name(f".{path.stem}")
        try:
            if path.exists():
                continue
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
            descriptor = os.open(draft, flags, 0o600)
            # Locked before it has its name: to whoever finds one that is not, its writer is dead, and it can be sealed.
            # Some network file systems know no locks; then a crashed run reads as one that still runs.
            with contextlib.suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.rename(draft, path)
        except FileExistsError:
            continue
        except OSError as error:
            raise StoreError(
                f"the journal {path} cannot be made: {error.strerror or error}. "
                "Make the directory writable, or set storage_dir (ESCAPEMENT_STORAGE_DIR) to one that is."
            ) from error
        return path, descriptor
    raise StoreError(f"{folder} holds 1000 journals of trace {trace_id} by this process already")


def has_writer(path: Path) -> bool:
    """Whether the process that writes this journal still lives."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        # No locks here: then only its last record can say that nothing more will come.
        return not _has_ended(path)
    else:
        return False
    finally:
        os.close(descriptor)


def _has_ended(path: Path) -> bool:
    records, _ = read(path)
    return bool(records) and records[-1]["record"] in ("end", "continued")


def began(path: Path) -> int | None:
    """When a journal was begun, by its first line: 0 where that is damaged, None where it is not whole yet."""
    with path.open("rb") as file:
        line = file.readline()
    if not line.endswith(b"\n"):
        return None
    try:
        return int(orjson.loads(line)["time"])
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
        return 0


def read(path: Path) -> tuple[list[Record], int]:
    """The records of a journal, and how many lines were damaged.

    A last line without its newline is one that its writer was cut off in (or is just writing): not damage, not there.
    """
    data = path.read_bytes()
    lines = data.split(b"\n")
    lines.pop()
    records: list[Record] = []
    damaged = 0
    for line in lines:
        try:
            record = orjson.loads(line)
        except orjson.JSONDecodeError:
            damaged += 1
            continue
        if isinstance(record, dict) and isinstance(record.get("record"), str):
            records.append(record)
        else:
            damaged += 1
    return records, damaged
