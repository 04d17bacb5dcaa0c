"""What Google keeps: interactions, of which some go on in the background, and files, which are uploaded in parts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from . import content, sse, words
from .exchange import Answered, Blob, Json, Question, Reply
from .kept import Kept


class Interactions:
    """Interactions by id."""

    def __init__(self) -> None:
        self._kept = Kept()

    def create(self, question: Question) -> Reply:
        interaction = self._made(question)
        self._kept.add(interaction)
        if question.data.get("background"):
            return self._kept.add({**interaction, "status": "in_progress", "steps": [], "usage": None})
        return list(_events(interaction)) if question.streaming else interaction

    def retrieve(self, question: Question) -> Json:
        """As it is now: each time that it is asked for, a little further."""
        running: Json = {"status": "in_progress"}
        kept = self._kept.get(question.name)
        if kept["status"] == "completed":
            return kept
        done: Json = {"status": "completed", "steps": _steps(question), "usage": _usage()}
        return self._kept.move(question.name, [running, running, done])

    def delete(self, question: Question) -> Json:
        self._kept.remove(question.name)
        return {}

    def _made(self, question: Question) -> Json:
        return {
            "id": words.identifier("v1_", 40),
            "object": "interaction",
            "model": question.model,
            "status": "completed",
            "created": "2026-10-01T10:00:00Z",
            "steps": _steps(question),
            "usage": _usage(),
        }


def _usage() -> Json:
    into, out, thought = words.integer(20, 4000), words.integer(20, 4000), words.integer(0, 4000)
    return {
        "total_input_tokens": into,
        "total_output_tokens": out,
        "total_thought_tokens": thought,
        "total_cached_tokens": words.integer(0, into),
        "total_tool_use_tokens": words.integer(0, 20),
        "total_tokens": into + out + thought,
    }


def _steps(question: Question) -> list[Json]:
    given: Any = question.data.get("input") or ""
    steps = given if isinstance(given, list) else [given]
    answered = isinstance(steps[-1], dict) and steps[-1].get("type") == "function_result"
    thought = {"type": "thought", "summary": [{"type": "text", "text": words.text()}]}
    tools = {tool["name"]: tool.get("parameters") or {} for tool in question.data.get("tools") or ()}
    if calls := content.calls(question, tools, answered):
        return [
            thought,
            *(
                {"type": "function_call", "id": words.identifier("", 8), "name": name, "arguments": arguments}
                for name, arguments in calls
            ),
        ]
    text = content.said(question, str(steps[-1]), None)
    return [thought, {"type": "model_output", "content": [{"type": "text", "text": text}]}]


def _events(interaction: Json) -> Iterator[bytes]:
    number = words.integer(1, 9)
    head = {key: interaction[key] for key in ("id", "object", "model")}
    yield _event("interaction.created", interaction={**head, "status": "in_progress"})
    yield _event("interaction.status_update", interaction_id=interaction["id"], status="in_progress")
    for index, step in enumerate(interaction["steps"]):
        kind = step["type"]
        bare = {"thought": {"type": kind}, "model_output": {"type": kind}}.get(kind, {**step, "arguments": {}})
        yield _event("step.start", index=index, step=bare)
        if kind == "function_call":
            for piece in words.pieces(json.dumps(step["arguments"])):
                yield _event("step.delta", index=index, delta={"type": "arguments_delta", "arguments": piece})
        elif kind == "thought":
            for piece in words.pieces(step["summary"][0]["text"]):
                delta = {"type": "thought_summary", "content": {"type": "text", "text": piece}}
                yield _event("step.delta", index=index, delta=delta)
        else:
            for piece in words.pieces(step["content"][0]["text"]):
                yield _event("step.delta", index=index, delta={"type": "text", "text": piece})
        yield _event("step.stop", index=index)
    done = {**head, "status": "completed", "usage": interaction["usage"]}
    yield _event("interaction.completed", event_id=f"e{number}", interaction=done)


def _event(kind: str, **fields: Any) -> bytes:
    return sse.event({"event_type": kind, **fields}, kind)


class GoogleFiles:
    """Files by name. An upload is begun, gets an address of its own, and is sent there."""

    def __init__(self) -> None:
        self._kept = Kept()
        self._contents: dict[str, bytes] = {}

    def begin(self, question: Question) -> Reply:
        name = f"files/{words.identifier('', 12)}"
        told = question.data.get("file") or {}
        told = {key: told[key] for key in ("displayName", "mimeType") if key in told}
        self._kept.add({"id": name, "name": name, "uri": f"https://google.test/{name}", "state": "ACTIVE", **told})
        host = question.request.headers["host"]
        url = f"http://{host}/upload/v1beta/files?upload_id={name.rpartition('/')[2]}&upload_protocol=resumable"
        return Answered({}, {"x-goog-upload-url": url, "x-goog-upload-status": "active"})

    def send(self, question: Question) -> Reply:
        name = f"files/{question.field('upload_id')}"
        self._contents[name] = self._contents.get(name, b"") + question.request.body
        if "finalize" not in question.request.headers["x-goog-upload-command"]:
            return Answered({}, {"x-goog-upload-status": "active"})
        kept = self._kept.change(name, sizeBytes=str(len(self._contents[name])))
        return Answered({"file": _shown(kept)}, {"x-goog-upload-status": "final"})

    def retrieve(self, question: Question) -> Json:
        return _shown(self._kept.get(f"files/{question.name}"))

    def download(self, question: Question) -> Blob:
        return Blob("application/octet-stream", self._contents[f"files/{question.name}"])

    def list(self, question: Question) -> Json:
        return {"files": [_shown(kept) for kept in self._kept.page(question)["data"]]}

    def delete(self, question: Question) -> Json:
        self._kept.remove(f"files/{question.name}")
        return {}


def _shown(kept: Json) -> Json:
    return {key: value for key, value in kept.items() if key != "id"}
