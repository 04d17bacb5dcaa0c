"""`escapement diff`: which step is which, what is different, and what it looks like."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

import escapement
from escapement.cli import application
from escapement.engine.alignment import align
from escapement.engine.comparison import Comparison, compare
from escapement.engine.readings import readings
from escapement.store.messages import new_since, operation_of
from escapement.store.traces import SpanStore
from tests.provider import Provider

# -- alignment -------------------------------------------------------------------------------------------------------

STEPS = st.lists(st.tuples(st.sampled_from(["", "1", "2", "3", "4"]), st.sampled_from(["", "a", "b", "c"])), max_size=9)


def alike(mine: Sequence[Any], theirs: Sequence[Any]) -> Callable[[int, int], float]:
    """A likeness that depends on nothing but the two steps."""
    return lambda i, j: len({*mine[i]} & {*theirs[j]}) / 2


@given(STEPS)
def test_a_trace_is_aligned_with_itself_step_by_step(steps: list[tuple[str, str]]) -> None:
    assert align(steps, steps, alike(steps, steps)) == [(at, at) for at in range(len(steps))]


@given(STEPS, STEPS)
def test_every_step_is_in_one_pair_and_in_order(left: list[tuple[str, str]], right: list[tuple[str, str]]) -> None:
    pairs = align(left, right, alike(left, right))
    assert [i for i, _ in pairs if i is not None] == list(range(len(left)))
    assert [j for _, j in pairs if j is not None] == list(range(len(right)))
    assert (None, None) not in pairs


@given(STEPS, STEPS)
def test_exchanging_the_traces_exchanges_the_pairs(left: list[tuple[str, str]], right: list[tuple[str, str]]) -> None:
    there, back = align(left, right, alike(left, right)), align(right, left, alike(right, left))
    assert {(j, i) for i, j in there} == set(back)


def test_large_gaps_are_aligned_piece_by_piece() -> None:
    """More pairs than a table could hold: still in order, every step once."""
    left = [(f"l{at}", "") for at in range(4000)]
    right = [(f"r{at}", "") for at in range(3990)]
    pairs = align(left, right, lambda i, j: 0.9 if i - j in (0, 10) else 0.0)
    assert [i for i, _ in pairs if i is not None] == list(range(4000))
    assert [j for _, j in pairs if j is not None] == list(range(3990))
    assert sum(None not in pair for pair in pairs) > 3900


@pytest.mark.parametrize(
    ("left", "right", "pairs"),
    [
        ("abc", "abc", [(0, 0), (1, 1), (2, 2)]),
        ("abc", "ac", [(0, 0), (1, None), (2, 1)]),
        ("ac", "abc", [(0, 0), (None, 1), (1, 2)]),
        ("abc", "axc", [(0, 0), (1, 1), (2, 2)]),
        ("", "a", [(None, 0)]),
        ("", "", []),
    ],
)
def test_alignment(left: str, right: str, pairs: list[tuple[int | None, int | None]]) -> None:
    assert align([(key,) for key in left], [(key,) for key in right], lambda i, j: 0.1) == pairs


# -- comparison, of what real programs recorded ----------------------------------------------------------------------


class Model:
    """A model that says what it is told to: answers by the last that is said to it."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {}

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        asked = json.loads(request.content)["messages"][-1]["content"]
        said = self.answers.get(asked, f"You said: {asked}")
        if isinstance(said, int):
            return httpx2.Response(said, json={"error": {"message": f"refused: {asked}"}})
        message = {"role": "assistant", **({"content": said} if isinstance(said, str) else said)}
        usage = {"prompt_tokens": len(request.content), "completion_tokens": 5, "total_tokens": 0}
        choices = [{"index": 0, "finish_reason": "stop", "message": message}]
        return httpx2.Response(
            200,
            json={
                "id": "c",
                "object": "chat.completion",
                "created": 1,
                "model": "gpt-4o",
                "choices": choices,
                "usage": usage,
            },
        )


@pytest.fixture
def model() -> Model:
    return Model()


def converse(to: Model, *texts: str, **request: Any) -> escapement.Trace:
    """Record a conversation."""
    http = httpx2.Client(transport=httpx2.MockTransport(to))
    with openai.OpenAI(api_key="k", http_client=http, max_retries=0) as client, escapement.init("talk") as trace:
        messages: list[Any] = [{"role": "system", "content": "You are kind. " * 200}]
        for text in texts:
            messages.append({"role": "user", "content": text})
            try:
                answer = client.chat.completions.create(**{"model": "gpt-4o", "messages": messages, **request})
            except openai.APIStatusError:
                messages.pop()
                continue
            messages.append(answer.choices[0].message.model_dump(exclude_none=True))
    return trace


