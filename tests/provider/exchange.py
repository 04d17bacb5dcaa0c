"""What passes through the provider: the request received, the question in it, the answer."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeAlias

Json: TypeAlias = dict[str, Any]
Reply: TypeAlias = Json | list[bytes] | bytes
"""A plain JSON answer, the events of a stream, or sound."""


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
    def model(self) -> str:
        """The model asked for, which an Azure path names too."""
        deployment = re.search(r"/deployments/([^/]+)/", self.request.path)
        return str(self.data.get("model") or (deployment[1] if deployment else self.name))

    @property
    def streaming(self) -> bool:
        return self.data.get("stream") is True or "stream=true" in self.request.query or ":stream" in self.request.path


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
