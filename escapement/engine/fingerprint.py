"""The fingerprint: the hash that says two requests are the same request.

It covers the operation (method, path without host and deployment prefix, query without credentials) and the canonical
body, all without secrets. Headers, host and credentials do not count. Multipart bodies count part by part, because
their boundary is new every time.
"""

from __future__ import annotations

import re
from contextlib import suppress
from hashlib import blake2b

from escapement.engine import redaction
from escapement.engine.normalising import Normalising
from escapement.providers import tail
from escapement.store.pieces import Body, Splitter
from escapement.store.rows import TraceRow
from escapement.words import semconv
from escapement.words.errors import StoreError
from escapement.words.http import Request, content_type

VERSION = "1"
"""Changes whenever the same request would get another fingerprint."""

_SHORT = 16384
_NOT_COUNTED = frozenset({"api-version", "key", "api_key", "access_token", "token"})


def fingerprint(request: Request, splitter: Splitter, conversation: str, normalising: Normalising) -> tuple[str, Body]:
    """The fingerprint of a request (`1:` and 32 hex digits; `1n:` of what declared normalisers leave of it), and its
    body cut by `splitter`."""
    body = splitter.split(request.body, conversation)
    canonical = normalising.canonical(_clean(request, body)) if normalising else None
    mark = "n" if normalising else ""
    if canonical is None:
        boundary = None if body.parsed else _boundary(request)
        canonical = body.canonical() if boundary is None else _multipart(_clean(request, body), boundary)
    operation = f"{request.method} {tail(request.path)}?{_query(request.query)}"
    hashed = blake2b(operation.encode() + b"\0" + canonical, digest_size=16)
    return f"{VERSION}{mark}:{hashed.hexdigest()}", body


def renewed(trace: TraceRow, normalising: Normalising, redact: bool) -> dict[int, str]:
    """The fingerprints of recorded steps, by number, where those that were recorded do not hold: other normalisers are
    declared now than then, or another version made them. A step whose request is gone keeps its own."""
    splitter = Splitter(redaction.scrub if redact else None)
    found: dict[int, str] = {}
    for row in trace.steps:
        if not row.fingerprint or (not normalising and row.fingerprint.startswith(f"{VERSION}:")):
            continue
        attributes = row.attributes
        kind = content_type(attributes.get(semconv.REQUEST_HEADERS)).encode("latin-1")
        with suppress(StoreError, KeyError):
            request = Request(
                attributes[semconv.METHOD],
                _Nowhere(),
                attributes[semconv.PATH],
                attributes.get(semconv.QUERY, ""),
                [(b"content-type", kind)],
                trace.request_body(row),
            )
            found[row.step], _ = fingerprint(request, splitter, row.lane, normalising)
    return found


class _Nowhere:
    """Where a recorded request went does not count."""

    scheme = host = ""
    port = None


def _clean(request: Request, body: Body) -> bytes:
    return redaction.scrub(request.body) if body.secrets else request.body


def exact(request: Request) -> str:
    """A hash of the very bytes of a short request; empty for one that is cheaper to compare with the one before it.

    Two requests with the same one have the same fingerprint, so a replay looks here first.
    """
    if len(request.body) > _SHORT:
        return ""
    hashed = blake2b(request.body, digest_size=16)
    hashed.update(f"{request.method} {request.path}?{request.query}".encode())
    return hashed.hexdigest()


def _query(query: str) -> str:
    if not query:
        return ""
    return "&".join(sorted(part for part in query.split("&") if part.partition("=")[0] not in _NOT_COUNTED))


def _boundary(request: Request) -> bytes | None:
    """The boundary of a multipart body."""
    found = re.match(r'multipart/.*boundary="?([^";]+)', request.content_type)
    return found.group(1).encode("latin-1") if found is not None else None


def _multipart(body: bytes, boundary: bytes) -> bytes:
    """The parts of a body in canonical form: a hash each, of its headers in order of name and its content."""
    hashes = []
    for part in body.split(b"--" + boundary):
        head, _, content = part.removeprefix(b"\r\n").removesuffix(b"\r\n").partition(b"\r\n\r\n")
        lines = b"\n".join(sorted(line.strip().lower() for line in head.splitlines()))
        hashes.append(blake2b(lines + b"\0" + content, digest_size=16).digest())
    return b"".join(hashes)
