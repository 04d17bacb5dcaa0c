"""Secrets in a binary event stream, whose frames would not be read again once their lengths and checksums are wrong.

Payloads are searched as if they were lines of JSON, and frames whose payload changes are made anew. What travels as
base64 in a payload (the events of a model behind Bedrock's `invoke`) is searched as what it is.
"""

from __future__ import annotations

import binascii
from base64 import b64decode, b64encode
from collections.abc import Mapping
from itertools import accumulate, pairwise
from typing import Any

import orjson

from escapement.engine import redaction, spread
from escapement.providers import eventstream

_CARRIED = "bytes"  # where a payload has what it carries as base64


def scrub_stream(body: bytes, cuts: list[int], document: Mapping[str, Any]) -> tuple[bytes, list[int]]:
    """As `spread.scrub_stream`; the very same body where there are no keys."""
    frames = list(eventstream.frames(body))
    lines = [_carried(frame.payload) + b"\n" for frame in frames]
    text = b"".join(lines)
    clean, ends = spread.scrub_stream(text, list(accumulate(map(len, lines))), document)
    changes: list[spread.Change] = []
    if clean is not text:
        for frame, old, (begin, end) in zip(frames, lines, pairwise([0, *ends]), strict=True):
            new = clean[begin:end]
            if new != old:
                payload = _carrying(frame.payload, new.removesuffix(b"\n"))
                changes.append((frame.begin, frame.end, eventstream.framed(frame.headers, payload)))
    whole = frames[-1].end if frames else 0
    rest = body[whole:]
    if rest and (changes or b'"bytes"' in rest or redaction.scrub(rest) is not rest):
        # A frame that did not come whole may hold a part of a key. Nobody can read it, so nobody misses it.
        changes.append((whole, len(body), b""))
    return (spread.rewritten(body, changes), spread.moved(cuts, changes)) if changes else (body, cuts)


def _carried(payload: bytes) -> bytes:
    """What a payload says: itself, or what it holds as base64."""
    try:
        return b64decode(orjson.loads(payload)[_CARRIED], validate=True)
    except (orjson.JSONDecodeError, binascii.Error, LookupError, TypeError, ValueError):
        return payload


def _carrying(payload: bytes, new: bytes) -> bytes:
    """The payload that says `new`, in the form that it had."""
    if _carried(payload) is payload:
        return new
    return orjson.dumps({**orjson.loads(payload), _CARRIED: b64encode(new).decode()})
