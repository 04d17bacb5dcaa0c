"""Files, uploads in parts, and batches of the OpenAI API."""

from __future__ import annotations

import json

from . import words
from .exchange import Blob, Json, Question
from .kept import Kept, made


class Files:
    """What was uploaded, and what batches made of it."""

    def __init__(self) -> None:
        self._files = Kept()
        self._uploads = Kept()
        self._batches = Kept()
        self._contents: dict[str, bytes] = {}
        self._parts: dict[str, bytes] = {}

    def create(self, question: Question) -> Json:
        name, content = question.form["file"][0]
        return self._added(name, content, question.field("purpose"))

    def _added(self, name: str, content: bytes, purpose: str) -> Json:
        file = made("file-", "file", bytes=len(content), filename=name, purpose=purpose, status="processed")
        self._contents[file["id"]] = content
        return self._files.add(file)

    def retrieve(self, question: Question) -> Json:
        return self._files.get(question.name)

    def list(self, question: Question) -> Json:
        purpose = question.field("purpose")
        return self._files.page(question, **({"purpose": purpose} if purpose else {}))

    def content(self, question: Question) -> Blob:
        self._files.get(question.name)
        return Blob("application/octet-stream", self._contents[question.name])

    def delete(self, question: Question) -> Json:
        self._files.remove(question.name)
        return {"id": question.name, "object": "file", "deleted": True}

    # -- uploads -----------------------------------------------------------------------------------------------------

    def upload(self, question: Question) -> Json:
        fields = {key: question.data[key] for key in ("bytes", "filename", "purpose")}
        upload = made("upload_", "upload", status="pending", file=None, **fields)
        return self._uploads.add({**upload, "expires_at": upload["created_at"] + 3600})

    def part(self, question: Question) -> Json:
        self._uploads.get(question.name)
        part = made("part_", "upload.part", upload_id=question.name)
        self._parts[part["id"]] = question.form["data"][0][1]
        return part

    def complete(self, question: Question) -> Json:
        upload = self._uploads.get(question.name)
        content = b"".join(self._parts[name] for name in question.data["part_ids"])
        file = self._added(upload["filename"], content, upload["purpose"])
        return self._uploads.change(question.name, status="completed", file=file)

    def cancel_upload(self, question: Question) -> Json:
        return self._uploads.change(question.name, status="cancelled")

    # -- batches -----------------------------------------------------------------------------------------------------

    def batch(self, question: Question) -> Json:
        fields = {key: question.data[key] for key in ("input_file_id", "endpoint", "completion_window")}
        counts = {"total": 0, "completed": 0, "failed": 0}
        return self._batches.add(made("batch_", "batch", status="validating", request_counts=counts, **fields))

    def polled_batch(self, question: Question) -> Json:
        """The batch as it is now: each time that it is asked for, a little further."""
        batch = self._batches.get(question.name)
        if batch["status"] in ("completed", "cancelling"):
            return batch
        lines = self._contents[batch["input_file_id"]].splitlines()
        running = [
            {"status": "in_progress", "request_counts": {"total": len(lines), "completed": done, "failed": 0}}
            for done in range(12)
        ]
        batch = self._batches.move(question.name, [*running, {"status": "completed"}])
        if batch["status"] == "completed":
            answers = [
                {"id": words.identifier("batch_req_"), "custom_id": json.loads(line)["custom_id"], "error": None}
                | {"response": {"status_code": 200, "body": {"text": words.text()}}}
                for line in lines
            ]
            output = "".join(json.dumps(answer) + "\n" for answer in answers).encode()
            file = self._added("output.jsonl", output, "batch_output")
            batch = self._batches.change(question.name, output_file_id=file["id"])
        return batch

    def cancel_batch(self, question: Question) -> Json:
        return self._batches.change(question.name, status="cancelling")

    def batches(self, question: Question) -> Json:
        return self._batches.page(question)
