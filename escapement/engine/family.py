"""What the processes of one run share: a folder that is there as long as the run.

Each process records into a journal of its own, so little has to be agreed on: numbers of steps that no two of them
use, lanes that no two have, and word to whoever ends the trace of what a process did that is in no journal.

    steps         a byte a step; a number is the length after one's own byte was appended, so nobody waits for a lock
    lane-*        the lanes that processes have, one file each
    *.jsonl       reports: answers served, requests that were not found, the exception that a process ended with

A process started by `escapement run`, `replay` or `fork` is told by `VARIABLE` (and the lane meant for it by
`LANE`); one started by `multiprocessing` by a ticket that travels with the `Process`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import blake2b
from itertools import count
from pathlib import Path

import orjson

from escapement.engine.lanes import ROOT
from escapement.store import journal
from escapement.store.journal import Record

VARIABLE = "ESCAPEMENT_RUN"
"""The run that a process belongs to: a `Membership`, as JSON. Set by the command line for what it starts."""
LANE = "ESCAPEMENT_RUN_LANE"
"""The lane that is meant for a process, where its parent gave it one."""


@dataclass(frozen=True, slots=True)
class Membership:
    """What a process has to know to take part in a run."""

    folder: str
    storage_dir: str
    otel_trace_id: str = ""
    """Of the trace that is written; in a replay, of the one that it becomes where it goes live. Empty for a trace of
    the process's own then."""
    span_id: str = ""
    name: str = ""
    """What the trace is called."""
    replays: str = ""
    """What a replay answers from: a trace's id or a file; empty in a recording."""
    strict: bool | None = None
    until: int | None = None
    leaves: bool = False
    """Whether the replay goes live for good with the first request that its trace does not know."""
    live: bool = False
    """Whether the replay is a fork already, and its trace begun."""
    lane: str = ROOT

    def to_text(self) -> str:
        return orjson.dumps(asdict(self)).decode()

    @classmethod
    def of_text(cls, text: str) -> Membership:
        return cls(**orjson.loads(text))

    @classmethod
    def of_environment(cls, environment: Mapping[str, str]) -> Membership | None:
        """The run that this process was started in; None where it was started in none."""
        text = environment.get(VARIABLE)
        if not text:
            return None
        return replace(cls.of_text(text), lane=environment.get(LANE, ROOT))

    def environment(self) -> dict[str, str]:
        """The variables that tell a process of it."""
        return {VARIABLE: self.to_text(), LANE: self.lane}


class Family:
    """One process's hold on the folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        self._numbers = count(1)
        self._begin()

    @classmethod
    def create(cls, steps: int = 0) -> Family:
        """A folder for a run that has `steps` steps already. Raises OSError."""
        folder = Path(tempfile.mkdtemp(prefix="escapement-"))
        (folder / "steps").write_bytes(b"." * steps)
        return cls(folder)

    def _begin(self) -> None:
        self._steps = os.open(self.folder / "steps", os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        self._reports = -1

    def after_fork(self) -> None:
        """In a child: positions in open files are shared with the parent, so open them anew."""
        self._lock = threading.Lock()
        inherited = (self._steps, self._reports)
        self._begin()
        for descriptor in inherited:
            if descriptor >= 0:
                os.close(descriptor)

    def number(self) -> int:
        """The number of the next step of the run. Raises OSError."""
        with self._lock:
            os.write(self._steps, b".")
            return os.lseek(self._steps, 0, os.SEEK_CUR)

    @property
    def steps(self) -> int:
        """How many numbers were given."""
        return os.fstat(self._steps).st_size

    def claim(self, lane: str, name: str) -> str:
        """A lane that no other process has: `lane` itself, or the next branch `name` of it."""
        for candidate in _candidates(lane, name):
            if self.first(f"lane-{blake2b(candidate.encode(), digest_size=12).hexdigest()}"):
                return candidate
        raise AssertionError("candidates do not end")

    def first(self, what: str) -> bool:
        """Whether this process is the first that asks for `what`. Raises OSError."""
        try:
            os.close(os.open(self.folder / what, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        except FileExistsError:
            return False
        return True

    def report(self, record: Record) -> None:
        """Say something to whoever ends the trace. It is at most a line on the screen that is lost: never raises."""
        with contextlib.suppress(OSError), self._lock:
            if self._reports < 0:
                path = self.folder / f"{os.getpid()}-{next(self._numbers)}.jsonl"
                self._reports = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            os.write(self._reports, orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE))

    def reports(self) -> list[list[Record]]:
        """What the processes have said, one list each."""
        return [journal.read(path)[0] for path in sorted(self.folder.glob("*.jsonl"))]

    @property
    def joined(self) -> bool:
        """Whether any process has come."""
        return any(self.folder.glob("lane-*"))

    def remove(self) -> None:
        """The run has ended."""
        os.close(self._steps)
        shutil.rmtree(self.folder, ignore_errors=True)


def _candidates(lane: str, name: str) -> Iterator[str]:
    yield lane
    for number in count():
        yield f"{lane}/{name}[{number}]"


def command_name(command: Sequence[str]) -> str:
    """What a command is called: the script or module that Python is to run, else the program."""
    words = [os.path.basename(os.fsdecode(word)) for word in command]
    program = words[0] if words else ""
    if not program.startswith(("python", "pypy")):
        return program
    at = 1
    while at < len(words) and words[at].startswith("-"):
        if words[at] == "-m":
            return words[at + 1] if at + 1 < len(words) else program
        if words[at] in ("-c", "-"):
            break
        at += 2 if words[at] in ("-W", "-X") else 1
    return words[at] if at < len(words) and not words[at].startswith("-") else program
