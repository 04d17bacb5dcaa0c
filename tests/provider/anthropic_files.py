"""Files and message batches of the Anthropic API."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

from . import anthropic, words
from .exchange import Blob, Json, Question, Refused
from .kept import Kept

_COUNTS = {"processing": 0, "succeeded": 0, "errored": 0, "canceled": 0, "expired": 0}


class AnthropicFiles:
    """What was uploaded, and the batches of messages."""

    def __init__(self) -> None:
        self._files = Kept()
        self._batches = Kept()
        self._contents: dict[str, bytes] = {}

    def upload(self, question: Question) -> Json:
        name, content = question.form["file"][0]
        file = {"id": words.identifier("file_01", 22), "type": "file", "filename": name, "mime_type": "text/plain"}
        self._contents[file["id"]] = content
        return self._files.add({**file, "size_bytes": len(content), "created_at": _now(), "downloadable": True})

    def metadata(self, question: Question) -> Json:
        return self._files.get(question.name)

    def list(self, question: Question) -> Json:
        return self._files.page(question, after="after_id")

    def download(self, question: Question) -> Blob:
        self._files.get(question.name)
        return Blob("text/plain", self._contents[question.name])

    def delete(self, question: Question) -> Json:
        self._files.remove(question.name)
        return {"id": question.name, "type": "file_deleted"}

    # -- batches -----------------------------------------------------------------------------------------------------

    def batch(self, question: Question) -> Json:
        asked = question.data["requests"]
        batch: Json = {"id": words.identifier("msgbatch_01", 22), "type": "message_batch", "created_at": _now()}
        batch |= {"processing_status": "in_progress", "request_counts": {**_COUNTS, "processing": len(asked)}}
        batch |= {"expires_at": _now(24), "ended_at": None, "cancel_initiated_at": None, "archived_at": None}
        lines = [
            {
                "custom_id": one["custom_id"],
                "result": {"type": "succeeded", "message": _message(question, one["params"])},
            }
            for one in asked
        ]
        lines[-1]["result"] = {"type": "errored", "error": anthropic.failure(400)}
        self._contents[batch["id"]] = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode()
        return self._batches.add({**batch, "results_url": None})

    def polled_batch(self, question: Question) -> Json:
        """The batch as it is now: it ends when it has been asked for twelve times."""
        batch = self._batches.get(question.name)
        if batch["processing_status"] != "in_progress":
            return batch
        total = batch["request_counts"]["processing"]
        origin = f"http://{question.request.headers['host']}{question.request.path}"
        ended = {
            "processing_status": "ended",
            "ended_at": _now(),
            "request_counts": {**_COUNTS, "succeeded": total - 1, "errored": 1},
            "results_url": f"{origin}/results",
        }
        return self._batches.move(question.name, [*[{"processing_status": "in_progress"}] * 11, ended])

    def results(self, question: Question) -> Blob:
        if self._batches.get(question.name)["processing_status"] != "ended":
            raise Refused(404, "not_ended")
        return Blob("application/x-jsonl", pieces=tuple(_pieces(self._contents[question.name])))

    def cancel_batch(self, question: Question) -> Json:
        return self._batches.change(question.name, processing_status="canceling", cancel_initiated_at=_now())

    def delete_batch(self, question: Question) -> Json:
        self._batches.remove(question.name)
        return {"id": question.name, "type": "message_batch_deleted"}

    def batches(self, question: Question) -> Json:
        return self._batches.page(question, after="after_id")


def _message(question: Question, params: Json) -> Json:
    asked = Question(question.request)
    asked.__dict__["data"] = params  # a request inside the request
    return anthropic.message(asked)


def _pieces(content: bytes) -> list[bytes]:
    """Cut anywhere, as the network does."""
    cut, at = [], 0
    while at < len(content):
        size = words.integer(1, 200)
        cut.append(content[at : at + size])
        at += size
    return cut


def _now(hours: int = 0) -> str:
    return (datetime.now(UTC) + timedelta(hours=hours)).isoformat()
