"""The spool: encoded requests on disk that could not be sent yet, oldest first, in bounds.

Segments lie in `otlp/` of the span store. Each is one `ExportTraceServiceRequest`, to which its writer appends; whoever
writes or sends one holds a lock on it, so several processes may do either. Nothing is synced: what a power failure
takes from here is still in the journal.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import orjson

from escapement.store.layout import Layout

MOST: Final = 256_000_000
"""Bytes on disk, beyond which the oldest segments go."""
SEGMENT: Final = 3_500_000
"""Bytes of a segment: it is sent as it is, so it is no larger than a request."""
FOLDER: Final = "otlp"
_TOTALS: Final = "totals.json"


@dataclass(slots=True)
class Segment:
    """A segment that is ours alone until it is done with or put back."""

    path: Path
    data: bytes
    _descriptor: int

    def done(self) -> None:
        """It was sent, or nobody will ever take it."""
        with suppress(OSError):
            self.path.unlink(missing_ok=True)
        os.close(self._descriptor)

    def put_back(self) -> None:
        os.close(self._descriptor)


class Spool:
    """The spool of one store. Thread-safe; several processes may use it at once."""

    def __init__(self, store: Layout, most: int = MOST) -> None:
        self.folder = store.root.absolute() / FOLDER
        self._most = most
        self._lock = threading.Lock()
        self._writing: tuple[Path, int, int] | None = None
        """Path, descriptor and length of the segment that is appended to."""
        self._made = 0

    def put(self, data: bytes) -> list[bytes]:
        """Keep a request. What had to go for it is given back. Raises OSError; nothing is kept then."""
        with self._lock:
            path, descriptor, length = self._segment(len(data))
            try:
                written = os.write(descriptor, data)
                if written < len(data):
                    raise OSError(28, "No space left on device")
            except OSError:
                with suppress(OSError):
                    os.ftruncate(descriptor, length)
                raise
            self._writing = path, descriptor, length + len(data)
            return self._make_room()

    def _segment(self, size: int) -> tuple[Path, int, int]:
        if self._writing is not None and (self._writing[2] + size > SEGMENT or not self._writing[0].exists()):
            self._close()
        if self._writing is None:
            self.folder.mkdir(mode=0o700, exist_ok=True)
            self._made += 1
            path = self.folder / f"{time.time_ns():020d}-{os.getpid()}-{self._made}.otlp"
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            self._writing = path, descriptor, 0
        return self._writing

    def _close(self) -> None:
        if self._writing is not None:
            os.close(self._writing[1])
            self._writing = None

    def _make_room(self) -> list[bytes]:
        sizes = self._sizes()
        excess = sum(sizes.values()) - self._most
        gone = []
        for path, size in sizes.items():
            if excess <= 0:
                break
            segment = self._claim(path)
            if segment is not None:
                gone.append(segment.data)
                segment.done()
                excess -= size
        return gone

    def take(self) -> Segment | None:
        """The oldest segment that nobody else is at; None where there is none."""
        with self._lock:
            self._close()
            claims = (self._claim(path) for path in self._sizes())
            return next((segment for segment in claims if segment is not None), None)

    def _claim(self, path: Path) -> Segment | None:
        if self._writing is not None and self._writing[0] == path:
            return None
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return None  # somebody else has sent it
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with os.fdopen(os.dup(descriptor), "rb") as file:
                data = whole(file.read())
            if data and os.fstat(descriptor).st_nlink:
                return Segment(path, data, descriptor)
            path.unlink(missing_ok=True)  # its writer was killed before anything was in it
        except OSError:
            pass  # it is being written, or sent
        os.close(descriptor)
        return None

    def _sizes(self) -> dict[Path, int]:
        """The size of each segment, oldest first."""
        found = {}
        with suppress(FileNotFoundError):
            for name in sorted(os.listdir(self.folder)):
                if name.endswith(".otlp"):
                    with suppress(OSError):
                        found[self.folder / name] = (self.folder / name).stat().st_size
        return found

    def waiting(self) -> list[tuple[Path, int]]:
        """Path and size of each segment that is still to be sent, oldest first."""
        return [(path, size) for path, size in self._sizes().items() if size]

    def close(self) -> None:
        """Nothing more is written for now; others may send what there is."""
        with self._lock:
            self._close()

    def after_fork(self) -> None:
        """In a child process: the segment that is being written is the parent's."""
        self._lock = threading.Lock()
        self._close()

    # -- totals --------------------------------------------------------------------------------------------------

    def totals(self) -> dict[str, int]:
        """What became of all spans so far: sent, spooled, slimmed, dropped."""
        try:
            found = orjson.loads((self.folder / _TOTALS).read_bytes())
        except (OSError, orjson.JSONDecodeError):
            return {}
        known = found.items() if isinstance(found, dict) else ()
        return {str(name): count for name, count in known if type(count) is int}

    def add(self, counts: Mapping[str, int]) -> None:
        """Count these, too. Raises OSError."""
        if not any(counts.values()):
            return
        self.folder.mkdir(mode=0o700, exist_ok=True)
        descriptor = os.open(self.folder / _TOTALS, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "r+b") as file:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            text = orjson.dumps(Counter(self.totals()) + Counter(counts))
            file.seek(0)
            file.write(text)
            file.truncate()


def whole(data: bytes) -> bytes:
    """A request without a part that is cut off at its end, as a killed writer leaves it.

    Each field of it is the byte 0x0a, a length, and that many bytes.
    """
    at = 0
    while at < len(data) and data[at] == 0x0A:
        length = shift = 0
        after = at + 1
        while after < len(data):
            byte = data[after]
            after += 1
            length |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        else:
            break
        if after + length > len(data) or shift > 35:
            break
        at = after + length
    return data[:at]
