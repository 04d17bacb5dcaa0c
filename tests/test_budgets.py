"""Budgets: calls, tokens, dollars and time, of a run and of several processes together."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import openai
import pytest

import escapement
from escapement.engine.guards import Verdict, review
from escapement.engine.guards.budgets import SharedUse
from escapement.store.prices import Prices
from escapement.store.traces import SpanStore
from escapement.words.config import resolve
from tests import agents
from tests.conftest import ask
from tests.program import arguments, run_program
from tests.provider import Provider
from tests.test_guards import heard, noted

# What `agents.in_memory` says that each call uses: 100 tokens and 10, which gpt-4o does for this much.
CALL = 110
DOLLARS = 100 * 2.5e-6 + 10 * 10e-6


def chat(calls: int) -> None:
    with agents.in_memory() as client:
        agents.pages(agents.by_http(client), calls)


@pytest.mark.parametrize(
    ("settings", "calls", "warned", "said"),
    [
        ({"max_calls": 10}, 10, 8, "the run may make 10 calls (max_calls), and this is call 11 (step 11)"),
        ({"max_tokens": 10 * CALL}, 10, 9, "the run may use 1,100 tokens (max_tokens), and has used 1,100 (step 11)"),
        ({"max_cost": 10 * DOLLARS}, 10, 9, "the run may cost $0.0035 (max_cost), and has cost $0.0035 (step 11)"),
    ],
)
def test_a_budget_warns_at_four_fifths_and_stops_when_asked(
    settings: dict[str, Any], calls: int, warned: int, said: str, store: Path
) -> None:
    verdicts: list[tuple[int, Verdict]] = []
    with escapement.init(on_guard=noted(verdicts), **settings) as trace:
        chat(calls + 2)
    (rule,) = {verdict.rule for _, verdict in verdicts}
    assert [(step, verdict.level) for step, verdict in verdicts] == [(warned, "warn"), (calls + 1, "stop")]
    assert (trace.status, trace.steps) == ("completed", calls + 2)

    messages = heard(lambda: _recorded(**settings))
    assert [message.partition(", and")[0] for message in messages] == [f"Escapement: {said.partition(', and')[0]}"] * 2
    assert messages[1].startswith(f"Escapement: {said}. The run took {calls} calls, 1100 tokens ($0.0035) so far. ")

    with (
        pytest.raises(escapement.BudgetExceededError) as raised,
        escapement.init(on_guard={rule: "kill"}, **settings) as killed,
    ):
        agents.restart()
        chat(calls + 2)
    assert str(raised.value).startswith(f"{said}, so the run was stopped and nothing more is sent. ")
    assert (raised.value.trace_id, killed.steps, killed.status) == (killed.trace_id, calls, "killed")
    # Its replay is killed at the same step by what its calls used when they were recorded; so says the trace.
    with (
        pytest.raises(escapement.BudgetExceededError) as again,
        escapement.replay(killed.trace_id, strict_replay=True, on_guard={rule: "kill"}, **settings) as replayed,
    ):
        agents.restart()
        chat(calls + 2)
    assert (str(again.value), replayed.steps) == (str(raised.value), calls)
    found = review(SpanStore(store).load(trace.trace_id), resolve(None, settings), Prices())
    assert [(verdict.rule, verdict.level, verdict.steps) for verdict, _ in found] == [
        (rule, "warn", (warned,)),
        (rule, "stop", (calls + 1,)),
    ]


def _recorded(**settings: Any) -> None:
    with escapement.init(**settings):
        chat(12)


def test_time_is_that_of_the_recording(client: openai.OpenAI, provider: Provider) -> None:
    def program(pause: float) -> None:
        for number in range(5):
            ask(client, f"number {number}")
            time.sleep(pause)

    settings: dict[str, Any] = {"max_duration": "1s", "on_guard": {"duration": "kill"}}

    def live() -> None:
        with pytest.raises(escapement.BudgetExceededError) as raised, escapement.init(**settings) as trace:
            program(0.35)
        killed.append((trace, raised.value))

    killed: list[tuple[escapement.Trace, escapement.BudgetExceededError]] = []
    heard(live)
    trace, error = killed[0]
    assert str(error).startswith("the run may take 1 s (max_duration), and has taken 1.")
    before = provider.count
    with (
        pytest.raises(escapement.BudgetExceededError) as again,
        escapement.replay(trace.trace_id, strict_replay=True, **settings) as replayed,
    ):
        program(0)
    assert again.value.trace_id == trace.trace_id
    assert (replayed.steps, provider.count) == (trace.steps, before)


def test_a_price_that_is_not_known_is_said_once(client: openai.OpenAI) -> None:
    def program() -> None:
        with escapement.init(max_cost=0.01, on_guard="kill"):
            for number in range(3):
                ask(client, f"number {number}", model="echo")

    assert heard(program) == [
        "Escapement: max_cost cannot count calls to echo: their price is not known. "
        "Give it in prices_file, or set max_tokens"
    ]


def test_a_fork_counts_what_its_replayed_part_used() -> None:
    agents.restart()
    with escapement.init() as trace:
        chat(4)
    agents.restart()
    with (
        pytest.raises(escapement.BudgetExceededError),
        escapement.replay(trace.trace_id, max_calls=6, on_guard="kill") as fork,
    ):
        chat(10)
    assert (fork.hits, fork.steps, fork.status) == (4, 6, "killed")


# -- several processes -----------------------------------------------------------------------------------------------

_TRY = """
made = refused = 0
with escapement.init():
    for number in range(8):
        try:
            ask(f"number {number} of {os.getpid()}")
            made += 1
        except escapement.BudgetExceededError:
            refused += 1
