"""Other engines on the tables: DuckDB, ClickHouse (chDB) and Spark give the answers that Escapement gives.

They get the files, or the Delta table, and nothing of ours. `make scale` installs the last two.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest

import escapement
from benchmarks import scale
from escapement.store import layout, schema, sealing, summaries, tables
from escapement.store.traces import SpanStore
from tests.conftest import ask

Rows = list[tuple[Any, ...]]
Run = Callable[[str], Rows]

# The same questions in each engine's words: {files} is how it names the table.
FIGURES = """
SELECT {day} AS day, coalesce(model, response_model) AS called, count(*) AS calls, count(error_type) AS errors,
  coalesce(sum(input_tokens), 0) AS asked, coalesce(sum(output_tokens), 0) AS answered,
  coalesce(sum(cache_read_tokens), 0) AS cached
FROM {files} WHERE kind = 'step' GROUP BY {day}, coalesce(model, response_model)
"""
SAID = """
SELECT trace_id, sum({length}) AS said, sum({calls}) AS called, {first} AS first, {latest} AS latest
FROM {files} WHERE kind = 'step' GROUP BY trace_id
"""
SERVERS = "SELECT {server} AS server, count(*) AS calls FROM {files} WHERE kind = 'step' GROUP BY {server}"
TAGGED = "SELECT trace_id, name, {tags} AS number FROM {files} WHERE {tagged}"
QUESTIONS = {"figures": FIGURES, "said": SAID, "servers": SERVERS, "tagged": TAGGED}

DUCKDB = {
    "day": "date::VARCHAR",
    "length": "len(messages)",
    "calls": "len(flatten(list_transform(messages, lambda m: m.tool_calls)))",
    "first": "min(messages[1].role)",
    "latest": "epoch_us(max(start_time))",
    "server": "attributes['server.address']",
    "tags": "len(tags)",
    "tagged": "list_contains(tags, 'production')",
}
CLICKHOUSE = {
    "day": "toString(date)",
    "length": "length(messages)",
    "calls": "arraySum(m -> length(m.tool_calls), messages)",
    "first": "min(messages[1].role)",
    "latest": "toUnixTimestamp64Micro(max(start_time))",
    "server": "attributes['server.address']",
    "tags": "length(tags)",
    "tagged": "has(tags, 'production')",
}
SPARK = {
    "day": "CAST(date AS STRING)",
    "length": "size(messages)",
    "calls": "aggregate(messages, 0, (n, m) -> n + size(m.tool_calls))",
    "first": "min(try_element_at(messages, 1).role)",
    "latest": "unix_micros(max(start_time))",
    "server": "attributes['server.address']",
    "tags": "size(tags)",
    "tagged": "array_contains(tags, 'production')",
}


@pytest.fixture
def table(store: Path, client: openai.OpenAI, claude: anthropic.Anthropic) -> tables.Table:
    """A table of several files: calls that were recorded here, and 200 made traces of a month."""
    scale.fill(store, 200 * (scale.STEPS + 1), payload=False, steps=20)
    for number in range(2):
        with escapement.init("Grüße", tags=["production", f"n={number}"]):
            ask(client)
            for _ in client.chat.completions.create(
                model="gpt-4o", messages=[{"role": "user", "content": "🕰"}], stream=True
            ):
                pass
            claude.messages.create(model="claude", max_tokens=9, messages=[{"role": "user", "content": "hello"}])
            with pytest.raises(openai.BadRequestError):
                ask(client, model="error-400")
        place = layout.open_existing(store)
        with sealing.upkeep(place):
            sealing.seal(place, grace=0)
    made = tables.Table(place, schema.SPANS)
    made.refresh()
    assert len(made.files()) > 10
    return made


@pytest.fixture
def expected(table: tables.Table, store: Path) -> dict[str, Rows]:
    """What Escapement says itself."""
    reader = SpanStore(store)
    figures = [
        (one.day, one.model, one.calls, one.errors, one.input_tokens, one.output_tokens, one.cache_read_tokens)
        for one in summaries.stats(reader)
        if one.day is not None
    ]
    said = reader.sql(
        """SELECT s.trace_id, count(m.trace_id), c.count, min(m.role) FILTER (m.position = 1), max(s.start_unix_nano // 1000)
        FROM spans s LEFT JOIN messages m USING (trace_id, step)
        LEFT JOIN (SELECT trace_id, count(*) AS count FROM tool_calls GROUP BY ALL) c ON c.trace_id = s.trace_id
        WHERE s.kind = 'step' GROUP BY ALL"""
    )
    servers = reader.sql("SELECT attributes['server.address'], count(*) FROM spans WHERE kind = 'step' GROUP BY ALL")
    tagged = reader.sql("SELECT trace_id, name, len(tags) FROM traces WHERE list_contains(tags, 'production')")
    assert len(figures) > 100
    assert (len(said.rows), len(servers.rows), len(tagged.rows)) == (203, 2, 202)
    found = {"figures": figures, "said": said.rows, "servers": servers.rows, "tagged": tagged.rows}
    return {name: by_text(rows) for name, rows in found.items()}


def by_text(rows: Rows) -> Rows:
    return sorted((tuple(0 if value is None else value for value in row) for row in rows), key=repr)


def answers(run: Run, words: dict[str, str], files: str) -> dict[str, Rows]:
    return {name: by_text(run(text.format(files=files, **words))) for name, text in QUESTIONS.items()}


def test_plain_duckdb(table: tables.Table, expected: dict[str, Rows]) -> None:
    import duckdb

    def run(sql: str) -> Rows:
        return duckdb.sql(sql).fetchall()

    assert answers(run, DUCKDB, f"read_parquet({table.files()})") == expected


def test_clickhouse(table: tables.Table, expected: dict[str, Rows], store: Path) -> None:
    chdb = pytest.importorskip("chdb", reason="chdb is not installed: make scale installs it")

    def run(sql: str) -> Rows:
        found = str(chdb.query(f"{sql} SETTINGS output_format_json_quote_64bit_integers = 0", "JSONCompactEachRow"))
        return [tuple(json.loads(line)) for line in found.splitlines()]

    files = ",".join(str(Path(file).relative_to(Path.cwd())) for file in table.files())
    assert answers(run, CLICKHOUSE, f"file('{{{files}}}', Parquet)") == expected
    assert answers(run, CLICKHOUSE, f"deltaLakeLocal('{store}/spans')") == expected


@pytest.mark.filterwarnings("ignore")  # its own
def test_spark(table: tables.Table, expected: dict[str, Rows]) -> None:
    pytest.importorskip("pyspark", reason="pyspark is not installed: make scale installs it")
    if shutil.which("java") is None:
        pytest.skip("Spark needs Java")
    from pyspark.sql import SparkSession

    settings = {
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.host": "127.0.0.1",
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.shuffle.partitions": "2",
        "spark.ui.enabled": "false",
    }
    spark = SparkSession.builder.master("local[2]").config(map=settings).getOrCreate()
    try:
        files = spark.read.option("basePath", table.uri).parquet(*table.files())
        files.createOrReplaceTempView("spans")

        def run(sql: str) -> Rows:
            return [tuple(row) for row in spark.sql(sql).collect()]

        assert answers(run, SPARK, "spans") == expected
    finally:
        spark.stop()
