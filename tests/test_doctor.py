"""`escapement doctor`: what is proposed, and that a replay with it finds its trace."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import openai
import pytest
from typer.testing import CliRunner, Result

import escapement
from escapement.cli import application
from tests.provider import Provider


def agent(client: openai.OpenAI, run: int, word: str = "helpful") -> list[str]:
    """An agent whose requests hold what is new in every run, beside what the model says."""
    messages: list[Any] = [{"role": "system", "content": f"You are {word}. It is 2026-11-2{run} 10:0{run}."}]
    said = []
    for number in range(3):
        messages.append({"role": "user", "content": f"Question {number} in /tmp/tmp{run}ab/notes.txt"})
        answer = client.chat.completions.create(
            model="gpt-4o",
            messages=messages,
            user=f"6f1c8f5e-0b1d-4c7e-9d58-0a1b2c3d4e0{run}",
            metadata={"day": f"2026-11-2{run}"},
            tools=[
                {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
            ],
        )
        messages.append(answer.choices[0].message.model_dump(exclude_none=True))
        for call in answer.choices[0].message.tool_calls or ():
            messages.append({"role": "tool", "tool_call_id": call.id, "content": f"fine at 10:0{run}"})
        said.append(answer.choices[0].message.model_dump_json())
    return said


def run(*arguments: str, width: int = 120) -> Result:
    return CliRunner(env={"COLUMNS": str(width)}).invoke(application("doctor"), ["doctor", *arguments])


def test_a_replay_with_what_is_proposed_finds_its_trace(
    client: openai.OpenAI, provider: Provider, tmp_path: Path
) -> None:
    with escapement.init("agent") as trace:
        said = agent(client, 1)
    with escapement.init("other"):
        agent(client, 5)
    with escapement.init("agent"):
        agent(client, 2)
    result = run(trace.trace_id)
    assert result.exit_code == 0
    lines = result.stdout[result.stdout.index("[tool.escapement]") :].partition("\n\n")[0]
    assert tomllib.loads(lines)["tool"]["escapement"] == {
        "normalize": ["messages[*].content: timestamp", "messages[*].content: path"],
        "ignore": ["metadata.day", "user"],
    }
    (tmp_path / "pyproject.toml").write_text(lines)
    sent = provider.count
    with escapement.replay(trace.trace_id, strict_replay=True) as replayed:
        assert agent(client, 3) == said
    assert (replayed.hits, provider.count) == (3, sent)


def test_for_programs(client: openai.OpenAI) -> None:
    traces = []
    for number in (1, 2):
        with escapement.init("agent") as trace:
            client.chat.completions.create(
                model="gpt-4o", messages=[{"role": "user", "content": f"It is 10:0{number}"}], temperature=number / 10
            )
        traces.append(trace.trace_id)
    assert json.loads(run(*traces, "--json").stdout) == {
        "left": traces[0],
        "right": traces[1],
        "steps": 1,
        "same_before": 0,
        "same_after": 0,
        "normalize": ["messages[*].content: timestamp"],
        "ignore": [],
        "found": [
            {
                "field": "messages[*].content",
                "kind": "timestamp",
                "steps": [1],
                "examples": ["It is 10:01", "It is 10:02"],
            }
        ],
        "left_over": [{"field": "temperature", "kind": "changed_parameter", "steps": [1]}],
    }


@pytest.mark.parametrize("width", [60, 80, 140])
def test_what_is_no_accident_is_not_proposed(client: openai.OpenAI, width: int) -> None:
    for number, word in ((1, "helpful"), (2, "unhelpful")):
        with escapement.init("agent"):
            agent(client, number, word)
    result = run(width=width)
    assert "step 1, messages[*].content: a changed prompt" in " ".join(result.stdout.split())
    table = result.stdout.partition("For pyproject.toml")[0]
    assert max(map(len, table.splitlines()[1:])) <= width


def test_nothing_to_compare_with(client: openai.OpenAI) -> None:
    with escapement.init("agent"):
        agent(client, 1)
    result = run()
    assert isinstance(result.exception, escapement.TraceNotFoundError)
    assert "there is no other trace named 'agent'" in str(result.exception)
    assert "Nothing to propose." in run("@last", "@last").stdout
