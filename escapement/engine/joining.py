"""How a process comes to take part in a run that another one began."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from escapement.engine import lanes, processes, runs, sources
from escapement.engine.family import Family, Membership
from escapement.engine.lanes import Scope
from escapement.engine.session import Session
from escapement.words.config import Settings, resolve


def at_start() -> None:
    """At the start of an interpreter: take part in the run that its environment names. Raises whatever goes wrong."""
    member = Membership.of_environment(os.environ)
    if member is None or _is_no_program():
        return
    family = Family(Path(member.folder))
    _join(replace(member, lane=family.claim(member.lane, processes.own_name())), family)


def admit(member: Membership) -> None:
    """In a process that its parent gave a lane; it may have joined at its start, or been forked from one that had."""
    try:
        session = runs.shared().get(member.folder) or _join(member, Family(Path(member.folder)))
        processes.take(Scope(session, member.lane))
    except Exception as error:
        failed(error, member)


@contextmanager
def errand(member: Membership) -> Iterator[None]:
    """In a worker of a pool: a job of this run. What it does between two jobs belongs to none, or to that of a command.

    Where a recording cannot be taken part in, the job is done all the same. Raises what a replay cannot be for.
    """
    session = runs.shared().get(member.folder)
    if session is None:
        lanes.forget()  # or it would be a run within the run that the worker was started in
        try:
            session = _join(member, Family(Path(member.folder)))
            for folder, run in runs.shared().items():
                if not os.path.exists(folder):  # that one is over, and the pool is still there
                    runs.retire(run)
        except Exception as error:
            if member.replays:
                raise
            failed(error, member)
        processes.step_out()  # of what it has joined just now: the next job may be in no run
    if session is None:
        yield
        return
    with lanes.within(Scope(session, member.lane)):
        yield


def _join(member: Membership, family: Family) -> Session:
    settings = resolve(None, {"storage_dir": member.storage_dir, "strict_replay": member.strict})
    source = _source(member, settings) if member.replays else None

    def make() -> Session:
        if source is None:
            return Session(settings, name=member.name, member=member, family=family)
        row = source.row
        return Session(
            settings,
            name=row.name,
            tags=row.tags,
            metadata=row.metadata,
            source=source,
            member=member,
            family=family,
        )

    return runs.start(make, settings.instrumentors)


def _source(member: Membership, settings: Settings) -> sources.Source:
    return sources.find(member.replays, settings, sources.MISS if member.leaves else member.until)


def _is_no_program() -> bool:
    """Whether this is a helper of Python's own, in which nothing of the program runs."""
    return any("multiprocessing.resource_tracker import" in word for word in sys.orig_argv[:8])


def failed(error: BaseException, member: Membership | None = None) -> None:
    """This process cannot take part. A program that is recorded goes on; one that is replayed must not go live."""
    member = member or Membership.of_environment(os.environ)
    where = f"{os.path.basename(sys.orig_argv[0])} (process {os.getpid()})"
    if member is None or not member.replays:
        print(f"escapement: {where} is not recorded: {error}", file=sys.stderr)
    else:
        _end(f"escapement: {where} cannot be replayed, and is ended before it goes live: {error}")


def _end(message: str) -> NoReturn:
    print(message, file=sys.stderr, flush=True)
    os._exit(1)  # nothing less: `site` passes over an exception, and the program would go on
