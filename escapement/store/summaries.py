"""Traces in numbers: pages of a list, and statistics by model and day.

Both ask for no more than they show: a page is chosen by what the runs' own rows say, and only the spans of the traces
on it are added up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from escapement.store import views
from escapement.store.traces import SpanStore


@dataclass(frozen=True, slots=True)
class Summary:
    """A trace in numbers. Times are nanoseconds since the epoch. What it took over from another trace cost nothing
    again; `cost` is US dollars, None where the price of one of its models is not known."""

    trace_id: str
    name: str
    status: str
    mode: str
    parent: str | None
    forked_at: int | None
    """The first step that went live, of a trace that has a parent."""
    tags: Sequence[str]
    metadata: Mapping[str, Any]
    created: int
    ended: int | None
    steps: int
    calls: int
    errors: int
    input_tokens: int
    output_tokens: int
    cost: float | None
    models: Sequence[str]
    error: str | None
    lost: int
    damaged: int
    imported: Mapping[str, Any] | None

    @property
    def complete(self) -> bool:
        return not (self.lost or self.damaged)

    @property
    def tokens(self) -> int:
        return self.input_tokens + self.output_tokens

    @property
    def duration(self) -> int | None:
        """Nanoseconds from its beginning to its end, or to the end of its last step so far."""
        return self.ended - self.created if self.ended is not None and self.created else None


def page(
    store: SpanStore,
    *,
    limit: int | None = None,
    name: str = "",
    tags: Sequence[str] = (),
    status: str = "",
    model: str = "",
    since: int | None = None,
    until: int | None = None,
    trace_ids: Sequence[str] | None = None,
) -> list[Summary]:
    """Traces, newest first: those whose name and one of whose models contain a text (in any case), that have all of
    `tags` and this status, and began between `since` and `until` (nanoseconds since the epoch)."""
    conditions, parameters = ["true"], []
    for condition, value in (
        ("contains(lower(name), lower(?))", name),
        ("start_unix_nano >= ?", since),
        ("start_unix_nano < ?", until),
        ("list_has_all(tags, ?)", list(tags)),
        (f"trace_id IN (SELECT trace_id FROM ({views.RUNS}) WHERE status = ?)", status),
        (
            "trace_id IN (SELECT trace_id FROM stored WHERE kind = 'step' AND "
            "contains(lower(concat_ws(' ', model, response_model)), lower(?)))",
            model,
        ),
        ("trace_id IN (SELECT unnest(?))", list(trace_ids) if trace_ids is not None else None),
    ):
        if value not in (None, "", []):
            conditions.append(condition)
            parameters.append(value)
    if trace_ids is not None and not trace_ids:
        return []
    limited = f"LIMIT {int(limit)}" if limit is not None else ""
    chosen = (
        f"SELECT trace_id FROM headers WHERE {' AND '.join(conditions)} "
        f"ORDER BY start_unix_nano DESC, trace_id DESC {limited}"
    )
    ids = [trace_id for (trace_id,) in store.sql(chosen, parameters).rows]
    if not ids:
        return []
    listed = ", ".join(f"'{trace_id}'" for trace_id in ids)
    only = f"FROM (SELECT * FROM stored WHERE trace_id IN ({listed}))"
    costs = f"FROM (SELECT * FROM priced WHERE trace_id IN ({listed}))"
    found = store.sql(
        f"""SELECT r.*, t.* EXCLUDE (trace_id), c.cost_usd
        FROM ({views.RUNS.replace("FROM stored", only)}) r
        LEFT JOIN ({views.TOTALS.replace("FROM stored", only)}) t USING (trace_id)
        LEFT JOIN ({views.COSTS.replace("FROM priced", costs)}) c USING (trace_id)""",
        keys=f"SELECT DISTINCT {views.KEY} FROM stored s WHERE s.kind = 'step' AND s.trace_id IN ({listed})",
    ).documents()
    by_id = {str(row["trace_id"]): _summary(row) for row in found}
    return [by_id[trace_id] for trace_id in ids if trace_id in by_id]


def _summary(row: Mapping[str, Any]) -> Summary:
    return Summary(
        trace_id=row["trace_id"],
        name=row["name"] or "",
        status=row["status"],
        mode=row["mode"] or "record",
        parent=row["parent_trace_id"],
        forked_at=row["first_live"] if row["parent_trace_id"] else None,
        tags=tuple(row["tags"] or ()),
        metadata=orjson.loads(row["metadata"] or "{}"),
        created=row["start_unix_nano"] or 0,
        ended=row["end_unix_nano"] or row["last_unix_nano"],
        steps=row["steps"] or 0,
        calls=row["calls"] or 0,
        errors=row["errors"] or 0,
        input_tokens=row["input_tokens"] or 0,
        output_tokens=row["output_tokens"] or 0,
        cost=row["cost_usd"] if row["calls"] else 0.0,
        models=tuple(row["models"] or ()),
        error=row["error"],
        lost=row["steps_lost"] or 0,
        damaged=row["records_damaged"] or 0,
        imported=orjson.loads(row["imported"]) if row["imported"] else None,
    )


@dataclass(frozen=True, slots=True)
class Figures:
    """Calls of a model on a day (UTC), or of all (None). Times in milliseconds, None where nothing was timed."""

    day: str | None
    model: str | None
    calls: int
    errors: int
    input_tokens: int
    output_tokens: int
    cache_read_tokens: int
    cost: float | None
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    first_chunk_ms: float | None
    """Median time to the first chunk of a stream."""


STATS = """
SELECT date::VARCHAR AS day, coalesce(model, response_model, '') AS model, count(*) AS calls,
  count(error_type) AS errors,
  coalesce(sum(input_tokens), 0)::BIGINT AS input_tokens, coalesce(sum(output_tokens), 0)::BIGINT AS output_tokens,
  coalesce(sum(cache_read_tokens), 0)::BIGINT AS cache_read_tokens,
  {cost} AS cost,
  quantile_cont(duration_ns / 1e6, [0.5, 0.95, 0.99]) AS latency,
  median(time_to_first_chunk) * 1e3 AS first_chunk_ms
