"""Secrets, replaced by stable placeholders before anything is hashed or written.

Headers go by allowlist: what is not named here is not kept. Bodies, addresses and messages are searched for `shapes`;
a placeholder names the kind of key, so two different keys of a kind make the same fingerprint.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any
from urllib.parse import unquote, unquote_plus

from escapement.engine.shapes import KEYS, NAMED, Shape
from escapement.words.http import Headers, RawHeaders, Request

_KEPT_OF_REQUEST = frozenset(
    {b"accept", b"anthropic-beta", b"anthropic-version", b"content-type", b"openai-beta", b"user-agent"}
)
_DROPPED_OF_RESPONSE = re.compile(
    r"authori[sz]ation|(?:^|-)(?:api-?)?key(?:$|-)|token$|secret|credential|password|signature"
)
_KEPT_OF_RESPONSE = re.compile(
    r"content-.*|transfer-encoding|connection|keep-alive|date|age|etag|expires|last-modified|location|server"
    r"|server-timing|vary|via|num_(?:chars|tokens)|request-id|retry-after.*|cache-control|strict-transport-security"
    r"|alt-svc|link|nel|report-to|allow|accept-ranges|access-control-.*|cross-origin-.*|deprecation|permissions-policy"
    r"|pragma|priority|referrer-policy|sunset|timing-allow-origin|traceresponse|warning|ratelimit"
    r"|(?:anthropic|openai|cf|x|ms|apim|azureml|helicone|litellm|llm|fireworks|cohere|groq|mistral|together|ratelimit)-.*"
)
# Headers whose values are the provider's own and of every answer: they need no search.
_PLAIN = re.compile(
    r"content-(?:type|length|encoding)|transfer-encoding|connection|date|server|vary|via|age|etag|alt-svc|cache-control"
    r"|strict-transport-security|request-id|x-request-id|retry-after.*|cf-.*|openai-.*|(?:x|anthropic)-ratelimit-.*"
)
_COOKIE_VALUE = re.compile(r'^([^=;]*=)?(?:\s*"[^"]*")?[^;]*')
_SECRET_QUERY = re.compile(
    r"(?i)^(?:(?:(?:api|access|app|auth|client|refresh|security|session|subscription)[-_]?)?(?:key|token|secret)"
    r"|sig(?:nature)?|code|password|x-(?:amz|goog)-.*)$"
)


def scrub(text: bytes) -> bytes:
    """`text` with every key of a known shape replaced; the very same object where there is none."""
    return scrub_with_cuts(text, [])[0]


def scrub_text(text: str) -> str:
    """`scrub` for what a program or a library said, which may hold what is no valid text."""
    return scrub(text.encode("utf-8", "replace")).decode("utf-8", "replace")


def scrub_value(value: Any) -> Any:
    """`scrub_text` for every string in a value made of dicts and lists."""
    if isinstance(value, str):
        return scrub_text(value)
    if isinstance(value, Mapping):
        return {scrub_value(key): scrub_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [scrub_value(item) for item in value]
    return value


def scrub_with_cuts(text: bytes, cuts: list[int]) -> tuple[bytes, list[int]]:
    """`text` scrubbed, and byte offsets into it moved along; a cut inside a key moves behind its placeholder."""
    for sign, shapes in KEYS:
        if sign(text) is not None:
            for shape in shapes:
                text, cuts = _replaced(text, text, shape, cuts)
    lower = text.lower()
    for sign, shapes in NAMED:
        if sign(lower) is not None:
            for shape in shapes:
                text, cuts = _replaced(text, text.lower(), shape, cuts)
            lower = text.lower()
    return text, cuts


def _replaced(text: bytes, searched: bytes, shape: Shape, cuts: list[int]) -> tuple[bytes, list[int]]:
    """`text` without what the shape finds in `searched`, which has the same length."""
    spans = shape.spans(searched)
    if not spans:
        return text, cuts
    kept = zip([0, *(end for _, end in spans)], [*(begin for begin, _ in spans), len(text)], strict=True)
    replaced = shape.placeholder.join([text[begin:end] for begin, end in kept])
    return replaced, _moved(cuts, spans, len(shape.placeholder))


def _moved(cuts: list[int], spans: list[tuple[int, int]], width: int) -> list[int]:
    """Where ascending offsets are once each span is `width` bytes wide."""
    moved, at, shift = [], 0, 0
    for cut in cuts:
        while at < len(spans) and spans[at][1] <= cut:
            shift += width - (spans[at][1] - spans[at][0])
            at += 1
        inside = at < len(spans) and spans[at][0] < cut
        moved.append((spans[at][0] + width if inside else cut) + shift)
    return moved


def request_headers(headers: RawHeaders) -> Headers:
    """The headers of a request that are kept: those that say what was asked, never who asked."""
    return [_kept(key, value) for key, value in headers if _is_kept_of_request(key)]


def response_headers(headers: Headers) -> Headers:
    """The headers of an answer that are kept. Cookies keep their names and lose their values."""
    kept: list[tuple[str, str]] = []
    for key, value in headers:
        treat = _treatment(key)
        if treat is not None:
            kept.append((key, treat(value)))
    return kept


@lru_cache(maxsize=1024)
def _is_kept_of_request(key: bytes) -> bool:
    return key.lower() in _KEPT_OF_REQUEST


@lru_cache(maxsize=1024)
def _kept(key: bytes, value: bytes) -> tuple[str, str]:
    return key.decode("latin-1"), _clean(value.decode("latin-1"))


@lru_cache(maxsize=1024)
def _treatment(key: str) -> Callable[[str], str] | None:
    """What is done with the value of a header of an answer; None for one that is not kept."""
    name = key.lower()
    if name == "set-cookie":
        return _cookie
    if _PLAIN.fullmatch(name) is not None:
        return str
    dropped = _DROPPED_OF_RESPONSE.search(name) is not None or _KEPT_OF_RESPONSE.fullmatch(name) is None
    return None if dropped else _clean


def _cookie(value: str) -> str:
    return _COOKIE_VALUE.sub(r"\1REDACTED", value, count=1)


@lru_cache(maxsize=1024)
def _clean(value: str) -> str:
    """Short text that comes again and again: the value of a header, a host, a path."""
    return scrub_text(value)


def address(request: Request) -> Request:
    """The request without credentials in its path and query; the very same object where there are none."""
    path, asked = _path(request.path), _query(request.query)
    if path == request.path and asked == request.query:
        return request
    return replace(request, path=path, query=asked)


def name(text: str) -> str:
    """A host or an operation (which may be named after a path) without credentials."""
    return _clean(text)


@lru_cache(maxsize=1024)
def _path(text: str) -> str:
    plain = unquote(text)
    clean = scrub_text(plain)
    return clean if clean != plain else text


@lru_cache(maxsize=1024)
def _query(text: str) -> str:
    """A query without the values that hold a known shape, or belong to a parameter that carries credentials."""
    parts = []
    for part in text.split("&"):
        key, _, value = part.partition("=")
        named = value and _SECRET_QUERY.match(unquote(key))
        shaped = any(scrub_text(plain) != plain for plain in (unquote(part), unquote_plus(part)))
        parts.append(f"{key if value else ''}=REDACTED" if named or shaped else part)
    return "&".join(parts)
