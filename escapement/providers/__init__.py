"""What a request asks for and an answer says, per provider: the only place that reads their bodies.

A provider is one small module with a table of operations. An `Operation` turns the fields of a request, of an answer,
or of the events of a stream into `gen_ai.*` attributes; it never takes part in matching or serving.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from typing import Any

import orjson

from escapement.providers import anthropic, bedrock, openai
from escapement.providers.operation import Attributes, Message, Operation, ToolCall
from escapement.providers.sse import events
from escapement.words import semconv
from escapement.words.http import Request

__all__ = [
    "Attributes",
    "Message",
    "Operation",
    "ToolCall",
    "answer_attributes",
    "answer_document",
    "names_model",
    "recognise",
    "request_attributes",
    "tail",
]

_OPERATIONS: Mapping[str, Operation] = {**openai.OPERATIONS, **anthropic.OPERATIONS}

_PREFIX = re.compile(r"^.*/(?:v\d+(?:alpha|beta)?\d*|deployments/[^/]+|openai)/")

# Hosts whose provider is not the one that the protocol would say. Values of `gen_ai.provider.name`.
_HOSTS = (
    ("openai.azure.com", "azure.ai.openai"),
    ("services.ai.azure.com", "azure.ai.inference"),
    ("openrouter.ai", "openrouter"),
    ("api.groq.com", "groq"),
    ("api.mistral.ai", "mistral_ai"),
    ("api.deepseek.com", "deepseek"),
    ("api.perplexity.ai", "perplexity"),
    ("api.x.ai", "x_ai"),
    ("api.together.xyz", "together_ai"),
    ("amazonaws.com", "aws.bedrock"),
)


@lru_cache(maxsize=1024)
def tail(path: str) -> str:
    """A path without what differs between hosts: `/openai/deployments/x/chat/completions` → `chat/completions`."""
    return _PREFIX.sub("", path, count=1).strip("/")


@lru_cache(maxsize=1024)
def recognise(method: str, path: str, from_sdk: str) -> Operation | None:
    """The operation of a request, or None when it is not one of a model API and must pass untouched.

    `from_sdk` names the SDK that the request is known to come from ("openai", "anthropic"); then anything it sends
    belongs to the run. Other clients are recognised by well-known paths alone.
    """
    name = tail(path)
    operation = _OPERATIONS.get(name) or bedrock.operation(path)
    if operation is not None and (method == "POST" or from_sdk):
        return operation
    return Operation(name=name.split("/")[0] or method.lower(), provider=from_sdk) if from_sdk else None


@lru_cache(maxsize=1024)
def names_model(path: str) -> bool:
    """Whether a path says which model is meant, so that the body need not."""
    return "/deployments/" in path or bedrock.operation(path) is not None


def request_attributes(operation: Operation, request: Request, fields: Mapping[str, Any]) -> Attributes:
    """`gen_ai.*` and `server.*` attributes of a request; `fields` are the top-level fields of its body."""
    host = request.origin.host
    attributes: Attributes = {
        semconv.OPERATION_NAME: operation.name,
        semconv.PROVIDER_NAME: _provider(host, operation.provider),
        semconv.SERVER_ADDRESS: host,
        semconv.SERVER_PORT: request.origin.port or (443 if request.origin.scheme == "https" else 80),
    }
    # A body of an unexpected shape has fewer attributes; it is recorded all the same.
    with suppress(TypeError, ValueError, AttributeError, KeyError):
        attributes.update(operation.request(fields))
    return attributes


def answer_document(operation: Operation, body: bytes, content_type: str) -> Mapping[str, Any]:
    """An answer as one JSON object, the events of a stream put together; empty where it is neither."""
    try:
        if content_type.startswith("text/event-stream"):
            return operation.gather(events(body))
        if content_type.startswith(bedrock.EVENT_STREAM):
            return operation.gather(bedrock.events(body))
        document = orjson.loads(body)
    except (orjson.JSONDecodeError, TypeError, ValueError, AttributeError, KeyError, IndexError):
        return {}
    return document if isinstance(document, dict) else {}


def answer_attributes(operation: Operation, document: Mapping[str, Any]) -> Attributes:
    """`gen_ai.*` attributes of an answer."""
    try:
        return {key: value for key, value in operation.answer(document).items() if value is not None}
    except (TypeError, ValueError, AttributeError, KeyError):
        return {}


@lru_cache(maxsize=256)
def _provider(host: str, usual: str) -> str:
    return next((name for part, name in _HOSTS if host.endswith(part)), usual)