def compared(store: Path, left: escapement.Trace, right: escapement.Trace) -> Comparison:
    reader = SpanStore(store)
    return compare(reader.load(left.trace_id), reader.load(right.trace_id))


def shown(comparison: Comparison) -> list[tuple[int | None, int | None, tuple[str, ...]]]:
    return [
        (pair.left.row.step if pair.left else None, pair.right.row.step if pair.right else None, pair.changes)
        for pair in comparison.pairs
    ]


def test_a_trace_does_not_differ_from_itself_nor_from_one_that_went_the_same_way(store: Path, model: Model) -> None:
    one, other = converse(model, "a", "b", "c"), converse(model, "a", "b", "c")
    for left, right in ((one, one), (one, other)):
        comparison = compared(store, left, right)
        assert (comparison.same, comparison.first(), comparison.counts()) == (True, None, {"same": 3})


def test_an_answer_that_differs_is_one_difference(store: Path, model: Model) -> None:
    """What follows has it in its history, and says the same."""
    one = converse(model, "a", "b", "c", "d")
    model.answers["b"] = "Something else"
    other = converse(model, "a", "b", "c", "d")
    comparison = compared(store, one, other)
    assert shown(comparison) == [(1, 1, ()), (2, 2, ("answer",)), (3, 3, ()), (4, 4, ())]
    first = comparison.first()
    assert first is not None
    assert (first.pair, first.difference) == (comparison.pairs[1], None)


def test_steps_are_aligned_by_what_they_ask(store: Path, model: Model) -> None:
    one = converse(model, "a", "Write about rivers.", "c", "d")
    other = converse(model, "new", "a", "Write about lakes.", "d", "e")
    assert shown(compared(store, one, other)) == [
        (None, 1, ()),
        (1, 2, ("prompt",)),  # which has the system's message before it
        (2, 3, ("prompt", "answer")),
        (3, None, ()),
        (4, 4, ()),
        (None, 5, ()),
    ]


