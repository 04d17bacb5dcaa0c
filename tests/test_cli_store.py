"""Commands on the store: whole outputs on traces that are always the same, prompts in a terminal, stores of all kinds."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import openai
import pytest
from inline_snapshot import snapshot
from rich.cells import cell_len

import escapement
from escapement.cli import prompt
from escapement.store import layout, sealing, tables, views
from escapement.store.journal import Journal
from escapement.store.pieces import digest
from escapement.store.traces import SpanStore
from tests import test_cli
from tests.conftest import ask
from tests.program import arguments
from tests.provider import Provider
from tests.test_cli import Cli, Outcome

cli = test_cli.cli
FIRST, SECOND, FORK = "tr_00000000000a", "tr_00000000000b", "tr_00000000000c"


@pytest.fixture(autouse=True)
def in_utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def nanoseconds(*moment: int) -> int:
    return int(datetime(*moment, tzinfo=UTC).timestamp()) * 1_000_000_000  # type: ignore[misc,arg-type]


class Writing:
    """A journal with calls whose times, tokens and texts are given."""

    def __init__(self, store: Path, trace_id: str, name: str, start: int, **header: Any) -> None:
        self.trace_id, self.now, self.step = trace_id, start, 0
        self.journal = Journal(layout.create(store), trace_id)
        self.otel = trace_id.removeprefix("tr_") + "0" * 20
        record = {"name": name, "tags": [], "metadata": {}, "mode": "record", "parent": None, "origin": {}, **header}
        self.journal.write(
            {"record": "trace", "format": 2, "trace": trace_id, "trace_id": self.otel}
            | record
            | {"span_id": "f" * 16, "time": start}
        )

    def served(self, source: str, step: int) -> None:
        self.step += 1
        self.journal.write(
            {
                "record": "served",
                "step": self.step,
                "lane": "main",
                "time": self.now,
                "source": source,
                "source_step": step,
            }
        )

    def call(
        self, model: str, asked: str, said: str, ms: int, tokens: tuple[int, int, int] | None, **more: Any
    ) -> None:
        self.step += 1
        request = json.dumps({"model": model, "messages": [{"role": "user", "content": asked}]}).encode()
        answer = {"model": model, "choices": [{"index": 0, "message": {"role": "assistant", "content": said}}]}
        span = {"trace_id": self.otel, "span_id": f"{self.step:016x}", "name": f"chat {model}"}
        attributes = {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "openai",
            "gen_ai.request.model": model,
            "escapement.step": self.step,
            "escapement.lane": "main",
            "escapement.fingerprint": f"1:{digest(request)}",
            "escapement.request.method": "POST",
            "escapement.request.path": "/v1/chat/completions",
            "escapement.request.size": len(request),
            "escapement.request.body": {"base": 0, "keep": 0, "add": [digest(request)], "suffix": 0},
        }
        self.journal.write(
            {
                "record": "start",
                **span,
                "parent": "f" * 16,
                "start": self.now,
                "attributes": attributes,
                "pieces": {digest(request): request.decode()},
            }
        )
        self.now += ms * 1_000_000
        body = {
            "escapement.response.status": 200,
            "escapement.response.headers": [["content-type", "application/json"]],
            "escapement.response.body": json.dumps(answer),
        }
        names = ("input_tokens", "output_tokens", "cache_read.input_tokens")
        used = dict(zip((f"gen_ai.usage.{name}" for name in names), tokens, strict=True)) if tokens else {}
        self.journal.write(
            {"record": "span", **span, "end": self.now, "status": "UNSET", "attributes": body | used | more}
        )

    def end(self, status: str = "completed", error: str | None = None) -> None:
        self.journal.write({"record": "end", "status": status, "error": error, "time": self.now, "lost": 0})
        self.journal.close()


@pytest.fixture
def written(store: Path) -> Path:
    """Three traces: an agent with an error; a failed one with a long name and an unknown price; a fork of the first."""
    run = Writing(store, FIRST, "support-agent", nanoseconds(2026, 11, 22, 12), tags=["production", "eu"])
    run.call("m-large", "What is the weather?", "Rain, they say.", 1200, (1000, 50, 800))
    run.call(
        "m-large",
        "And tomorrow?",
        "More\nof it.",
        800,
        (1100, 60, 900),
        **{"gen_ai.response.time_to_first_chunk": 0.25},
    )
    run.call("m-small", "x", "", 90, None, **{"error.type": "429", "escapement.response.status": 429})
    run.end()
    run = Writing(
        store, SECOND, "nightly evaluation of the whole knowledge base, with a long name", nanoseconds(2026, 11, 23, 3)
    )
    run.call("meta-llama/Llama-3.3-70B-Instruct-Turbo", "Why?", "Because.", 61_000, (12_000, 900, 0))
    run.end("failed", "RuntimeError: no such tool")
    run = Writing(store, FORK, "support-agent", nanoseconds(2026, 11, 23, 9, 30), mode="fork", parent=FIRST)
    run.served(FIRST, 1)
    run.call("m-large", "And now?", "Sun.", 700, (900, 40, 0))
    run.end()
    (store / "prices.toml").write_text('[models."m-*"]\ninput = 1.0\noutput = 4.0\ncache_read = 0.5\n')
    return store


def shown(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.splitlines())


class Terminal:
    """The command at a terminal of 80 columns: what it writes, and keys for it."""

    def __init__(self, *command: str, term: str = "dumb", **environment: str) -> None:
        self.fd, other = pty.openpty()
        subprocess.run(["stty", "cols", "80", "rows", "40"], stdin=other, check=True)
        variables = {**os.environ, "TERM": term, "HOME": str(Path.cwd()), **environment}
        for name in ("COLUMNS", "LINES", "XDG_STATE_HOME"):
            variables.pop(name, None)
        self.process = subprocess.Popen(
            # Whoever has no terminal and opens one, has it from then on: keys like Ctrl-C arrive.
            ["sh", "-c", 'exec "$@" <"$0" >"$0" 2>&1', os.ttyname(other), sys.executable, "-m", "escapement", *command],
            start_new_session=True,
            env=variables,
            # What was started in the background may have been told to pass over Ctrl-C, and so would this be.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        while os.tcgetpgrp(self.fd) != self.process.pid:
            time.sleep(0.01)
        os.close(other)
        self.seen = ""

    def wait_for(self, text: str) -> str:
        """What was written until `text` came."""
        while text not in self.seen:
            assert self._read(), f"{text!r} did not come, but {self.seen!r}"
        before, _, self.seen = self.seen.partition(text)
        return before.replace("\r\n", "\n")

    def type(self, keys: str) -> None:
        if keys == "\x03":
            time.sleep(0.5)  # readline misses a signal that comes just before it waits for a key
        os.write(self.fd, keys.encode())

    def end(self) -> tuple[int, str]:
        """Its exit code, and what else it wrote."""
        while self._read():
            pass
        os.close(self.fd)
        return self.process.wait(30), self.seen.replace("\r\n", "\n")

    def _read(self) -> bool:
        """Take in more; False when it has ended."""
        if not select.select([self.fd], [], [], 30)[0]:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"nothing more came after {self.seen!r}")
        try:
            self.seen += os.read(self.fd, 65536).decode()
        except OSError:  # that is how a terminal ends
            return False
        return True


# -- list and stats --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sealed", [False, True])
def test_list_and_stats(cli: Cli, written: Path, monkeypatch: pytest.MonkeyPatch, sealed: bool) -> None:
    if sealed:
        cli("store", "compact")
    monkeypatch.setenv("COLUMNS", "80")
    assert shown(cli("list").out) == snapshot("""\
