"""`views.sql`: the views for a plain DuckDB shell, without Escapement and without extensions.

The shell reads the Delta log as JSON, and journals that are not in the tables as they are. Two things it cannot know:
whether the writer of a journal lives (a run without an end reads as running), and what calls cost (`cost_usd` is
NULL). Messages of journals are there once they are sealed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from escapement.store import schema, views
from escapement.store.layout import FORMAT, Layout, write_private
from escapement.words import semconv

_HEAD: Final = """-- Escapement, store format {format}: views over this span store, for a plain DuckDB shell:
--   duckdb -init {root}/views.sql
-- Times are UTC. What is shown is the state at the time this file is read: `.read {root}/views.sql` looks again.

SET VARIABLE root = '{quoted}';
SET VARIABLE marker = getvariable('root') || '/store.json';

-- In this order, nothing is missing and nothing is there twice, whatever is written meanwhile: journals first, then
-- the log of the table, then without the journals that it has taken in.
SET VARIABLE journals = (SELECT coalesce(list(file), []) FROM glob(getvariable('root') || '/journal/tr_*.jsonl'));
SET VARIABLE log = (SELECT coalesce(list(file), []) FROM glob(getvariable('root') || '/spans/_delta_log/*.json'));
SET VARIABLE table_state = (
  WITH actions AS (
    SELECT add.path AS added, remove.path AS removed, txn."appId" AS journal, filename AS version
    FROM read_json(list_append(getvariable('log'), getvariable('marker')), format = 'newline_delimited',
      filename = true, maximum_object_size = 268435456, columns = {{
        add: 'STRUCT(path VARCHAR)', remove: 'STRUCT(path VARCHAR)', txn: 'STRUCT("appId" VARCHAR)'}})
  ), files AS (
    SELECT coalesce(added, removed) AS path, arg_max(added IS NOT NULL, version) AS is_live
    FROM actions WHERE coalesce(added, removed) IS NOT NULL GROUP BY ALL
  )
  SELECT {{
    'files': (SELECT coalesce(list(getvariable('root') || '/spans/' || url_decode(path)), []) FROM files WHERE is_live),
    'journals': (SELECT coalesce(list(journal), []) FROM actions WHERE journal IS NOT NULL)
  }}
);
SET VARIABLE live = list_filter(getvariable('journals'), lambda file:
  NOT list_contains(getvariable('table_state').journals, parse_filename(file, true)));
