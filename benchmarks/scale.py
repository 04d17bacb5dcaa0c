"""What reading costs when a store is large: `python -m benchmarks.scale [SPANS …]`.

The stores are made here, of traces of ten steps and one of 1,000, over thirty days, in the order in which sealing and
merging leave them. Absolute times are of this machine; each is the first, and the best, median and worst of nine more.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import httpx2
import pyarrow as pa
from rich.console import Console
from rich.table import Table

import escapement
from benchmarks.growth import Agent, Reading
from escapement.store import columns, layout, schema, sealing, segments, summaries, tables, upkeep
from escapement.store.segments import Segment
from escapement.store.traces import SpanStore

STEPS = 10
LONG = 1000
"""Steps of the trace that is loaded: a real one, among the rows of the others."""
_MONTH = 30 * 86400 * 10**9
_BATCH = 200  # traces that are sealed at once, and so in order
_CHUNK = (STEPS + 1) * 20_000  # spans that are merged into a file (one a day)

_BARS = {
    1_100_000: {"stats": 1000.0, "load": 150.0, "open, load": 150.0, "list": 500.0},
    10_000_100: {"stats": 4000.0},
}

# Runs and their steps: what differs, and what all have in common.
_SPANS = """
SELECT
  make_timestamp(start_unix_nano // 1000)::DATE AS date,
  'tr_' || substr(md5(trace::VARCHAR), 1, 12) AS trace_id,
  CASE WHEN step = 0 THEN 'trace' ELSE 'step' END AS kind,
  'tr_' || substr(md5(trace::VARCHAR), 1, 12) || '-host-1-1' AS journal,
  CASE WHEN step > 0 THEN step::INTEGER END AS step,
  'main' AS lane, CASE WHEN step > 0 THEN '1:' || md5(i::VARCHAR) END AS fingerprint,
  CASE WHEN step = 0 THEN 'agent ' || (trace % 50) ELSE 'chat ' || model END AS name,
  md5(trace::VARCHAR) AS otel_trace_id, substr(md5(('s' || i)::VARCHAR), 1, 16) AS span_id,
  CASE WHEN step > 0 THEN substr(md5(('s' || (i - step))::VARCHAR), 1, 16) END AS parent_span_id,
  CASE WHEN step > 0 THEN 'CLIENT' END AS span_kind, CASE WHEN step > 0 THEN 'escapement' END AS scope,
  start_unix_nano, start_unix_nano + duration_ns AS end_unix_nano,
  make_timestamp(start_unix_nano // 1000) AS start_time,
  make_timestamp((start_unix_nano + duration_ns) // 1000) AS end_time, duration_ns,
  CASE WHEN step = 0 THEN 'completed' WHEN i % 97 = 0 THEN 'ERROR' ELSE 'UNSET' END AS status, '' AS service,
  CASE WHEN step > 0 THEN 'chat' END AS operation,
  CASE WHEN step > 0 THEN CASE WHEN model LIKE 'claude%' THEN 'anthropic' ELSE 'openai' END END AS provider,
  CASE WHEN step > 0 THEN model END AS model, CASE WHEN step > 0 THEN model END AS response_model,
  CASE WHEN step > 0 AND i % 97 = 0 THEN '429' END AS error_type,
  CASE WHEN step > 0 AND i % 97 > 0 THEN 500 + (hash(i) % 20000)::BIGINT END AS input_tokens,
  CASE WHEN step > 0 AND i % 97 > 0 THEN 20 + (hash(i + 1) % 900)::BIGINT END AS output_tokens,
  CASE WHEN step > 0 AND i % 97 > 0 THEN (hash(i) % 500)::BIGINT END AS cache_read_tokens,
  CASE WHEN step > 0 THEN CASE WHEN i % 97 = 0 THEN 429 ELSE 200 END::BIGINT END AS http_status,
  CASE WHEN step > 0 THEN 1800 + (hash(i) % 90000)::BIGINT END AS request_size,
  CASE WHEN step > 0 AND i % 4 = 0 THEN 0.1 + (hash(i) % 1000) / 1000 END AS time_to_first_chunk,
  CASE WHEN step > 0 THEN 0::INTEGER END AS request_base, CASE WHEN step > 0 THEN 0::INTEGER END AS request_keep,
  CASE WHEN step > 0 THEN [md5(('q' || i)::VARCHAR)] END AS request_add,
  CASE WHEN step > 0 THEN 0::INTEGER END AS request_suffix,
  CASE WHEN step > 0 THEN md5(('a' || i)::VARCHAR) END AS response_part,
  CASE WHEN step > 0 THEN 1800::BIGINT END AS response_size,
  CASE WHEN step = 0 THEN ['production', 'team-' || (trace % 7)] END AS tags,
  CASE WHEN step = 0 THEN '{{}}' END AS metadata, CASE WHEN step = 0 THEN 'record' END AS mode,
  CASE WHEN step = 0 THEN 0::INTEGER END AS lost, CASE WHEN step = 0 THEN 0::INTEGER END AS damaged,
  CASE WHEN step = 0 THEN '{{"host":"h","pid":1}}' END AS origin,
  CASE WHEN step > 0 THEN MAP {{
    'escapement.request.method': 'POST', 'escapement.request.path': '/v1/chat/completions',
    'server.address': 'api.openai.com', 'gen_ai.response.id': 'chatcmpl-' || md5(i::VARCHAR),
    'gen_ai.response.finish_reasons': '["stop"]', 'escapement.response.elapsed': duration_ns::VARCHAR
  }} END AS attributes,
  CASE WHEN step > 0 THEN list_concat([
    {{
      direction: 'sent', role: CASE WHEN step % 3 = 2 THEN 'tool' ELSE 'user' END, content: {asked},
      answers: CASE WHEN step % 3 = 2 THEN 'call_' || md5((i - 1)::VARCHAR) END,
      tool_calls: []::STRUCT(id VARCHAR, name VARCHAR, arguments VARCHAR)[]
    }}
  ], CASE WHEN i % 97 > 0 THEN [
    {{
      direction: 'received', role: 'assistant', content: {answered}, answers: NULL,
      tool_calls: CASE WHEN step % 3 = 1 THEN [
        {{id: 'call_' || md5(i::VARCHAR), name: 'look_up', arguments: '{{"number": ' || i || '}}'}}
      ] ELSE [] END
    }}
  ] END) END AS messages,
  (hash(i) // 2)::BIGINT AS checksum, (hash(i + 1) // 2)::BIGINT AS checksum_shown
FROM {source}
ORDER BY date, trace // {batch}, trace_id, start_unix_nano
"""

_PARTS = """
SELECT
  make_timestamp(start_unix_nano // 1000)::DATE AS date, 'tr_' || substr(md5(trace::VARCHAR), 1, 12) AS trace_id,
  unnest([md5(('q' || i)::VARCHAR), md5(('a' || i)::VARCHAR)]) AS hash,
  unnest([encode({asked}), encode({answered})]) AS data
FROM {source} WHERE step > 0
ORDER BY date, trace // {batch}, trace_id
"""

_SOURCE = """(
  SELECT i, i // {steps_and_run} AS trace, i % {steps_and_run} AS step,
    ['gpt-4o', 'gpt-4o-mini', 'claude-sonnet-4-5', 'gpt-5', 'o4-mini'][1 + (hash(i) % 5)::INTEGER] AS model,
    {since} + (i // {steps_and_run}) * {apart} + (i % {steps_and_run}) * 2000000000 AS start_unix_nano,
    200000000 + (hash(i) % 5000000000)::BIGINT AS duration_ns
  FROM range({first}, {last}) r(i)
)"""


def fill(root: Path, spans: int, *, payload: bool, steps: int = LONG) -> str:
    """Make a store of so many spans, and a trace of so many steps: its id. Without `payload`, only that has bodies."""
    store = layout.create(root)
    long = _recorded(steps)
    # As many runs of text as anybody needs, cut from one: ASCII, or cutting has to count characters.
    text = Reading().take(12_000).encode("ascii", "ignore").decode().replace("'", " ")[:8000]
    made_of = {
        "batch": _BATCH,
        "asked": f"i || ': ' || substr('{text}', 1 + (hash(i) % 7000)::INTEGER, 300)",
        "answered": f"i || ': ' || substr('{text}', 1 + (hash(i + 1) % 7000)::INTEGER, 400)",
    }
    since = time.time_ns() - _MONTH
    for first in range(0, spans, _CHUNK):
        last = min(first + _CHUNK, spans)
        source = _SOURCE.format(
            first=first, last=last, steps_and_run=STEPS + 1, since=since, apart=_MONTH * (STEPS + 1) // spans
        )
        for name, select, rows in ((schema.PARTS, _PARTS, columns.parts), (schema.SPANS, _SPANS, columns.rows)):
            made = []
            if payload or name == schema.SPANS:
                found = duckdb.sql(select.format(source=source, **made_of))
                assert found is not None  # it is where a statement gives no rows
                made.append(_of_schema(name, found.to_arrow_table()))
            if last == spans:
                made.append(tables.arrow(name, rows(long)))
            if made:
                table = tables.Table(store, name)
                table.refresh()
                table.append(pa.concat_tables(made), [f"made-{first}"])
    return long.trace_id


def _of_schema(name: str, made: pa.Table) -> pa.Table:
    """A table with all columns of another, those that it does not have empty."""
    wanted: pa.Schema = getattr(schema, name)()
    return pa.Table.from_arrays(
        [
            made[field.name].cast(field.type)
            if field.name in made.column_names
            else pa.nulls(made.num_rows, field.type)
            for field in wanted
        ],
        schema=wanted,
    )


def _recorded(steps: int) -> Segment:
    """A run of a growing conversation, recorded and read back from its journal."""
    answer = b""
    headers = {"content-type": "application/json", "x-request-id": "req_0123456789"}
    transport = httpx2.MockTransport(lambda request: httpx2.Response(200, headers=headers, content=answer))
    with tempfile.TemporaryDirectory() as folder:
        with (
            httpx2.Client(transport=transport, headers=headers) as client,
            escapement.init("long", storage_dir=folder, sealing="manual"),
        ):
            for body, said in Agent().steps(steps):
                answer = said
                client.post("https://api.openai.com/v1/chat/completions", content=body)
        ((trace_id, path),) = sealing.journals(layout.open_existing(folder))
        return segments.read(path, trace_id)


def timed(work: Callable[[], Any], rounds: int = 9) -> tuple[float, float, float, float]:
    """Milliseconds: the first time, then the best, the median and the worst of the following."""
    taken = []
    for _ in range(rounds + 1):
        began = time.perf_counter()
        work()
        taken.append((time.perf_counter() - began) * 1e3)
    return taken[0], min(taken[1:]), statistics.median(taken[1:]), max(taken[1:])


def measure(spans: int, root: Path, long: str) -> list[tuple[str, tuple[float, ...]]]:
    store = SpanStore(root)
    assert summaries.stats(store)[0].calls == spans // (STEPS + 1) * STEPS + LONG
    row = store.load(long)
    assert row.complete
    assert [step.step for step in row.steps if step.answered] == list(range(1, LONG + 1))
    assert len(summaries.page(store, limit=20)) == 20
    return [
        ("stats", timed(lambda: summaries.stats(SpanStore(root)))),
        ("load", timed(lambda: store.load(long))),
        ("open, load", timed(lambda: SpanStore(root).load(long))),
        ("list", timed(lambda: summaries.page(SpanStore(root), limit=20))),
    ]


def main() -> int:
    sizes = [int(size.replace("_", "")) for size in sys.argv[1:]] or list(_BARS)
    table = Table(title="Reading a large store (milliseconds)", title_justify="left")
    for title in ("spans", "traces", "what", "first", "best", "median", "worst", "bar", ""):
        table.add_column(title, justify="left" if title == "what" else "right")
    for spans in sizes:
        with tempfile.TemporaryDirectory(prefix="escapement-scale-") as folder:
            root = Path(folder, "store")
            began = time.perf_counter()
            long = fill(root, spans, payload="load" in _BARS.get(spans, ("load",)))
            size = upkeep.size(layout.open_existing(root)) / 1e6
            print(f"{spans:,} spans made in {time.perf_counter() - began:.0f} s: {size:,.0f} MB", file=sys.stderr)
            for what, (first, best, median, worst) in measure(spans, root, long):
                bar = _BARS.get(spans, {}).get(what)
                verdict = "" if bar is None else "ok" if median <= bar else "MISSED"
                table.add_row(
                    f"{spans:,}", f"{spans // (STEPS + 1):,}", what, f"{first:.0f}", f"{best:.0f}",
                    f"{median:.0f}", f"{worst:.0f}", f"{bar:.0f}" if bar else "", verdict,
                )  # fmt: skip
    Console(width=100).print(table)
    return 0  # a busy machine is no defect: times are for people to judge


if __name__ == "__main__":
    sys.exit(main())