ID               NAME         STATUS         STEPS  TOKENS     COST  CREATED
tr_00000000000c  support-ag…  completed          2     940  $0.0011  11-23 09:30
                              ← tr_00000000
tr_00000000000b  nightly ev…  failed             1   12.9k        –  11-23 03:00
tr_00000000000a  support-ag…  completed          3    2210  $0.0017  11-22 12:00\
""")
    assert shown(cli("stats").out) == snapshot("""\
DAY    MODEL                CALLS  ERR     IN   OUT     COST       P50       P95
total                           5    1  15.0k  1050        –    800 ms    49.0 s
11-23  m-large                  1    0    900    40  $0.0011    700 ms    700 ms
       meta-llama/Llama-3…      1    0  12.0k   900        –  1 m 01 s  1 m 01 s
11-22  m-large                  2    0   2100   110  $0.0017     1.0 s     1.2 s
       m-small                  1    1      0     0    $0.00     90 ms     90 ms\
""")
    monkeypatch.setenv("COLUMNS", "140")
    assert shown(cli("list").out) == snapshot("""\
ID               NAME                                        STATUS                              STEPS  TOKENS     COST  CREATED
tr_00000000000c  support-agent                               completed ← tr_00000000000a step 2      2     940  $0.0011  2026-11-23 09:30:00
tr_00000000000b  nightly evaluation of the whole knowledge…  failed                                  1   12.9k        –  2026-11-23 03:00:00
tr_00000000000a  support-agent                               completed                               3    2210  $0.0017  2026-11-22 12:00:00\
""")
    assert shown(cli("stats").out) == snapshot("""\
DAY         MODEL                                    CALLS  ERRORS     IN  CACHED   OUT     COST       P50       P95       P99  FIRST CHUNK
total                                                    5       1  15.0k    1700  1050        –    800 ms    49.0 s    58.6 s       250 ms
2026-11-23  m-large                                      1       0    900       0    40  $0.0011    700 ms    700 ms    700 ms            –
            meta-llama/Llama-3.3-70B-Instruct-Turbo      1       0  12.0k       0   900        –  1 m 01 s  1 m 01 s  1 m 01 s            –
2026-11-22  m-large                                      2       0   2100    1700   110  $0.0017     1.0 s     1.2 s     1.2 s       250 ms
            m-small                                      1       1      0       0     0    $0.00     90 ms     90 ms     90 ms            –\
