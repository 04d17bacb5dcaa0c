"""Edits: another answer at a step, and what follows from it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anthropic
import openai
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import escapement
from escapement import ToolCall
from escapement.providers import answer_document, recognise, streams
from escapement.providers.answers import pieces
from escapement.providers.edits import edited
from escapement.store.traces import SpanStore
from tests.conftest import ask
from tests.provider import Provider

STEPS = 30
WEATHER: Any = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


def agent(client: openai.OpenAI, steps: int = STEPS) -> list[str]:
    """A conversation in which every answer is part of the next question."""
    messages: list[Any] = []
    said = []
    for number in range(steps):
        messages.append({"role": "user", "content": f"question {number}"})
        answer = client.chat.completions.create(model="gpt-4o", messages=messages, stream=number % 2 == 1)
        if isinstance(answer, openai.Stream):
            text = "".join(chunk.choices[0].delta.content or "" for chunk in answer if chunk.choices)
        else:
            text = answer.choices[0].message.content or ""
        messages.append({"role": "assistant", "content": text})
        said.append(text)
    return said


def test_a_fork_at_every_step_of_an_agent(client: openai.OpenAI, provider: Provider) -> None:
    with escapement.init("agent") as trace:
        recorded = agent(client)
    for step in range(1, STEPS + 2):
        before = provider.count
        with escapement.replay(trace.trace_id, until=step) as forked:
            said = agent(client)
        assert provider.count - before == STEPS - step + 1
        assert (said[: step - 1], forked.hits, forked.misses) == (recorded[: step - 1], step - 1, 0)
        before = provider.count
        with escapement.replay(forked.trace_id, strict_replay=True):
            assert agent(client) == said
        assert provider.count == before


def test_an_edit_at_every_step_of_an_agent(client: openai.OpenAI, provider: Provider, reader: SpanStore) -> None:
    with escapement.init("agent") as trace:
        recorded = agent(client)
    for step in range(1, STEPS + 1):
        before = provider.count
        with escapement.replay(trace.trace_id, edits={step: "another  answer\n"}) as forked:
            said = agent(client)
        assert provider.count - before == STEPS - step
        assert said[:step] == [*recorded[: step - 1], "another  answer\n"]
        assert (forked.hits, forked.misses, forked.calls, forked.parent_id) == (step, 0, STEPS - step, trace.trace_id)
        before = provider.count
        with escapement.replay(forked.trace_id, strict_replay=True):
            assert agent(client) == said
        assert provider.count == before
        row = reader.load(forked.trace_id)
        assert [one.step for one in row.steps] == list(range(1, STEPS + 1))
        assert [one.step for one in row.steps if one.attributes.get("escapement.response.edited")] == [step]


def test_strict_replay_sends_nothing_after_an_edit(client: openai.OpenAI, provider: Provider) -> None:
    with escapement.init() as trace:
        recorded = agent(client, 3)
    before = provider.count
    with (
        pytest.raises(escapement.ReplayDivergenceError),
        escapement.replay(trace.trace_id, edits={2: "else"}, strict_replay=True) as forked,
    ):
        agent(client, 3)
    assert (provider.count, forked.hits, forked.steps) == (before, 2, 3)
    assert recorded


def test_an_edit_that_nobody_comes_to_changes_nothing(client: openai.OpenAI, provider: Provider, store: Path) -> None:
    with escapement.init() as trace:
        recorded = [ask(client, "one"), ask(client, "two")]
    files = sorted(store.rglob("*"))
    with escapement.replay(trace.trace_id, edits={2: "else"}):
        assert ask(client, "one") == recorded[0]
    assert (sorted(store.rglob("*")), provider.count) == (files, 2)


# -- what an SDK sees -------------------------------------------------------------------------------------------------


def replayed(trace: escapement.Trace, edit: Any, program: Callable[[], Any]) -> Any:
    with escapement.replay(trace.trace_id, edits={1: edit}, strict_replay=True):
        return program()


@pytest.mark.parametrize("stream", [False, True])
def test_openai_chat(client: openai.OpenAI, stream: bool) -> None:
    def program() -> Any:
        messages: Any = [{"role": "user", "content": "Rain?"}]
        if not stream:
            return client.chat.completions.create(model="gpt-4o", messages=messages, tools=[WEATHER])
        options: Any = {"include_usage": True}
        with client.chat.completions.stream(
            model="gpt-4o", messages=messages, tools=[WEATHER], stream_options=options
        ) as events:
            list(events)
            return events.get_final_completion()

    with escapement.init() as trace:
        before = program()
    after = replayed(trace, " Naïve 🙂 answer\n\n", program)
    choice = after.choices[0]
    assert (choice.message.content, choice.message.tool_calls or [], choice.finish_reason) == (
        " Naïve 🙂 answer\n\n",
        [],
        "stop",
    )
    assert (after.id, after.model, after.usage) == (before.id, before.model, before.usage)
    after = replayed(trace, [ToolCall("weather", '{"city": "Ulm"}'), ToolCall("weather", '{"city": "Bonn"}')], program)
    choice = after.choices[0]
    assert [(call.function.name, call.function.arguments) for call in choice.message.tool_calls] == [
        ("weather", '{"city": "Ulm"}'),
        ("weather", '{"city": "Bonn"}'),
    ]
    assert (choice.finish_reason, len({call.id for call in choice.message.tool_calls})) == ("tool_calls", 2)


@pytest.mark.parametrize("stream", [False, True])
def test_openai_responses(client: openai.OpenAI, stream: bool) -> None:
    def program() -> Any:
        if not stream:
            return client.responses.create(model="gpt-4o", input="Rain?")
        with client.responses.stream(model="gpt-4o", input="Rain?") as events:
            texts = [event.delta for event in events if event.type == "response.output_text.delta"]
            final = events.get_final_response()
            assert "".join(texts) == final.output_text
            return final

    with escapement.init() as trace:
        before = program()
    after = replayed(trace, "Another 🙂 answer", program)
    assert (after.output_text, after.status, after.id, after.usage) == (
        "Another 🙂 answer",
        "completed",
        before.id,
        before.usage,
    )
    after = replayed(trace, ToolCall("weather", '{"city": "Ulm"}'), program)
    (call,) = [item for item in after.output if item.type == "function_call"]
    assert (call.name, call.arguments, after.output_text) == ("weather", '{"city": "Ulm"}', "")


@pytest.mark.parametrize("stream", [False, True])
def test_anthropic_messages_keep_their_thoughts(claude: anthropic.Anthropic, stream: bool) -> None:
    def program() -> Any:
        asked: Any = {
            "model": "claude",
            "max_tokens": 4000,
            "thinking": {"type": "enabled", "budget_tokens": 2000},
            "messages": [{"role": "user", "content": "Rain?"}],
        }
        if not stream:
            return claude.messages.create(**asked)
        with claude.messages.stream(**asked) as events:
            return events.get_final_message()

    with escapement.init() as trace:
        before = program()
    thoughts = [block for block in before.content if block.type == "thinking"]
    assert thoughts
    assert thoughts[0].signature
    after = replayed(trace, "Another answer", program)
    assert [block for block in after.content if block.type == "thinking"] == thoughts
    assert [block.text for block in after.content if block.type == "text"] == ["Another answer"]
    assert (after.id, after.stop_reason, after.usage) == (before.id, "end_turn", before.usage)
    after = replayed(trace, ToolCall("weather", '{"city": "Ulm"}'), program)
    (tool,) = [block for block in after.content if block.type == "tool_use"]
    assert (tool.name, tool.input, after.stop_reason) == ("weather", {"city": "Ulm"}, "tool_use")

    def otherwise(answer: dict[str, Any]) -> dict[str, Any]:
        answer["content"][0]["thinking"] = "something else"
        return answer

    with pytest.warns(escapement.EscapementWarning, match="step 1 of tr_.*signature is left out"):
        after = replayed(trace, otherwise, program)
    assert [block.type for block in after.content if block.type == "thinking"] == []


@pytest.mark.parametrize(
    ("edits", "message"),
    [
        ({7: "x"}, "edits names step 7, and tr_.* has steps 1 to 2"),
        ({"1": "x"}, "edits names step '1'"),
        ({True: "x"}, "edits names step True"),
        ({1: 5}, "step 1 of tr_.* cannot be edited so: it takes a text, a ToolCall"),
        ({1: []}, "it takes a text, a ToolCall"),
        ({1: {"a": {1, 2}}}, "it is not JSON"),
        ({1: ToolCall("weather", "{nonsense")}, "the arguments of weather are not JSON"),
        ({1: ToolCall("weather", "[1]")}, "the arguments of weather are not a JSON object"),
        ({2: "x"}, "step 2 of tr_.* ended with 400: there is no answer to edit"),
    ],
)
def test_what_is_no_edit(client: openai.OpenAI, edits: Any, message: str) -> None:
    with escapement.init() as trace:
        ask(client, "one")
        with pytest.raises(openai.BadRequestError):
            ask(client, model="error-400")
    with pytest.raises(escapement.ConfigError, match=message):
        escapement.replay(trace.trace_id, edits=edits)
    assert escapement.current() is None


def test_embeddings_can_only_be_edited_whole(client: openai.OpenAI) -> None:
    def program() -> Any:
        return client.embeddings.create(model="text-embedding-3-small", input="x", encoding_format="float")

    with escapement.init() as trace:
        program()
    with pytest.raises(escapement.ConfigError, match="can only be edited whole, as a dict"):
        replayed(trace, "text", program)

    def zero(answer: dict[str, Any]) -> dict[str, Any]:
        answer["data"][0]["embedding"] = [0.0, 1.0]
        return answer

    assert replayed(trace, zero, program).data[0].embedding == [0.0, 1.0]


# -- writing is the inverse of reading --------------------------------------------------------------------------------

TEXT = st.text(max_size=40)
CALLS = st.lists(
    st.builds(
        ToolCall,
        st.from_regex(r"[a-z]{1,8}", fullmatch=True),
        st.dictionaries(st.text(max_size=5), st.integers() | TEXT, max_size=3).map(lambda d: json.dumps(d)),
    ),
    max_size=3,
)


@given(TEXT)
def test_pieces_join_to_the_text(text: str) -> None:
    assert "".join(pieces(text)) == text


@pytest.mark.parametrize(
    ("path", "kind", "answer"),
    [
        (
            "/v1/chat/completions",
            "text/event-stream",
            {"id": "c", "model": "m", "choices": [{"index": 0, "message": {"role": "assistant", "content": "x"}}]},
        ),
        ("/v1/responses", "text/event-stream", {"id": "r", "model": "m", "status": "completed", "output": []}),
        (
            "/v1/messages",
            "text/event-stream",
            {"id": "m", "model": "c", "role": "assistant", "content": [], "usage": {"output_tokens": 3}},
        ),
        (
            "/v1beta/models/gemini-2.5-pro:streamGenerateContent",
            "text/event-stream",
            {"candidates": [{"index": 0, "content": {"role": "model", "parts": []}}], "modelVersion": "g"},
        ),
        ("/api/chat", "application/x-ndjson", {"model": "l", "message": {"role": "assistant", "content": ""}}),
        ("/v2/chat", "text/event-stream", {"id": "1", "message": {"role": "assistant", "content": []}}),
    ],
)
@settings(max_examples=60)
@given(text=TEXT, calls=CALLS)
def test_what_is_written_is_read_again(path: str, kind: str, answer: Any, text: str, calls: list[ToolCall]) -> None:
    operation = recognise("POST", path, "")
    assert operation is not None
    assert operation.split is not None
    assert operation.rewrite is not None
    body = b"".join(streams.write(operation.split(answer, []), kind, b"event: x"))
    said = escapement.providers.Message("assistant", text, tuple(calls))
    written, told = edited(operation, body, kind, said)
    whole = answer_document(operation, b"".join(written), kind)
    messages = operation.said(whole)
    assert "".join(message.text for message in messages) == text
    found = [call for message in messages for call in message.tool_calls]
    assert [(call.name, orjson.loads(call.arguments)) for call in found] == [
        (call.name, orjson.loads(call.arguments)) for call in calls
    ]
    assert told == []


# -- the command ------------------------------------------------------------------------------------------------------


def command(*words: str, text: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "escapement", *words],
        capture_output=True,
        text=True,
        input=text,
        env={**os.environ, **variables},
        check=False,
        timeout=60,
    )


def test_the_command_makes_a_trace_to_go_on_from(
    client: openai.OpenAI, provider: Provider, reader: SpanStore, tmp_path: Path
) -> None:
    with escapement.init("agent") as trace:
        recorded = agent(client, 4)
    done = command("edit", trace.trace_id, "--step", "2", "--text", "something else")
    assert done.returncode == 0, done.stderr
    edited_id = done.stdout.strip()
    assert f"escapement fork {edited_id} --at 3 -- CMD" in done.stderr
    row = reader.load(edited_id)
    assert (row.name, row.parent, row.mode, row.status) == ("agent", trace.trace_id, "fork", "completed")
    assert [(step.step, "escapement.response.edited" in step.attributes) for step in row.steps] == [
        (1, False),
        (2, True),
    ]
    before = provider.count
    with escapement.replay(edited_id, until=3) as forked:
        said = agent(client, 4)
    assert said[:2] == [recorded[0], "something else"]
    assert provider.count - before == 2
    with escapement.replay(forked.trace_id, strict_replay=True):
        assert agent(client, 4) == said
    shown = command("show", edited_id)
    assert f"EDITED, of {trace.trace_id} step 2" in shown.stdout
    # What was paid for once is not counted again.
    listed = json.loads(command("list", "--json").stdout.splitlines()[1])
    assert (listed["id"], listed["steps"], listed["cost_usd"], listed["parent"]) == (edited_id, 2, 0.0, trace.trace_id)
    rows = escapement.open_store().query(
        "SELECT ancestor_id, generation FROM lineage WHERE trace_id = ?", [forked.trace_id]
    )
    assert rows.to_pylist() == [
        {"ancestor_id": edited_id, "generation": 1},
        {"ancestor_id": trace.trace_id, "generation": 2},
    ]


def test_the_editor(client: openai.OpenAI, reader: SpanStore, tmp_path: Path) -> None:
    with escapement.init("agent") as trace:
        recorded = agent(client, 2)
    editor = tmp_path / "editor"
    editor.write_text(
        f"#!{sys.executable}\nimport json, sys\npath = sys.argv[-1]\ndocument = json.load(open(path))\n"
        "document['choices'][0]['message']['content'] += ' and more'\njson.dump(document, open(path, 'w'))\n"
    )
    editor.chmod(0o700)
    for step in (1, 2):  # the second one is a stream
        done = command("edit", "@last" if step == 1 else trace.trace_id, "--step", str(step), EDITOR=f"{editor} --wait")
        assert done.returncode == 0, done.stderr
        with escapement.replay(done.stdout.strip(), strict_replay=True):
            assert agent(client, step)[-1] == recorded[step - 1] + " and more"


@pytest.mark.parametrize(
    ("words", "editor", "code", "message"),
    [
        (["--step", "1"], "true", 0, "nothing was changed"),
        (["--step", "1"], "false", 1, "ended with 1"),
        (["--step", "1"], "/nowhere/editor", 1, "cannot be started"),
        (["--step", "1"], "", 1, "no editor is set"),
        (["--step", "9"], "true", 5, "has no step 9"),
        (["--step", "1", "--text", "a", "--json", "b"], "true", 1, "give one of them"),
        (["--step", "1", "--json", "/nowhere/file"], "true", 1, "cannot be read"),
        (["--step", "1", "--json", "-"], "true", 1, "is not JSON"),
        (["--step", "1", "--tool", "search"], "true", 1, "--tool takes NAME=JSON"),
        (["--step", "1", "--tool", "search={"], "true", 1, "the arguments of search are not JSON"),
    ],
)
def test_what_the_command_refuses(
    client: openai.OpenAI, store: Path, words: list[str], editor: str, code: int, message: str
) -> None:
    with escapement.init():
        ask(client)
    files = sorted(store.rglob("*"))
    done = command("edit", "@last", *words, EDITOR=editor, VISUAL="")
    assert (done.returncode, message in done.stderr, done.stdout) == (code, True, ""), done.stderr
    assert sorted(store.rglob("*")) == files


# -- where to go live -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("until", "hits"),
    [("chat gpt-4o", 0), ("gpt-4o#2", 1), ("embeddings text-embedding-3-small", 2), ("error", 3)],
)
def test_until_takes_names(client: openai.OpenAI, until: str, hits: int) -> None:
    def program() -> None:
        ask(client, "one")
        ask(client, "two")
        client.embeddings.create(model="text-embedding-3-small", input="x")
        with pytest.raises(openai.BadRequestError):
            ask(client, model="error-400")
        ask(client, "three")

    with escapement.init() as trace:
        program()
    with escapement.replay(trace.trace_id, until=until) as forked:
        program()
    assert (forked.hits, forked.calls, forked.misses) == (hits, 5 - hits, 0)


def test_until_the_first_miss(client: openai.OpenAI, provider: Provider) -> None:
    with escapement.init() as trace:
        one, _, three = ask(client, "one"), ask(client, "two"), ask(client, "three")
    with escapement.replay(trace.trace_id, until="miss", strict_replay=True) as forked:
        assert ask(client, "one") == one
        with pytest.warns(escapement.EscapementWarning, match="it goes live"):
            ask(client, "something new")
        assert ask(client, "three") != three
    assert (forked.hits, forked.misses, forked.calls, provider.count) == (1, 1, 2, 5)


@pytest.mark.parametrize(
    ("until", "message"),
    [
        ("error", "nothing failed in tr_"),
        ("search", "no step is called 'search' in tr_.*It has chat gpt-4o"),
        ("gpt-4o#5", "only 1 steps are called 'gpt-4o'"),
    ],
)
def test_until_a_name_that_is_none(client: openai.OpenAI, until: str, message: str) -> None:
    with escapement.init() as trace:
        ask(client)
    with pytest.raises(escapement.ConfigError, match=message):
        escapement.replay(trace.trace_id, until=until)
