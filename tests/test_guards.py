"""Guards: what real incidents show is warned about and stopped where it should be, and nothing healthy is."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import openai
import pytest

import escapement
from escapement.engine.guards import Verdict, review
from escapement.store.prices import Prices
from escapement.store.traces import SpanStore
from escapement.words.config import resolve
from escapement.words.rules import BUDGETS, LOOPS, RULES
from tests import agents, test_cli
from tests.agents import Agent
from tests.conftest import ask
from tests.provider import Provider

cli = test_cli.cli


class Incident(NamedTuple):
    """An agent, the rule that stops it, in which step it is warned about (0: not before), and how many calls it makes."""

    agent: Agent
    rule: str
    warned: int
    calls: int
    said: str

    @property
    def name(self) -> str:
        return str(getattr(self.agent, "__name__", ""))


INCIDENTS = [
    Incident(
        agents.same_call, "repeated_tool", 4, 5,
        "the tool search was called 5 times with the same arguments and gave the same result (steps 2 to 6)",
    ),
    Incident(
        agents.same_error, "repeated_error", 3, 3,
        "the tool read_file was called 3 times with the same arguments and failed with the same error (steps 2, 3, 4)",
    ),
    Incident(agents.back_and_forth, "cycle", 5, 6, "the same 2 steps came round 3 times (steps 2 to 7)"),
    Incident(agents.retry_storm, "identical_requests", 0, 9, "the same request was made 10 times (steps 1 to 10)"),
    Incident(
        agents.monologue, "answers", 3, 3, "the model gave the same answer 3 times, with nothing new asked (steps 1, 2, 3)"
    ),
    Incident(agents.silence, "answers", 3, 3, "the model gave 3 empty answers in a row (steps 1, 2, 3)"),
    Incident(agents.ping_pong, "cycle", 6, 7, "the same 2 steps came round 3 times (steps 3 to 8)"),
    Incident(
        agents.broken_tool, "failing_tool", 6, 8, "the tool fetch failed in 8 of the last 8 turns that used it (steps 2 to 9)"
    ),
    Incident(
        agents.long_way_round, "growing_input", 0, 17,
        "10 requests in a row sent more than the one before, and nothing new (steps 9 to 18)",
    ),
    Incident(
        agents.only_the_time_differs, "similar_requests", 0, 9,
        "the same request, but for times and counters in it, was made 10 times (steps 1 to 10)",
    ),
    Incident(agents.polling, "repeated_tool", 4, 5, "the tool job_status was called 5 times with the same arguments"),
]  # fmt: skip

HEALTHY: list[Agent] = [
    agents.pages,
    agents.editing,
    agents.testing,
    agents.same_tests,
    agents.many_at_once,
    agents.one_by_one,
    agents.chatting,
]

incidents = pytest.mark.parametrize("incident", INCIDENTS, ids=lambda incident: incident.name)


@pytest.fixture(params=["plain", "streamed"])
def asking(request: pytest.FixtureRequest, client: openai.OpenAI) -> agents.Ask:
    return agents.by_sdk(client) if request.param == "plain" else agents.by_stream(client)


def heard(program: Callable[[], None]) -> list[str]:
    """The warnings of ours that a program causes."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", escapement.EscapementWarning)
        program()
    return [str(warning.message) for warning in caught if warning.category is escapement.EscapementWarning]


def noted(verdicts: list[tuple[int, Verdict]]) -> Callable[[Verdict], None]:
    """A function for `on_guard` that notes verdicts, each with the step that was asked for."""

    def note(verdict: Verdict) -> None:
        trace = escapement.current()
        assert trace is not None
        verdicts.append((trace.steps + 1, verdict))

    return note


# -- stopped, warned about, left alone -------------------------------------------------------------------------------


@incidents
def test_what_runs_away_is_stopped_at_its_limit(
    incident: Incident, asking: agents.Ask, provider: Provider, store: Path
) -> None:
    swallowed: list[BaseException] = []

    def stubborn(messages: list[Any], model: str) -> str:
        try:
            return asking(messages, model)
        except Exception as error:  # an agent that goes on whatever happens
            swallowed.append(error)
            return ""

    with escapement.init(incident.name, on_guard={incident.rule: "kill"}) as trace:
        incident.agent(stubborn, incident.calls + 5)
    refused = [error for error in swallowed if isinstance(error, escapement.LoopDetectedError)]
    assert (provider.count, trace.steps, trace.status) == (incident.calls, incident.calls, "killed")
    assert len(refused) == 5
    assert {error.trace_id for error in refused} == {trace.trace_id}
    assert {str(error) for error in refused} == {str(refused[0])}
    message = str(refused[0])
    assert message.startswith(incident.said)
    assert f"`escapement show {trace.trace_id} --content` shows what repeats." in message
    row = SpanStore(store).load(trace.trace_id)
    assert (row.status, len(row.steps), row.error) == ("killed", incident.calls, message)