FROM {calls} GROUP BY {groups} ORDER BY date DESC NULLS FIRST, calls DESC, model
"""


def stats(
    store: SpanStore, *, trace_id: str | None = None, since: int | None = None, until: int | None = None
) -> list[Figures]:
    """Figures by day and model, the newest day first, and those of all calls together as the first."""
    conditions = ["kind = 'step'"]
    conditions += [f"trace_id = '{trace_id}'"] if trace_id is not None else []
    conditions += [f"start_unix_nano >= {int(since)}"] if since is not None else []
    conditions += [f"start_unix_nano < {int(until)}"] if until is not None else []
    where = " AND ".join(conditions)
    found = store.sql(
        STATS.format(
            calls=f"(SELECT * FROM priced WHERE {where})",
            cost=views.COST,
            groups="GROUPING SETS ((date, coalesce(model, response_model, '')), ())",
        ),
        keys=f"SELECT DISTINCT {views.KEY} FROM stored s WHERE {where}",
    ).documents()
    return [_figures(row) for row in found if row["calls"]]


def _figures(row: Mapping[str, Any]) -> Figures:
    p50, p95, p99 = row["latency"] or (None, None, None)
    return Figures(
        day=row["day"],
        model=row["model"] if row["day"] is not None else None,
        calls=row["calls"],
        errors=row["errors"],
        input_tokens=row["input_tokens"],
        output_tokens=row["output_tokens"],
        cache_read_tokens=row["cache_read_tokens"],
        cost=row["cost"],
        p50_ms=p50,
        p95_ms=p95,
        p99_ms=p99,
        first_chunk_ms=row["first_chunk_ms"],
    )