""")


def test_stats_of_some(cli: Cli, written: Path) -> None:
    def days(*options: str) -> list[tuple[Any, ...]]:
        lines = [json.loads(line) for line in cli("stats", "--json", *options).out.splitlines()]
        return [(line["day"], line["model"], line["calls"]) for line in lines]

    assert days(FORK) == [(None, None, 1), ("2026-11-23", "m-large", 1)]
    assert days("--since", "2026-11-23T04:00") == days(FORK)
    assert days("--until", "2026-11-23") == [
        (None, None, 3),
        ("2026-11-22", "m-large", 2),
        ("2026-11-22", "m-small", 1),
    ]
    assert cli("stats", "--since", "2026-12-01") == Outcome(0, "", "No calls like that in .escapement\n")
    assert cli("stats", "tr_f").code == 5
    assert json.loads(cli("stats", "--json", FIRST).out.splitlines()[0]) == snapshot(
        {
            "day": None,
            "model": None,
            "calls": 3,
            "errors": 1,
            "input_tokens": 2100,
            "output_tokens": 110,
            "cache_read_tokens": 1700,
            "cost_usd": 0.0016899999999999999,
            "p50_ms": 800.0,
            "p95_ms": 1160.0,
            "p99_ms": 1192.0,
            "first_chunk_ms": 250.0,
        }
    )


# -- sql -------------------------------------------------------------------------------------------------------------


def test_sql_as_a_table(cli: Cli, written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    query = "SELECT trace_id, name, created, cost_usd, steps > 1 AS many FROM traces ORDER BY created"
    monkeypatch.setenv("COLUMNS", "80")
    assert shown(cli("sql", query).out) == snapshot("""\
trace_id         name                       created              cost_usd  many
tr_00000000000a  support-agent              2026-11-22 12:00:00   0.00169  true
tr_00000000000b  nightly evaluation of the  2026-11-23 03:00:00         –  false
                 whole knowledge base,
                 with a long name
tr_00000000000c  support-agent              2026-11-23 09:30:00   0.00106  true\
""")
    monkeypatch.setenv("COLUMNS", "140")
    assert shown(cli("sql", query).out) == snapshot("""\
trace_id         name                                                              created              cost_usd  many
tr_00000000000a  support-agent                                                     2026-11-22 12:00:00   0.00169  true
tr_00000000000b  nightly evaluation of the whole knowledge base, with a long name  2026-11-23 03:00:00         –  false
tr_00000000000c  support-agent                                                     2026-11-23 09:30:00   0.00106  true\
""")


def test_sql_of_many_columns_is_a_value_a_line(cli: Cli, written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    query = "SELECT * EXCLUDE (origin) FROM traces WHERE name LIKE 'nightly%'"
    assert shown(cli("sql", query).out) == snapshot("""\
─ 1 ────────────────────
trace_id         tr_00000000000b
name             nightly evaluation of the whole knowledge base, with a long
                 name
status           failed
mode             record
tags             []
parent_trace_id  –
forked_at        –
created          2026-11-23 03:00:00
ended            2026-11-23 03:01:01
duration_ms      61000
steps            1
calls            1
errors           0
input_tokens     12000
output_tokens    900
cost_usd         –
models           ["meta-llama/Llama-3.3-70B-Instruct-Turbo"]
error            RuntimeError: no such tool
steps_lost       0
records_damaged  0
service
metadata         {}
imported         –\
""")


VALUES = """SELECT 1 AS a, 2 AS a, NULL AS nothing, sum(x) AS huge, 1.50::DECIMAL(9, 2) AS price, 1234567.891 AS f,
  1e-7 AS tiny, true AS yes, 'a, "b"' || chr(10) || 'c' AS text, [1, NULL] AS list, {'k': DATE '2026-11-23'} AS struct,
  MAP {'k': 'v'} AS map, '\\x1B'::BLOB AS bytes, INTERVAL 3 DAY AS age, TIME '09:30' AS at, 'nan'::DOUBLE AS nan,
  TIMESTAMP '2026-11-23 09:30:00.123456' AS moment, TIMESTAMPTZ '2026-11-23 09:30:00+01' AS zoned
FROM range(3) t(x)"""


def test_sql_values_of_all_types(cli: Cli, store: Path) -> None:
    assert shown(cli("sql", VALUES).out) == snapshot("""\
─ 1 ────────────────────
a        1
a        2
nothing  –
huge     3
price    1.5
f        1234568
tiny     1e-07
yes      true
text     a, "b"
         c
list     [1,null]
struct   {"k":"2026-11-23"}
map      {"k":"v"}
bytes    1b
age      {"months":0,"days":3,"nanoseconds":0}
at       09:30:00
nan      nan
moment   2026-11-23 09:30:00.123
zoned    2026-11-23 08:30:00\
""")
    assert json.loads(cli("sql", "--json", VALUES).out) == snapshot(
        {
            "a": 1,
            "a_2": 2,
            "nothing": None,
            "huge": 3,
            "price": 1.5,
            "f": 1234567.891,
            "tiny": 1e-07,
            "yes": True,
            "text": """\
