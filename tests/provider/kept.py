"""What a provider keeps between requests: objects by their id, lists of them page by page, jobs that take their time."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from . import words
from .exchange import Json, Question, Refused


class Kept:
    """Objects of one kind, in the order in which they were made. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._objects: dict[str, Json] = {}
        self._asked: dict[str, int] = {}

    def add(self, made: Json) -> Json:
        with self._lock:
            self._objects[made["id"]] = made
        return made

    def get(self, name: str) -> Json:
        """The object of an id. Raises Refused."""
        with self._lock:
            found = self._objects.get(name)
        if found is None:
            raise Refused(404, "not_found")
        return found

    def change(self, name: str, /, **fields: object) -> Json:
        return self.add({**self.get(name), **fields})

    def move(self, name: str, stages: Sequence[Json]) -> Json:
        """The object with the fields of its next stage, as a job has them that goes on while it is asked for."""
        self.get(name)
        with self._lock:
            at = self._asked.get(name, 0)
            self._asked[name] = at + 1
        return self.change(name, **stages[min(at, len(stages) - 1)])

    def remove(self, name: str) -> Json:
        self.get(name)
        with self._lock:
            return self._objects.pop(name)

    def page(self, question: Question, after: str = "after", **fields: object) -> Json:
        """A page of those that have these values, behind the one that `after` names."""
        with self._lock:
            found = [kept for kept in self._objects.values() if fields.items() <= kept.items()]
        names = [kept["id"] for kept in found]
        begin = names.index(question.field(after)) + 1 if question.field(after) in names else 0
        shown = found[begin : begin + int(question.field("limit", "20"))]
        ends = (
            {"first_id": shown[0]["id"], "last_id": shown[-1]["id"]} if shown else {"first_id": None, "last_id": None}
        )
        return {"object": "list", "data": shown, **ends, "has_more": len(found) > begin + len(shown)}


def made(prefix: str, kind: str, **fields: object) -> Json:
    """A new object with an id of its own."""
    head = {"id": words.identifier(prefix), "object": kind, "created_at": int(time.time())}
    return {**head, **fields, "x_provider_extra": words.extra()}


def deleted(name: str, kind: str) -> Json:
    return {"id": name, "object": f"{kind}.deleted", "deleted": True}