@incidents
def test_by_default_it_is_warned_about(incident: Incident, client: openai.OpenAI, provider: Provider) -> None:
    calls = incident.calls + 1

    def program() -> None:
        with escapement.init(incident.name, on_guard="warn") as trace:
            incident.agent(agents.by_sdk(client), calls)
        assert (trace.status, trace.steps, provider.count) == ("completed", calls, calls)

    said = heard(program)
    assert any(incident.said in message for message in said)
    assert all("The run goes on." in message for message in said)


@incidents
def test_verdicts_come_at_their_steps_live_and_from_the_trace(
    incident: Incident, client: openai.OpenAI, store: Path
) -> None:
    verdicts: list[tuple[int, Verdict]] = []
    with escapement.init(incident.name, on_guard=noted(verdicts)) as trace:
        incident.agent(agents.by_sdk(client), incident.calls + 2)
    mine = [(step, verdict) for step, verdict in verdicts if verdict.rule == incident.rule]
    assert [step for step, verdict in mine if verdict.level == "warn"][:1] == (
        [incident.warned] if incident.warned else []
    )
    assert [step for step, verdict in mine if verdict.level == "stop"][:1] == [incident.calls + 1]
    # The same rules on the recorded trace say the same, in the same words.
    found = review(SpanStore(store).load(trace.trace_id), resolve(None, {"on_guard": "kill"}), Prices())
    expected = [(verdict, "kill" if verdict.level == "stop" else "warn") for _, verdict in verdicts]
    assert [(_plain(verdict), action) for verdict, action in found] == [
        (_plain(verdict), action) for verdict, action in expected
    ]


def _plain(verdict: Verdict) -> tuple[Any, ...]:
    """A verdict without numbers that are of one process."""
    return (verdict.rule, verdict.level, verdict.what, verdict.count, verdict.limit, verdict.steps, verdict.trace_id)


@incidents
def test_a_replay_of_a_killed_run_is_killed_at_the_same_step(
    incident: Incident, client: openai.OpenAI, provider: Provider
) -> None:
    asking = agents.by_sdk(client)
    settings: dict[str, Any] = {"on_guard": {incident.rule: "kill"}}

    def stubborn(messages: list[Any], model: str) -> str:
        try:
            return asking(messages, model)
        except openai.APIError:
            return ""

    def program() -> None:
        agents.restart()
        incident.agent(stubborn, incident.calls + 5)

    def stopped(run: Callable[[], escapement.Trace]) -> tuple[str, int, str]:
        with pytest.raises(escapement.LoopDetectedError) as raised, run() as trace:
            try:
                program()
            except escapement.LoopDetectedError as error:
                assert error.trace_id == trace.trace_id
                raise
        return str(raised.value), trace.steps, trace.trace_id

    def retried() -> None:
        """The storm swallows our error, too."""
        with escapement.init(incident.name, **settings) as live:
            program()
        with escapement.replay(live.trace_id, strict_replay=True, **settings) as again:
            program()
        assert (again.steps, again.hits, again.status) == (live.steps, live.steps, "killed")

    if incident.agent is agents.retry_storm:
        retried()
        return
    live = stopped(lambda: escapement.init(incident.name, **settings))
    before = provider.count
    assert stopped(lambda: escapement.replay(live[2], strict_replay=True, **settings)) == live
    assert provider.count == before


@pytest.mark.parametrize("agent", HEALTHY, ids=lambda agent: agent.__name__)
def test_a_long_healthy_run_is_left_alone(agent: Agent) -> None:
    verdicts: list[Verdict] = []
    with agents.in_memory() as client, escapement.init(on_guard=verdicts.append) as trace:
        agent(agents.by_http(client), 500)
    assert verdicts == []
    assert (trace.steps, trace.status) == (500, "completed")


