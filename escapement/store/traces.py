"""The span store to read from: traces wherever they are, in journals or in the tables, and SQL over both."""

from __future__ import annotations

import datetime
import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from escapement.store import columns, journal, layout, pieces, salvage, schema, segments, tables, views
from escapement.store.pictures import Picture, Pictures, reading
from escapement.store.prices import REPORTING, Prices
from escapement.store.rows import StepRow, TraceRow
from escapement.store.segments import Segment
from escapement.words import ids
from escapement.words.errors import TraceNotFoundError

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

_NESTING: Final = 64  # a fork of a fork of a fork …: more than anyone makes by hand


class SpanStore:
    """The reading end of a span store: a directory, or `s3://bucket/prefix`. Safe to share between threads.

    Raises StoreError if it cannot be read; one that does not exist yet reads as empty.
    """

    def __init__(self, storage_dir: Path | str, *, prices: Prices | None = None) -> None:
        self._layout = layout.open_existing(storage_dir)
        self.root = self._layout.root
        self._pictures = Pictures(self._layout)
        self._prices = prices or Prices.beside(self.root)
        self._words: set[str] = set()

    @property
    def place(self) -> str:
        """Where it is: the full path of its directory, or its URL."""
        return self._layout.remote or str(self.root.absolute())

    # -- traces --------------------------------------------------------------------------------------------------

    def trace_ids(self) -> list[str]:
        """The ids of all traces, newest first."""
        born = self._births()
        return sorted(born, key=lambda trace_id: (born[trace_id], trace_id), reverse=True)

    def traces(self) -> Iterator[TraceRow]:
        """Every trace with its steps, newest first."""
        for trace_id in self.trace_ids():
            try:
                yield self.load(trace_id)
            except TraceNotFoundError:
                continue  # deleted meanwhile

    def load(self, trace_id: str) -> TraceRow:
        """One trace by its full id, with what it took over from the traces it was forked from."""
        return self._whole(trace_id, ())

    def resolve(self, reference: str) -> str:
        """The full id that a prefix of one, `@last`, or `@-N` (the N-th newest) stands for.

        Raises TraceNotFoundError when that is none, or several (then with `.candidates`).
        """
        reference = reference.strip()
        if reference.startswith("@"):
            return self._by_age(reference)
        prefix = ids.as_prefix(reference)
        if prefix is None:
            raise TraceNotFoundError(
                f"{reference!r} is not a trace id: ids are 'tr_' and 12 hex digits, as `escapement list` shows them"
            )
        found = sorted(self._births(prefix))
        if len(found) == 1:
            return found[0]
        if found:
            raise TraceNotFoundError(f"{reference!r} could be any of {len(found)} traces: {salvage.some(found)}", found)
        raise TraceNotFoundError(f"no trace {reference!r} in {self._layout.place}; {self._what_there_is()}")

    def weights(self) -> dict[str, int]:
        """Bytes of payload by trace, uncompressed."""

        def attempt(picture: Picture) -> dict[str, int]:
            found: dict[str, int] = {}
            self._pictures.parts.refresh()
            sums = "trace_id, CAST(sum(octet_length(data)) AS BIGINT)"
            for trace_id, count in self._pictures.rows(
                self._pictures.parts, self._pictures.parts.files(), sums, "true GROUP BY trace_id"
            ):
                found[trace_id] = found.get(trace_id, 0) + count
            for trace_id, path in picture.journals:
                found[trace_id] = found.get(trace_id, 0) + path.stat().st_size
            return found

        return self._pictures.consistently(attempt)

    def follow(self, trace_id: str, *, every: float = 0.2) -> Iterator[StepRow]:
        """The steps of a trace as they end, those that have ended first; done when the run is."""
        seen: set[tuple[int, str]] = set()
        while True:
            row = self.load(trace_id)
            for step in row.steps:
                key = (step.step, step.span_id)
                if key not in seen and (step.end is not None or step.source is not None):
                    seen.add(key)
                    yield step
            if row.status != "running":
                return
            time.sleep(every)

    def _by_age(self, reference: str) -> str:
        number = re.fullmatch(r"@(?:last|-([1-9][0-9]{0,5}))", reference)
        if number is None:
            raise TraceNotFoundError(
                f"{reference!r} is not a trace: `@last` is the newest one, `@-2` the one before it"
            )
        age = int(number.group(1) or 1)
        newest = self.trace_ids()
        if age > len(newest):
            raise TraceNotFoundError(f"no trace {reference!r} in {self._layout.place}; {self._what_there_is()}")
        return newest[age - 1]

    def _births(self, prefix: str = ids.PREFIX) -> dict[str, int]:
        """When each trace whose id begins so began. Looks into no more of a journal than its first line."""
        after = prefix[:-1] + chr(ord(prefix[-1]) + 1)

        def attempt(picture: Picture) -> dict[str, int]:
            condition = f"kind = 'trace' AND trace_id >= '{prefix}' AND trace_id < '{after}' GROUP BY trace_id"
            rows = self._pictures.rows(self._pictures.spans, picture.spans, "trace_id, min(start_unix_nano)", condition)
            born = {trace_id: start or 0 for trace_id, start in rows}
            for trace_id, path in picture.journals:
                if not trace_id.startswith(prefix):
                    continue
                with reading(path):
                    began = journal.began(path)
                if began is not None:
                    born[trace_id] = min(born.get(trace_id) or began, began)
            return born

        return self._pictures.consistently(attempt)

    def _what_there_is(self) -> str:
        if self._pictures.broken:
            return "files of the store are damaged, and it may have been in one: `escapement store check` says more"
        count = len(self._births())
        if not count:
            return "nothing has been recorded there yet (ESCAPEMENT_STORAGE_DIR names another directory)"
        return f"it holds {count}: `escapement list` shows them"

    def _whole(self, trace_id: str, heirs: tuple[str, ...]) -> TraceRow:
        row = self._load(trace_id)
        if row is None:
            raise TraceNotFoundError(f"no trace {trace_id} in {self._layout.place}; {self._what_there_is()}")
        served = [step for step in row.steps if step.source is not None]
        if not served or trace_id in heirs or len(heirs) > _NESTING:
            return row
        sources: dict[str, TraceRow | None] = {}
        for step in served:
            assert step.source is not None
            source_id, number = step.source
            if source_id not in sources:
                try:
                    sources[source_id] = self._whole(source_id, (*heirs, trace_id))
                except TraceNotFoundError:
                    sources[source_id] = None
            source = sources[source_id]
            original = source.step(number) if source is not None else None
            if source is None or original is None:
                continue  # stays an unanswered step, and reads as one
            for name in ("fingerprint", "name", "end", "start", "span_id", "parent_span_id", "otel_trace_id"):
                setattr(step, name, getattr(original, name))
            step.attributes = {**original.attributes, **step.attributes}
        row.sources = {key: source for key, source in sources.items() if source is not None}
        return row

    def _load(self, trace_id: str) -> TraceRow | None:
        found = self.segments_of([trace_id]).get(trace_id)
        return segments.assemble(trace_id, found) if found else None

    def leave_out(self, damaged: Mapping[str, salvage.Salvaged]) -> None:
        """Read what was salvaged in place of these files, by path."""
        self._pictures.leave_out(damaged)

    def segments_of(self, trace_ids: Sequence[str]) -> dict[str, list[Segment]]:
        """What there is of some traces, journal by journal."""
        return self._pictures.consistently(lambda picture: self._segments(picture, trace_ids))

    def _segments(self, picture: Picture, trace_ids: Sequence[str]) -> dict[str, list[Segment]]:
        found: dict[str, list[Segment]] = {}
        sealed = list(self._sealed(picture, trace_ids))
        taken = {segment.journal for segment in sealed}  # a log that was damaged may have forgotten one
        live = (one for one in self._pictures.live(picture, trace_ids) if not one.is_empty and one.journal not in taken)
        for segment in (*live, *sealed):
            found.setdefault(segment.trace_id, []).append(segment)
        return found

    def _sealed(self, picture: Picture, trace_ids: Sequence[str]) -> Iterator[Segment]:
        """What the tables hold of some traces."""
        names = ", ".join((*columns.KEPT, "checksum"))
        condition = f"trace_id IN ({', '.join(map(repr, trace_ids))})"
        rows: dict[str, list[tuple[Any, ...]]] = {}
        for row in self._pictures.rows(self._pictures.spans, picture.spans, names, condition):
            rows.setdefault(row[0], []).append(row)
        data: dict[str, dict[str, bytes]] = {}
        if rows:
            self._pictures.parts.refresh()  # newer than the spans: every span that was seen has its parts
            files = self._pictures.files(self._pictures.parts, min(rows), max(rows))
            close = near(files, [row for found in rows.values() for row in found])
            for trace_id, name, piece in self._pictures.rows(
                self._pictures.parts, close, "trace_id, hash, data", condition
            ):
                if pieces.digest(piece) == name:  # else damaged: what is made of it reads as gone
                    data.setdefault(trace_id, {})[name] = piece
        counts = self._counted(picture, trace_ids, rows)
        for trace_id in trace_ids:
            found = columns.segments(rows.get(trace_id, ()), data.get(trace_id, {}))
            hidden = counts[trace_id] - len(rows.get(trace_id, ())) if counts is not None else 0
            if hidden and not any(segment.damaged for segment in found):
                found.append(Segment(trace_id, f"{trace_id}-", damaged=abs(hidden)))
            yield from found

    def _counted(
        self, picture: Picture, trace_ids: Sequence[str], rows: Mapping[str, Sequence[Sequence[Any]]]
    ) -> Counter[str] | None:
        """How many rows there are of each trace, asked by another column: damaged statistics would have rows passed
        over without a word. None where the table is remote."""
        if not trace_ids or not self._pictures.spans.is_local:
            return None
        condition = f"journal >= '{min(trace_ids)}-' AND journal < '{max(trace_ids)}.' GROUP BY ALL"
        files = near(picture.spans, [row for found in rows.values() for row in found])
        counts: Counter[str] = Counter()  # of a file that is damaged, rows come from what was saved of it
        for trace_id, count in self._pictures.rows(
            self._pictures.spans, files, f"left(journal, {ids.LENGTH}), count(*)", condition
        ):
            counts[trace_id] += count
        return counts

    # -- SQL -----------------------------------------------------------------------------------------------------

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> pa.Table:
        """The answer to any DuckDB query over the views `traces`, `spans`, `llm_calls`, `tool_calls` and `messages`.

        One consistent picture, running traces included. Raises StoreError for a query that fails.
        """
        import pyarrow as pa

        def attempt(picture: Picture) -> pa.Table:
            relation = self._prepared(picture, sql).sql(sql, params=list(parameters) or None)
            return pa.table({}) if relation is None else relation.to_arrow_table()  # what selects nothing has no rows

        found: pa.Table = self._pictures.consistently(attempt)
        return found

    def sql(self, sql: str, parameters: Sequence[Any] = (), *, keys: str = "") -> Answer:
        """The answer to a query as plain rows. Raises StoreError for a query that fails.

        `keys` selects what prices are needed for (`views.KEY`), where that is less than of all calls.
        """

        def attempt(picture: Picture) -> Answer:
            cursor = self._prepared(picture, sql, keys).execute(sql, parameters)
            return Answer([name for name, *_ in cursor.description or ()], cursor.fetchall())

        return self._pictures.consistently(attempt)

    def interrupt(self) -> None:
        """Stop the query that another thread waits for."""
        self._pictures.connection().interrupt()

    def _prepared(self, picture: Picture, sql: str, keys: str = "") -> duckdb.DuckDBPyConnection:
        """A connection on which the views show this picture."""
        import pyarrow as pa

        connection = self._pictures.connection()
        # What a statement asks for may be in a view that an earlier one made: what was needed once stays needed.
        words = self._words = self._words | set(re.findall(r"[a-z_]+|\*", sql.lower()))
        messages = bool(words & {"messages", "tool_calls"})
        live: list[columns.Row] = []
        for segment in self._pictures.live(picture):
            if not segment.is_empty:
                live += columns.rows(segment, messages=messages)
        sources = ["SELECT * FROM live_rows"]
        connection.register("live_rows", tables.arrow(schema.SPANS, live))
        good, saved = self._pictures.readable(picture.spans)
        names = ", ".join(schema.spans().names)
        if good:
            sources.append(f"SELECT {names} FROM {self._pictures.relation(self._pictures.spans, good)}")
        if saved:
            rescued = pa.concat_tables([table for table in saved if table is not None])
            connection.register("rescued_rows", rescued)
            day = "make_timestamp(start_unix_nano // 1000)::DATE AS date"  # its folder says it, not the file
            sources.append(f"SELECT {day}, {names.removeprefix('date, ')} FROM rescued_rows")
        connection.execute(f"CREATE OR REPLACE TEMP VIEW stored AS {' UNION ALL '.join(sources)}")
        wanted: list[tuple[str, str, Any]] = []
        if keys or words & {"cost_usd", "*", "describe", "summarize"}:
            wanted = connection.execute(
                keys or f"SELECT DISTINCT {views.KEY} FROM stored s WHERE s.kind = 'step'"
            ).fetchall()
        connection.register("prices", pa.Table.from_pylist(self._prices.sql_rows(wanted), schema.prices()))
        for statement in views.statements(reported=any(provider in REPORTING for provider, *_ in wanted)):
            connection.execute(statement)
        return connection


def near(files: Sequence[str], rows: Sequence[Sequence[Any]]) -> Sequence[str]:
    """The files of the days that these rows (columns as in `KEPT`) are of, and of those beside; all, where any day is
    not known."""
    starts = [row[_START] for row in rows]
    if not starts or not all(starts):
        return files
    try:
        first, last = (columns.moment(at).date() for at in (min(starts), max(starts)))
    except OverflowError:
        return files  # a damaged row: its checksum is asked later
    day = datetime.timedelta(days=1)
    return [file for file in files if first - day <= _day_of(file, first) <= last + day]


def _day_of(file: str, otherwise: datetime.date) -> datetime.date:
    match = re.search(r"date(?:=|%3D)(\d{4}-\d\d-\d\d)", file)
    return datetime.date.fromisoformat(match.group(1)) if match is not None else otherwise


_START: Final = columns.KEPT.index("start_unix_nano")


@dataclass(frozen=True, slots=True)
class Answer:
    """Rows of a query, and the names of their columns."""

    columns: Sequence[str]
    rows: Sequence[tuple[Any, ...]]

    def documents(self) -> list[Mapping[str, Any]]:
        """A mapping a row."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]
