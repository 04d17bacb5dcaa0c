"""The conversations Anthropic holds between turns, as the tool runner of its newer SDKs uses by default.

A request with `thread` of type `create` has its conversation held under the id of the answer. One of type
`continue` names that id and sends only new messages, once: afterwards the conversation is held under the id
of the next answer. The SDK recovers from a refusal by sending everything again.
"""

from __future__ import annotations

import json
import threading
from dataclasses import replace

from . import anthropic
from .exchange import Json, Question, Refused, Reply


class Threads:
    """Answers messages, with the conversations held so far."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[str, Json] = {}
        self._continued: set[str] = set()

    def messages(self, question: Question) -> Reply:
        if not (thread := question.data.get("thread")):
            return anthropic.messages(question)
        if thread["type"] == "continue":
            held = self._taken(thread["previous_message_id"])
            said = [*held["messages"], *question.data["messages"]]
            whole = {**held, **question.data, "messages": said}
            question = replace(question, request=replace(question.request, body=json.dumps(whole).encode()))
        message = anthropic.message(question)
        said = [*question.data["messages"], {"role": "assistant", "content": message["content"]}]
        # The server keeps only what a continuing request may not send again.
        kept: Json = {key: question.data[key] for key in ("tools", "system") if key in question.data}
        with self._lock:
            self._held[message["id"]] = {**kept, "messages": said}
        return anthropic.told(question, message)

    def _taken(self, name: str) -> Json:
        with self._lock:
            if name in self._continued:
                raise Refused(400, "thread_already_continued")
            if name not in self._held:
                raise Refused(404, "thread_not_found")
            self._continued.add(name)
            return self._held.pop(name)