a, "b"
c\
""",
            "list": [1, None],
            "struct": {"k": "2026-11-23"},
            "map": {"k": "v"},
            "bytes": "1b",
            "age": {"months": 0, "days": 3, "nanoseconds": 0},
            "at": "09:30:00",
            "nan": None,
            "moment": "2026-11-23T09:30:00.123456+00:00",
            "zoned": "2026-11-23T08:30:00+00:00",
        }
    )
    assert cli("sql", "--csv", VALUES).out == snapshot("""\
a,a,nothing,huge,price,f,tiny,yes,text,list,struct,map,bytes,age,at,nan,moment,zoned
1,2,,3,1.5,1234567.891,1e-07,true,"a, ""b""
c","[1,null]","{""k"":""2026-11-23""}","{""k"":""v""}",1b,"{""months"":0,""days"":3,""nanoseconds"":0}",09:30:00,nan,2026-11-23 09:30:00.123456,2026-11-23 08:30:00+00:00
""")


def test_sql_from_a_file_a_pipe_and_an_argument(cli: Cli, written: Path, tmp_path: Path) -> None:
    several = "CREATE TEMP TABLE t AS SELECT ';' AS x; -- two; three\nINSERT INTO t VALUES ('b');\nSELECT count(*) AS n FROM t"
    (tmp_path / "q.sql").write_text(several)
    expected = Outcome(0, '{"n":2}\n', "")
    assert cli("sql", "--json", several) == expected
    assert cli("sql", "--json", "-f", "q.sql") == expected
    for given in (["-"], [], ["-f", "-"]):
        command = [sys.executable, "-m", "escapement", "sql", "--json", *given]
        piped = subprocess.run(command, input=several, capture_output=True, text=True, check=True)
        assert (piped.stdout, piped.stderr) == ('{"n":2}\n', "")
    assert cli("sql", " -- nothing") == Outcome(0, "", "")
    assert cli("sql", "SET threads = 2") == Outcome(0, "", "")
    assert cli("sql", "SELECT 1 AS a WHERE false") == Outcome(0, "a\n", "No rows.\n")
    assert cli("sql", "--csv", "SELECT 1 AS a WHERE false") == Outcome(0, "a\n", "")
    assert cli("sql", "--json", "SELECT 1 AS a WHERE false") == Outcome(0, "", "")


def test_sql_that_fails(cli: Cli, written: Path) -> None:
    assert cli("sql", "SELEC 1") == snapshot(
        Outcome(
            code=1,
            out="",
            err="""\
escapement: the query failed: Parser Error: syntax error at or near "SELEC"

LINE 1: SELEC 1
        ^^^^^
""",
        )
    )
    assert cli("sql", "SELECT nope FROM traces") == snapshot(
        Outcome(
            code=1,
            out="",
            err="""\
escapement: the query failed: Binder Error: Referenced column "nope" not found in FROM clause!
Candidate bindings: "mode", "name", "ended", "models", "imported"
""",
        )
    )
    assert cli("sql", "SELECT 1; SELECT * FROM read_csv('gone.csv')") == snapshot(
        Outcome(
            code=1,
            out="",
            err='escapement: the query failed: IO Error: No files found that match the pattern "gone.csv"\n',
        )
    )
    assert cli("sql", "-f", "gone.sql") == Outcome(
        1, "", "escapement: gone.sql cannot be read: No such file or directory\n"
    )
    for given in (("SELECT 1", "-f", "q.sql"), ("--json", "--csv", "SELECT 1")):
        assert cli("sql", *given).code == 2


def test_a_long_result_is_cut_in_a_table_only(cli: Cli, store: Path) -> None:
    done = cli("sql", "FROM range(1001)")
    assert len(done.out.splitlines()) == 1001
    assert done.err == "The first 1000 of 1001 rows; --json and --csv give all, LIMIT gives fewer.\n"
    assert len(cli("sql", "--csv", "FROM range(1001)").out.splitlines()) == 1002


def test_a_plan_is_drawn_as_it_is(cli: Cli, written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    assert cli("sql", "EXPLAIN SELECT count(*) FROM traces").out.startswith("╭─ ")


def test_the_prompt(written: Path) -> None:
    terminal = Terminal("sql")
    terminal.wait_for("escapement> ")

    def answer(line: str, until: str = "escapement> ") -> str:
        terminal.type(f"{line}\n")
        echo, _, rest = terminal.wait_for(until).partition("\n")
        assert echo == line
        return shown(rest)

    assert answer(".help") == snapshot("""\
A statement ends with `;` and may go over several lines. Ctrl-C clears it, Ctrl-D leaves.
.tables        the views there are
.schema VIEW   the columns of one
.quit          leave\
""")
    assert answer(".tables") == snapshot("""\
traces      one row a trace: name, status, steps, tokens, cost, models
llm_calls   one row a call to a model: model, tokens, cost, latency, error
messages    one row a message that was sent or received: role, content
tool_calls  one row a tool call that a model made: name, arguments, result
lineage     one row an ancestor of a fork: where from, how far back, from which step on
spans       one row a span, whatever it is of, with all its attributes\
""")
    assert answer(".schema messages;") == snapshot("""\
