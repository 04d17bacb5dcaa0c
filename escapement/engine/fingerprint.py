"""The fingerprint: the hash that says two requests are the same request.

It covers the operation (method, path without host and deployment prefix, query without credentials) and the canonical
body. Headers, host and credentials do not count. Multipart bodies count part by part, because their boundary is new
every time.
"""

from __future__ import annotations

import re
from functools import lru_cache
from hashlib import blake2b

from escapement.store.pieces import Body, Splitter
from escapement.words.http import Request

VERSION = "1"
"""Changes whenever the same request would get another fingerprint."""

_PREFIX = re.compile(r"^.*/(?:v\d+(?:alpha|beta)?\d*|deployments/[^/]+|openai)/")
_SHORT = 16384
_NOT_COUNTED = frozenset({"api-version", "key", "api_key", "access_token", "token"})


@lru_cache(maxsize=1024)
def tail(path: str) -> str:
    """A path without what differs between hosts: `/openai/deployments/x/chat/completions` → `chat/completions`."""
    return _PREFIX.sub("", path, count=1).strip("/")


def fingerprint(request: Request, splitter: Splitter, conversation: str) -> tuple[str, Body]:
    """The fingerprint of a request (`1:` and 32 hex digits), and its body cut by `splitter`."""
    body = splitter.split(request.body, conversation)
    content_type = request.headers.get("content-type", "") if not body.parsed else ""
    if content_type.startswith("multipart/"):
        canonical = _multipart(request.body, content_type)
    else:
        canonical = body.canonical()
    operation = f"{request.method} {tail(request.path)}?{_query(request.query)}"
    hashed = blake2b(operation.encode() + b"\0" + canonical, digest_size=16)
    return f"{VERSION}:{hashed.hexdigest()}", body


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


def _multipart(body: bytes, content_type: str) -> bytes:
    boundary = re.search(r'boundary="?([^";]+)', content_type)
    if boundary is None:
        return body
    hashes = []
    for part in body.split(b"--" + boundary.group(1).encode()):
        head, _, content = part.removeprefix(b"\r\n").removesuffix(b"\r\n").partition(b"\r\n\r\n")
        lines = b"\n".join(sorted(line.strip().lower() for line in head.splitlines()))
        hashes.append(blake2b(lines + b"\0" + content, digest_size=16).digest())
    return b"".join(hashes)