print(made, refused)
"""


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A file of a budget that processes share by their environment."""
    file = tmp_path / "budget"
    monkeypatch.setenv("ESCAPEMENT_BUDGET_FILE", str(file))
    monkeypatch.setenv("ESCAPEMENT_ON_GUARD", "kill")
    monkeypatch.setenv("ESCAPEMENT_MAX_CALLS", "12")
    return file


def test_processes_share_a_budget(provider: Provider, shared: Path) -> None:
    first = run_program(_TRY, provider)
    second = run_program(_TRY, provider)
    third = run_program(_TRY, provider)
    assert [done.stdout for done in (first, second, third)] == ["8 0\n", "4 4\n", "0 8\n"], third.stderr
    assert "all processes of the run together may make 12 calls (max_calls)" in second.stderr
    assert provider.count == 12


def test_processes_at_the_same_time(provider: Provider, shared: Path) -> None:
    running = [
        subprocess.Popen(arguments(_TRY, provider), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        for _ in range(3)
    ]
    made = sum(int(process.communicate(timeout=60)[0].split()[0]) for process in running)
    # Each looks before it sends: those that look at the same time may each send one more.
    assert 12 <= made <= 14
    assert provider.count == made


def test_forked_children_and_killed_processes_count(provider: Provider, shared: Path) -> None:
    forking = """
    with escapement.init():
        ask("parent")
        children = []
        for number in range(3):
            child = os.fork()
            if child == 0:
                ask(f"child {number} a"), ask(f"child {number} b")
                os._exit(0)
            children.append(child)
        for child in children:
            assert os.waitpid(child, 0)[1] == 0
        ask("parent again")
        os.kill(os.getpid(), 9)
    """
    assert run_program(forking, provider).returncode == -signal.SIGKILL
    assert provider.count == 8
    assert run_program(_TRY, provider).stdout == "4 4\n"
    use = SharedUse(shared, time.time_ns())
    assert use.read()["calls"] == 12
    use.close()


def test_processes_of_one_run_share_its_budget(provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a file of their own: those that take part in a run have one."""
    monkeypatch.setenv("ESCAPEMENT_ON_GUARD", "budgets=kill")
    monkeypatch.setenv("ESCAPEMENT_MAX_CALLS", "7")
    program = """
    import subprocess
    inner = sys.argv[2] if len(sys.argv) > 2 else ""
    made = 0
    for number in range(5):
        try:
            ask(f"{inner} {number}")
            made += 1
        except escapement.BudgetExceededError:
            pass
    if not inner:
        for name in ("a", "b"):
            print(subprocess.run([*sys.orig_argv, name], capture_output=True, text=True).stdout.strip())
    print(made)
    """
    command = ["-m", "escapement", "run", "--", *arguments(program, provider)]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.split() == ["2", "0", "5"], done.stderr
    assert provider.count == 7
    # So does its replay, by what is served.
    command[2:3] = ["replay", "@last", "--strict"]
    again = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=120, check=False)
    assert (again.stdout, provider.count) == (done.stdout, 7), again.stderr


def test_a_child_of_a_run_that_recorded_already_counts_what_it_used(provider: Provider) -> None:
    program = """
    with escapement.init(max_calls=4, on_guard="kill"):
        ask("a"), ask("b"), ask("c")
        child = os.fork()
        if child == 0:
            ask("d")
            try:
                ask("e")
            except escapement.BudgetExceededError:
                os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        try:
            ask("f")
        except escapement.BudgetExceededError as error:
            print(error)
    """
    done = run_program(program, provider)
    assert done.stdout.startswith(
        "all processes of the run together may make 4 calls (max_calls), and this is call 5"
    ), done
    assert provider.count == 4


def test_a_replay_spends_nothing(client: openai.OpenAI, shared: Path) -> None:
    with escapement.init() as trace:
        ask(client)
    size = shared.stat().st_size
    with escapement.replay(trace.trace_id, strict_replay=True):
        ask(client)
    assert shared.stat().st_size == size


def test_a_file_that_cannot_be_used_is_said_once(client: openai.OpenAI, tmp_path: Path) -> None:
    def program() -> None:
        with escapement.init(max_calls=2, on_guard="kill", budget_file=tmp_path / "no" / "folder") as trace:
            ask(client, "a"), ask(client, "b")
            with pytest.raises(escapement.BudgetExceededError):
                ask(client, "c")
        assert trace.status == "killed"

    (about, *rest) = heard(program)
    assert about.startswith(f"Escapement: {tmp_path}/no/folder cannot be used: only this process is counted (")
    assert [message for message in rest if "folder" in message] == []


def test_half_a_record_and_strange_bytes_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "budget"
    use = SharedUse(path, time.time_ns())
    use.add(calls=2, tokens=30, cost=0.5)
    with path.open("ab") as file:
        file.write(b"?" * 33 + path.read_bytes()[:20])  # strange bytes, and a record that was cut off
    use.add(calls=1)
    other = SharedUse(path, time.time_ns())
    for reader in (use, other):
        found = reader.read()
        assert {name: found[name] for name in ("calls", "tokens", "cost")} == {"calls": 3, "tokens": 30, "cost": 0.5}
    other.close()
    assert os.stat(path).st_mode & 0o777 == 0o600
    use.close()