column      type
trace_id    VARCHAR
step        INTEGER
lane        VARCHAR
position    BIGINT
direction   VARCHAR
role        VARCHAR
content     VARCHAR
tool_calls  STRUCT(id VARCHAR, "name" VARCHAR, arguments VARCHAR)[]
answers     VARCHAR\
""")
    assert answer(".schema prices") == ".schema takes one of traces, llm_calls, messages, tool_calls, lineage, spans"
    assert answer(".nope") == ".nope is not known; `.help` lists what is"
    assert answer("SELECT count(*) AS traces", "...> ").strip() == ""
    assert answer("FROM traces WHERE name <> ';'", "...> ").strip() == ""
    assert answer(";") == "traces\n     3"
    assert answer("SELEC;") == snapshot("""\
the query failed: Parser Error: syntax error at or near "SELEC"

LINE 1: SELEC;
        ^^^^^\
""")
    assert answer("SELECT 1 AS a; SELECT 2 AS b;") == "a\n1\nb\n2"
    terminal.type("SELECT 'forgotten")
    terminal.wait_for("forgotten")
    terminal.type("\x03")
    terminal.wait_for("escapement> ")
    terminal.type("SELECT count(*) FROM range(100000000) a(x), range(100000) b(y) WHERE x * y % 7 = 3;\n")
    time.sleep(1)
    terminal.type("\x03")
    terminal.wait_for("interrupted")
    terminal.wait_for("escapement> ")
    assert answer("SELECT 'still here' AS x;") == "x\nstill here"
    terminal.type("\x04")
    assert terminal.end() == (0, "\n")
    kept = Path(".local/state/escapement/sql_history")
    assert kept.stat().st_mode & 0o777 == 0o600
    assert kept.parent.stat().st_mode & 0o777 == 0o700
    assert kept.read_text().splitlines()[:2] == [".help", ".tables"]
    assert "forgotten" not in kept.read_text()
    terminal = Terminal("sql")
    terminal.wait_for("escapement> ")
    terminal.type("\x10\n")  # the line before, out of the history
    assert "still here" in terminal.wait_for("escapement> ")
    terminal.type(".quit\n")
    assert terminal.end() == (0, ".quit\n")


def test_the_prompt_without_a_place_for_its_history(written: Path) -> None:
    Path("file").touch()
    terminal = Terminal("sql", HOME=str(Path("file").absolute()))
    terminal.wait_for("escapement> ")
    terminal.type("\x04")
    assert terminal.end()[0] == 0


def test_the_prompt_names_the_views_there_are(cli: Cli, store: Path) -> None:
    public = set(views.VIEWS) - {"headers", "priced"}
    assert set(prompt.VIEWS) == public


# -- show ------------------------------------------------------------------------------------------------------------


def test_follow(cli: Cli, written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    assert shown(cli("show", FORK, "--follow", "--content").out) == snapshot("""\
tr_00000000000c  support-agent
  1  chat m-large             1.2 s      1000 → 50  $0.0008  from tr_00000000000a step 1
     user: What is the weather?
     assistant: Rain, they say.
  2  chat m-large            700 ms       900 → 40  $0.0011
     user: And now?
     assistant: Sun.
completed · 2 steps · 900 → 40 tokens · $0.0011 · 700 ms · 2026-11-23 09:30:00
forked from tr_00000000000a, live from step 2 on\
""")
    lines = [json.loads(line) for line in cli("show", FIRST, "-f", "--json").out.splitlines()]
    assert lines == json.loads(cli("show", FIRST, "--json").out)["steps"]


def test_follow_a_running_trace(provider: Provider, store: Path) -> None:
    program = arguments("with escapement.init('slow'):\n    for n in range(3):\n        input(); ask(str(n))", provider)
    agent = subprocess.Popen(program, stdin=subprocess.PIPE, text=True)
    assert agent.stdin is not None
    while not (store / "journal").is_dir() or not list((store / "journal").iterdir()):
        time.sleep(0.02)
    command = [sys.executable, "-m", "escapement", "show", "-f"]
    follower = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert follower.stdout is not None
    assert follower.stdout.readline().endswith("  slow\n")
    for number in range(3):
        agent.stdin.write("\n")
        agent.stdin.flush()
        assert follower.stdout.readline().split()[:3] == [str(number + 1), "chat", "gpt-4o"]
    assert follower.stdout.read().startswith("completed · 3 steps · ")
    for process in (agent, follower):
        assert process.wait(30) == 0
    for pipe in (agent.stdin, follower.stdout):
        pipe.close()


# -- delete ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sealed", [False, True])
def test_delete(cli: Cli, written: Path, sealed: bool) -> None:
    if sealed:
        cli("store", "compact")
    warning = f"{FORK} was forked from these: the steps that it took over will read as gone.\n"
    dry = cli("delete", FIRST, "tr_00000000000b", FIRST, "--dry-run")
    assert (dry.code, dry.err) == (0, f"{warning}Nothing was deleted (--dry-run).\n")
    assert shown(dry.out) == snapshot("""\
