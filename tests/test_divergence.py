"""Divergence: what is said when a replayed program asks for something that its trace does not know."""

from __future__ import annotations

import json
import pickle
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anthropic
import openai
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

import escapement
from benchmarks import mutations
from escapement.engine.differences import ABSENT, Difference, differences, first_difference, likeness
from escapement.engine.kinds import PHRASES
from escapement.engine.looks import PATTERNS, explained, look_of
from tests.conftest import ask
from tests.divergences import (
    BEFORE,
    CASES,
    PAGE,
    QUESTIONS,
    conversation,
    examples,
    notes,
    prompts,
    request,
    said,
    tool,
)
from tests.provider import Provider

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text("ab {}[]\"'1", max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from("abcd"), inner, max_size=4),
    max_leaves=12,
)


# -- documents -------------------------------------------------------------------------------------------------------


@given(JSON, JSON)
def test_documents_differ_where_they_are_not_equal(mine: Any, theirs: Any) -> None:
    same = orjson.dumps(mine, option=orjson.OPT_SORT_KEYS) == orjson.dumps(theirs, option=orjson.OPT_SORT_KEYS)
    assert (first_difference(mine, theirs) is None) == same
    assert list(differences(mine, mine)) == []


@given(JSON, JSON)
def test_likeness_is_a_share_and_the_same_both_ways(mine: Any, theirs: Any) -> None:
    assert 0 <= likeness(mine, theirs) <= 1
    assert likeness(mine, theirs) == pytest.approx(likeness(theirs, mine))
    assert likeness(mine, mine) == 1


@pytest.mark.parametrize(
    ("recorded", "requested", "found"),
    [
        ({"a": 1, "b": 2}, {"a": 1, "b": 3}, [Difference("b", 2, 3)]),
        ({"a": 1}, {"a": True}, [Difference("a", 1, True)]),
        ({"a": 1}, {"b": 2}, [Difference("a", 1, ABSENT, "removed"), Difference("b", ABSENT, 2, "added")]),
        (
            {"tools": [tool("a"), tool("b"), tool("c")]},
            {"tools": [tool("a"), tool("c")]},
            [Difference("tools[1]", tool("b"), ABSENT, "removed")],
        ),
        (
            {"tools": [tool("a"), tool("b"), tool("c")]},
            {"tools": [tool("b", "new"), tool("c")]},
            [
                Difference("tools[0]", tool("a"), ABSENT, "removed"),
                Difference("tools[0].function.description", "", "new"),
            ],
        ),
        (
            {"messages": [said("one"), said("two")]},
            {"messages": [said("zero"), said("one"), said("two")]},
            [Difference("messages[0]", ABSENT, said("zero"), "added")],
        ),
        ({"ids": ["c", "a", "b"]}, {"ids": ["c", "b", "a"]}, [Difference("ids[1]", "a", "b", "reordered")]),
        ({"text": "files: a, b"}, {"text": "files: b, a"}, [Difference("text", "files: a, b", "files: b, a")]),
        ({"text": "{a, b}"}, {"text": "{b, a}"}, [Difference("text", "{a, b}", "{b, a}", "reordered")]),
        (
            {"arguments": '{"query": "x", "at": [1, 2]}'},
            {"arguments": '{"query": "x", "at": [1, 3]}'},
            [Difference("arguments.at[1]", 2, 3)],
        ),
        ({"arguments": '{"a": 1}'}, {"arguments": '{"a":1}'}, [Difference("arguments", '{"a": 1}', '{"a":1}')]),
        ("one", "two", [Difference("", "one", "two")]),
    ],
)
def test_what_differs(recorded: Any, requested: Any, found: list[Difference]) -> None:
    assert list(differences(recorded, requested)) == found


