"""Secrets of known shapes, replaced by stable placeholders before anything is hashed or written.

Headers go by allowlist: what is not named here is not kept. Bodies are searched for the shapes that providers give
their keys; a placeholder names the kind of key, so two different keys of a kind make the same fingerprint.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from escapement.words.http import Headers, RawHeaders

# By kind: the shapes of its keys. Each begins with plain text, which is searched for first, because that is fast.
_KINDS = {
    "anthropic-key": [r"sk-ant-[A-Za-z0-9_\-]{20,}"],
    "openai-key": [r"sk-[A-Za-z0-9_\-]{20,}"],
    "google-key": [r"AIza[A-Za-z0-9_\-]{35}"],
    "google-token": [r"ya29\.[A-Za-z0-9_\-]{20,}"],
    "aws-key": [r"AKIA[A-Z0-9]{16}\b", r"ASIA[A-Z0-9]{16}\b"],
    "github-token": [*(rf"gh{kind}_[A-Za-z0-9]{{36,}}" for kind in "pousr"), r"github_pat_[A-Za-z0-9_]{22,}"],
    "slack-token": [r"xox[abeoprs]-[A-Za-z0-9\-]{10,}"],
    "jwt": [r"eyJ[A-Za-z0-9_\-]{8,}\.eyJ[A-Za-z0-9_\-]{8,}\.[A-Za-z0-9_\-]{8,}"],
    "huggingface-token": [r"hf_[A-Za-z0-9]{30,}"],
    "groq-key": [r"gsk_[A-Za-z0-9]{40,}"],
    "private-key": [r"-----BEGIN [A-Z ]*PRIVATE KEY-----(?s:.)*?-----END [A-Z ]*PRIVATE KEY-----"],
}


class _Shape(NamedTuple):
    start: bytes
    pattern: re.Pattern[bytes]
    placeholder: bytes


_SHAPES = tuple(
    _Shape(
        re.match(r"[\w-]+", shape).group().encode(),  # type: ignore[union-attr]  # each begins with plain text
        re.compile(shape.encode()),
        f"[REDACTED:{kind}]".encode(),
    )
    for kind, shapes in _KINDS.items()
    for shape in shapes
)
_STARTS = tuple({shape.start: None for shape in _SHAPES})
_INSIDE_A_WORD = re.compile(rb"[A-Za-z0-9_]")

_KEPT_OF_REQUEST = frozenset(
    {b"accept", b"anthropic-beta", b"anthropic-version", b"content-type", b"openai-beta", b"user-agent"}
)
_DROPPED_OF_RESPONSE = re.compile(
    r"authori[sz]ation|(?:^|-)(?:api-?)?key(?:$|-)|token$|secret|credential|password|signature"
)
_KEPT_OF_RESPONSE = re.compile(
    r"content-.*|transfer-encoding|connection|keep-alive|date|age|etag|expires|last-modified|location|server|vary|via"
    r"|request-id|retry-after.*|cache-control|strict-transport-security|alt-svc|link|nel|report-to|allow"
    r"|(?:anthropic|openai|cf|x|ms|apim|azureml|helicone|litellm|llm|fireworks|cohere|groq)-.*"
)
_COOKIE_VALUE = re.compile(r"^([^=;\s]+)=[^;]*")
_SECRET_QUERY = re.compile(
    r"(?i)^(?:api[-_]?key|key|access[-_]?token|token|sig(?:nature)?|secret|code|password|x-amz-.*)$"
)


def scrub(text: bytes) -> bytes:
    """`text` with every key of a known shape replaced; the very same object where there is none."""
    return scrub_with_cuts(text, [])[0] if may_hold_secrets(text) else text


def scrub_text(text: str) -> str:
    """`scrub` for messages of exceptions, which may hold what is no valid text."""
    return scrub(text.encode("utf-8", "replace")).decode("utf-8", "replace")


def may_hold_secrets(text: bytes) -> bool:
    """Whether the start of any known shape is in the text."""
    for start in _STARTS:  # noqa: SIM110  (a generator would double the cost, and this is in every call)
        if start in text:
            return True
    return False


def scrub_with_cuts(text: bytes, cuts: list[int]) -> tuple[bytes, list[int]]:
    """`text` scrubbed, and byte offsets into it moved along; a cut inside a key moves behind its placeholder."""
    for start, pattern, placeholder in _SHAPES:
        if start not in text:
            continue
        # "task-…" holds "sk-…": a key does not start inside a word. (Asking the pattern for that would slow it down.)
        spans = [
            match.span()
            for match in pattern.finditer(text)
            if not match.start() or not _INSIDE_A_WORD.match(text, match.start() - 1)
        ]
        if not spans:
            continue
        cuts = [_moved(cut, spans, len(placeholder)) for cut in cuts]
        kept = zip([0, *(end for _, end in spans)], [*(begin for begin, _ in spans), len(text)], strict=True)
        text = placeholder.join([text[begin:end] for begin, end in kept])
    return text, cuts


def _moved(cut: int, spans: list[tuple[int, int]], width: int) -> int:
    """Where an offset is once each span is `width` bytes wide."""
    shift = 0
    for begin, end in spans:
        if cut >= end:
            shift += width - (end - begin)
        elif cut > begin:
            shift += begin + width - cut
    return cut + shift


def request_headers(headers: RawHeaders) -> Headers:
    """The headers of a request that are kept: those that say what was asked, never who asked."""
    return [(key.decode("latin-1"), value.decode("latin-1")) for key, value in headers if _is_kept_of_request(key)]


def response_headers(headers: Headers) -> Headers:
    """The headers of an answer that are kept. Cookies keep their names and lose their values."""
    kept: list[tuple[str, str]] = []
    for key, value in headers:
        if _is_kept_of_response(key):
            kept.append((key, _COOKIE_VALUE.sub(r"\1=REDACTED", value) if key.lower() == "set-cookie" else value))
    return kept


@lru_cache(maxsize=1024)
def _is_kept_of_request(key: bytes) -> bool:
    return key.lower() in _KEPT_OF_REQUEST


@lru_cache(maxsize=1024)
def _is_kept_of_response(key: str) -> bool:
    name = key.lower()
    if name == "set-cookie" or name.startswith(("x-ratelimit-", "anthropic-ratelimit-")):
        return True
    return _DROPPED_OF_RESPONSE.search(name) is None and _KEPT_OF_RESPONSE.fullmatch(name) is not None


def query(text: str) -> str:
    """A query string without the values of parameters that carry credentials."""
    if not text:
        return text
    parts = []
    for part in text.split("&"):
        name, equals, _ = part.partition("=")
        parts.append(f"{name}=REDACTED" if equals and _SECRET_QUERY.match(name) else part)
    return "&".join(parts)