ID               NAME                                                              STEPS  CREATED
tr_00000000000b  nightly evaluation of the whole knowledge base, with a long name      1  2026-11-23 03:00:00
tr_00000000000a  support-agent                                                         3  2026-11-22 12:00:00\
""")
    assert cli("list", "-q").out.split() == [FORK, SECOND, FIRST]
    done = cli("delete", "--yes", FIRST, SECOND)
    assert (done.code, done.out, done.err) == (0, f"{dry.out}Deleted 2 traces.\n", warning)
    assert cli("list", "-q").out.split() == [FORK]
    left = "".join(str(path) + path.read_bytes().decode("latin-1") for path in written.rglob("*") if path.is_file())
    assert "knowledge base" not in left
    assert "More\\nof it" not in left
    assert "(gone)" in cli("show", FORK).out
    assert cli("delete", "-y", FORK).err == ""
    assert cli("list").err == "No traces in .escapement\n"


def test_delete_refuses(cli: Cli, written: Path) -> None:
    before = sorted(path.name for path in (written / "journal").iterdir())
    assert cli("delete", FIRST, "tr_0", "--yes") == snapshot(
        Outcome(
            code=5,
            out="",
            err="escapement: 'tr_0' could be any of 3 traces: tr_00000000000a, tr_00000000000b, tr_00000000000c\n",
        )
    )
    assert cli("delete", FIRST, "tr_f", "--yes") == snapshot(
        Outcome(
            code=5, out="", err="escapement: no trace 'tr_f' in .escapement; it holds 3: `escapement list` shows them\n"
        )
    )
    assert cli("delete").code == 2
    running = Writing(written, "tr_00000000000d", "live", nanoseconds(2026, 11, 23, 10))
    for options in (("--yes",), ("--dry-run",), ()):
        assert cli("delete", FIRST, "tr_00000000000d", *options) == Outcome(
            1, "", "escapement: tr_00000000000d: still being recorded. Stop the program first, then delete.\n"
        )
    running.end()
    assert sorted(path.name for path in (written / "journal").iterdir())[:3] == before


def test_delete_without_a_terminal_needs_yes(written: Path) -> None:
    command = [sys.executable, "-m", "escapement", "delete", SECOND]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (
        2,
        "escapement: nobody is there to ask: --yes deletes without. Nothing was deleted.\n",
    )
    assert len(SpanStore(written).trace_ids()) == 3


@pytest.mark.parametrize(
    ("keys", "code", "told", "left"),
    [
        ("n\n", 1, "Nothing was deleted.", 3),
        ("\n", 1, "Nothing was deleted.", 3),
        ("\x03", 130, "Nothing was deleted.", 3),
        ("y\n", 0, "Deleted 1 trace.", 2),
    ],
)
def test_delete_asks(written: Path, keys: str, code: int, told: str, left: int) -> None:
    terminal = Terminal("delete", SECOND)
    before = shown(terminal.wait_for("Delete this trace? [y/N]: "))
    assert before == snapshot("""\
ID               NAME                                 STEPS  CREATED
tr_00000000000b  nightly evaluation of the whole kn…      1  2026-11-23 03:00:00\
""")
    terminal.type(keys)
    done, rest = terminal.end()
    assert (done, rest.strip().splitlines()[-1]) == (code, told)
    assert len(SpanStore(written).trace_ids()) == left


# -- upkeep ----------------------------------------------------------------------------------------------------------


def test_compact_and_vacuum(cli: Cli, written: Path) -> None:
    assert cli("store", "compact") == Outcome(0, "Sealed 3 journals: 9 rows.\n", "")
    assert cli("store", "compact") == Outcome(0, "Nothing to seal, and nothing to merge.\n", "")
    Writing(written, "tr_00000000000d", "later", nanoseconds(2026, 11, 23, 10)).end()
    assert cli("store", "compact") == snapshot(
        Outcome(
            code=0,
            out="""\
Sealed 1 journal: 1 row.
Merged 2 files of spans into 1.
`escapement store vacuum` removes the old ones.
""",
            err="",
        )
    )
    assert re.fullmatch(r"Removed \d+ files, [\d.]+ KB.\n", cli("store", "vacuum").out)
    assert cli("store", "vacuum") == Outcome(0, "Removed 0 files, 0 B.\n", "")
    assert len(cli("list", "-q").out.split()) == 4


def test_what_commands_make_is_private(cli: Cli, written: Path) -> None:
    cli("store", "compact")
    cli("sql", "COPY (FROM traces) TO 'out.csv'")
    assert Path("out.csv").stat().st_mode & 0o777 == 0o600
    made = [path for path in written.rglob("*") if path.name != "prices.toml"]
    assert {path.stat().st_mode & 0o777 for path in made if path.is_dir()} == {0o700}
    assert {path.stat().st_mode & 0o777 for path in made if path.is_file()} == {0o600}


def test_a_journal_that_cannot_be_sealed_is_named(cli: Cli, written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str, rows: Sequence[Any]) -> Any:
        if any(row["trace_id"] == SECOND for row in rows):
            raise ValueError("no such column")
        return arrow(name, rows)

    arrow = tables.arrow
    monkeypatch.setattr(tables, "arrow", refuse)
    done = cli("store", "compact")
    assert (done.code, done.out) == (1, "Sealed 2 journals: 7 rows.\n")
    assert re.fullmatch(rf"escapement: .*/{SECOND}-.*\.jsonl stays as it is: ValueError: no such column\n", done.err)


def test_check(cli: Cli, written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    cli("store", "compact")
    sound = cli("store", "check")
    assert (sound.code, sound.err) == (0, "")
    assert shown(sound.out) == snapshot("""\