@pytest.mark.parametrize(
    ("recorded", "requested", "look"),
    [
        ("It is 2026-11-22T10:00:00Z.", "It is 2026-11-23T10:00:00Z.", "timestamp"),
        ("It is 2026-11-22T10:00:00.123+01:00", "It is 2026-11-22T10:00:00.124+01:00", "timestamp"),
        ("On Sunday, 22 Nov 2026 10:00:00 GMT", "On Monday, 23 Nov 2026 10:00:00 GMT", "timestamp"),
        ("Today is November 22, 2026.", "Today is December 1, 2026.", "timestamp"),
        ("at 9:05 PM", "at 9:06 PM", "timestamp"),
        ("22.11.2026", "23.11.2026", "timestamp"),
        ("t=1795000000", "t=1795000001", "timestamp"),
        (1795000000, 1795000100, "timestamp"),
        (1795000000.25, 1795000100.5, "timestamp"),
        ("6f1c8f5e-0b1d-4c7e-9d58-0a1b2c3d4e5f", "6f1c8f5e-0b1d-4c7e-9d58-0a1b2c3d4e60", "uuid"),
        ("in /tmp/tmpab12/x.txt", "in /tmp/tmpzz34/x.txt", "path"),
        (r"C:\Users\a\x", r"C:\Users\b\x", "path"),
        ("id call_9fKqAbCdEf", "id call_8xYzAbCdEf", "random_id"),
        ("run 0f3a9bc4d5e6f708", "run 1f3a9bc4d5e6f708", "random_id"),
        ("attempt 7 of many", "attempt 8 of many", "number"),
        (3, 4, "number"),
        (0.2, 0.7, "number"),
        ("a word", "another word", ""),
        ("count: 10", "count: 10 more", ""),
        ("2026-11-22 is the day of a", "2026-11-22 is the day of b", ""),
        (True, False, ""),
        ("1", 1, ""),
        (None, "x", ""),
    ],
)
def test_what_a_difference_looks_like(recorded: Any, requested: Any, look: str) -> None:
    assert (look_of(recorded, requested), look_of(requested, recorded)) == (look, look)


@given(st.text(), st.text())
def test_a_look_is_one_that_is_known_and_the_same_both_ways(mine: str, theirs: str) -> None:
    assert look_of(mine, theirs) in ("", *PATTERNS)
    assert look_of(mine, theirs) == look_of(theirs, mine)
    assert look_of(mine, mine) == ""


@pytest.mark.parametrize(
    ("recorded", "requested", "looks"),
    [
        ("run 1 at 10:00", "run 2 at 11:00", ("timestamp", "number")),
        ("run 1 at 10:00", "run 1 at 11:00", ("timestamp",)),
        ("run 1 at 10:00", "ran 1 at 11:00", ()),
        ("same", "same", ()),
    ],
)
def test_what_explains_a_difference(recorded: str, requested: str, looks: tuple[str, ...]) -> None:
    assert explained(recorded, requested) == looks


# -- kinds, by the real SDKs -----------------------------------------------------------------------------------------


def diverge(
    client: openai.OpenAI, recorded: Sequence[Any], replayed: Sequence[Any]
) -> escapement.ReplayDivergenceError:
    """Record requests, replay others strictly; the error."""
    with escapement.init("recorded") as trace:
        for body in recorded:
            client.chat.completions.create(**body)
    with (
        escapement.replay(trace.trace_id, strict_replay=True),
        pytest.raises(escapement.ReplayDivergenceError) as raised,
    ):
        for body in replayed:
            client.chat.completions.create(**body)
    return raised.value


@pytest.mark.parametrize(("kind", "field", "changed"), CASES, ids=[f"{kind}-{field}" for kind, field, _ in CASES])
def test_kinds(client: openai.OpenAI, kind: str, field: str, changed: dict[str, Any]) -> None:
    error = diverge(client, [BEFORE.get(kind, request())], [changed])
    assert (error.reason, error.kind, error.field, error.step, error.candidates) == ("no_match", kind, field, 1, (1,))
    assert error.diff is not None
    assert error.diff["path"] == field
    name = field.rpartition(".")[2]
    assert PHRASES[kind].format(name=name) in str(error)
    assert f"first difference at {field}" in str(error)
    assert error.code.startswith("test_divergence.py:")


@pytest.mark.parametrize(
    ("replayed", "kind", "step", "due", "sentence"),
    [
        ((0, 2), "dropped_call", 2, 2, "it asks what step 3 asked: step 2 was left out, or put off"),
        ((0, 3), "swapped_order", 2, 2, "it asks what step 4 asked: too early, steps from 2 on come first"),
        ((0, "Tell me a joke"), "extra_call", 2, 2, "nothing like it was recorded"),
        ((0, 1, 2, 3, "Tell me a joke"), "extra_call", 5, None, "the recorded program had made all its calls by now"),
        ((0, "Name four rivers of France."), "changed_prompt", 2, 2, ""),
    ],
)
def test_calls_of_a_conversation(
    client: openai.OpenAI, replayed: Sequence[int | str], kind: str, step: int, due: int | None, sentence: str
) -> None:
    texts = [QUESTIONS[text] if isinstance(text, int) else text for text in replayed]
    error = diverge(client, conversation(*QUESTIONS), conversation(*texts))
    assert (error.kind, error.step, (error.expected or {}).get("step")) == (kind, step, due)
    assert error.field in ("messages[2].content", "messages[7]")
    assert sentence in str(error)