SET VARIABLE sealed = CASE WHEN len(getvariable('table_state').files) = 0
  THEN 'SELECT * FROM live_rows WHERE false'
  ELSE 'SELECT {names} FROM read_parquet([' || list_aggregate(list_transform(getvariable('table_state').files,
    lambda file: '''' || replace(file, '''', '''''') || ''''), 'string_agg', ', ')
    || '], hive_partitioning = true, hive_types = {{''date'': DATE}})' END;

CREATE OR REPLACE TEMP TABLE prices AS SELECT * FROM (SELECT {prices}) WHERE false;

CREATE OR REPLACE TEMP VIEW journal_records AS
SELECT *, regexp_extract(filename, '(tr_[0-9a-f]{{12}})-[^/]*$', 1) AS owner, parse_filename(filename, true) AS journal
FROM read_json(list_append(getvariable('live'), getvariable('marker')), format = 'newline_delimited',
  filename = true, ignore_errors = true, maximum_object_size = 268435456, columns = {{
    record: 'VARCHAR', trace_id: 'VARCHAR', span_id: 'VARCHAR', parent: 'VARCHAR', name: 'VARCHAR', kind: 'VARCHAR',
    scope: 'VARCHAR', start: 'BIGINT', "end": 'BIGINT', status: 'VARCHAR', description: 'VARCHAR', attributes: 'JSON',
    tags: 'VARCHAR[]', metadata: 'VARCHAR', mode: 'VARCHAR', time: 'BIGINT', error: 'VARCHAR', lost: 'INTEGER',
    origin: 'VARCHAR', imported: 'VARCHAR', lane: 'VARCHAR', step: 'INTEGER', source: 'VARCHAR',
    source_step: 'INTEGER'}})
WHERE record IS NOT NULL;

CREATE OR REPLACE TEMP VIEW journal_rows AS
SELECT s.owner AS trace_id, 'step' AS kind, s.journal, s.trace_id AS otel_trace_id, s.span_id,
  s.parent AS parent_span_id, s.name, 'CLIENT' AS span_kind, '{scope}' AS scope, s.start, e."end", e.status,
  NULL::VARCHAR AS message, json_merge_patch(s.attributes, coalesce(e.attributes, '{{}}'::JSON)) AS a,
  NULL::VARCHAR[] AS tags, NULL::VARCHAR AS metadata, NULL::VARCHAR AS mode, NULL::VARCHAR AS parent_trace_id,
  NULL::INTEGER AS lost, NULL::VARCHAR AS origin, NULL::VARCHAR AS imported,
  NULL::INTEGER AS step, NULL::VARCHAR AS lane,
  s.attributes->'{served_from}'->>0 AS source, (s.attributes->'{served_from}'->>1)::INTEGER AS source_step
FROM journal_records s
LEFT JOIN journal_records e ON e.record = 'span' AND e.span_id = s.span_id AND e.journal = s.journal
WHERE s.record = 'start'
UNION ALL
SELECT owner, 'span', journal, trace_id, span_id, parent, name, kind, scope, start, "end", status, description,
  attributes, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL
FROM journal_records f WHERE record = 'span' AND NOT EXISTS (
  FROM journal_records s WHERE s.record = 'start' AND s.span_id = f.span_id AND s.journal = f.journal)
UNION ALL
SELECT owner, 'served', journal, NULL, NULL, NULL, NULL, NULL, NULL, time, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
  NULL, NULL, NULL, NULL, step, lane, source, source_step
FROM journal_records WHERE record = 'served'
UNION ALL
SELECT h.owner, 'trace', h.journal, h.trace_id, h.span_id, NULL, h.name, NULL, NULL, h.time, e.time,
  coalesce(e.status, 'running'), e.error, NULL, h.tags, h.metadata, h.mode, h.parent, coalesce(e.lost, 0),
  h.origin, h.imported, NULL, NULL, NULL, NULL
FROM journal_records h LEFT JOIN (
  SELECT journal, max(time) AS time, arg_max(status, time) AS status, arg_max(error, time) AS error, max(lost) AS lost
  FROM journal_records WHERE record = 'end' GROUP BY journal
) e USING (journal) WHERE h.record = 'trace';

CREATE OR REPLACE TEMP VIEW live_rows AS
SELECT {live} FROM journal_rows r;

CREATE OR REPLACE TEMP VIEW stored AS
SELECT * FROM live_rows UNION ALL SELECT * FROM query(getvariable('sealed'));
"""


def write(layout: Layout) -> None:
    """Write the file, where it is not there or another one. Raises OSError."""
    if layout.remote is not None:
        return  # a plain shell cannot reach it
    wanted = text(layout.root).encode()
    try:
        if layout.views.read_bytes() == wanted:
            return
    except FileNotFoundError:
        pass
    write_private(layout.views, wanted)


def text(root: Path) -> str:
    """The whole file for the store at `root`."""
    place = root.absolute().as_posix()
    head = _HEAD.format(
        format=FORMAT,
        root=place,
        quoted=place.replace("'", "''"),
        names=", ".join(_COLUMNS),
        prices=", ".join(f"NULL::{kind} AS {name}" for name, kind in _PRICES.items()),
        scope=semconv.SCOPE,
        served_from=semconv.SERVED_FROM,
        live=",\n  ".join(_live(name, kind) for name, kind in _COLUMNS.items()),
    )
    made = [f"CREATE OR REPLACE TEMP VIEW {name} AS{sql.rstrip()};" for name, sql in views.VIEWS.items()]
    return "\n".join([head, *made, ""])


_TEXT, _INTEGER, _SHORT = "VARCHAR", "BIGINT", "INTEGER"
_MESSAGE = (
    "STRUCT(direction VARCHAR, role VARCHAR, content VARCHAR, answers VARCHAR, "
    "tool_calls STRUCT(id VARCHAR, name VARCHAR, arguments VARCHAR)[])[]"
)
_COLUMNS: Final = {
    "date": "DATE",
    **dict.fromkeys(("trace_id", "kind", "journal"), _TEXT),
    "step": _SHORT,
    **dict.fromkeys(("lane", "fingerprint", "name", "otel_trace_id", "span_id", "parent_span_id"), _TEXT),
    **dict.fromkeys(("span_kind", "scope"), _TEXT),
    **dict.fromkeys(("start_unix_nano", "end_unix_nano", "duration_ns"), _INTEGER),
    **dict.fromkeys(("status", "status_message", "service"), _TEXT),
    **dict.fromkeys(schema.STRINGS.values(), _TEXT),
    **dict.fromkeys(schema.INTEGERS.values(), _INTEGER),
    **dict.fromkeys(schema.FLOATS.values(), "DOUBLE"),
    "source_trace_id": _TEXT,
    "source_step": _SHORT,
    "response_size": _INTEGER,
    "chunk_sizes": "BIGINT[]",
    "messages": _MESSAGE,
    "tags": "VARCHAR[]",
    **dict.fromkeys(("metadata", "mode", "parent_trace_id"), _TEXT),
    "lost": _SHORT,
    "damaged": _SHORT,
    **dict.fromkeys(("origin", "imported", "events"), _TEXT),
    "attributes": "MAP(VARCHAR, VARCHAR)",
}
"""The columns that the views stand on, and their types."""

_PRICES: Final = {
    **dict.fromkeys(("provider", "model"), _TEXT),
    "date": "DATE",
    **dict.fromkeys(("since", "until", "above", "up_to"), _INTEGER),
    **dict.fromkeys(("input", "output", "cache_read", "cache_write", "per_call"), "DOUBLE"),
}

_FROM_RECORDS: Final = {
    "date": 'make_timestamp(coalesce(r.start, r."end") // 1000)::DATE',
    "step": f"coalesce(r.step, (r.a->>'{semconv.STEP}')::INTEGER)",
    "lane": f"coalesce(r.lane, r.a->>'{semconv.LANE}')",
    "fingerprint": f"r.a->>'{semconv.FINGERPRINT}'",
    "start_unix_nano": "r.start",
    "end_unix_nano": 'r."end"',
    "duration_ns": 'r."end" - r.start',
    "status_message": "r.message",
    "service": "r.origin->>'service'",
    "source_trace_id": "r.source",
    "response_size": f"strlen(r.a->>'{semconv.RESPONSE_BODY}')",
    "chunk_sizes": f"list_transform((r.a->'{semconv.RESPONSE_CHUNKS}')::BIGINT[][], lambda chunk: chunk[1])",
    "messages": "NULL",
    "damaged": "0",
    "events": "NULL",
    "attributes": "map_from_entries(list_transform(json_keys(r.a), lambda k: {'k': k, 'v': r.a->>k}))",
    **{column: f"r.a->>'{name}'" for name, column in schema.PROMOTED.items()},
}


def _live(name: str, kind: str) -> str:
    return f"({_FROM_RECORDS.get(name, f'r.{name}')})::{kind} AS {name}"