Verified 3 traces with 5 requests; 6 spans and 10 parts of payload in the
tables.
No problems.\
""")
    monkeypatch.setenv("COLUMNS", "400")
    file = next(written.glob("parts/date=2026-11-22/*.parquet"))
    data = bytearray(file.read_bytes())
    data[60:70] = b"?" * 10
    file.write_bytes(data)
    broken = cli("store", "check")
    assert broken.code == 1
    text = shown(broken.out).replace(str(written), ".escapement")
    assert re.sub(r"part-[-\w]+", "part-0", text) == snapshot("""\
Verified 3 traces with 5 requests; 6 spans and 4 parts of payload in the tables.
ZSTD decompression failed: Unknown frame descriptor
  where   .escapement/parts/date=2026-11-22/part-0.zstd.parquet
  remedy  repair moves it to damaged/ and writes back what can be read of it
6 of its records or answers are damaged, gone or there twice; the requests of 3 steps cannot be rebuilt (step 1)
  where   tr_00000000000a
  traces  tr_00000000000a
  remedy  the rest of it can be read and replayed; it cannot be brought back: `escapement delete tr_00000000000a` removes it
2 problems.\
""")
    document = json.loads(cli("store", "check", "--json").out)
    assert document["problems"]
    for problem in document["problems"]:
        assert problem.keys() == {"what", "where", "trace_ids", "remedy", "repaired"}
        assert problem["trace_ids"] in ([FIRST], [])
        assert problem["what"].splitlines()[0][:60] in broken.out.replace("\n", " ")
    assert any(line["repaired"] for line in json.loads(cli("store", "check", "--repair", "--json").out)["problems"])
    assert cli("show", SECOND, "--content").code == 0


def test_check_of_a_store_whose_marker_is_damaged(cli: Cli, written: Path) -> None:
    (written / "store.json").write_text("?")
    assert cli("list").code == 1
    assert "store.json" in cli("store", "check").out
    assert cli("store", "check", "--repair").code == 0
    assert cli("list").code == 0


def test_a_damaged_file_is_told_in_a_sentence(cli: Cli, written: Path) -> None:
    cli("store", "compact")
    file = next(written.glob("spans/date=2026-11-22/*.parquet"))
    file.write_bytes(file.read_bytes()[:100])
    done = cli("list", "-q")
    assert done.code == 0
    assert done.err.startswith("Escapement: ")
    assert "warnings.warn" not in done.err
    assert "EscapementWarning" not in done.err


@pytest.mark.parametrize(("command", "title"), [(("compact",), "Compacting"), (("check",), "Checking")])
def test_progress_is_for_a_terminal(cli: Cli, written: Path, command: tuple[str, ...], title: str) -> None:
    assert title in Terminal("store", *command, term="xterm").end()[1]
    assert cli("store", *command).err == ""


# -- info ------------------------------------------------------------------------------------------------------------


def test_info_of_a_store_does_not_load_its_traces(cli: Cli, written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SpanStore, "load", None)
    cli("store", "compact")
    running = Writing(written, "tr_00000000000d", "live", nanoseconds(2026, 11, 23, 10))
    Writing(written, "tr_00000000000e", "later", nanoseconds(2026, 11, 23, 11)).end()
    with sealing.upkeep(layout.open_existing(written)):
        sealing.sweep(layout.open_existing(written), grace=0)
    monkeypatch.setenv("ESCAPEMENT_RETENTION_AGE", "36h")
    monkeypatch.setenv("ESCAPEMENT_RETENTION_SIZE", "2gb")
    kept = json.loads(cli("info", "--json").out)["store"]
    assert kept == {
        "path": str(written),
        "exists": True,
        "format": layout.FORMAT,
        "bytes": sum(path.stat().st_size for path in written.rglob("*") if path.is_file()),
        "traces": 5,
        "by_status": {"completed": 3, "failed": 1, "running": 1},
        "incomplete": 0,
        "journals": {"running": 1, "waiting": 1},
        "tables": {
            name: {"files": len(found), "bytes": sum(path.stat().st_size for path in found)}
            for name in ("spans", "parts")
            if (found := list(written.glob(f"{name}/date=*/*.parquet")))
        },
        "damaged_files": 0,
    }
    text = re.sub(r"[\d.]+ KB", "9.9 KB", shown(cli("info").out).replace(str(written), ".escapement"))
    assert text[text.index("Span store") :] == snapshot("""\