CALL = {
    "content": None,
    "tool_calls": [{"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
}


@pytest.mark.parametrize(
    ("change", "changes", "kind", "field"),
    [
        ({"model": "gpt-4o-mini"}, ("model",), "changed_model", "model"),
        ({"temperature": 0.3}, ("parameters",), "changed_parameter", "temperature"),
        (
            {"tools": [{"type": "function", "function": {"name": "g", "parameters": {}}}]},
            ("tools",),
            "added_tool",
            "tools",
        ),
    ],
)
def test_what_a_request_differs_in(
    store: Path, model: Model, change: dict[str, Any], changes: tuple[str, ...], kind: str, field: str
) -> None:
    comparison = compared(store, converse(model, "a"), converse(model, "a", **change))
    assert shown(comparison) == [(1, 1, changes)]
    first = comparison.first()
    assert first is not None
    assert first.difference is not None
    assert (first.kind, first.difference.path) == (kind, field)


def test_tool_calls_and_errors(store: Path, model: Model) -> None:
    one = converse(model, "a", "b", "c")
    model.answers = {"b": CALL, "c": 500}
    assert shown(compared(store, one, converse(model, "a", "b", "c"))) == [
        (1, 1, ()),
        (2, 2, ("answer", "tool calls")),
        (3, 3, ("answer", "error")),
    ]


def test_the_ids_of_calls_do_not_count(store: Path, model: Model) -> None:
    model.answers["a"] = CALL
    one = converse(model, "a", "b")
    model.answers["a"] = {**CALL, "tool_calls": [{**CALL["tool_calls"][0], "id": "call_2"}]}  # type: ignore[index]
    assert compared(store, one, converse(model, "a", "b")).same


def test_a_fork_is_compared_with_what_it_took_over(store: Path, provider: Provider) -> None:
    def agent(client: openai.OpenAI, fork_after: int = 9) -> None:
        messages: list[Any] = [{"role": "system", "content": "You are kind. " * 200}]
        for number in range(4):
            messages.append({"role": "user", "content": f"Question {number}"})
            answer = client.chat.completions.create(model="gpt-4o", messages=messages)
            messages.append(answer.choices[0].message.model_dump(exclude_none=True))
            if number == fork_after:
                escapement.fork()

    with openai.OpenAI(api_key="k", base_url=f"{provider.base_url}/v1") as client:
        with escapement.init() as trace:
            agent(client)
        with escapement.replay(trace) as fork:
            agent(client, fork_after=1)
    assert shown(compared(store, trace, fork)) == [(1, 1, ()), (2, 2, ()), (3, 3, ("answer",)), (4, 4, ("answer",))]
    assert shown(compared(store, fork, trace)) == shown(compared(store, trace, fork))


def test_readings_are_what_reading_each_request_whole_gives(store: Path, model: Model) -> None:
    """Requests are read by their pieces; a whole request, read by itself, must say the same."""
    texts = [f"Question {number}: " + "why " * number * 40 for number in range(12)]
    trace = SpanStore(store).load(converse(model, *texts, "Question 3: " + "why " * 120).trace_id)
    found = list(readings(trace))
    before: list[Any] = []
    for reading in found:
        operation = operation_of(reading.row)
        assert operation is not None
        document = json.loads(trace.request_body(reading.row))
        whole = operation.asked(document)
        assert list(reading.asked) == list(new_since(before, whole))
        assert reading.fields == {}
        before = [*whole, *reading.said]
    assert [len(reading.asked) for reading in found] == [2, *[1] * 12]


# -- the command -----------------------------------------------------------------------------------------------------


def run(*arguments: str, width: int = 100) -> Result:
    return CliRunner(env={"COLUMNS": str(width)}).invoke(application("diff"), ["diff", *arguments])


def test_exit_codes(store: Path, model: Model) -> None:
    one, same = converse(model, "a", "b"), converse(model, "a", "b")
    model.answers["b"] = "Something else"
    other = converse(model, "a", "b")
    assert run(one.trace_id, same.trace_id).exit_code == 0
    assert run(one.trace_id, same.trace_id).stdout.rstrip().endswith("No differences in 2 steps.")
    assert run(one.trace_id, other.trace_id).exit_code == 3
    assert run().exit_code == 3, "the two newest"
    assert run("@-3", "@-2").exit_code == 0
    missing = run(one.trace_id, "tr_ffffffffffff")
    assert isinstance(missing.exception, escapement.TraceNotFoundError)  # which `main` ends with 5 for


@pytest.mark.parametrize("width", [40, 80, 140, 220])
@pytest.mark.parametrize("content", [False, True])
def test_side_by_side_at_any_width(store: Path, model: Model, width: int, content: bool) -> None:
    one = converse(model, "a", "Tell me of the old thing in some words.", "c", "gone")
    model.answers["c"] = "x" * 300 + " \x1b[31m[bold]tail"
    other = converse(model, "a", "Tell me of the new thing in some words.", "c")
    result = run(one.trace_id, other.trace_id, *(["--content"] if content else []), width=width)
    assert result.exit_code == 3
    lines = result.stdout.splitlines()
    assert max(map(len, lines)) <= width
    assert "\x1b" not in result.stdout
    text = " ".join(result.stdout.split())
    assert "First difference step 2, messages[3].content: a changed prompt" in text
    assert text.index("First difference") < text.index("DIFFERS IN") < text.index("1 the same · 2 differ")
    assert "only in A" in text
    if width >= 110:
        assert "TOKENS COST TIME" in text
        assert "prompt: user: Tell me of the old thing in some words." in text
        assert (r"\x1b[31m[bold]tail" in text) == content, "the end of a long text, when all of it is asked for"


def test_for_programs(store: Path, model: Model) -> None:
    one = converse(model, "a", "b", "c")
    model.answers["b"] = "Something else"
    other = converse(model, "a", "b")
    result = run(one.trace_id, other.trace_id, "--json")
    document = json.loads(result.stdout)
    assert result.exit_code == 3
    assert (document["left"]["id"], document["right"]["id"]) == (one.trace_id, other.trace_id)
    assert document["same"] is False
    assert document["first"] == {
        "left_step": 2, "right_step": 2, "kind": None, "field": None, "left": None, "right": None,
    }  # fmt: skip
    assert document["summary"] == {"same": 1, "changed": 1, "answer": 1, "only_left": 1}
    steps = document["steps"]
    assert [(step["left_step"], step["right_step"], step["changes"]) for step in steps] == [
        (1, 1, []),
        (2, 2, ["answer"]),
        (3, None, []),
    ]
    assert (steps[1]["left"]["answer"], steps[1]["right"]["answer"]) == ("You said: b", "Something else")
    assert steps[2]["right"] is None
    assert set(steps[0]["left"]) == {
        "name", "lane", "model", "input_tokens", "output_tokens", "cost_usd", "duration_s",
    }  # fmt: skip
