"""Content codings (RFC 9110, 8.4), undone a piece at a time, so that a compressed answer can be read in the store.

Python has gzip and deflate. For brotli and zstd it needs a package before 3.14, which is there where a program asks
for them: its HTTP client needs it, too.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module
from typing import Any

from escapement.engine.calls import Decode

Undo = Callable[[bytes], bytes]


def decoder(encoding: str) -> Decode | None:
    """What undoes a `content-encoding`, which may name several codings; None where one of them is not known here."""
    makers = [_maker(name.strip().lower()) for name in reversed(encoding.split(","))]
    known = [maker for maker in makers if maker is not None]

    def decode(pieces: Sequence[bytes]) -> list[bytes]:
        decoded = list(pieces)
        for maker in known:
            undo = maker()
            decoded = [undo(piece) for piece in decoded]
        return decoded

    return decode if len(known) == len(makers) else None


class _Frames:
    """A decompressor for data that may be several frames (members), one behind the other."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._now = make()

    def __call__(self, piece: bytes) -> bytes:
        parts = []
        while piece:
            if self._now.eof:
                self._now = self._make()
            parts.append(self._now.decompress(piece))
            piece = self._now.unused_data if self._now.eof else b""
        return b"".join(parts)


def _maker(coding: str) -> Callable[[], Undo] | None:
    """What makes a decompressor; None for a coding that is not known here."""
    if coding in ("gzip", "x-gzip", "deflate"):
        return lambda: _Frames(lambda: zlib.decompressobj(zlib.MAX_WBITS | 32))
    if coding == "zstd":
        zstd = _first("compression.zstd", "backports.zstd")
        return None if zstd is None else lambda: _Frames(zstd.ZstdDecompressor)
    if coding == "br":
        brotli = _first("brotli", "brotlicffi")
        return None if brotli is None else lambda: _process(brotli.Decompressor())
    return None


def _process(decompressor: Any) -> Undo:
    """Its method, which the packages call differently."""
    undo: Undo = getattr(decompressor, "process", None) or decompressor.decompress
    return undo


def _first(*modules: str) -> Any:
    """The first of several modules that is installed; None where none is."""
    for module in modules:
        with suppress(ImportError):
            return import_module(module)
    return None
