"""Exporters: where a run goes besides its journal. They are found by entry points, and hear what the journal hears.

An exporter is a function of the settings that gives an outlet to a run, or None where it has nothing to do.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Protocol

from escapement.store.journal import Record
from escapement.store.rows import StepRow
from escapement.words.config import Settings
from escapement.words.errors import ConfigError

_log = logging.getLogger("escapement")

GROUP = "escapement_exporter"


class Outlet(Protocol):
    """Where one run goes. It is called on the program's threads, in the middle of everything: it returns at once,
    raises nothing, takes no lock that could be held, and leaves what it is given as it is."""

    def take(self, records: Sequence[Record]) -> None:
        """Records of the journal; also `miss` and `killed`, which no journal has."""

    def serve(self, row: StepRow, record: Record) -> None:
        """A step of another trace was served; `record` says as which one of this."""

    def close(self, status: str, error: str | None) -> None:
        """The run has ended in this process."""

    def after_fork(self) -> None:
        """This is a child process of the one that the run was opened in."""

    def counts(self) -> Counter[str]:
        """What became of what it was given."""


Exporter = Callable[[Settings], Outlet | None]


def outlets(settings: Settings) -> list[Outlet]:
    """One of each exporter that is switched on. Raises ConfigError for what is set and cannot be."""
    found = []
    for point in _entry_points():
        try:
            outlet = point.load()(settings)
        except ConfigError:
            raise
        except Exception:
            _log.exception("Escapement: the exporter %r could not be switched on", point.name)
            continue
        if outlet is not None:
            found.append(outlet)
    return found


@cache
def _entry_points() -> tuple[EntryPoint, ...]:
    return tuple(entry_points(group=GROUP))
