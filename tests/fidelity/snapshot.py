"""Any result of an SDK as plain data, so that two of them can be compared to the last detail.

A snapshot is made of dicts, lists, tuples and plain values, and the snapshot of a snapshot is itself. What is left out
of one on purpose is said here, in `MASKED_REQUEST_HEADERS`, `_elapsed`, `_request`, `_header` and `_causes`, and
nowhere else.
"""

from __future__ import annotations

import dataclasses
import datetime
import enum
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

MASKED_REQUEST_HEADERS = frozenset(
    {
        # An SDK that traces itself (anthropic from 2.0) sends the ids of its spans, which are new every time.
        "traceparent",
        # A server's cookies are credentials: Escapement redacts their values, so a replay has none to send.
        "cookie",
    }
)

_PLAIN = (type(None), bool, int, float, str, bytes)


def snapshot(value: Any) -> Any:
    """`value` with everything that a program can see of it."""
    if isinstance(value, enum.Enum):
        return {"type": named(type(value)), "value": snapshot(value.value)}
    if type(value) in _PLAIN:
        return value
    if type(value) is dict:
        return {key: snapshot(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(snapshot(item) for item in value)
    if isinstance(value, type):
        return {"class": named(value)}
    if isinstance(value, BaseException):
        return _exception(value)
    if isinstance(value, BaseModel):
        return _model(value)
    if hasattr(value, "http_response") and hasattr(value, "retries_taken"):
        return _raw_response(value)
    if hasattr(value, "write_to_file") and hasattr(value, "response"):  # sound, or the content of a file
        return {"type": named(type(value)), "response": _response(value.response)}
    match type(value).__name__:
        case "Response":
            return _response(value)
        case "Request":
            return _request(value)
        case "Headers":
            return _headers(value)
        case "URL":
            return {"type": named(type(value)), "url": str(value)}
    if named(type(value)) == "google.genai._api_client.HttpResponse":
        # Its stream has been read, or is the program's to read.
        return {"type": named(type(value)), "headers": snapshot(value.headers)}
    if isinstance(value, str):  # UnrecognizedStr of Google's SDK
        return {"type": named(type(value)), "value": str.__str__(value), "fields": snapshot(vars(value))}
    if isinstance(value, (datetime.datetime, datetime.date, datetime.timedelta)):
        return {"type": named(type(value)), "value": repr(value)}
    if dataclasses.is_dataclass(value):
        fields = {field.name: snapshot(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {"type": named(type(value)), "fields": fields}
    if isinstance(value, Mapping):
        return {"type": named(type(value)), "items": {key: snapshot(item) for key, item in value.items()}}
    raise TypeError(f"no snapshot is known of {type(value)!r}: a test would compare nothing of it")


def differences(first: Any, second: Any, path: str = "") -> list[tuple[str, Any, Any]]:
    """Where two snapshots differ, and how; the order of keys counts, and 1, 1.0 and True are told apart."""
    if type(first) is type(second) is dict and list(first) == list(second):
        return [found for key in first for found in differences(first[key], second[key], f"{path}.{key}")]
    if type(first) is type(second) in (list, tuple) and len(first) == len(second):
        pairs = enumerate(zip(first, second, strict=True))
        return [found for index, (mine, theirs) in pairs for found in differences(mine, theirs, f"{path}[{index}]")]
    return [] if type(first) is type(second) and first == second else [(path, first, second)]


def named(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _model(model: BaseModel) -> Any:
    # Field by field, because `model_dump` would lose the types of what is inside.
    return {
        "type": named(type(model)),
        "fields": {key: snapshot(value) for key, value in vars(model).items()},
        "extra": snapshot(model.model_extra),
        "set": sorted(model.model_fields_set),
        "dump": snapshot(model.model_dump(warnings=False)),
        "request_id": getattr(model, "_request_id", None),
    }


def _raw_response(response: Any) -> Any:
    """What `with_raw_response` and `with_streaming_response` give."""
    return {
        "type": named(type(response)),
        "retries_taken": response.retries_taken,
        "request_id": getattr(response, "request_id", None),  # not all SDKs of this make have one
        "elapsed": _elapsed(response.http_response),
        "http": _response(response.http_response),
    }


def _response(response: Any) -> Any:
    """A response of httpx or httpx2."""
    return {
        "type": named(type(response)),
        "status": response.status_code,
        "reason_phrase": response.reason_phrase,
        "http_version": response.http_version,
        "headers": _headers(response.headers),
        "url": str(response.url),
        "request": _request(response.request),
        "history": [_response(earlier) for earlier in response.history],
        "closed": response.is_closed,
        "consumed": response.is_stream_consumed,
        "encoding": response.encoding,
        # Of a stream that was passed on, the program that read it has the content.
        "content": response.content if hasattr(response, "_content") else None,
    }


def _elapsed(response: Any) -> str:
    # How long it took is measured by the client and, a little above it, by Escapement: its value has a test of its own.
    return named(type(response.elapsed)) if response.is_closed else "still open"


def _request(request: Any) -> Any:
    masked = MASKED_REQUEST_HEADERS
    if request.headers.get("authorization", "").startswith("AWS4-"):
        masked |= {"authorization", "x-amz-date"}  # Amazon's signature of the moment
    headers = [pair for pair in _headers(request.headers) if pair[0].lower() not in masked]
    content = request.content if hasattr(request, "_content") else None  # a redirect's has not been read
    kind, _, boundary = request.headers.get("content-type", "").partition("; boundary=")
    if boundary and content is not None:  # new every time
        headers = [(name, kind if name.lower() == "content-type" else value) for name, value in headers]
        content = content.replace(boundary.encode(), b"boundary")
    return {
        "type": named(type(request)),
        "method": request.method,
        "url": str(request.url),
        "headers": headers,
        "content": content,
    }


def _headers(headers: Any) -> list[tuple[str, str]]:
    """Names as they were sent, in the order they were sent."""
    return [_header(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers.raw]


def _header(name: str, value: str) -> tuple[str, str]:
    if name.lower() == "set-cookie":
        # A cookie is a credential: Escapement keeps its name and attributes, and not its value.
        cookie, _, rest = value.partition("=")
        return name, f"{cookie}=…;{rest.partition(';')[2]}"
    return name, value


def _exception(error: BaseException) -> Any:
    return {
        "type": named(type(error)),
        "text": str(error),
        "args": snapshot(error.args),
        # Status, body, code, param, type, request id, the response and the request: all there is, whatever the SDK.
        "fields": {key: snapshot(value) for key, value in sorted(vars(error).items())},
        "causes": _causes(error),
    }


def _causes(error: BaseException) -> list[dict[str, str]]:
    """What it was raised from, and that from, down to what the HTTP client met."""
    told = []
    cause = error.__cause__
    # Exceptions of aiohttp hold objects of its own and cannot be made again: there the chain is cut.
    while cause is not None and not type(cause).__module__.startswith("aiohttp."):
        told.append({"type": named(type(cause)), "text": str(cause)})
        cause = cause.__cause__
    return told