@pytest.mark.parametrize(
    ("replayed", "kind", "sentence"),
    [
        ((0, 2, 1, 3), "swapped_order", "steps 2 and 3 were asked for the other way round"),
        ((0, 2, 3), "dropped_call", "step 2 was recorded before it, and was not asked for"),
        ((0, 1, 2), "dropped_call", "step 4 was recorded before it, and was not asked for"),
    ],
)
def test_calls_that_know_nothing_of_each_other(
    client: openai.OpenAI, replayed: Sequence[int], kind: str, sentence: str
) -> None:
    """They are answered in any order; it shows in what is made of them."""
    found = [QUESTIONS[at] for at in replayed]
    error = diverge(client, [*prompts(*QUESTIONS), notes(*QUESTIONS)], [*prompts(*found), notes(*found)])
    assert (error.kind, error.step, error.field) == (kind, len(replayed) + 1, "messages[0].content")
    assert sentence in str(error)


def test_another_operation(client: openai.OpenAI) -> None:
    with escapement.init() as trace:
        client.post("/chat/completions", cast_to=object, body=request())
    with (
        escapement.replay(trace.trace_id, strict_replay=True),
        pytest.raises(escapement.ReplayDivergenceError) as raised,
    ):
        client.post("/completions", cast_to=object, body=request())
    assert (raised.value.kind, raised.value.field, raised.value.diff) == ("operation", "", None)
    assert "nearest recorded step 1: the same body, sent to another operation" in str(raised.value)


def test_the_whole_text_and_all_of_it_for_programs(client: openai.OpenAI) -> None:
    texts = ("one", "Today is 2026-11-22, " + "say two " * 12 + "\x1b[31m")
    error = diverge(client, prompts(*texts, "three"), prompts("one", texts[1].replace("-22", "-23")))
    head, *rest = str(error).splitlines()
    assert head.startswith(f"[no_match] trace {error.trace_id} step 2 (lane main) chat gpt-4o   test_divergence.py:")
    assert rest == [
        "  nearest recorded step 2, first difference at messages[0].content, character 19",
        "  - Today is 2026-11-22, say two say two say two say two say two sa…   looks like a timestamp",
        "  + Today is 2026-11-23, say two say two say two say two say two sa…",
        "  replayed 1 of 3 steps; recorded next: step 2 chat gpt-4o: Today is 2026-11-22, say two say two sa…",
        '  Fix: normalize=["messages[*].content: timestamp"] | the same value each time |',
        "       strict_replay=False lets it go live | fork() or until=2 goes live here | record again",
    ]
    assert max(map(len, rest)) <= 140
    assert error.as_dict() == {
        "error": "ReplayDivergenceError",
        "reason": "no_match",
        "kind": "timestamp",
        "trace_id": error.trace_id,
        "step": 2,
        "lane": "main",
        "code": error.code,
        "field": "messages[0].content",
        "candidates": [2, 3],
        "diff": {
            "path": "messages[0].content",
            "change": "changed",
            "recorded": texts[1],
            "requested": texts[1].replace("-22", "-23"),
        },
        "expected": {
            "step": 2,
            "name": "chat gpt-4o",
            "asks": "Today is 2026-11-22, say two say two sa…",
        },
        "fix": [
            'normalize=["messages[*].content: timestamp"]',
            "the same value each time",
            "strict_replay=False lets it go live",
            "fork() or until=2 goes live here",
            "record again",
        ],
        "message": str(error),
    }
    assert json.loads(json.dumps(error.as_dict())) == error.as_dict()
    again = pickle.loads(pickle.dumps(error))
    assert again.as_dict() == error.as_dict()


def test_the_difference_in_a_long_text_is_shown_where_it_is(client: openai.OpenAI) -> None:
    before, after = "word " * 2000, " tail" * 2000
    error = diverge(client, prompts(f"{before}the old thing{after}"), prompts(f"{before}the new thing{after}"))
    assert "first difference at messages[0].content, character 10005" in str(error)
    old, new = (line for line in str(error).splitlines() if line.startswith(("  - ", "  + ")))
    assert "the old thing tail" in old
    assert "the new thing tail" in new
    assert max(len(line) for line in str(error).splitlines()) < 160


