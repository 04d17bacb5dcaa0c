"""The command line: whole outputs, exit codes, and that an error is one message and never a traceback."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import anthropic
import openai
import pytest
from rich.cells import cell_len
from typer.testing import CliRunner

import escapement
from escapement.cli import application, main
from escapement.store.layout import FORMAT
from tests.conftest import ask
from tests.provider import Provider


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


Cli = Callable[..., Outcome]


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Cli]:
    """Run a command in this process; what a shell would see of it."""
    umask = os.umask(0o022)

    def run(*arguments: str) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["escapement", *arguments])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capfd.readouterr()
        assert "Traceback" not in captured.err
        return Outcome(int(ended.value.code or 0), captured.out, captured.err)

    yield run
    os.umask(umask)


def masked(text: str, *ids: str) -> str:
    """Output with what differs between runs replaced by words of the same width."""
    for number, trace_id in enumerate(ids, 1):
        text = text.replace(trace_id, f"tr_{number:012d}")
    text = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "2026-11-23 12:00:00", text)
    return "\n".join(line.rstrip() for line in text.splitlines())


def fixed(text: str) -> str:
    """Numbers that are random here: times, tokens, dollars."""
    text = re.sub(r"\d+(\.\d+)? (µs|ms|s)\b", "<time>", text)
    text = re.sub(r"\$\d+\.\d+|–", "<cost>", text)
    text = re.sub(r"[\d.]+[kM]? → [\d.]+[kM]?", "<tokens>", text)
    return re.sub(r" {2,}", "  ", text)


@pytest.fixture
def traces(client: openai.OpenAI, claude: anthropic.Anthropic, provider: Provider) -> list[str]:
    """An agent's run with a tool call, a stream, an error and two branches; a failed run; a fork."""
    import asyncio

    async def branches() -> None:
        async with openai.AsyncOpenAI(api_key="k", base_url=f"{provider.base_url}/v1") as asynchronous:

            async def research(topic: str) -> None:
                await asynchronous.chat.completions.create(model="echo", messages=[{"role": "user", "content": topic}])

            await asyncio.gather(research("bees"), research("ants"))

    with escapement.init("support-agent", tags=["production", "eu"]) as first:
        ask(client, "What is the weather?", model="echo")
        list(
            client.chat.completions.create(
                model="echo", messages=[{"role": "user", "content": "Tell me more"}], stream=True
            )
        )
        claude.messages.create(
            model="echo", max_tokens=9, system="Be brief.", messages=[{"role": "user", "content": "Hi"}]
        )
        with pytest.raises(openai.BadRequestError):
            ask(client, model="error-400")
        asyncio.run(branches())
    with pytest.raises(RuntimeError), escapement.init("broken") as second:
        raise RuntimeError("no such tool")
    with escapement.replay(first.trace_id) as third:
        ask(client, "What is the weather?", model="echo")
        escapement.fork()
        ask(client, "And now?", model="echo")
    return [first.trace_id, second.trace_id, third.trace_id]


def test_list(cli: Cli, traces: list[str]) -> None:
    done = cli("list")
    assert (done.code, done.err) == (0, "")
    assert re.sub(r"  [\d.]+k?  (<cost>)", r"  <tokens>  \1", fixed(masked(done.out, *traces))) == (
        """\
ID  NAME  STATUS  STEPS  TOKENS  COST  CREATED
tr_000000000003  support-agent  completed ← tr_000000000001 step 2  2  <tokens>  <cost>  2026-11-23 12:00:00
tr_000000000002  broken  failed  0  <tokens>  <cost>  2026-11-23 12:00:00
tr_000000000001  support-agent  completed  6  <tokens>  <cost>  2026-11-23 12:00:00"""
    )


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ((), [3, 2, 1]),
        (("-n", "2"), [3, 2]),
        (("--name", "SUPPORT"), [3, 1]),
        (("--tag", "eu", "--tag", "production"), [3, 1]),
        (("--tag", "us"), []),
        (("--status", "failed"), [2]),
        (("--model", "ech"), [3, 1]),
        (("--since", "1h"), [3, 2, 1]),
        (("--since", "2100-01-01"), []),
        (("--until", "2100-01-01"), [3, 2, 1]),
        (("--until", "1h"), []),
    ],
)
def test_list_filters(cli: Cli, traces: list[str], options: tuple[str, ...], found: list[int]) -> None:
    done = cli("list", "-q", *options)
    assert (done.code, done.out.split()) == (0, [traces[number - 1] for number in found])
    lines = [json.loads(line) for line in cli("list", "--json", *options).out.splitlines()]
    assert [line["id"] for line in lines] == done.out.split()


