"""`Store`: a span store as its users hold it. Everything it does is done by the modules beside it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from escapement.store import layout, sealing, summaries, upkeep
from escapement.store.check import Report, check
from escapement.store.prices import Prices
from escapement.store.rows import StepRow, TraceRow
from escapement.store.summaries import Figures, Summary
from escapement.store.traces import SpanStore

if TYPE_CHECKING:
    import pyarrow as pa


class Store:
    """Traces, wherever they are kept: of runs that are done and of runs under way. Safe to share between threads.

    A trace is named by its id, a unique start of one, `"@last"`, or `"@-2"` for the one before it; what names none
    raises TraceNotFoundError. Whatever cannot be read or written raises StoreError.
    """

    def __init__(self, storage_dir: Path | str, prices: Prices | None = None) -> None:
        self._storage_dir = storage_dir
        self._reader = SpanStore(storage_dir, prices=prices)

    @property
    def place(self) -> str:
        """Where it is: the full path of its directory, or its URL."""
        return self._reader.place

    def list(
        self,
        *,
        limit: int | None = None,
        name: str = "",
        tags: Sequence[str] = (),
        status: str = "",
        model: str = "",
        since: int | None = None,
        until: int | None = None,
    ) -> list[Summary]:
        """Traces in numbers, newest first: those whose name and one of whose models contain a text, that have all of
        `tags` and this status, and began between `since` and `until` (nanoseconds since the epoch)."""
        return summaries.page(
            self._reader, limit=limit, name=name, tags=tags, status=status, model=model, since=since, until=until
        )

    def load(self, trace: str) -> TraceRow:
        """A trace with all its steps, and what it took over from the trace it was forked from."""
        return self._reader.load(self._reader.resolve(trace))

    def follow(self, trace: str, *, every: float = 0.2) -> Iterator[StepRow]:
        """The steps of a trace as they end, looking `every` so many seconds; done when the run is."""
        return self._reader.follow(self._reader.resolve(trace), every=every)

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> pa.Table:
        """The answer to a DuckDB query over the views `traces`, `spans`, `llm_calls`, `tool_calls`, `messages`."""
        return self._reader.query(sql, parameters)

    def stats(
        self, trace: str | None = None, *, since: int | None = None, until: int | None = None
    ) -> Sequence[Figures]:
        """Calls, tokens, cost and latency of all calls together, then by day and model; of one trace or of all."""
        trace_id = self._reader.resolve(trace) if trace is not None else None
        return summaries.stats(self._reader, trace_id=trace_id, since=since, until=until)

    def delete(self, *traces: str) -> int:
        """Delete traces from the disk, journals included; how many. None goes if one is running."""
        trace_ids = [self._reader.resolve(trace) for trace in traces]
        place = layout.create(self._storage_dir)
        with sealing.upkeep(place):
            return upkeep.delete(place, trace_ids)

    def compact(self) -> upkeep.Compacted:
        """Move finished journals into the tables, and merge small files."""
        place = layout.create(self._storage_dir)
        with sealing.upkeep(place):
            return upkeep.compact(place)

    def check(self, *, repair: bool = False) -> Report:
        """Verify every hash, row and rebuild; with `repair`, mend what can be mended safely."""
        place = layout.open_existing(self._storage_dir)
        if not repair:
            return check(place)
        with sealing.upkeep(place):
            return check(place, repair=True)
