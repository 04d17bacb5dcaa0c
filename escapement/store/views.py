"""The views that SQL sees: `traces`, `spans`, `llm_calls`, `tool_calls`, `messages`, on top of two relations.

`stored` has the columns of the table `spans` (see `schema`), one row a step, span and journal, wherever it is kept;
`prices` says what a call to a model cost on a day. Times are UTC, in microseconds; durations in milliseconds.
"""

from __future__ import annotations

from typing import Final

from escapement.store.prices import COST_SQL, MATCH_SQL, MODEL_SQL, REPORTING
from escapement.words import semconv


def _priced(cost: str, also: str = "") -> str:
    """What went live in its trace, and what it cost; `also` joins what the cost needs beside prices."""
    return f"""
SELECT s.*, {cost} AS cost_usd FROM stored s LEFT JOIN prices p ON {MATCH_SQL}{also}
WHERE s.kind = 'step' AND s.source_trace_id IS NULL
"""


_PRICED: Final = _priced(COST_SQL)
_PRICED_OR_REPORTED: Final = _priced(
    f"coalesce(r.cost, {COST_SQL})",
    f"""
LEFT JOIN (
  SELECT trace_id, span_id, any_value(cost) FILTER (cost >= 0 AND isfinite(cost)) AS cost
  FROM (SELECT *, TRY_CAST(attributes['{semconv.USAGE_COST}'] AS DOUBLE) AS cost FROM stored)
  WHERE kind = 'step' AND provider IN ({", ".join(f"'{provider}'" for provider in sorted(REPORTING))}) GROUP BY ALL
) r ON r.trace_id = s.trace_id AND r.span_id = s.span_id""",
)
"""Where there are calls of providers that say what they cost. Looking costs as much as the rest of a sum."""

RUNS: Final = """
SELECT trace_id,
  max(name) AS name,
  CASE
    WHEN bool_or(status = 'running') THEN coalesce(max(status) FILTER (end_unix_nano IS NOT NULL), 'running')
    WHEN bool_or(status = 'interrupted') OR count(end_unix_nano) = 0 THEN 'interrupted'
    ELSE arg_max(status, end_unix_nano) FILTER (end_unix_nano IS NOT NULL)
  END AS status,
  min(start_unix_nano) AS start_unix_nano,
  max(end_unix_nano) AS end_unix_nano,
  arg_max(status_message, end_unix_nano) AS error,
  any_value(tags) FILTER (mode IS NOT NULL) AS tags,
  max(metadata) AS metadata,
  max(mode) AS mode,
  max(parent_trace_id) AS parent_trace_id,
  max(origin) AS origin,
  max(imported) AS imported,
  max(service) AS service,
  sum(lost)::BIGINT AS steps_lost,
  sum(damaged)::BIGINT AS records_damaged
FROM stored WHERE kind = 'trace' GROUP BY trace_id
"""

_LIVE: Final = "kind = 'step' AND source_trace_id IS NULL"
"""Calls that went live in their trace; an imported fork also has steps that its parent paid for."""

TOTALS: Final = f"""
SELECT trace_id,
  count(*) FILTER (kind IN ('step', 'served')) AS steps,
  count(*) FILTER ({_LIVE}) AS calls,
  count(*) FILTER ({_LIVE} AND error_type IS NOT NULL) AS errors,
  coalesce(sum(input_tokens) FILTER ({_LIVE}), 0)::BIGINT AS input_tokens,
  coalesce(sum(output_tokens) FILTER ({_LIVE}), 0)::BIGINT AS output_tokens,
  list_sort(list_distinct(list(coalesce(model, response_model)) FILTER ({_LIVE}))) AS models,
  max(end_unix_nano) FILTER ({_LIVE}) AS last_unix_nano,
  min(step) FILTER ({_LIVE}) AS first_live
FROM stored GROUP BY trace_id
"""

COST: Final = "CASE WHEN count(*) = count(cost_usd) THEN coalesce(fsum(cost_usd), 0) END"
"""What calls cost together: unknown as soon as the cost of one of them is."""

COSTS: Final = f"""
SELECT trace_id, {COST} AS cost_usd FROM priced GROUP BY trace_id
"""

KEY: Final = f"coalesce(s.provider, ''), {MODEL_SQL}, s.date"
"""What the price of a call `s` is looked up by: provider, model, day."""

