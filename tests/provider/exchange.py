"""What passes through the provider: the request received, the question in it, the answer."""

from __future__ import annotations

import email
import email.policy
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeAlias
from urllib.parse import parse_qs, unquote

Json: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class Blob:
    """An answer that is no JSON: sound, the content of a file, a plain text. It comes in `pieces`, or in one."""

    media_type: str
    body: bytes = b""
    pieces: tuple[bytes, ...] = ()


@dataclass(frozen=True)
class Answered:
    """A plain JSON answer with headers of its own."""

    body: Json
    headers: dict[str, str]


Reply: TypeAlias = Json | list[bytes] | Blob | Answered
"""A plain JSON answer, the events of a stream, or something else."""

Form: TypeAlias = dict[str, list[tuple[str, bytes]]]
"""The fields of a form: of each its values, with the name of the file where it is one."""


@dataclass(frozen=True)
class ReceivedRequest:
    """One request as it came in; header names are in lower case."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True)
class Question:
    """A request to one endpoint; `name` is the id its path ends with, where it has one."""

    request: ReceivedRequest
    name: str = ""

    @cached_property
    def data(self) -> Json:
        try:
            data = json.loads(self.request.body)
        except ValueError:
            return {}
        return data if isinstance(data, dict) else {}

    @cached_property
    def form(self) -> Form:
        """The parts of a multipart body; empty for any other."""
        kind = self.request.headers.get("content-type", "")
        if not kind.startswith("multipart/"):
            return {}
        head = f"content-type: {kind}\r\n\r\n".encode()
        form: Form = {}
        for part in email.message_from_bytes(head + self.request.body, policy=email.policy.HTTP).iter_parts():
            name = str(part.get_param("name", header="content-disposition"))
            content = part.get_payload(decode=True)
            assert isinstance(content, bytes)
            form.setdefault(name, []).append((part.get_filename() or "", content))
        return form

    def field(self, name: str, default: str = "") -> str:
        """A value of the request, of its JSON, its form or its query."""
        if name in self.data:
            return str(self.data[name])
        if name in self.form:
            return self.form[name][0][1].decode()
        return parse_qs(self.request.query).get(name, [default])[0]

    @cached_property
    def model(self) -> str:
        """The model asked for, which the paths of Azure and of Bedrock name too."""
        named = re.search(r"/(?:deployments|model)/([^/]+)/", self.request.path)
        return self.field("model") or (unquote(named[1]) if named else self.name)

    @property
    def streaming(self) -> bool:
        in_path = re.search(r":stream|-stream$", self.request.path) is not None
        return in_path or self.field("stream").lower() == "true"


@dataclass(frozen=True)
class Answer:
    """A whole response. `events` makes it a stream; `cut` closes the connection before its end."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    events: list[bytes] | None = None
    delay: float = 0.0
    cut: bool = False


@dataclass(frozen=True)
class Dialect:
    """How a provider speaks apart from its answers proper: headers, errors, streams and an error inside one."""

    headers: Callable[[], dict[str, str]]
    failure: Callable[[int, str], Json]
    interruption: Callable[[], bytes]
    media_type: str = "text/event-stream; charset=utf-8"


class Dropped(Exception):
    """The connection is to be closed without an answer."""


class Refused(Exception):
    """The request is to get this error status; the code says why, where only that tells causes apart."""

    def __init__(self, status: int, code: str = "") -> None:
        super().__init__(status, code)
        self.status = status
        self.code = code
