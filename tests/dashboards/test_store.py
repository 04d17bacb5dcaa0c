"""The SQL files on a real store: by `escapement sql`, and by a plain DuckDB shell."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import anthropic
import openai
import pytest

from dashboards.panels.table import PANELS
from escapement.store import layout, sealing
from tests.dashboards import story
from tests.test_cli import Cli, cli
from tests.test_shell import DUCKDB

assert cli  # a fixture

SQL = Path(__file__).parent.parent.parent / "dashboards" / "sql"


@pytest.mark.parametrize("sealed", [False, True])
def test_what_the_files_say(
    sealed: bool,
    client: openai.OpenAI,
    claude: anthropic.Anthropic,
    store: Path,
    cli: Cli,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told = story.tell(client, claude)
    if sealed:
        place = layout.open_existing(store)
        with sealing.upkeep(place):
            sealing.seal(place, grace=0)
    piped: story.Rows = {}
    named: story.Rows = {}
    for panel in PANELS:
        monkeypatch.setattr(sys, "stdin", io.StringIO((SQL / f"{panel.key}.sql").read_text()))
        for found, arguments in ((piped, ()), (named, ("-f", str(SQL / f"{panel.key}.sql")))):
            done = cli("sql", "--json", *arguments)
            assert (done.code, done.err) == (0, ""), panel.key
            rows = [json.loads(line) for line in done.out.splitlines()]
            assert all(set(row) == {"time", "series", "value"} for row in rows)
            found[panel.key] = [(row["time"][:10], row["series"], float(row["value"])) for row in rows]
    expected = story.rounded(story.expected(store, told, telemetry=False))
    assert story.rounded(piped) == expected  # sums of many threads differ in their last digit
    assert story.rounded(named) == expected
    assert all(expected.values())


def test_a_plain_shell(client: openai.OpenAI, claude: anthropic.Anthropic, store: Path) -> None:
    """Without Escapement nobody knows prices: what is about money has no rows, the rest says the same."""
    told = story.tell(client, claude)
    place = layout.open_existing(store)
    with sealing.upkeep(place):
        sealing.seal(place, grace=0)
    found: story.Rows = {}
    for panel in PANELS:
        with (SQL / f"{panel.key}.sql").open() as file:
            command = [DUCKDB, "-init", store / "views.sql", "-json"]
            done = subprocess.run(command, stdin=file, capture_output=True, text=True, check=True)
        assert "rror" not in done.stderr, panel.key
        rows = json.loads(done.stdout.strip() or "[]")
        found[panel.key] = [(row["time"][:10], row["series"], float(row["value"])) for row in rows]
    expected = story.expected(store, told, telemetry=False)
    money: story.Rows = {key: [] for key in ("spend", "spend_per_run", "saved")}
    assert story.rounded(found) == story.rounded(expected | money)
