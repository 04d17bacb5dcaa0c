"""`normalize` and `ignore`: what of a request does not count, on the sides of recording and replaying alike."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import escapement
from escapement.cli import application
from escapement.engine.normalising import Normalising
from escapement.store.traces import SpanStore
from escapement.words.config import SETTINGS
from escapement.words.normalisers import any_entry, parse, parse_field, show_field
from tests.conftest import ask
from tests.provider import Provider


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("user", ("user",)),
        ("metadata.run_id", ("metadata", "run_id")),
        ("messages[*].content", ("messages", "*", "content")),
        ("messages[0].parts[12].text", ("messages", 0, "parts", 12, "text")),
        ("a[*][3].b", ("a", "*", 3, "b")),
    ],
)
def test_fields(text: str, field: tuple[str | int, ...]) -> None:
    assert parse_field(text) == field
    assert show_field(field) == text
    assert any_entry(text) == re.sub(r"\d+", "*", text)


@pytest.mark.parametrize("text", ["timestamp", "user", "messages[*].content: uuid", r"/run-\d+/", "user: /a: b/"])
def test_a_declaration_reads_as_it_was_written(text: str) -> None:
    assert str(parse(text)) == text
    assert parse(str(parse(text))) == parse(text)


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("normalize", "messages[*.content", "'messages[*.content' is not a field"),
        ("normalize", "user: date", "'date' is not one of uuid, timestamp, path, random_id, number, nor a /pattern/"),
        ("normalize", "/(/", "/(/ is not a regular expression"),
        ("normalize", ["timestamp", 7], "7 is not a normaliser"),
        ("normalize", re.compile(b"x"), "a pattern of bytes"),
        ("ignore", "a..b", "'a..b' is not a field"),
        ("ignore", [7], "7 is not a field"),
    ],
)
def test_what_cannot_be_declared(setting: str, value: Any, message: str) -> None:
    with pytest.raises(escapement.ConfigError, match=f"^{setting} takes .*{re.escape(message)}.*set by argument"):
        escapement.init(**{setting: value})
    assert escapement.current() is None


BODY = {
    "model": "gpt-4o",
    "seed": 7,
    "user": "6f1c8f5e-0b1d-4c7e-9d58-0a1b2c3d4e5f",
    "messages": [
        {"role": "system", "content": "It is 2026-11-22T10:00Z, run-7 of 9."},
        {"role": "user", "content": "Hello at 10:00"},
    ],
    "call": '{"query": "run-8", "at": {"day": "2026-11-22"}}',
}


@pytest.mark.parametrize(
    ("normalize", "ignore", "changed"),
    [
        (
            "timestamp",
            (),
            {
                "messages[0].content": "It is <timestamp>, run-7 of 9.",
                "messages[1].content": "Hello at <timestamp>",
                "call": '{"query": "run-8", "at": {"day": "<timestamp>"}}',
            },
        ),
        ("messages[1].content: timestamp", (), {"messages[1].content": "Hello at <timestamp>"}),
        ("messages[*].content: timestamp, user", (), {
            "messages[0].content": "It is <timestamp>, run-7 of 9.",
            "messages[1].content": "Hello at <timestamp>",
            "user": "<uuid>",
        }),
        (r"/run-\d/", (), {
            "messages[0].content": "It is 2026-11-22T10:00Z, <normalized> of 9.",
            "call": '{"query": "<normalized>", "at": {"day": "2026-11-22"}}',
        }),
        (re.compile("Hello"), (), {"messages[1].content": "<normalized> at 10:00"}),
        ("call.at.day", (), {"call": '{"at":{"day":"<timestamp>"},"query":"run-8"}'}),
        ("seed", (), {"seed": "<number>"}),
        ((), "call.at.day", {"call": '{"at":{},"query":"run-8"}'}),
        ((), "nothing.like[3].it", {}),
        ((), "messages[*].role", {"messages": [{"content": message["content"]} for message in BODY["messages"]]}),
        ((), ["messages[0]"], {"messages": BODY["messages"][1:]}),  # type: ignore[index]
        (lambda body: {**body, "model": "any"}, "seed", {"model": "any", "seed": None}),
    ],
)  # fmt: skip
def test_what_counts_of_a_body(normalize: Any, ignore: Any, changed: dict[str, Any]) -> None:
    expected = json.loads(json.dumps(BODY))
    for field, value in changed.items():
        *before, last = parse_field(field)
        at = expected
        for part in before:
            at = at[part]
        at[last] = value
        if value is None:
            del at[last]
    original = json.dumps(BODY)
    normalising = Normalising(SETTINGS["normalize"].parse(normalize), SETTINGS["ignore"].parse(ignore))
    assert normalising.document(BODY) == expected
    assert json.dumps(BODY) == original


TEXTS = st.text("a1f0:/-_ ", max_size=24)


@given(st.dictionaries(st.sampled_from("ab"), TEXTS | st.integers() | st.lists(TEXTS, max_size=2), max_size=2))
def test_what_does_not_count_is_found_once(document: dict[str, Any]) -> None:
    """Normalising twice is normalising once: fingerprints of scrubbed and unscrubbed bodies agree."""
    normalising = Normalising(tuple(parse(look) for look in ("uuid", "timestamp", "path", "random_id")))
    once = normalising.document(document)
    assert normalising.document(once) == once


def test_a_replay_under_normalisers_of_a_trace_that_was_recorded_without(
    client: openai.OpenAI, provider: Provider
) -> None:
    with escapement.init() as trace:
        answers = [ask(client, f"It is 2026-11-22T10:00Z, say {word}") for word in ("one", "two")]
    sent = provider.count
    with escapement.replay(trace.trace_id, strict_replay=True, normalize="timestamp") as replayed:
        assert [ask(client, f"It is 2026-12-24T23:59Z, say {word}") for word in ("one", "two")] == answers
        with pytest.raises(escapement.ReplayDivergenceError) as raised:
            ask(client, "It is 2027-01-01T00:00Z, say three")
    assert (replayed.hits, provider.count) == (2, sent)
    assert raised.value.diff is not None
    assert raised.value.diff["requested"] == "It is <timestamp>, say three"
    with escapement.replay(trace.trace_id, strict_replay=True):
        assert [ask(client, f"It is 2026-11-22T10:00Z, say {word}") for word in ("one", "two")] == answers


def test_a_replay_without_normalisers_of_a_trace_that_was_recorded_with_some(
    client: openai.OpenAI, store: Path
) -> None:
    with escapement.init(normalize=["timestamp"], ignore=["user"]) as trace:
        answer = ask(client, "It is 10:00")
    (row,) = SpanStore(store).load(trace.trace_id).steps
    assert row.fingerprint.startswith("1n:")
    assert b"It is 10:00" in SpanStore(store).load(trace.trace_id).request_body(row)
    with escapement.replay(trace.trace_id, strict_replay=True):
        with pytest.raises(escapement.ReplayDivergenceError):
            ask(client, "It is 11:00")
        assert ask(client, "It is 10:00") == answer
    for declared in ({"normalize": "timestamp"}, {"normalize": "messages[0].content"}, {"ignore": "messages"}):
        with escapement.replay(trace.trace_id, strict_replay=True, **declared):
            assert ask(client, "It is 11:00") == answer


def test_a_fork_under_normalisers_can_be_replayed(client: openai.OpenAI, provider: Provider) -> None:
    clock = itertools.count(10)

    def say(text: str) -> str:
        return ask(client, f"It is {next(clock)}:00, say {text}")

    with escapement.init() as trace:
        one, _ = say("one"), say("two")
    with escapement.replay(trace.trace_id, normalize="timestamp") as replayed:
        assert say("one") == one
        escapement.fork()
        two = say("two")
    sent = provider.count
    with escapement.replay(replayed.trace_id, normalize="timestamp", strict_replay=True):
        assert [say("one"), say("two")] == [one, two]
    assert provider.count == sent


def test_from_pyproject_and_the_environment(
    client: openai.OpenAI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with escapement.init() as trace:
        answer = ask(client, "It is 10:00, run-1")
    (tmp_path / "pyproject.toml").write_text(
        '[tool.escapement]\nnormalize = ["messages[*].content: timestamp", "/run-[0-9]{1,3}/"]\n'
    )
    with escapement.replay(trace.trace_id, strict_replay=True):
        assert ask(client, "It is 11:00, run-22") == answer
    monkeypatch.setenv("ESCAPEMENT_NORMALIZE", r'["/run-\\d{1,3}/", "timestamp"]')
    with escapement.replay(trace.trace_id, strict_replay=True):
        assert ask(client, "It is 12:00, run-333") == answer


def test_a_function_that_fails_does_not_end_the_program(
    client: openai.OpenAI, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(body: Any) -> Any:
        raise KeyError("nothing")

    def unusable(body: Any) -> Any:
        return object()

    with escapement.init(normalize=[broken, unusable, "timestamp"]) as trace:
        answer = ask(client, "It is 10:00")
    assert "the normaliser test_a_function_that_fails_does_not_end_the_program.<locals>.broken failed" in caplog.text
    assert "unusable failed" in caplog.text
    with escapement.replay(trace.trace_id, strict_replay=True, normalize="timestamp"):
        assert ask(client, "It is 11:00") == answer


def test_a_body_that_is_no_json_counts_as_it_is(client: openai.OpenAI) -> None:
    def transcribe(content: bytes) -> str:
        return client.audio.transcriptions.create(model="whisper-1", file=("a.wav", content)).text

    with escapement.init(normalize="timestamp") as trace:
        answer = transcribe(b"RIFF 10:00")
    with escapement.replay(trace.trace_id, strict_replay=True, normalize="timestamp"):
        with pytest.raises(escapement.ReplayDivergenceError):
            transcribe(b"RIFF 11:00")
        assert transcribe(b"RIFF 10:00") == answer


def test_what_would_be_one_request_counts_as_one_for_the_guard(client: openai.OpenAI) -> None:
    with escapement.init(normalize="number", max_identical_calls=3), pytest.raises(escapement.LoopDetectedError):
        for number in range(5):
            ask(client, f"Attempt {number}")


def test_info_shows_what_is_declared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESCAPEMENT_NORMALIZE", r"timestamp, user: /run-\d+/")
    monkeypatch.setenv("ESCAPEMENT_IGNORE", "metadata.run_id,messages[*].name")
    runner = CliRunner(env={"COLUMNS": "200"})
    settings = json.loads(runner.invoke(application("info"), ["info", "--json"]).stdout)["settings"]
    assert settings["normalize"]["value"] == ["timestamp", r"user: /run-\d+/"]
    assert settings["ignore"]["value"] == ["metadata.run_id", "messages[*].name"]
    assert r"timestamp, user: /run-\d+/" in runner.invoke(application("info"), ["info"]).stdout
