"""`views.sql` in the plain DuckDB shell: no Escapement, no extension, the same answers."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import openai
import pytest

import escapement
from escapement.store import layout, sealing, shell, upkeep
from escapement.store.traces import SpanStore
from tests.conftest import ask

DUCKDB = Path(sys.executable).parent / "duckdb"  # of the package duckdb-cli


def in_shell(store: Path, sql: str, cwd: Path | None = None) -> list[dict[str, Any]]:
    done = subprocess.run(
        [DUCKDB, "-init", store / "views.sql", "-json", "-c", sql], capture_output=True, text=True, check=False, cwd=cwd
    )
    assert done.returncode == 0, done.stderr
    assert "rror" not in done.stderr
    return json.loads(done.stdout or "[]") or []


def by_us(store: Path, sql: str) -> list[dict[str, Any]]:
    found = SpanStore(store).sql(sql)
    return [dict(row) for row in found.documents()]


QUERIES = [
    "SELECT trace_id, name, status, mode, tags, parent_trace_id, steps, calls, errors, input_tokens, models FROM traces"
    " ORDER BY trace_id",
    "SELECT trace_id, step, lane, model, provider, operation, duration_ms, input_tokens, http_status, stream,"
    " request_size, response_size, fingerprint FROM llm_calls ORDER BY trace_id, step",
    "SELECT kind, name, span_kind, scope, status, otel_trace_id, span_id, start_unix_nano FROM spans ORDER BY ALL",
    "SELECT count(*) AS n FROM spans WHERE attributes['server.address'] = '127.0.0.1'",
]


@pytest.fixture
def runs(client: openai.OpenAI, store: Path) -> None:
    with escapement.init("first", tags=["a"]) as first:
        ask(client, "one")
        for _ in client.chat.completions.create(
            model="gpt-4o", messages=[{"role": "user", "content": "é"}], stream=True
        ):
            pass
        with pytest.raises(openai.BadRequestError):
            ask(client, "bad", model="error-400")
    with escapement.replay(first.trace_id):
        ask(client, "one")
        escapement.fork()
        ask(client, "two")


def test_journals_then_tables_then_both(runs: None, client: openai.OpenAI, store: Path) -> None:
    place = layout.create(store)
    for stage in ("journals", "tables", "both"):
        if stage == "tables":
            with sealing.upkeep(place):
                sealing.seal(place, grace=0)
        if stage == "both":
            with escapement.init("third"):
                ask(client, "three")
        for query in QUERIES:
            assert in_shell(store, query) == json.loads(json.dumps(by_us(store, query))), (stage, query)
    with sealing.upkeep(place):
        sealing.seal(place, grace=0)
        upkeep.compact(place)
    for query in (*QUERIES, "SELECT * FROM messages ORDER BY ALL", "SELECT * FROM tool_calls ORDER BY ALL"):
        assert in_shell(store, query) == json.loads(json.dumps(by_us(store, query))), query
    assert in_shell(store, "SELECT cost_usd FROM llm_calls WHERE input_tokens > 0 LIMIT 1") == [{"cost_usd": None}]


def test_an_empty_store(store: Path) -> None:
    layout.create(store)
    assert in_shell(store, "SELECT * FROM traces") == []
    assert in_shell(store, "SELECT count(*) AS n FROM messages") == [{"n": 0}]


def test_a_store_that_moved_knows_where_it_is_when_it_is_sealed_next(
    runs: None, client: openai.OpenAI, store: Path, tmp_path: Path
) -> None:
    moved = tmp_path / "it's elsewhere"
    shutil.move(store, moved)
    place = layout.create(moved)
    with sealing.upkeep(place):
        sealing.seal(place, grace=0)
    assert len(in_shell(moved, "SELECT * FROM traces")) == 2
    assert shell.text(moved) == (moved / "views.sql").read_text()
