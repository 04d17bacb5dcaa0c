"""Secrets of known shapes, replaced by stable placeholders before anything is hashed or written.

Headers go by allowlist: what is not named here is not kept. Bodies are searched for the shapes that providers give
their keys; a placeholder names the kind of key, so two different keys of a kind make the same fingerprint.
"""

from __future__ import annotations

import re
from functools import lru_cache

from escapement.words.http import Headers, RawHeaders

# (what must be in the text at all, which is a fast search; the shape; the placeholder)
_SHAPES: tuple[tuple[bytes, re.Pattern[bytes], bytes], ...] = tuple(
    (needle, re.compile(pattern), b"[REDACTED:" + kind + b"]")
    for needle, pattern, kind in (
        (b"sk-ant-", rb"\bsk-ant-[A-Za-z0-9_\-]{20,}", b"anthropic-key"),
        (b"sk-", rb"\bsk-(?!ant-)(?:proj-|svcacct-|admin-|or-v1-)?[A-Za-z0-9_\-]{20,}", b"openai-key"),
        (b"AIza", rb"\bAIza[A-Za-z0-9_\-]{35}", b"google-key"),
        (b"ya29.", rb"\bya29\.[A-Za-z0-9_\-]{20,}", b"google-token"),
        (b"AKIA", rb"\bAKIA[A-Z0-9]{16}\b", b"aws-key"),
        (b"ASIA", rb"\bASIA[A-Z0-9]{16}\b", b"aws-key"),
        (b"gh", rb"\bgh[pousr]_[A-Za-z0-9]{36,}", b"github-token"),
        (b"github_pat_", rb"\bgithub_pat_[A-Za-z0-9_]{22,}", b"github-token"),
        (b"xox", rb"\bxox[abeoprs]-[A-Za-z0-9\-]{10,}", b"slack-token"),
        (b"eyJ", rb"\beyJ[A-Za-z0-9_\-]{8,}\.eyJ[A-Za-z0-9_\-]{8,}\.[A-Za-z0-9_\-]{8,}", b"jwt"),
        (b"hf_", rb"\bhf_[A-Za-z0-9]{30,}", b"huggingface-token"),
        (b"gsk_", rb"\bgsk_[A-Za-z0-9]{40,}", b"groq-key"),
        (b"-----BEGIN", rb"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?-----END [A-Z ]*PRIVATE KEY-----", b"private-key"),
    )
)

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
    """`text` with every key of a known shape replaced; the same object where there is none."""
    for needle, pattern, placeholder in _SHAPES:
        if needle in text:
            text = pattern.sub(placeholder, text)
    return text


def scrub_with_cuts(text: bytes, cuts: list[int]) -> tuple[bytes, list[int]]:
    """`text` scrubbed, and byte offsets into it moved along; a cut inside a key moves behind its placeholder."""
    for needle, pattern, placeholder in _SHAPES:
        if needle not in text:
            continue
        spans = [match.span() for match in pattern.finditer(text)]
        moved: list[int] = []
        for cut in cuts:
            shift = 0
            for start, end in spans:
                if cut >= end:
                    shift += len(placeholder) - (end - start)
                elif cut > start:
                    shift += start + len(placeholder) - cut
            moved.append(cut + shift)
        text, cuts = pattern.sub(placeholder, text), moved
    return text, cuts


def request_headers(headers: RawHeaders) -> Headers:
    """The headers of a request that are kept: those that say what was asked, never who asked."""
    return [
        (key.decode("latin-1"), value.decode("latin-1")) for key, value in headers if key.lower() in _KEPT_OF_REQUEST
    ]


def response_headers(headers: Headers) -> Headers:
    """The headers of an answer that are kept. Cookies keep their names and lose their values."""
    kept: list[tuple[str, str]] = []
    for key, value in headers:
        if _is_kept_of_response(key):
            kept.append((key, _COOKIE_VALUE.sub(r"\1=REDACTED", value) if key.lower() == "set-cookie" else value))
    return kept


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