def test_list_as_json(cli: Cli, traces: list[str]) -> None:
    line = json.loads(cli("list", "--json", "-n", "1").out)
    assert {
        key: line[key] for key in line if key not in ("created", "duration_s", "input_tokens", "output_tokens")
    } == {
        "id": traces[2],
        "name": "support-agent",
        "status": "completed",
        "complete": True,
        "mode": "fork",
        "parent": traces[0],
        "forked_at": 2,
        "tags": ["production", "eu"],
        "metadata": {},
        "steps": 2,
        "cost_usd": None,
        "models": ["echo"],
        "error": None,
        "steps_lost": 0,
        "lines_damaged": 0,
        "imported": None,
    }


@pytest.mark.parametrize("options", [("--status", "fine"), ("--since", "yesterday"), ("--until", "9999999d9")])
def test_list_with_a_wrong_filter(cli: Cli, options: tuple[str, str]) -> None:
    done = cli("list", *options)
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith(f"escapement: {options[0]} takes ")


def test_show(cli: Cli, traces: list[str]) -> None:
    done = cli("show", traces[0][:10])
    assert done.code == 0
    assert fixed(masked(done.out, *traces)) == (
        """\
tr_000000000001  support-agent  completed
6 steps · <tokens> tokens · cost unknown · <time> · 2026-11-23 12:00:00
tags: production, eu
1  chat echo  <time>  <tokens>  <cost>
2  chat echo  <time>  stream
3  chat echo  <time>  <tokens>  <cost>
4  chat error-400  <time>  HTTP 400
branches[0]
├── research[0]
│  └── 5  chat echo  <time>  <tokens>  <cost>
└── research[1]
  └── 6  chat echo  <time>  <tokens>  <cost>"""
    )


def test_show_with_content(cli: Cli, traces: list[str]) -> None:
    shown = cli("show", traces[0], "--content").out
    for line in (
        "user: What is the weather?",
        "assistant: What is the weather?",
        "system: Be brief.",
        "user: bees",
        "assistant: ants",
    ):
        assert line in shown
    assert "error" in shown.split("4  chat error-400")[1].split("branches[0]")[0]
    fork = cli("show", "@last", "-c").out
    assert f"forked from {traces[0]}" in fork
    assert f"from {traces[0]} step 1" in fork
    assert "user: And now?" in fork


def test_show_as_json(cli: Cli, traces: list[str]) -> None:
    document = json.loads(cli("show", traces[0], "--json", "--content").out)
    assert document["trace"]["id"] == traces[0]
    assert [(step["step"], step["lane"], step["status"], step["stream"]) for step in document["steps"]] == [
        (1, "main", 200, False),
        (2, "main", 200, True),
        (3, "main", 200, False),
        (4, "main", 400, False),
        (5, "main/branches[0]/research[0]", 200, False),
        (6, "main/branches[0]/research[1]", 200, False),
    ]
    assert document["steps"][0]["asked"] == [{"role": "user", "text": "What is the weather?"}]
    assert document["steps"][0]["said"] == [{"role": "assistant", "text": "What is the weather?"}]


def test_show_of_a_failed_trace_names_the_error(cli: Cli, traces: list[str]) -> None:
    shown = cli("show", traces[1]).out
    assert "failed" in shown
    assert "RuntimeError: no such tool" in shown
    assert "no steps were recorded" in shown


