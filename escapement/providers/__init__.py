"""What a request asks for and an answer says, per provider: the only place that reads their bodies.

A provider is one small module with a table of operations. An `Operation` turns the fields of a request, of an answer,
or of the events of a stream into `gen_ai.*` attributes; it never takes part in matching or serving.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from typing import Any
from urllib.parse import unquote

import orjson

from escapement.providers import (
    anthropic,
    bedrock,
    cohere,
    gemini,
    interactions,
    mistral,
    multipart,
    ollama,
    openai,
    streams,
)
from escapement.providers.operation import Attributes, Message, Operation, ToolCall
from escapement.providers.streams import streamed
from escapement.words import semconv
from escapement.words.http import Request

__all__ = [
    "Attributes",
    "Message",
    "Operation",
    "ToolCall",
    "answer_attributes",
    "answer_document",
    "recognise",
    "request_attributes",
    "request_document",
    "streamed",
    "tail",
    "tools_called",
]

_OF_SDKS = {"openai": openai.OPERATIONS, "anthropic": anthropic.OPERATIONS}
"""Where SDKs that say who they are look first: a path may mean something else elsewhere."""

_PROVIDERS = {"google.genai": "gcp.gemini", "mistralai": "mistral_ai", "together": "together_ai"}
"""Of SDKs that are not called as their provider is in `gen_ai.provider.name`."""

_OPERATIONS: Mapping[str, Operation] = {
    path: operation
    for provider in (openai, anthropic, bedrock, gemini, interactions, mistral, cohere, ollama)
    for path, operation in provider.OPERATIONS.items()
}

_PREFIX = re.compile(r"^.*/(?:v\d+(?:alpha|beta)?\d*|deployments/[^/]+|openai|locations/[^/]+|publishers/[^/]+)/")
_DEPLOYMENT = re.compile(r"/deployments/([^/]+)/")

_TEMPLATES = [
    (re.compile(re.sub(r"\\{(\w+)\\}", r"(?P<\1>[^/]+)", re.escape(path))).fullmatch, operation)
    for path, operation in _OPERATIONS.items()
    if "{" in path
]
"""Paths with a part that is new every time: `models/{model}:generateContent`."""

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
    ("api.together.ai", "together_ai"),
    ("aiplatform.googleapis.com", "gcp.vertex_ai"),
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
    belongs to the run. Other clients are recognised by well-known paths and what their bodies hold (`is_asked`).
    """
    name = tail(path)
    operation = _OF_SDKS.get(from_sdk, _OPERATIONS).get(name) or _OPERATIONS.get(name)
    if operation is not None and operation.method not in ("", method):
        operation = None
    model = ""
    for match, templated in _TEMPLATES if operation is None else ():
        found = match(name)
        if found is not None and templated.method in ("", method):
            operation, model = templated, found.groupdict().get("model", "")
            break
    if operation is not None and (method == "POST" or from_sdk):
        deployment = _DEPLOYMENT.search(path)
        model = unquote(deployment.group(1) if deployment is not None else model)
        return replace(operation, model=model) if model else operation
    provider = _PROVIDERS.get(from_sdk, from_sdk)
    return Operation(name=name.split("/")[0] or method.lower(), provider=provider) if from_sdk else None


def request_attributes(operation: Operation, request: Request, fields: Mapping[str, Any]) -> Attributes:
    """`gen_ai.*` and `server.*` attributes of a request; `fields` are the top-level fields of its body."""
    host = request.origin.host
    attributes: Attributes = {
        semconv.OPERATION_NAME: operation.name,
        semconv.PROVIDER_NAME: _provider(host, operation.provider),
        semconv.SERVER_ADDRESS: host,
        semconv.SERVER_PORT: request.origin.port or (443 if request.origin.scheme == "https" else 80),
    }
    if operation.model:
        attributes[semconv.REQUEST_MODEL] = operation.model
    if not fields:
        fields = multipart.fields(request.body, request.content_type)
    # A body of an unexpected shape has fewer attributes; it is recorded all the same.
    with suppress(TypeError, ValueError, AttributeError, KeyError):
        attributes.update(operation.request(fields))
        if attributes[semconv.PROVIDER_NAME] == "openai":
            attributes.update(openai.own_request(fields))
    return attributes


def request_document(body: bytes, content_type: str) -> Mapping[str, Any]:
    """A request as one JSON object: its body, or the fields of a form; empty where it is neither."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return multipart.fields(body, content_type)
    return document if isinstance(document, dict) else {}


def answer_document(operation: Operation, body: bytes, content_type: str) -> Mapping[str, Any]:
    """An answer as one JSON object, the events of a stream put together; empty where it is neither."""
    try:
        if streamed(content_type):
            return operation.gather(streams.read(body, content_type))
        document = orjson.loads(body)
        if isinstance(document, list):  # Google's streams, where nobody asked for events
            return operation.gather(("", chunk) for chunk in document)
    except (orjson.JSONDecodeError, TypeError, ValueError, AttributeError, KeyError, IndexError):
        return {}
    return document if isinstance(document, dict) else {}


def answer_attributes(operation: Operation, document: Mapping[str, Any], provider: str = "") -> Attributes:
    """`gen_ai.*` attributes of an answer, and those of its provider's own (a value of `gen_ai.provider.name`)."""
    try:
        found = {key: value for key, value in operation.answer(document).items() if value is not None}
        return found | openai.own_answer(document) if provider == "openai" else found
    except (TypeError, ValueError, AttributeError, KeyError):
        return {}


def tools_called(operation: Operation, document: Mapping[str, Any]) -> Attributes:
    """The names of the tools that an answer asks for."""
    with suppress(TypeError, ValueError, AttributeError, KeyError, IndexError):
        if called := [call.name for message in operation.said(document) for call in message.tool_calls]:
            return {semconv.TOOLS_CALLED: called}
    return {}


@lru_cache(maxsize=256)
def _provider(host: str, usual: str) -> str:
    return next((name for part, name in _HOSTS if host.endswith(part)), usual)