def test_slow_polling_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tool that takes its time is waiting for something, and so is one that is said to poll."""
    now = [1_790_000_000_000_000_000]

    def sleep(seconds: float) -> None:
        now[0] += int(seconds * 1e9)

    monkeypatch.setattr("escapement.engine.guards.watch.time", SimpleNamespace(time_ns=lambda: now[0]))
    verdicts: list[Verdict] = []
    with agents.in_memory() as client:
        with escapement.init(on_guard=verdicts.append):
            agents.waiting(sleep)(agents.by_http(client), 50)
        with escapement.init(on_guard=verdicts.append, exempt_tools=["*_status"]):
            agents.polling(agents.by_http(client), 50)
        assert verdicts == []
        with escapement.init(on_guard=verdicts.append, exempt_tools=["other"]):
            agents.polling(agents.by_http(client), 4)
    assert [verdict.rule for verdict in verdicts] == ["repeated_tool"]


def test_branches_of_one_conversation_count_for_themselves() -> None:
    """Ten attempts from the same point, one after the other and side by side, each begin with the same tool."""
    from concurrent.futures import ThreadPoolExecutor

    verdicts: list[Verdict] = []
    history: list[Any] = [{"role": "user", "content": "Solve this. " * 300}, *agents.turn(("look", {}, "a room"))]

    def branch(number: int) -> None:
        with agents.in_memory() as client:
            asking = agents.by_http(client)
            messages = [*history, *agents.turn(("open", {"door": 1}, "It is locked."))]
            asking(messages, "gpt-4o")
            asking([*messages, *agents.turn(("try", {"key": number}, f"no {number}"))], "gpt-4o")

    with escapement.init(on_guard=verdicts.append):
        with agents.in_memory() as client:
            agents.by_http(client)(history, "gpt-4o")
        for number in range(10):
            branch(number)
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(branch, range(10, 20)))
    assert verdicts == []


# -- what is done ----------------------------------------------------------------------------------------------------


def test_a_function_decides() -> None:
    seen: list[Verdict] = []

    def decide(verdict: Verdict) -> str | None:
        seen.append(verdict)
        return "kill" if verdict.level == "stop" else None

    with (
        agents.in_memory() as client,
        pytest.raises(escapement.LoopDetectedError),
        escapement.init(on_guard={"loops": decide}) as trace,
    ):
        agents.same_call(agents.by_http(client), 20)
    assert [(verdict.rule, verdict.level, verdict.steps) for verdict in seen] == [
        ("repeated_tool", "warn", (2, 3, 4)),
        ("repeated_tool", "stop", (2, 3, 4, 5, 6)),
    ]
    assert (seen[1].calls, seen[1].tokens, seen[1].trace_id, trace.status) == (4, 440, trace.trace_id, "killed")


@pytest.mark.parametrize("wrong", ["raises", "calls", "answers"])
def test_a_function_that_fails_breaks_nothing_and_is_told_once(wrong: str) -> None:
    with agents.in_memory() as client:
        asking = agents.by_http(client)

        def decide(verdict: Verdict) -> Any:
            if wrong == "raises":
                raise RuntimeError("boom")
            return asking([{"role": "user", "content": "kill it?"}], "gpt-4o") if wrong == "calls" else "maybe"

        def program() -> None:
            with escapement.init(on_guard=decide) as trace:
                agents.same_call(asking, 12)
            assert (trace.steps, trace.status) == (12, "completed")

        said = heard(program)
    about = [message for message in said if "given as on_guard" in message]
    expected = {
        "raises": "Escapement: the function given as on_guard failed, so guards only warn: RuntimeError('boom')",
        "calls": "Escapement: the function given as on_guard failed, so guards only warn: ConfigError('the function given "
        "as on_guard made a model call in the very run that it decides about')",
        "answers": "Escapement: the function given as on_guard returned 'maybe', which is not 'warn', 'kill' or None",
    }
    assert about == [expected[wrong]]
    assert len(said) > 1


@pytest.mark.parametrize(
    ("settings", "status"),
    [
        ({}, "completed"),
        ({"on_guard": "kill"}, "killed"),
        ({"on_guard": "kill", "loop_detection_enabled": False}, "completed"),
        ({"on_guard": {"repeated_tool": "kill"}}, "killed"),
        ({"on_guard": {"loops": "kill", "repeated_tool": "warn", "growing_input": "off"}}, "completed"),
        ({"on_guard": {"budgets": "kill"}}, "completed"),
    ],
)
def test_what_is_done_can_be_set_by_rule(settings: dict[str, Any], status: str) -> None:
    def program() -> None:
        with agents.in_memory() as client, escapement.init(**settings) as trace:
            try:
                agents.same_call(agents.by_http(client), 9)
            except escapement.LoopDetectedError:
                assert status == "killed"
        assert trace.status == status

    heard(program)


def test_off_says_nothing(client: openai.OpenAI) -> None:
    def program() -> None:
        with escapement.init(on_guard="off"):
            for _ in range(12):
                ask(client)

    assert heard(program) == []


def test_environment_and_project_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[tool.escapement]\non_guard = {cycle = "kill", budgets = "kill"}\n')
    assert resolve().on_guard == {"cycle": "kill", "budgets": "kill"}
    monkeypatch.setenv("ESCAPEMENT_ON_GUARD", "warn, cycle=kill")
    assert resolve().on_guard == {"all": "warn", "cycle": "kill"}
    for wrong in ("stop", "nothing=kill", 7, {"cycle": None}):
        with pytest.raises(escapement.ConfigError, match=r"^on_guard takes 'warn', 'kill', 'off', a function"):
            resolve(None, {"on_guard": wrong})
    assert set(RULES) == set(LOOPS) | set(BUDGETS)


def test_a_replay_that_goes_live_knows_what_was_served(store: Path) -> None:
    """Served steps are looked at when they begin to matter, and not warned about a second time."""
    with agents.in_memory() as client:
        asking = agents.by_http(client)
        agents.restart()
        with escapement.init("short") as trace:
            agents.same_call(asking, 3)
        agents.restart()

        def program() -> None:
            with escapement.replay(trace.trace_id) as fork:
                agents.same_call(asking, 5)
            assert (fork.hits, fork.steps) == (3, 5)

        said = heard(program)
    assert [message for message in said if "the tool search" in message] == [
        "Escapement: the tool search was called 3 times with the same arguments and gave the same result "
        "(steps 2, 3, 4). That took 2 calls, 220 tokens ($0.0007) so far. The run goes on. "
        'If this is meant: exempt_tools=["…"], or on_guard={"repeated_tool": "off"}.'
    ]


def test_a_mistake_of_ours_switches_guards_off_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, reader: SpanStore
) -> None:
    def broken(*_: object) -> Any:
        raise RuntimeError("a mistake")

    monkeypatch.setattr("escapement.engine.guards.loops.Loops.asked", broken)
    with agents.in_memory() as client, escapement.init(on_guard="kill") as trace:
        agents.same_call(agents.by_http(client), 15)
    row = reader.load(trace.trace_id)
    assert (row.status, len(row.steps), row.complete) == ("completed", 15, True)
    assert [record.message for record in caplog.records] == [
        "Escapement's guards failed, and are off for the rest of the run"
    ]


# -- the command -----------------------------------------------------------------------------------------------------


def test_the_command(store: Path, cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    with agents.in_memory() as client:

        def program() -> None:
            with escapement.init("looping") as trace:
                agents.same_call(agents.by_http(client), 7)
            ids.append(trace.trace_id)

        ids: list[str] = []
        heard(program)
        with pytest.raises(escapement.LoopDetectedError) as raised, escapement.init(max_identical_calls=2) as killed:
            agents.by_http(client)([{"role": "user", "content": "x"}], "gpt-4o")
            agents.by_http(client)([{"role": "user", "content": "x"}], "gpt-4o")
        with escapement.init("fine") as fine:
            agents.pages(agents.by_http(client), 3)
    found = cli("guards", ids[0])
    assert (found.code, found.err) == (0, "")
    assert [line.rstrip() for line in found.out.splitlines()] == [
        "RULE           DOES  STEPS    TOKENS     COST  WHAT",
        "repeated_tool  warn  2, 3, 4     220  $0.0007  the tool search was called 3 times with the same arguments and gave the same result",
        "repeated_tool  warn  2 to 6      440  $0.0014  the tool search was called 5 times with the same arguments and gave the same result",
    ]
    monkeypatch.setenv("ESCAPEMENT_ON_GUARD", "kill")
    assert cli("guards", ids[0]).code == 4
    document = json.loads(cli("guards", ids[0], "--json").out)
    assert [(one["rule"], one["action"], one["steps"], one["calls"]) for one in document["found"]] == [
        ("repeated_tool", "warn", [2, 3, 4], 2),
        ("repeated_tool", "kill", [2, 3, 4, 5, 6], 4),
    ]
    monkeypatch.setenv("ESCAPEMENT_ON_GUARD", "warn")
    stopped = cli("guards", killed.trace_id)
    assert (stopped.code, stopped.out.splitlines()[0][:60]) == (4, f"was killed: {raised.value}"[:60])
    left = cli("guards", fine.trace_id)
    assert (left.code, left.out) == (0, f"No rule finds anything in the 3 steps of {fine.trace_id}.\n")
