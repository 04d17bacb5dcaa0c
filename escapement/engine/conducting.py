"""The run of a command, seen from outside: begun before its first process starts, ended after it has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from escapement.engine import endings, sources
from escapement.engine.family import Family, Membership
from escapement.engine.recording import Recording, end_record
from escapement.engine.session import Session
from escapement.words import ids
from escapement.words.config import Settings
from escapement.words.errors import StoreError


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a command."""

    trace_id: str
    """The trace that was written; in a replay that stayed one, the one that was replayed."""
    code: int
    """The exit code to pass on."""
    status: str
    joined: bool
    """Whether any Python process of it loaded Escapement."""
    live: bool
    served: int = 0
    missed: int = 0
    divergence: Mapping[str, Any] | None = None
    """The first request that was not in the trace, as `ReplayDivergenceError.as_dict` has it."""


class Recorded:
    """A command that is recorded. Raises StoreError where that is impossible."""

    def __init__(self, settings: Settings, name: str, tags: Sequence[str]) -> None:
        self._session = Session(settings, name=name, tags=tags)
        member = self._session.membership("main")
        if member is None or self._session.family is None:
            raise StoreError("a folder for temporary files cannot be made: set TMPDIR to a directory that is writable")
        self.member = member
        self._family = self._session.family

    def end(self, returned: int) -> Outcome:
        """The command has ended, with an exit code or (negative) by a signal."""
        session = self._session
        records, joined = list(chain(*self._family.reports())), self._family.joined
        session.status, session.error = endings.verdict(returned, records)
        session.lost = sum(record["record"] == "lost" for record in records)
        session.close()
        return Outcome(session.trace_id, endings.code(returned, records), session.status, joined, live=True)


class Replayed:
    """A command that is replayed, up to a step or whole. Raises TraceNotFoundError, ConfigError, StoreError."""

    def __init__(self, settings: Settings, reference: str, until: int | str | None = None) -> None:
        self._settings = settings
        self.source = sources.find(reference, settings, until)
        self._family = Family.create()
        storage = settings.storage_dir
        self.member = Membership(
            folder=str(self._family.folder),
            storage_dir=storage if isinstance(storage, str) else str(storage.absolute()),
            otel_trace_id=f"{ids.new_otel_trace_id():032x}",
            span_id=f"{ids.new_otel_trace_id() >> 64:016x}",
            name=self.source.row.name,
            replays=self.source.reference,
            strict=settings.strict_replay,
            until=self.source.until,
            leaves=self.source.leaves,
        )

    @property
    def steps(self) -> int:
        """How many steps are there to be served."""
        until = self.source.until
        return sum(until is None or step.step < until for step in self.source.row.steps)

    def end(self, returned: int) -> Outcome:
        """The command has ended. Where it went live, make the trace whole with what other processes were served."""
        reports, joined = self._family.reports(), self._family.joined
        records = list(chain(*reports))
        status, error = endings.verdict(returned, records)
        live = any(record["record"] == "live" for record in records)
        trace_id = self.source.row.trace_id
        if live:
            recording = Recording(self._settings, lambda: None)
            recording.join(self.member)
            trace_id = recording.trace_id
            for report in reports:
                if not any(record["record"] == "live" for record in report):  # else it is in that process's journal
                    recording.keep(*[record for record in report if record["record"] == "served"])
            recording.keep(end_record(status, error, sum(record["record"] == "lost" for record in records)))
            recording.close(status, error, 0)
        self._family.remove()
        misses = [record["divergence"] for record in records if record["record"] == "miss"]
        return Outcome(
            trace_id,
            endings.code(returned, records),
            status,
            joined,
            live,
            served=sum(record["record"] == "served" for record in records),
            missed=len(misses),
            divergence=misses[0] if misses else None,
        )
