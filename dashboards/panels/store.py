"""The panels in DuckDB's SQL, over the views of the span store (docs/store.md): a row for each day and series."""

from __future__ import annotations

from typing import Final

from dashboards.panels.table import Query

_MODEL: Final = "coalesce(model, response_model, 'unknown')"


def _rows(series: str, value: str, rest: str, when: str = "start_time", more: str = "") -> str:
    return f"""SELECT date_trunc('day', {when}) AS time, {series} AS series, {value} AS value
FROM {rest}
GROUP BY ALL{more}"""


def _ordered(*parts: str) -> tuple[Query]:
    return (Query("\nUNION ALL\n".join(parts) + "\nORDER BY time, series;\n"),)


def _quantiles(value: str, rest: str) -> tuple[Query]:
    return _ordered(*(_rows(f"'p{share}'", f"quantile_cont({value}, {share / 100})", rest) for share in (50, 95)))


_COST_OF_RUNS: Final = "traces\nWHERE calls > 0 AND cost_usd IS NOT NULL"
_SERVED: Final = """spans s
JOIN llm_calls c ON c.trace_id = s.source_trace_id AND c.step = s.source_step
WHERE s.kind = 'served' AND c.cost_usd > 0"""

QUERIES: Final[dict[str, tuple[Query, ...]]] = {
    "spend": _ordered(_rows(_MODEL, "sum(cost_usd)", "llm_calls\nWHERE cost_usd > 0")),
    "spend_per_run": _ordered(
        _rows("'mean'", "avg(cost_usd)", _COST_OF_RUNS, "created"),
        _rows("'p95'", "quantile_cont(cost_usd, 0.95)", _COST_OF_RUNS, "created"),
    ),
    "tokens": _ordered(
        *(
            _rows(f"{_MODEL} || ' {kind}'", f"sum({kind}_tokens)", f"llm_calls\nWHERE {kind}_tokens > 0")
            for kind in ("input", "output")
        )
    ),
    "duration": _quantiles("duration_ms / 1e3", "llm_calls\nWHERE duration_ms IS NOT NULL"),
    "first_chunk": _quantiles("time_to_first_chunk_ms / 1e3", "llm_calls\nWHERE time_to_first_chunk_ms IS NOT NULL"),
    "error_rate": _ordered(_rows("'errors'", "count(error_type) / count(*)", "llm_calls")),
    "tools": _ordered(
        _rows("'calls'", "count(*)", "tool_calls JOIN llm_calls USING (trace_id, step)"),
        _rows(
            "'failures'",
            "sum(json_array_length(attributes['escapement.tools.failed']))",
            "spans\nWHERE kind = 'step' AND attributes['escapement.tools.failed'] IS NOT NULL",
        ),
    ),
    "stopped": _ordered(_rows("'stopped'", "count(*)", "traces\nWHERE status = 'killed'", "created")),
    "divergences": _ordered(
        _rows(
            "'divergences'",
            "count(*)",
            "traces\nWHERE trace_id IN (\n"
            "  SELECT trace_id FROM spans WHERE kind = 'step' AND attributes['escapement.divergence'] IS NOT NULL\n)",
            "created",
        )
    ),
    "replayed": _ordered(
        _rows("if(kind = 'step', 'live', 'replayed')", "count(*)", "spans\nWHERE kind IN ('step', 'served')")
    ),
    "saved": _ordered(
        _rows("coalesce(c.model, c.response_model, 'unknown')", "sum(c.cost_usd)", _SERVED, "s.start_time")
    ),
}