VIEWS: Final = {
    "headers": """
SELECT trace_id, min(start_unix_nano) AS start_unix_nano, max(name) AS name, any_value(tags) AS tags
FROM stored WHERE kind = 'trace' GROUP BY trace_id
""",
    "priced": _PRICED_OR_REPORTED,
    "traces": f"""
SELECT r.trace_id, r.name, r.status, r.mode, r.tags, r.parent_trace_id,
  CASE WHEN r.parent_trace_id IS NOT NULL THEN t.first_live END AS forked_at,
  make_timestamp(r.start_unix_nano // 1000) AS created,
  make_timestamp(coalesce(r.end_unix_nano, t.last_unix_nano) // 1000) AS ended,
  (coalesce(r.end_unix_nano, t.last_unix_nano) - r.start_unix_nano) / 1e6 AS duration_ms,
  coalesce(t.steps, 0) AS steps, coalesce(t.calls, 0) AS calls, coalesce(t.errors, 0) AS errors,
  t.input_tokens, t.output_tokens, CASE WHEN coalesce(t.calls, 0) = 0 THEN 0 ELSE c.cost_usd END AS cost_usd,
  coalesce(t.models, []) AS models, r.error, r.steps_lost, r.records_damaged,
  r.service, r.metadata, r.origin, r.imported
FROM ({RUNS}) r LEFT JOIN ({TOTALS}) t USING (trace_id) LEFT JOIN ({COSTS}) c USING (trace_id)
""",
    "lineage": """
WITH RECURSIVE up AS (
  SELECT trace_id, parent_trace_id AS ancestor_id, 1 AS generation, forked_at
  FROM traces WHERE parent_trace_id IS NOT NULL
  UNION ALL
  SELECT up.trace_id, t.parent_trace_id, up.generation + 1, t.forked_at
  FROM up JOIN traces t ON t.trace_id = up.ancestor_id WHERE t.parent_trace_id IS NOT NULL AND up.generation < 1000
)
SELECT trace_id, ancestor_id, generation, forked_at FROM up
""",
    "spans": """
SELECT trace_id, kind, step, lane, name, span_kind, scope, status, status_message,
  make_timestamp(start_unix_nano // 1000) AS start_time, make_timestamp(end_unix_nano // 1000) AS end_time,
  duration_ns / 1e6 AS duration_ms, operation, provider, model, response_model,
  input_tokens, output_tokens, cache_read_tokens, cache_write_tokens, reasoning_tokens,
  time_to_first_chunk * 1e3 AS time_to_first_chunk_ms, http_status, error_type, request_size, response_size,
  fingerprint, source_trace_id, source_step, otel_trace_id, span_id, parent_span_id, service, events, attributes,
  start_unix_nano, end_unix_nano
FROM stored
""",
    "llm_calls": """
SELECT trace_id, step, lane, operation, provider, model, response_model,
  make_timestamp(start_unix_nano // 1000) AS start_time, duration_ns / 1e6 AS duration_ms,
  time_to_first_chunk * 1e3 AS time_to_first_chunk_ms,
  input_tokens, output_tokens, cache_read_tokens, cache_write_tokens, reasoning_tokens, cost_usd,
  http_status, error_type, chunk_sizes IS NOT NULL AS stream, request_size, response_size, fingerprint, span_id
FROM priced
""",
    "messages": """
SELECT trace_id, step, lane, position, m.direction AS direction, m.role AS role, m.content AS content,
  m.tool_calls AS tool_calls, m.answers AS answers
FROM (
  SELECT trace_id, step, lane, unnest(messages) AS m, generate_subscripts(messages, 1) AS position
  FROM stored WHERE kind = 'step'
)
""",
    "tool_calls": """
SELECT c.trace_id, c.step, c.lane, c.call.id AS call_id, c.call.name AS name, c.call.arguments AS arguments,
  r.content AS result, r.step AS result_step
FROM (
  SELECT trace_id, step, lane, unnest(tool_calls) AS call FROM messages WHERE direction = 'received'
) c LEFT JOIN (
  SELECT trace_id, answers, arg_min(content, step) AS content, min(step) AS step
  FROM messages WHERE answers IS NOT NULL GROUP BY ALL
) r ON r.trace_id = c.trace_id AND r.answers = c.call.id
""",
}


def statements(*, reported: bool = True) -> list[str]:
    """The statements that make the views, each standing on those before it.

    `reported`: whether there may be calls that say what they cost."""
    wanted = VIEWS if reported else {**VIEWS, "priced": _PRICED}
    return [f"CREATE OR REPLACE TEMP VIEW {name} AS {text.strip()}" for name, text in wanted.items()]
