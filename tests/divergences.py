"""Requests that differ in one thing, for tests and for the page that shows what is said of each.

`python -m tests.divergences` writes what `docs/divergence.md` shows.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai

import escapement
from tests.provider import Provider

PAGE = Path(__file__).parent.parent / "docs" / "divergence.md"


def tool(name: str, description: str = "") -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "description": description}}


def said(text: str, role: str = "user") -> dict[str, Any]:
    return {"role": role, "content": text}


WEATHER: dict[str, Any] = {"city": "Paris", "run": 1}


def request(**changed: Any) -> dict[str, Any]:
    """A request of an agent that has called a tool."""
    return {
        "model": "gpt-4o",
        "temperature": 0.5,
        "user": "run-1",
        "messages": [
            said("You are an agent. It is 2026-11-22T10:00Z.", "system"),
            said("What is the weather in these cities:\nParis\nRome\nOslo"),
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {
                        "id": "call_a1b2c3d4e5f6",
                        "type": "function",
                        "function": {"name": "weather", "arguments": json.dumps(WEATHER)},
                    }
                ],
            },
            {"role": "tool", "tool_call_id": "call_a1b2c3d4e5f6", "content": "It rains in Paris all day long."},
        ],
        "tools": [tool("weather"), tool("search"), tool("map")],
        **changed,
    }


def with_message(at: int, **changed: Any) -> dict[str, Any]:
    messages = request()["messages"]
    return request(messages=[*messages[:at], {**messages[at], **changed}, *messages[at + 1 :]])


def with_arguments(**changed: Any) -> dict[str, Any]:
    (call,) = request()["messages"][2]["tool_calls"]
    function = {**call["function"], "arguments": json.dumps({**WEATHER, **changed})}
    return with_message(2, tool_calls=[{**call, "function": function}])


CASES: list[tuple[str, str, dict[str, Any]]] = [
    ("timestamp", "messages[0].content", with_message(0, content="You are an agent. It is 2026-11-23T10:00Z.")),
    ("changed_prompt", "messages[0].content", with_message(0, content="You are a robot. It is 2026-11-22T10:00Z.")),
    ("reordered", "messages[1].content", with_message(1, content="What is the weather in these cities:\nOslo\nRome\nParis")),
    ("number", "messages[2].tool_calls[0].function.arguments.run", with_arguments(run=2)),
    ("changed_history", "messages[2].tool_calls[0].function.arguments.city", with_arguments(city="Parma")),
    ("changed_tool_result", "messages[3].content", with_message(3, content="It snows in Paris all day long.")),
    ("random_id", "messages[3].tool_call_id", with_message(3, tool_call_id="call_b1b2c3d4e5f6")),
    ("removed_tool", "tools[1]", request(tools=[tool("weather"), tool("map")])),
    ("added_tool", "tools[3]", request(tools=[tool("weather"), tool("search"), tool("map"), tool("news")])),
    ("changed_tool", "tools[1].function.description", request(tools=[tool("weather"), tool("search", "x"), tool("map")])),
    ("reordered", "tools[0]", request(tools=[tool("search"), tool("weather"), tool("map")])),
    ("changed_model", "model", request(model="gpt-4o-mini")),
    ("changed_parameter", "temperature", request(temperature=0.7)),
    ("changed_parameter", "top_p", request(top_p=0.5)),
    ("changed_parameter", "user", request(user="somebody else")),
    ("uuid", "metadata.run", request(metadata={"run": "6f1c8f5e-0b1d-4c7e-9d58-0a1b2c3d4e5f"})),
    ("path", "metadata.file", request(metadata={"file": "/tmp/tmpab12/x.txt"})),
]  # fmt: skip
BEFORE = {
    "uuid": request(metadata={"run": "00000000-0b1d-4c7e-9d58-0a1b2c3d4e5f"}),
    "path": request(metadata={"file": "/tmp/tmpzz99/x.txt"}),
}


def prompts(*texts: str) -> list[dict[str, Any]]:
    return [{"model": "gpt-4o", "messages": [said(text)]} for text in texts]


def conversation(*texts: str) -> list[dict[str, Any]]:
    """Requests of a conversation, in which an assistant says always the same."""
    messages: list[dict[str, Any]] = []
    requests = []
    for text in texts:
        messages = [*messages, said(text)]
        requests.append({"model": "gpt-4o", "messages": messages})
        messages = [*messages, said("Well, well.", "assistant")]
    return requests


QUESTIONS = (
    "Where do storks live in winter?",
    "Name three rivers of France.",
    "What is a comet made of?",
    "And a star?",
)


def notes(*texts: str) -> dict[str, Any]:
    return {"model": "gpt-4o", "messages": [said("\n".join(["Put these together:", *texts]))]}


Calls = tuple[list[dict[str, Any]], list[dict[str, Any]]]

_FOUND = [QUESTIONS[at] for at in (0, 2, 1, 3)]
OF_CALLS: dict[str, Calls] = {
    "dropped_call": (conversation(*QUESTIONS), conversation(QUESTIONS[0], QUESTIONS[2])),
    "extra_call": (conversation(*QUESTIONS), conversation(QUESTIONS[0], "Tell me a joke")),
    "swapped_order": ([*prompts(*QUESTIONS), notes(*QUESTIONS)], [*prompts(*_FOUND), notes(*_FOUND)]),
}
"""By kind the calls of a recorded program, and of one that makes others."""


def examples() -> Iterator[tuple[str, str]]:
    """Every kind, and what is said of a replay that diverges so; ids and lines are always the same."""
    done = set()
    with (
        tempfile.TemporaryDirectory() as folder,
        Provider() as provider,
        openai.OpenAI(api_key="k", base_url=f"{provider.base_url}/v1") as client,
    ):
        calls: list[tuple[str, Calls]] = [(kind, ([BEFORE.get(kind, request())], [body])) for kind, _, body in CASES]
        for kind, (recorded, replayed) in [*calls, *OF_CALLS.items(), ("operation", ([request()], [request()]))]:
            if kind in done:
                continue
            done.add(kind)
            paths = ("/chat/completions", "/completions" if kind == "operation" else "/chat/completions")
            with escapement.init("agent", storage_dir=folder) as trace:
                for body in recorded:
                    client.post(paths[0], cast_to=object, body=body)
            try:
                with escapement.replay(trace.trace_id, storage_dir=folder, strict_replay=True):
                    for body in replayed:
                        client.post(paths[1], cast_to=object, body=body)
            except escapement.ReplayDivergenceError as error:
                assert error.kind == kind, error
                text = str(error).replace(trace.trace_id, "tr_7f3a12bc90de")
                yield kind, re.sub(r"\S+\.py:\d+$", "agent.py:88", text, count=1, flags=re.MULTILINE)


def main() -> None:
    """Write the page's examples anew."""
    page = PAGE.read_text()
    for kind, text in examples():
        pattern = re.compile(rf"(^### {kind}\n.*?^```text\n).*?(^```)", re.MULTILINE | re.DOTALL)
        page, found = pattern.subn(lambda match, text=text: f"{match[1]}{text}\n{match[2]}", page, count=1)  # type: ignore[misc]
        assert found, kind
    PAGE.write_text(page)


if __name__ == "__main__":
    main()