Span store
.escapement
5 traces (3 completed, 1 failed, 1 running), 9.9 KB on disk, format 2
tables: 2 files of spans (9.9 KB), 2 files of parts (9.9 KB)
journals: 1 to be sealed, 1 being written
healthy\
""")
    assert re.search(r"retention_age +1\.5d +ESCAPEMENT_RETENTION_AGE", text)
    assert re.search(r"retention_size +2\.0 GB +ESCAPEMENT_RETENTION_SIZE", text)
    running.end()


def test_info_tells_what_is_damaged(cli: Cli, written: Path) -> None:
    journal = next((written / "journal").glob(f"{SECOND}-*"))
    journal.write_bytes(journal.read_bytes().replace(b'{"record":"span"', b'{"record:"span"'))
    assert "1 incomplete: `escapement show` says what is missing" in cli("info").out
    cli("store", "compact")
    assert re.search(r"1 incomplete.*\n1 damaged file kept in .*/damaged$", cli("info").out.strip())


# -- stores of all kinds ---------------------------------------------------------------------------------------------

READING = (
    ("list",),
    ("stats",),
    ("sql", "SELECT count(*) AS n FROM traces"),
    ("info",),
    ("store", "check"),
)


@pytest.mark.parametrize("made", [False, True])
def test_an_empty_store(cli: Cli, store: Path, made: bool) -> None:
    if made:
        layout.create(store)
    assert cli("list") == Outcome(0, "", "No traces in .escapement\n")
    assert cli("stats") == Outcome(0, "", "No calls in .escapement\n")
    assert cli("stats", "--json") == Outcome(0, "", "")
    assert cli("sql", "SELECT count(*) AS n FROM messages") == Outcome(0, "n\n0\n", "")
    assert cli("sql", "FROM traces") == Outcome(0, "", "No rows.\n")
    assert cli("store", "check") == snapshot(
        Outcome(
            code=0,
            out="""\
Verified 0 traces with 0 requests; 0 spans and 0 parts of payload in the tables.
No problems.
""",
            err="",
        )
    )
    assert cli("info").code == 0
    for command in (("show", "-f"), ("stats", "@last"), ("delete", "@last", "--yes")):
        done = cli(*command)
        assert (done.code, done.out) == (5, "")
        assert "nothing has been recorded there yet" in done.err
    for name in ("compact", "vacuum"):
        done = cli("store", name)
        if made:
            assert done.code == 0
        else:
            assert done == Outcome(
                1, "", "escapement: there is no span store at .escapement: the first recording makes it\n"
            )
            assert not store.exists()


@pytest.mark.parametrize("sealed", [False, True])
def test_a_store_that_cannot_be_written(cli: Cli, written: Path, sealed: bool) -> None:
    if sealed:
        cli("store", "compact")
        hour_ago = time.time() - 3600  # what is left over is told from some seconds on, and the two answers must agree
        for path in written.rglob("*"):
            os.utime(path, (hour_ago, hour_ago))
    here = [sys.executable, "-m", "escapement"]
    if os.getuid() == 0:  # permissions do not bind root
        mount = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$@"'
        here = ["unshare", "-m", "sh", "-c", mount, str(written), *here]
    else:
        for path in (written, *written.rglob("*")):
            path.chmod(0o500 if path.is_dir() else 0o400)

    def run(*command: str) -> Outcome:
        done = subprocess.run([*here, *command], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        return Outcome(done.returncode, done.stdout, done.stderr)

    for command in READING:
        assert run(*command) == cli(*command)
    assert run("show", FIRST).code == 0
    for command in (
        ("delete", SECOND, "--yes"),
        ("store", "compact"),
        ("store", "vacuum"),
        ("store", "check", "--repair"),
    ):
        done = run(*command)
        assert done.code == 1
        assert re.fullmatch(r"escapement: the span store at .* cannot be changed: .*\n", done.err)
    assert run("delete", SECOND, "--dry-run").code == 0
    if os.getuid() != 0:
        for path in (written, *written.rglob("*")):
            path.chmod(0o700 if path.is_dir() else 0o600)
    assert len(cli("list", "-q").out.split()) == 3


@pytest.mark.parametrize("columns", ["80", "140"])
def test_lines_fit(cli: Cli, written: Path, columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    cli("store", "compact")
    commands = (
        *READING,
        ("sql", "FROM traces"),
        ("sql", "FROM llm_calls"),
        ("sql", "SELECT trace_id, role, content FROM messages"),
        ("delete", SECOND, FIRST, FORK, "--dry-run"),
        ("show", FORK, "--follow", "--content"),
    )
    for command in commands:
        for line in cli(*command).out.splitlines():
            assert cell_len(line) <= int(columns), line


def test_text_from_a_trace_cannot_drive_the_terminal(cli: Cli, client: openai.OpenAI) -> None:
    with escapement.init("evil \x1b[2J[bold]name[/bold]") as trace:
        ask(client, "look \x1b[31mred\x07 [red]markup[/red]", model="echo")
    for command in (
        ("sql", "SELECT name FROM traces"),
        ("sql", "SELECT content FROM messages"),
        ("sql", 'SELECT 1 AS "\x1b[2J"'),
        ("delete", trace.trace_id, "--dry-run"),
        ("show", "-f", "-c"),
    ):
        shown = cli(*command).out
        assert "\x1b" not in shown
        assert "\x07" not in shown
    assert "[bold]name[/bold]" in cli("sql", "SELECT name FROM traces").out
    assert "[red]markup[/red]" in cli("sql", "SELECT content FROM messages").out