@pytest.mark.parametrize("columns", ["80", "140"])
def test_lines_fit(cli: Cli, traces: list[str], columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    for arguments in (("list",), ("show", traces[0]), ("show", traces[0], "--content"), ("stats",), ("info",)):
        for line in cli(*arguments).out.splitlines():
            assert cell_len(line) <= int(columns), line


def test_text_from_a_trace_cannot_drive_the_terminal(cli: Cli, client: openai.OpenAI) -> None:
    with escapement.init("evil \x1b[2J[bold]name[/bold]", tags=["\x1b]0;x\x07"]):
        ask(client, "look \x1b[31mred\x07 [red]markup[/red]", model="echo")
    for arguments in (("list",), ("show", "--content")):
        shown = cli(*arguments).out
        assert "\x1b" not in shown
        assert "\x07" not in shown
    assert "[bold]name[/bold]" in cli("list").out
    assert "look \\x1b[31mred\\x07 [red]markup[/red]" in cli("show", "--content").out


def test_info(cli: Cli, traces: list[str], store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESCAPEMENT_MAX_IDENTICAL_CALLS", "7")
    document = json.loads(cli("info", "--json").out)
    assert document["settings"]["max_identical_calls"] == {
        "value": 7,
        "from": "ESCAPEMENT_MAX_IDENTICAL_CALLS",
        "variable": "ESCAPEMENT_MAX_IDENTICAL_CALLS",
    }
    kept = document["store"]
    assert (kept["path"], kept["exists"], kept["traces"], kept["incomplete"]) == (str(store), True, 3, 0)
    assert kept["by_status"] == {"completed": 2, "failed": 1}
    shown = cli("info").out
    assert f"Escapement {document['version']}" in shown
    assert re.search(r"max_identical_calls +7 +ESCAPEMENT_MAX_IDENTICAL_CALLS", shown)
    assert "3 traces (2 completed, 1 failed)" in shown
    assert "healthy" in shown


def test_an_empty_store(cli: Cli) -> None:
    assert cli("list") == Outcome(0, "", "No traces in .escapement\n")
    assert cli("list", "--json") == Outcome(0, "", "")
    done = cli("show")
    assert (done.code, done.out) == (5, "")
    assert done.err.startswith("escapement: no trace '@last' in .escapement; nothing has been recorded there yet")
    assert "not there yet" in cli("info").out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("show", "tr_ffffffffffff"), 5, "no trace 'tr_ffffffffffff'"),
        (("show", "../secrets"), 5, "is not a trace id"),
        (("show", "tr_"), 5, "could be any of 3 traces"),
        (("show", "@-9"), 5, "no trace '@-9'"),
        (("shwo",), 2, "shwo"),
        (("list", "-n", "0"), 2, "Usage: escapement list"),
        (("list", "-n", "many"), 2, "Usage: escapement list"),
    ],
)
def test_exit_codes(cli: Cli, traces: list[str], arguments: tuple[str, ...], code: int, message: str) -> None:
    done = cli(*arguments)
    assert (done.code, done.out) == (code, "")
    assert message in done.err


def test_a_store_that_cannot_be_read(cli: Cli, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store.mkdir()
    (store / "store.json").write_text(f'{{"format": {FORMAT + 1}}}')
    for command in (("list",), ("show",), ("info",)):
        done = cli(*command)
        assert (done.code, done.out) == (1, "")
        assert f"has format {FORMAT + 1}" in done.err
    monkeypatch.setenv("ESCAPEMENT_MAX_IDENTICAL_CALLS", "lots")
    assert cli("list").err == (
        "escapement: max_identical_calls takes a whole number from 2 up, not 'lots' (set by ESCAPEMENT_MAX_IDENTICAL_CALLS)\n"
    )


def test_a_reader_that_goes_away(traces: list[str]) -> None:
    command = f"{sys.executable} -m escapement list --json | head -c 1 > /dev/null"
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True, check=False)
    assert done.stderr == ""


def test_the_program_is_installed(traces: list[str]) -> None:
    program = Path(sys.executable).with_name("escapement")
    done = subprocess.run([program, "list", "-q"], capture_output=True, text=True, check=True)
    assert done.stdout.split() == traces[::-1]
    assert (
        "Record what an AI agent did"
        in subprocess.run([program, "-h"], capture_output=True, text=True, check=True).stdout
    )


def test_a_command_is_as_it_is_among_all() -> None:
    """Only the command that is asked for is imported; a name that there is not is looked for among all of them."""
    everything, alone = application(), application("stats")
    assert [command.name for command in alone.registered_commands] == ["stats"]
    assert len(everything.registered_commands) + len(everything.registered_groups) == 20
    runner = CliRunner(env={"COLUMNS": "100"})
    for arguments in (["stats", "--help"], ["stats", "--wrong"]):
        one, other = (runner.invoke(app, arguments, prog_name="escapement") for app in (alone, everything))
        assert (one.exit_code, one.output) == (other.exit_code, other.output)
        assert "escapement stats" in one.output
    loaded = "import sys; from escapement.cli import application; application('stats'); print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True).stdout.split()
    assert "escapement.cli.stats" in modules
    assert "escapement.cli.collect" not in modules
    wrong = subprocess.run([sys.executable, "-m", "escapement", "stat"], capture_output=True, text=True, check=False)
    assert wrong.returncode == 2
    assert "Did you mean 'stats'" in wrong.stderr


def test_ctrl_c_inside_of_an_exec(tmp_path: Path) -> None:
    """Python itself would end by SIGINT then, whatever exit code is asked for."""
    program = """
from escapement.cli import info, main

def interrupted() -> None:
    exec("raise KeyboardInterrupt")

info.info = interrupted
main()
"""
    (tmp_path / "program.py").write_text(program)
    command = [sys.executable, "-m", "program", "info"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
