"""What the OpenAI API keeps of talks: conversations with their items, responses that go on in the background."""

from __future__ import annotations

from . import responses, words
from .exchange import Json, Question, Refused, Reply
from .kept import Kept, deleted, made


class Conversations:
    """Conversations, and the responses that were not waited for."""

    def __init__(self) -> None:
        self._conversations = Kept()
        self._items = Kept()
        self._responses = Kept()

    def create(self, question: Question) -> Json:
        talk = made("conv_", "conversation", metadata=question.data.get("metadata") or {})
        self._take(talk["id"], question.data.get("items") or ())
        return self._conversations.add(talk)

    def _take(self, talk: str, items: list[Json] | tuple[()]) -> list[Json]:
        taken = []
        for item in items:
            content = item["content"]
            parts = [{"type": "input_text", "text": content}] if isinstance(content, str) else content
            head = {"id": words.identifier("msg_"), "type": "message", "role": item["role"], "status": "completed"}
            taken.append(self._items.add({**head, "content": parts, "conversation": talk}))
        return taken

    def retrieve(self, question: Question) -> Json:
        return self._conversations.get(question.name)

    def update(self, question: Question) -> Json:
        return self._conversations.change(question.name, **question.data)

    def delete(self, question: Question) -> Json:
        self._conversations.remove(question.name)
        return deleted(question.name, "conversation")

    def add_items(self, question: Question) -> Json:
        taken = self._take(question.name, question.data["items"])
        return {
            "object": "list",
            "data": taken,
            "first_id": taken[0]["id"],
            "last_id": taken[-1]["id"],
            "has_more": False,
        }

    def items(self, question: Question) -> Json:
        return self._items.page(question, conversation=question.name)

    def item(self, question: Question) -> Json:
        return self._items.get(question.name)

    def delete_item(self, question: Question) -> Json:
        talk = self._items.remove(question.name)["conversation"]
        return self._conversations.get(talk)

    # -- responses in the background ---------------------------------------------------------------------------------

    def respond(self, question: Question) -> Reply:
        if not question.data.get("background") or question.streaming:
            return responses.answer(question)
        whole = responses.answer(question)
        assert isinstance(whole, dict)
        queued = {"status": "queued", "background": True, "output": [], "usage": None, "completed_at": None}
        return self._responses.add({**whole, **queued, "whole": whole})

    def response(self, question: Question) -> Reply:
        """A response as it is now; one of which nothing is known is made up."""
        try:
            whole = self._responses.get(question.name)["whole"]
        except Refused:
            return responses.stored(question)
        running = [{"status": "queued"}, *[{"status": "in_progress"}] * 11]
        return self._responses.move(question.name, [*running, {**whole, "background": True}])

    def cancel(self, question: Question) -> Json:
        return self._responses.change(question.name, status="cancelled")

    def forget(self, question: Question) -> Json:
        self._responses.remove(question.name)
        return deleted(question.name, "response")

    def input_items(self, question: Question) -> Json:
        texts = [{"type": "input_text", "text": words.text()}]
        item = {
            "id": words.identifier("msg_"),
            "type": "message",
            "role": "user",
            "status": "completed",
            "content": texts,
        }
        return {"object": "list", "data": [item], "first_id": item["id"], "last_id": item["id"], "has_more": False}
