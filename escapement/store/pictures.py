"""Pictures of a store: what there is at one moment, and what reads it without missing or doubling anything.

A picture is taken in this order: list the journals, look at the newest version of the table, leave out the journals
that it has taken in. Whatever is sealed, compacted or deleted meanwhile, nothing is missing and nothing is there
twice; a file that went in between is no error, but a reason to look again.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from escapement.store import salvage, schema, sealing, segments, tables
from escapement.store.layout import Layout
from escapement.store.segments import Segment
from escapement.words.errors import StoreError

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

_ATTEMPTS: Final = 50
_Found = TypeVar("_Found")


class _Moved(Exception):
    """A file went between looking and reading: look again."""


@dataclass(frozen=True, slots=True)
class Picture:
    """What there is at one moment: files of the tables, and journals that are not in them."""

    spans: tuple[str, ...]
    journals: tuple[tuple[str, Path], ...]


class Pictures:
    """Takes pictures of one store, and reads the rows and journals in them. Safe to share between threads."""

    def __init__(self, place: Layout) -> None:
        self._layout = place
        self._lock = threading.RLock()
        self.spans = tables.Table(place, schema.SPANS)
        self.parts = tables.Table(place, schema.PARTS)
        self._made: duckdb.DuckDBPyConnection | None = None
        self.broken: dict[str, salvage.Salvaged | None] = {}

    def consistently(self, attempt: Callable[[Picture], _Found]) -> _Found:
        """Do something with a picture of the store, again where a file of it went meanwhile."""
        with self._lock:
            for number in range(_ATTEMPTS):
                picture = self._look()
                try:
                    return attempt(picture)
                except (_Moved, FileNotFoundError):
                    pass
                except Exception as error:
                    if not _is_of_duckdb(error):
                        raise
                    good = [tables.local_path(file) for file in self.readable(picture.spans)[0]]
                    if salvage.is_mistake(error, good if self.spans.is_local else ()):
                        raise StoreError(f"the query failed: {error}") from None
                    if not self._has_moved(picture) and not self._find_damage(picture):
                        raise StoreError(f"the query failed: {error}") from error
                time.sleep(0.001 * number)
            raise StoreError(f"the span store at {self._layout.place} changes faster than it can be read: try again")

    def _look(self) -> Picture:
        listed = sealing.journals(self._layout)
        self.spans.refresh()
        return Picture(tuple(self.spans.files()), tuple(sealing.unsealed(listed, self.spans)))

    def live(self, picture: Picture, trace_ids: Sequence[str] | None = None) -> Iterable[Segment]:
        for owner, path in picture.journals:
            if trace_ids is None or owner in trace_ids:
                with reading(path):
                    segment = segments.read(path, owner)
                yield segment

    def files(self, table: tables.Table, first: str, last: str) -> list[str]:
        """The files of a table that may hold rows of traces between two."""
        return [
            file
            for file, action in zip(table.files(), table.actions(), strict=True)
            if (action.get("min.trace_id") or "") <= last and first <= (action.get("max.trace_id") or "tr_g")
        ]

    # -- rows ----------------------------------------------------------------------------------------------------

    def rows(self, table: tables.Table, files: Sequence[str], names: str, condition: str) -> list[tuple[Any, ...]]:
        """Rows of one table, straight from its files."""
        if not files:
            return []
        if not table.is_local:
            return table.select(names, condition)
        connection = self.connection()
        good, saved = self.readable(files, table.name)
        found: list[tuple[Any, ...]] = []
        if good:
            found += connection.execute(
                f"SELECT {names} FROM {self.relation(table, good)} WHERE {condition}"
            ).fetchall()
        for rescued in saved:
            connection.register("rescued", rescued)
            found += connection.execute(f"SELECT {names} FROM rescued WHERE {condition}").fetchall()
        return found

    def relation(self, table: tables.Table, files: Sequence[str]) -> str:
        if not table.is_local:
            self.connection().register(f"remote_{table.name}", table.dataset())
            return f"remote_{table.name}"
        listed = ", ".join("'" + file.replace("'", "''") + "'" for file in files)
        return f"read_parquet([{listed}], hive_partitioning = true, hive_types = {{'date': DATE}})"

    def connection(self) -> duckdb.DuckDBPyConnection:
        if self._made is None:
            import duckdb

            self._made = duckdb.connect(config={"autoinstall_known_extensions": "false"})
            if self._layout.remote is not None:
                # Filters that are handed on to pyarrow fail on files that Delta has merged (their texts are "views").
                self._made.execute("SET disabled_optimizers = 'filter_pushdown,join_filter_pushdown'")
            self._made.execute("SET TimeZone = 'UTC'; SET enable_progress_bar = false")
        return self._made

    # -- damage --------------------------------------------------------------------------------------------------

    def leave_out(self, damaged: Mapping[str, salvage.Salvaged]) -> None:
        """Read what was salvaged in place of these files, by path."""
        for table in (self.spans, self.parts):
            table.refresh()
            self.broken |= {
                file: damaged[path] for file in table.files() if (path := tables.local_path(file)) in damaged
            }

    def _has_moved(self, picture: Picture) -> bool:
        """Whether a file that is missing was compacted or deleted: the newest version does without it."""
        self.spans.refresh()
        self.parts.refresh()
        needed = {*self.spans.files(), *self.parts.files()}
        return any(not Path(tables.local_path(file)).exists() and file not in needed for file in picture.spans) or (
            set(picture.spans) != set(self.spans.files())
        )

    def _find_damage(self, picture: Picture) -> bool:
        """Look into every file for what is wrong; whether something new was found."""
        new = False
        for table in (self.spans, self.parts):
            for file, action in zip(table.files(), table.actions(), strict=True):
                if file not in self.broken and table.is_local:
                    found = salvage.examine(
                        tables.local_path(file), getattr(schema, table.name)(), expected=action["num_records"]
                    )
                    if found is not None:
                        self.broken[file] = found
                        new = True
                        salvage.tell(found)
        return new

    def readable(self, files: Iterable[str], name: str = schema.SPANS) -> tuple[list[str], list[pa.Table]]:
        """The files that are whole, and what is left of those that are not."""
        good = [file for file in files if file not in self.broken]
        found = (self.broken.get(file) for file in files)
        return good, [one.rows for one in found if one is not None and one.rows is not None]


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """What reading a journal can meet."""
    try:
        yield
    except FileNotFoundError:
        raise _Moved from None
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}") from error


def _is_of_duckdb(error: Exception) -> bool:
    """Whether a query failed. (DuckDB is only imported once there is something that it reads.)"""
    duckdb = sys.modules.get("duckdb")
    return isinstance(error, UnicodeDecodeError) or (duckdb is not None and isinstance(error, duckdb.Error))