def test_other_protocols(claude: anthropic.Anthropic) -> None:
    def talk(system: str, result: str) -> None:
        claude.messages.create(
            model="claude-x",
            max_tokens=50,
            system=system,
            messages=[
                {"role": "user", "content": "Look it up."},
                {"role": "assistant", "content": [{"type": "tool_use", "id": "toolu_1", "name": "look", "input": {}}]},
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": result}]},
            ],
        )

    with escapement.init() as trace:
        talk("Be brief.", "It is warm in here.")
    for system, result, kind, field in (
        ("Be kind.", "It is warm in here.", "changed_prompt", "system"),
        ("Be brief.", "It is cold in here.", "changed_tool_result", "messages[2].content[0].content"),
    ):
        with (
            escapement.replay(trace.trace_id, strict_replay=True),
            pytest.raises(escapement.ReplayDivergenceError) as raised,
        ):
            talk(system, result)
        assert (raised.value.kind, raised.value.field) == (kind, field)


def test_forms_are_compared_by_their_fields(client: openai.OpenAI) -> None:
    def transcribe(prompt: str) -> None:
        client.audio.transcriptions.create(model="whisper-1", file=("a.wav", b"RIFF" * 50), prompt=prompt)

    with escapement.init() as trace:
        transcribe("Names: Ada")
    with escapement.replay(trace.trace_id, strict_replay=True):
        transcribe("Names: Ada")
        with pytest.raises(escapement.ReplayDivergenceError, match="first difference at prompt"):
            transcribe("Names: Bob")


def test_the_warning_says_the_same_but_what_has_happened_already(client: openai.OpenAI) -> None:
    with escapement.init() as trace:
        ask(client, "Count to 10")
    with escapement.replay(trace.trace_id), pytest.warns(escapement.EscapementWarning) as warned:
        ask(client, "Count to 20")
    text = str(warned[0].message)
    assert "first difference at messages[0].content\n  - Count to 10   looks like a counter\n  + Count to 20" in text
    assert '  Fix: normalize=["messages[*].content: number"] | the same value each time |' in text
    assert "strict_replay" not in text


def test_in_a_failing_test(tmp_path: Path, provider: Provider) -> None:
    """The name under which users import it, the whole text, and the line of the test."""
    (tmp_path / "test_agent.py").write_text(
        "import escapement, openai\n"
        f"client = openai.OpenAI(api_key='k', base_url={provider.base_url + '/v1'!r})\n"
        "def agent(day):\n"
        "    messages = [{'role': 'user', 'content': f'Today is {day}.'}]\n"
        "    client.chat.completions.create(model='gpt-4o', messages=messages)\n"
        "def test_agent():\n"
        "    with escapement.init() as trace:\n"
        "        agent('2026-11-22')\n"
        "    with escapement.replay(trace.trace_id, strict_replay=True):\n"
        "        agent('2026-11-23')\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=short", "test_agent.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    errors = [line for line in done.stdout.splitlines() if line.startswith("E ")]
    assert errors[0].startswith("E   escapement.ReplayDivergenceError: [no_match] trace tr_")
    assert errors[0].endswith(" step 1 (lane main) chat gpt-4o   test_agent.py:5")
    assert errors[1:] == [
        "E     nearest recorded step 1, first difference at messages[0].content",
        "E     - Today is 2026-11-22.   looks like a timestamp",
        "E     + Today is 2026-11-23.",
        "E     replayed 0 of 1 steps; recorded next: step 1 chat gpt-4o: Today is 2026-11-22.",
        'E     Fix: normalize=["messages[*].content: timestamp"] | the same value each time |',
        "E          strict_replay=False lets it go live | fork() or until=1 goes live here | record again",
    ]


def test_mutations_of_an_agent_are_named() -> None:
    """A small part of `make mutations`. Which of two turns that were swapped was left out cannot be told."""
    for judged in mutations.examine(each=3, seed=7, agents=3):
        assert judged.placed, (judged.change, judged.truth, judged.error)
        if judged.change != "swapped_order":
            assert judged.named, (judged.change, judged.truth, judged.error)


def test_the_page_shows_every_kind_as_it_is_said() -> None:
    """`python -m tests.divergences` writes them anew."""
    shown = dict(re.findall(r"^### (\w+)\n.*?^```text\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL))
    assert shown == {kind: f"{text}\n" for kind, text in examples()}
    assert set(shown) == set(PHRASES)
