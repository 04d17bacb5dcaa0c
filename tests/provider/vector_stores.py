"""Vector stores of the OpenAI API: files are put in, take a while, and are found again."""

from __future__ import annotations

from . import words
from .exchange import Json, Question
from .kept import Kept, deleted, made

_COUNTS = {"in_progress": 0, "completed": 0, "failed": 0, "cancelled": 0, "total": 0}


class VectorStores:
    """The stores, what is in them, and the batches that it came in."""

    def __init__(self) -> None:
        self._stores = Kept()
        self._files = Kept()
        self._batches = Kept()

    def create(self, question: Question) -> Json:
        fields = {"name": question.data.get("name"), "metadata": question.data.get("metadata") or {}}
        store = made("vs_", "vector_store", status="completed", usage_bytes=0, file_counts=_COUNTS, **fields)
        return self._stores.add({**store, "last_active_at": store["created_at"]})

    def retrieve(self, question: Question) -> Json:
        return self._stores.change(question.name, usage_bytes=words.integer(1, 10**6))

    def update(self, question: Question) -> Json:
        return self._stores.change(question.name, **question.data)

    def list(self, question: Question) -> Json:
        return self._stores.page(question)

    def delete(self, question: Question) -> Json:
        self._stores.remove(question.name)
        return deleted(question.name, "vector_store")

    def search(self, question: Question) -> Json:
        self._stores.get(question.name)
        found = [
            {
                "file_id": words.identifier("file-"),
                "filename": f"{words.word()}.txt",
                "score": words.number(0, 1),
                "attributes": {"year": words.integer(1900, 2030)},
                "content": [{"type": "text", "text": words.text()}],
            }
            for _ in range(3)
        ]
        page = {"object": "vector_store.search_results.page", "search_query": [question.data["query"]]}
        return {**page, "data": found, "has_more": False, "next_page": None}

    # -- files -------------------------------------------------------------------------------------------------------

    def add(self, question: Question) -> Json:
        return self._added(question.name, question.data["file_id"])

    def _added(self, store: str, file: str) -> Json:
        head = made("", "vector_store.file", vector_store_id=store, status="in_progress", usage_bytes=0)
        return self._files.add({**head, "id": file, "last_error": None})

    def file(self, question: Question) -> Json:
        """The file as it is now: ready when it has been asked for twice."""
        ready = {"status": "completed", "usage_bytes": words.integer(1, 10**6)}
        return self._files.move(question.name, [{"status": "in_progress"}, ready])

    def files(self, question: Question) -> Json:
        return self._files.page(question, vector_store_id=question.name)

    def remove(self, question: Question) -> Json:
        self._files.remove(question.name)
        return deleted(question.name, "vector_store.file")

    def content(self, question: Question) -> Json:
        self._files.get(question.name)
        data = [{"type": "text", "text": words.text()} for _ in range(2)]
        return {"object": "vector_store.file_content.page", "data": data, "has_more": False, "next_page": None}

    def batch(self, question: Question) -> Json:
        names = question.data["file_ids"]
        for name in names:
            self._added(question.name, name)
        counts = {**_COUNTS, "in_progress": len(names), "total": len(names)}
        fields = {"vector_store_id": question.name, "status": "in_progress", "file_counts": counts}
        return self._batches.add(made("vsfb_", "vector_store.files_batch", **fields))

    def polled_batch(self, question: Question) -> Json:
        total = self._batches.get(question.name)["file_counts"]["total"]
        done = {"status": "completed", "file_counts": {**_COUNTS, "completed": total, "total": total}}
        return self._batches.move(question.name, [{"status": "in_progress"}, done])
